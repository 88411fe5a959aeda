"""The host's side of a step: kernels launched one by one from Python, which small models wait for."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.layout import joined, ledger_of
from vramsim.parts import products, sharding, wrapping
from vramsim.parts.kernels import fused_softmax, unpacked_bytes
from vramsim.parts.products import KERNEL_TAIL
from vramsim.spec import Block, Phase, Setup, Work, derived
from vramsim.units import MICROSECOND, Num, ceil_div, maximum, where

FORWARD_KERNEL = 25.0 * MICROSECOND
"""Host time of one kernel in a forward pass: module call, dispatch, autograd's record, launch. An eager Llama-7B of
plain PyTorch modules decodes a token in 39 ms (25.5 tokens/s on A100, PyTorch's blog on gpt-fast, November 2023) with
about 1,600 kernels. [s]"""
BACKWARD_KERNEL = 15.0 * MICROSECOND
"""Host time of one kernel in a backward pass, which the autograd engine runs without Python. [s]"""
BACKWARD_KERNELS = 2.0
"""Kernels in backward for each one in forward: a product has two. [-]"""
NORM_KERNELS = {"eager": 7.0, "fused": 1.0}
ROTARY_KERNELS = {"eager": 10.0, "fused": 2.0}
GATE_KERNELS = {"eager": 2.0, "fused": 1.0}
ATTENTION_KERNELS = {"flash": 4.0, "flash1": 4.0, "triton": 4.0, "cudnn": 4.0, "eager": 8.0, "unfused": 8.0}
"""Kernels of one layer's forward by implementation (attention with its copies between layouts). [-]"""
SOFTMAX_KERNELS = 5.0
"""Further kernels where softmax is not fused: cast, scale, mask, cast, and the making of the mask. [-]"""
ENDS_KERNELS = 40.0
"""Kernels of a micro-step outside of the blocks: embedding, last norm, output projection, and a loss of some thirty
operations (Megatron-LM core/tensor_parallel/cross_entropy.py), with the copies of a batch. [-]"""
ADAPTER_KERNELS = 2.0
"""Kernels beside each of an adapter's two products: casts, scaling, adding. [-]"""
FUSED_CALL = 40.0 * MICROSECOND
"""Host time of a fused kernel beside its launch, in each pass: it is an autograd function written in Python, often
with a launcher of its own (Apex, Triton). [s]"""
CHECKPOINT = 300.0 * MICROSECOND
"""Host time of one checkpointed layer beside its second forward: generator states saved, restored and compared, and a
second autograd graph. [s]"""
COLLECTIVE = 50.0 * MICROSECOND
"""Host time of one collective called from Python. [s]"""
MODULE_HOOKS = 150.0 * MICROSECOND
"""Host time of ZeRO-3's hooks for each module and pass: fetch, partition and prefetch bookkeeping. [s]"""
CONTAINERS = 4.0
"""Modules of a layer without parameters of their own, which have these hooks, too: the layer, attention, feed-forward
network and activation (deepspeedai/DeepSpeed runtime/zero/parameter_offload.py, _register_deepspeed_module). [-]"""
UNIT_HOOKS = 1000.0 * MICROSECOND
"""Host time of FSDP's hooks for each wrapped unit and pass: four pairs of runs that differ by 256 units of adapters, in
three passes, differ by 0.76 to 0.85 s (foundation-model-stack/fms-acceleration scripts/benchmarks/refs_orca/
a100_80gb_pf.csv, accelerated-peft-autogptq with and without foak on two devices). [s]"""
PARTITION_KERNELS = 8.0
"""Operations on one gradient that ZeRO-3 calls from Python one by one: into the bucket, padded and flattened for the
reduction, into its partition (deepspeedai/DeepSpeed runtime/zero/stage3.py, __add_grad_to_ipg_bucket, partition_grads;
runtime/comm/coalesced_collectives.py). [-]"""
LENGTHS_KERNELS = 12.0
"""Kernels of one layer's forward that find the bounds of its sequences, which the host waits for (transformers
modeling_flash_attention_utils.py, _upad_input, prepare_fa2_from_position_ids). [-]"""
EXPERT_PRODUCT = 33.0 * MICROSECOND
"""Host time of one expert's product where a grouped layer calls the library for each: Transformer Engine takes 0.267 ms
for 8 experts on Blackwell whatever their size (NVIDIA/TransformerEngine pull request 3134, "pure"). [s]"""
EXPERT_CASTS = {"fp8": 3.0, "mxfp8": 1.0, "nvfp4": 3.0}
"""Kernels that quantize one expert's input or gradient: its maximum, the scale and the cast, or blocks at once, or a
transform with its maximum and the cast (transformer_engine/pytorch/csrc/extensions/cast.cpp). [-]"""
ROUTING_KERNELS = 33.0
"""Further kernels of Megatron's mixtures that have no backward: 9 that make the map of choices and count it, 13 of the
loss that balances experts, 10 of counts for the all-to-all, four of them copies to the host, and 1 for the order of
permuted tokens (Megatron-LM 3a2a972, core/transformer/moe: topk_softmax_with_capacity of moe_utils.py and its
switch_load_balancing_loss_func, compute_routing_scores_for_aux_loss of router.py, preprocess of token_dispatcher.py).
[-]"""
EXCHANGES = (4.0, 3.0)
"""Collectives of a mixture's all-to-alls in either pass: tokens and their weights out, tokens back, and in forward the
counts that come before (token_dispatcher.py, MoEAlltoAllTokenDispatcher); DeepEP's are kernels. [-]"""
PARAMETER_HOOK = 25.0 * MICROSECOND
"""Host time of a gradient hook written in Python (DeepSpeed, Megatron). [s]"""


def host(setup: Setup) -> Iterator[Work]:
    """Launching a micro-step's kernels, while the device runs those launched before.

    setup : resolved run. [-]
    """
    share, strategy = setup.stage.blocks, setup.strategy
    counted, modules, parameters = _counts(setup)
    kernels: Num = counted
    calls = 2.0 * setup.model.num_layers * where(strategy.tp > 1, 1.0, 0.0)
    calls = calls + 4.0 * setup.model.num_layers * where(strategy.sp > 1, 1.0, 0.0)
    if setup.framework.attention == "unfused":
        kernels = kernels + sum(
            block.count * SOFTMAX_KERNELS * (1.0 - fused_softmax(setup, block)) for block in setup.model.blocks
        )
    read = LENGTHS_KERNELS * setup.model.num_layers if setup.framework.reads_lengths else 0.0
    kernels = kernels + read
    hooks = _hooks(setup, modules) + FUSED_CALL * _fused_calls(setup)
    experts, unfed = _expert_calls(setup)
    routing, sent = _routing(setup)
    ahead = FORWARD_KERNEL * (kernels + routing) + COLLECTIVE * (calls + EXCHANGES[0] * sent) + hooks + experts
    back = BACKWARD_KERNELS * (BACKWARD_KERNEL * kernels + experts) + COLLECTIVE * (calls + EXCHANGES[1] * sent) + hooks
    engine = setup.framework.engine
    if engine in ("deepspeed", "megatron"):
        partitioned = where(strategy.zero_stage >= 3, PARTITION_KERNELS, 0.0) if engine == "deepspeed" else 0.0
        back = back + (PARAMETER_HOOK + FORWARD_KERNEL * partitioned) * parameters
    again = strategy.recompute * (ahead + CHECKPOINT * setup.model.num_layers)
    again = again + strategy.recompute_op * FORWARD_KERNEL * kernels
    ends = ENDS_KERNELS * setup.stage.head
    dry = share * (_starved(setup) + unfed + FORWARD_KERNEL * read)
    tails = KERNEL_TAIL * share * kernels
    later = (BACKWARD_KERNELS + strategy.recompute + strategy.recompute_op) * tails + (1.0 + strategy.recompute) * dry
    gaps = tails + KERNEL_TAIL * share * routing
    yield Work("between kernels, forward", 0.0, 0.0, 0.0, gaps + dry, Phase.FORWARD)
    yield Work("between kernels, backward", 0.0, 0.0, 0.0, later, Phase.BACKWARD)
    yield Work("launches, forward", 0.0, 0.0, 0.0, share * ahead + FORWARD_KERNEL * ends, Phase.FORWARD, "host")
    later = share * (back + again) + BACKWARD_KERNELS * BACKWARD_KERNEL * ends
    yield Work("launches, backward", 0.0, 0.0, 0.0, later, Phase.BACKWARD, "host")


def _routing(setup: Setup) -> tuple[float, Num]:
    """Kernels of routing that have no backward in one forward pass, and mixtures that exchange tokens by all-to-all."""
    mixtures = float(sum(block.count for block in setup.model.blocks if block.mlp.experts))
    if setup.framework.engine != "megatron":
        return 0.0, 0.0
    apart = 0.0 if setup.framework.dispatcher == "flex" else where(setup.strategy.ep > 1, mixtures, 0.0)
    return ROUTING_KERNELS * mixtures, apart


def _hooks(setup: Setup, modules: float) -> Num:
    """Host time of gathering hooks in one pass over the blocks."""
    engine = setup.framework.engine
    if engine == "deepspeed":
        return where(
            setup.strategy.zero_stage >= 3, MODULE_HOOKS * (modules + CONTAINERS * setup.model.num_layers), 0.0
        )
    if engine not in sharding.FSDP:
        return 0.0
    return UNIT_HOOKS * (setup.model.num_layers + wrapping.adapter_units(setup))


def _starved(setup: Setup) -> Num:
    """Seconds of one pass in which a device has nothing to do while the host is in the hooks of adapters' units.

    The limiter lets the host run two units ahead: it deals with both matrices of an adapter while the device unpacks
    the weight that they adapt and multiplies by it.
    """
    unpacking = unpacked_bytes(setup) / products.bandwidth(setup)
    total: Num = 0.0
    if wrapping.adapter_units(setup):
        adapted = {entry.weight.module for entry in ledger_of(setup) if entry.weight.adapter}
        for entry in ledger_of(setup):
            weight = entry.weight
            if weight.module not in adapted or weight.adapter or entry.part != "block" or weight.role != "linear":
                continue
            if not joined(setup, entry):
                ahead, *_ = products.linear(setup, weight, setup.tokens)
                busy = ahead + unpacking * weight.numel * entry.quantized
                total = total + entry.count * maximum(2.0 * UNIT_HOOKS - busy, 0.0)
    return total


def _expert_calls(setup: Setup) -> tuple[Num, Num]:
    """Host time of one forward's calls for each expert, and how long the device has nothing to do meanwhile.

    The host learns only from the device how many tokens each expert gets, so that it is never ahead of it there;
    backward knows. Kernels that take all experts at once read the counts where they are.
    """
    framework = setup.framework
    calls: Num = 0.0
    waits: Num = 0.0
    if framework.engine != "megatron" or framework.fused_experts:
        return calls, waits
    casts = EXPERT_CASTS.get(setup.training.precision.linear, 0.0)
    for entry in ledger_of(setup):
        if entry.part == "block" and entry.weight.role == "experts":
            local = ceil_div(float(entry.weight.rows[0][1]), setup.strategy.ep)
            host = local * (EXPERT_PRODUCT + BACKWARD_KERNEL * casts)
            device, *_ = products.experts(setup, entry.weight, products.routed(setup, entry.weight))
            calls, waits = calls + entry.count * host, waits + entry.count * maximum(host - device, 0.0)
    return calls, waits


def _fused_calls(setup: Setup) -> Num:
    """Fused kernels and regions of tensor parallelism, which are functions written in Python, in one pass."""
    framework, layers = setup.framework, setup.model.num_layers
    norms = sum(block.count * block.num_norms for block in setup.model.blocks) if framework.norm == "fused" else 0.0
    gates = layers * (1.0 + (framework.attention in ("eager", "unfused"))) if framework.activation == "fused" else 0.0
    return norms + gates + where(setup.strategy.tp > 1, 4.0 * layers, 0.0)


@derived
def _counts(setup: Setup) -> tuple[float, float, float]:
    """Kernels of the blocks' forward, modules that hold parameters, and parameters with gradients."""
    kernels = modules = parameters = 0.0
    casts = 2.0 if setup.training.precision.autocast else 0.0
    for entry in ledger_of(setup):
        if entry.part != "block" or joined(setup, entry):
            continue
        parameters += entry.count * entry.trains
        if entry.weight.role in ("linear", "router"):
            unpacking = 2.0 if entry.quantized and setup.strategy.quantization.dequantized else 0.0
            beside = ADAPTER_KERNELS if entry.weight.adapter else unpacking
            kernels += entry.count * (1.0 + casts + beside)
            modules += entry.count
        elif entry.weight.role == "norm":
            modules += entry.count
    for block in setup.model.blocks:
        kernels += block.count * _layer_kernels(setup, block)
    return kernels, modules, parameters


def _layer_kernels(setup: Setup, block: Block) -> float:
    """Kernels of one layer's forward beside its linear layers."""
    framework = setup.framework
    norm = NORM_KERNELS["fused" if block.norm == "layernorm" else framework.norm]
    rotary = 0.0 if setup.model.positions else ROTARY_KERNELS[framework.rotary or framework.activation]
    experts = 0.0
    if block.mlp.experts:
        # One launch for all experts and a dozen for routing, or a Python loop over the experts.
        grouped = framework.grouped_experts or framework.engine == "megatron"
        experts = 14.0 if grouped else 12.0 + 9.0 * block.mlp.experts
    gate = GATE_KERNELS[framework.activation] if block.mlp.gated else 1.0
    residual = 2.0
    return block.num_norms * norm + rotary + ATTENTION_KERNELS[framework.attention] + gate + residual + experts
