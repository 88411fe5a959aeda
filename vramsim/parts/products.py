"""The time of one matrix product on one device, from its shape: tiles, waves, pipeline filling, memory traffic."""

from __future__ import annotations

from typing import TypedDict

from vramsim.blocks import Weight
from vramsim.equations import compute as equations
from vramsim.layout import TENSOR_PARALLEL_DIMS, degree, expert_tokens, padded_size
from vramsim.spec import Setup, derived, dtype_bytes
from vramsim.units import MICROSECOND, Num, ceil, floor, maximum, minimum, where

LARGE_TILE = (128.0, 256.0)
SMALL_TILE = (128.0, 128.0)
"""Output tiles of cuBLAS kernels that fill a device well, and of those for smaller outputs. [elements]"""
SMALL_TILE_PENALTY = 1.1
"""How much slower the smaller tile is on outputs that fill the device, by its lower operand reuse. [-]"""
WHOLE_WAVES = 0.6
"""Share of a last wave's idle processors that splitting tiles along their depth leaves idle (0.59 on A100 over 183
shapes: studies/calibrate_hardware.py). [-]"""
FILL = 150.0
"""Depth that filling and draining one tile's pipeline costs (138 on A100, 168 on B200:
studies/calibrate_hardware.py). [elements]"""
GROUPED_RATE = 0.8
"""Rate of the products of all experts in one launch over that of one product with as many tiles (0.91 on A100, 0.75
on B200 over 120 shapes: studies/calibrate_hardware.py). [-]"""
KERNEL_TAIL = 4.0 * MICROSECOND
"""Time between the end of a kernel's work and the start of the next one's: launch, first loads, last stores. [s]"""
EIGHT_BIT_CAST = 5.0
"""HBM bytes per element to quantize an activation or gradient before an 8-bit product: read for its maximum and its
cast, written twice (plain and transposed), halved by fusing with the producer. [B]"""
SMALLEST_ELEMENT = 2.0
"""Products in 8 bits still write 16-bit results, and attention and norms run in 16 bits. [B]"""


@derived
def stream_bytes(setup: Setup) -> float:
    """Bytes per element of what travels between layers: 8-bit products still read and write 16-bit streams. [B]

    setup : resolved run. [-]
    """
    return max(dtype_bytes(setup.training.precision.residual), SMALLEST_ELEMENT)


@derived
def rate(setup: Setup) -> float:
    """Rate of a large matrix product in the dtype of linear layers. [FLOP/s]

    setup : resolved run. [-]
    """
    device = setup.cluster.device
    return device.peak(setup.training.precision.linear) * device.gemm_efficiency


@derived
def core_rate(setup: Setup) -> float:
    """Peak of the 16-bit (or wider) units that attention runs on, whatever linear layers do. [FLOP/s]

    setup : resolved run. [-]
    """
    device, compute = setup.cluster.device, setup.training.precision.compute
    return device.peak(compute) or device.peak("fp16")


@derived
def adapter_dtype(setup: Setup) -> str:
    """Dtype that adapters multiply in: their own, but for autocast, under which packed bases train.

    setup : resolved run. [-]
    Source: huggingface/peft tuners/lora: x.to(lora_A.weight.dtype) outside of autocast.
    """
    training = setup.training
    if training.lora is None or training.precision.autocast or setup.strategy.quantization.dequantized:
        return training.precision.compute
    return training.lora.adapter_dtype


@derived
def bandwidth(setup: Setup) -> float:
    """Bandwidth of device memory that a streaming kernel reaches. [B/s]

    setup : resolved run. [-]
    """
    device = setup.cluster.device
    return device.memory_bandwidth * device.memory_efficiency


class Kind(TypedDict):
    """In which units a product runs, and how fast its rows let them."""

    core: bool
    dtype: str
    aligned: Num


def product(
    setup: Setup,
    rows: Num,
    cols: Num,
    depth: Num,
    *,
    count: Num = 1.0,
    added: float = 0.0,
    cast: Num = 0.0,
    core: bool = False,
    dtype: str = "",
    aligned: Num = 1.0,
) -> Num:
    """Seconds of `count` equal products of (rows x depth) by (depth x cols) in one launch.

    setup : resolved run. [-]   rows, cols, depth : shape. [-]   count : equal products. [-]
    aligned : share of its rate that rows which do not fill whole loads leave (C12). [-]
    added : further bytes per output element, where the result is added to something. [B]
    cast : elements to quantize first, where the product runs in 8 bits. [-]
    core : whether it runs in 16 bits whatever the precision: attention's core, the head. [-]
    dtype : what it runs in, where that is something else. [-]
    """
    device = setup.cluster.device
    speed = core_rate(setup) * device.gemm_efficiency if core else rate(setup)
    precision = setup.training.precision
    size = dtype_bytes(dtype or (precision.compute if core else precision.linear))
    processors = device.processors
    wide = equations.padded_outputs(rows, cols, LARGE_TILE, processors, count, WHOLE_WAVES)
    narrow = equations.padded_outputs(rows, cols, SMALL_TILE, processors, count, WHOLE_WAVES)
    seconds = equations.product_seconds(wide, narrow, depth, speed * aligned, FILL, SMALL_TILE_PENALTY)
    nbytes = equations.product_bytes(rows, cols, depth, size, max(size, SMALLEST_ELEMENT) + added, count)
    if dtype and dtype != precision.compute:
        # Outside of tensor cores tiles are as small as an adapter's rank.
        seconds = 2.0 * rows * cols * depth * count / ((device.peak(dtype) or speed) * device.gemm_efficiency)
    seconds = maximum(seconds, nbytes / bandwidth(setup))
    if size < SMALLEST_ELEMENT and not core:
        seconds = seconds + EIGHT_BIT_CAST * count * cast / bandwidth(setup)
    return seconds


