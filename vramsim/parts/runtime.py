"""What the runtime takes: context, communicators' buffers, workspaces, and the scratch of a plain optimizer step."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.parts import sharding
from vramsim.spec import ALWAYS, TRAINING, Category, Component, Phase, Setup, Tier, dtype_bytes
from vramsim.units import MiB, Num, maximum, minimum, where

WORKSPACE = 8.125 * MiB
"""cuBLAS workspace of one handle and stream, from its default configuration :4096:2:16:8. [B]"""


def overhead(setup: Setup) -> Iterator[Component]:
    """Memory outside the caching allocator: the device context and the communication library's buffers.

    setup : resolved run. [-]
    """
    device, strategy, cluster = setup.cluster.device, setup.strategy, setup.cluster
    yield Component("device context", Category.OVERHEAD, device.context, ALWAYS)
    groups = (
        where(setup.shard_degree > 1, 1.0, 0.0)
        + where(strategy.tp > 1, 1.0, 0.0)
        + where(strategy.sp > 1, 1.0, 0.0)
        + where(strategy.cp > 1, 1.0, 0.0)
        + where(strategy.pp > 1, 1.0, 0.0)
        + where(strategy.ep > 1, 1.0, 0.0)
    )
    yield Component("communicator buffers", Category.OVERHEAD, groups * device.communicator_buffer, TRAINING)
    # An all-to-all opens channels to every peer in the node, not to two neighbours only.
    for degree in (strategy.sp, strategy.ep):
        peers = maximum(minimum(degree, cluster.devices_per_node) - 1.0, 0.0) / 7.0
        yield Component("all-to-all buffers", Category.OVERHEAD, peers * device.all_to_all_buffer, TRAINING)


def dequantized(setup: Setup) -> Iterator[Component]:
    """The copy in the compute dtype of one quantized weight, while a block multiplies by it; backward always makes it.

    setup : resolved run. [-]
    Source: bitsandbytes autograd/_functions.py, MatMul4Bit and MatMul8bitLt.
    """
    if not setup.strategy.quantization.dequantized:
        return
    packed = sharding.select(setup, lambda entry: entry.quantized)
    # Experts are layers of their own where they are quantized at all: one is unpacked at a time, and gate and up apart.
    apart = (entry for entry in packed if entry.weight.module != "experts_up")
    one = {entry.index: entry.weight.rows[0][1] if entry.weight.role == "experts" else 1 for entry in apart}
    largest = sharding.largest(sharding.sizes(setup)[index] / float(alike) for index, alike in one.items())
    nbytes = dtype_bytes(setup.training.precision.compute) * largest
    live = Phase.FORWARD | Phase.BACKWARD | Phase.REDUCE
    yield Component("dequantized weight", Category.TEMPORARY, nbytes, live)


def workspace(setup: Setup) -> Iterator[Component]:
    """Workspace of the matrix library.

    setup : resolved run. [-]
    """
    yield Component("cuBLAS workspace", Category.TEMPORARY, WORKSPACE, TRAINING)


def step(setup: Setup) -> Iterator[Component]:
    """Scratch of an optimizer that steps on weights as they are (DDP, FSDP2, a single process), or on fp32 slices.

    A foreach step makes one temporary for all weights together, a loop two for the largest. Where an optimizer keeps
    fp32 copies of 16-bit weights, it steps on them, with the gradients cast up for the step.

    setup : resolved run. [-]
    """
    if setup.framework.engine == "deepspeed":
        return
    rule, entries = setup.training.optimizer, sharding.trained(setup)
    lora = setup.training.lora
    size = dtype_bytes(lora.adapter_dtype if lora else setup.training.precision.param)
    elements: Num = 0.0
    cast: Num = 0.0
    precision, on_device = setup.training.precision, 1.0 - setup.strategy.offload_optimizer
    if precision.master:
        size = 4.0
        if precision.grad != "fp32":
            # An offloaded optimizer is sent the cast, so that it is made on the device all the same.
            cast = 4.0 * sharding.optimizer_elements(setup)
            yield Component("gradients cast to fp32", Category.GRADIENT, cast, Phase.STEP)
    if rule.temporary == "foreach":
        sliced = setup.framework.engine == "megatron"
        elements = sharding.optimizer_elements(setup) if sliced else sharding.parameters(setup, entries)
    elif rule.temporary == "single":
        sizes = sharding.slices(setup) if setup.framework.engine in sharding.FSDP else sharding.sizes(setup)
        elements = sharding.largest(sizes[entry.index] for entry in entries)
    scratch = rule.temporary_factor * size * elements * on_device
    yield Component("step scratch", Category.TEMPORARY, scratch, Phase.STEP)
    # Temporaries of whole flat shards or weights, which activations do not take the place of.
    if rule.temporary == "foreach":
        between = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD | Phase.REDUCE
        yield Component("step scratch, free again", Category.TEMPORARY, scratch + cast, between, Tier.CACHE)