def linear(setup: Setup, weight: Weight, tokens: Num, *, groups: Num = 1.0) -> tuple[Num, Num, Num]:
    """Seconds of a linear layer's three products: forward, gradient of its input, gradient of its weight.

    setup : resolved run. [-]   weight : global tensor, of which this device holds a slice. [-]
    tokens : rows of each product. [-]   groups : equal weights in one launch, each with its own tokens. [-]
    """
    out = _local(setup, weight.rows)
    into = _local(setup, weight.cols)
    # Neither Transformer Engine's recipes nor torchao's quantize the head or adapters.
    core = weight.adapter or weight.role == "head"
    # Under Megatron's sequence parallelism each rank quantizes its tokens, which are gathered in 8 bits: what goes into
    # a layer cut by rows, and the gradient of what comes out of one cut by columns.
    cuts = [any(dim in TENSOR_PARALLEL_DIMS for dim, _ in dims) for dims in (weight.rows, weight.cols)]
    shared = where(setup.strategy.megatron_sp > 0, 1.0 / setup.strategy.tp, 1.0)
    ours = tuple(shared if cut else 1.0 for cut in cuts)
    dtype = adapter_dtype(setup) if weight.adapter else ""
    return _three(setup, tokens, out, into, groups, core=core, ours=ours, dtype=dtype)


def chosen(setup: Setup, weight: Weight) -> float:
    """Share of the experts of a weight that a token chooses. [-]

    setup : resolved run. [-]   weight : experts x out x in. [-]
    """
    blocks = (block for block in setup.model.blocks if block.mlp.experts == weight.rows[0][1])
    return next((block.mlp.top_k / block.mlp.experts for block in blocks), 1.0)


def masked(setup: Setup, weight: Weight) -> bool:
    """Whether every expert runs on every token (transformers' Llama 4), which Megatron's never do. [-]

    setup : resolved run. [-]   weight : experts x out x in. [-]
    """
    alike = (block.mlp.masked for block in setup.model.blocks if block.mlp.experts == weight.rows[0][1])
    return next(alike, False) and not setup.framework.megatron_layers


def routed(setup: Setup, weight: Weight) -> Num:
    """Tokens that one expert of the busiest rank sees in a micro-step, for which all others wait. [-]

    setup : resolved run. [-]   weight : experts x out x in. [-]
    """
    share = 1.0 if masked(setup, weight) else chosen(setup, weight)
    # Tokens of all expert-parallel ranks meet: each expert sees its share of theirs.
    tokens = setup.tokens * expert_tokens(setup)
    return tokens * setup.strategy.ep * share * setup.strategy.expert_load


def experts(setup: Setup, weight: Weight, tokens: Num) -> tuple[Num, Num, Num]:
    """The same of a three-dimensional weight of experts, each of which sees `tokens`.

    setup : resolved run. [-]   weight : experts x out x in. [-]   tokens : of one expert, fractions count. [-]
    """
    (name, number), *_ = weight.rows
    groups = float(number) / degree(name, setup)
    (out, into) = (_local(setup, (dim,)) for dim in weight.cols)
    # Kernels that multiply, activate and cast at once take nothing of the experts' inside as 16 bits.
    ours = (1.0, 1.0)
    if setup.framework.fused_experts:
        ours = (0.0, 1.0) if weight.module == "down_proj" else (1.0, 0.0)
    ahead, inputs, weights = _three(setup, ceil(tokens), out, into, groups, ours=ours)
    return ahead / GROUPED_RATE, inputs / GROUPED_RATE, weights / GROUPED_RATE


def aligned(setup: Setup, width: Num) -> Num:
    """Share of its rate that a product keeps with rows of some width (C12); compilers pad. [-]

    setup : resolved run. [-]   width : of the shortest row of its matrices. [elements]
    """
    if setup.framework.loss == "compiled":
        return 1.0
    return equations.unaligned_share(dtype_bytes(setup.training.precision.compute) * floor(width))


def _three(
    setup: Setup,
    tokens: Num,
    out: Num,
    into: Num,
    groups: Num,
    *,
    core: bool = False,
    ours: tuple[Num, ...] = (1.0, 1.0),
    dtype: str = "",
) -> tuple[Num, Num, Num]:
    inputs, gradients, weights = tokens * into * ours[0], tokens * out * ours[1], out * into
    # Transformer Engine keeps cast weights and transposed casts for the next product; elsewhere each product casts.
    once = setup.framework.engine == "megatron"
    # Each of a layer's three products has a matrix of either width, and the narrowest loads decide.
    least = minimum(aligned(setup, out), aligned(setup, into))
    kind: Kind = {"core": core, "dtype": dtype, "aligned": least}
    return (
        product(setup, tokens, out, into, count=groups, cast=inputs if once else inputs + weights, **kind),
        product(setup, tokens, into, out, count=groups, cast=gradients if once else gradients + weights, **kind),
        product(
            setup,
            out,
            into,
            tokens,
            count=groups,
            added=_added_bytes(setup),
            cast=0.0 if once else inputs + gradients,
            **kind,
        ),
    )


def _added_bytes(setup: Setup) -> float:
    """Bytes more per element of a weight's gradient than a product in the compute dtype writes."""
    precision = setup.training.precision
    return 2.0 * dtype_bytes(precision.grad) - SMALLEST_ELEMENT if setup.framework.fused_accumulation else 0.0


def _local(setup: Setup, dims: tuple[tuple[str, int], ...]) -> Num:
    size: Num = 1.0
    for dim, extent in dims:
        size = size * (padded_size(dim, extent, setup) / degree(dim, setup) if dim in TENSOR_PARALLEL_DIMS else extent)
    return size
