"""FSDP2 (fully_shard): unsharded units, all-gather outputs and reduce-scatter inputs, one block at a time."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks.mlp import early_gradients
from vramsim.layout import kernels_of
from vramsim.parts import activations, resharding, sharding
from vramsim.spec import Category, Component, Phase, Setup, dtype_bytes
from vramsim.units import Num, maximum


def _root_elements(setup: Setup) -> Num:
    """Elements outside the blocks, which one root unit holds when only blocks are wrapped."""
    return sharding.whole(setup, sharding.select(setup, lambda entry: entry.part != "block"))


def gathered(setup: Setup) -> Iterator[Component]:
    """Unsharded parameters and all-gather outputs.

    Stage 3 reshards a block after its forward, stage 2 and some pipelines keep it until its backward. The root unit is
    never resharded between the two.

    setup : resolved run. [-]
    """
    if setup.framework.engine not in sharding.FSDP:
        return
    size = dtype_bytes(setup.training.precision.compute)
    block = _gather_bytes(setup)
    blocks = block * sharding.layers(setup)
    keeps = resharding.stays_whole(setup)
    name, gather, category = "unsharded parameters", "all-gather outputs", Category.PARAMETER
    root = size * (_root_elements(setup) if setup.framework.wrap == "blocks" else 0.0)
    head = size * (0.0 if setup.framework.wrap == "blocks" else sharding.head_elements(setup))
    through = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD | Phase.REDUCE
    yield Component("unsharded root unit", category, root, through)
    yield Component("unsharded head", category, head, Phase.HEAD)
    yield Component(name, category, keeps * blocks + (1.0 - keeps) * block, Phase.FORWARD)
    yield Component(name, category, keeps * blocks, Phase.HEAD)
    yield Component(name, category, keeps * blocks + (1.0 - keeps) * block, Phase.BACKWARD)
    # Before PyTorch 2.1 nothing resharded a unit that had no gradient: by the end of backward all are whole.
    stuck = 1.0 if setup.training.lora is not None and not setup.framework.reshards_frozen else 0.0
    yield Component(name, category, stuck * blocks + (1.0 - stuck) * block, Phase.REDUCE)
    temporary = Category.TEMPORARY
    yield Component(gather, temporary, block * (1.0 + (1.0 - keeps)), Phase.FORWARD)
    # The last block's all-gather output waits for the next copy-out, which a root unit never does.
    waiting = block if setup.framework.wrap == "blocks" else 0.0
    yield Component(gather, temporary, waiting * (1.0 - keeps), Phase.HEAD)
    yield Component(gather, temporary, block * (1.0 - keeps), Phase.BACKWARD | Phase.REDUCE)


def _gather_bytes(setup: Setup) -> Num:
    """Bytes of one block gathered: padded to a multiple of the ranks, quantized weights as they are packed."""
    compute, packed = dtype_bytes(setup.training.precision.compute), setup.strategy.quantization.packed
    total: Num = 0.0
    for quantized, size in ((False, compute), (True, packed)):
        entries = sharding.select(setup, lambda e, q=quantized: e.part == "block" and e.quantized is q)  # type: ignore[misc]
        total = total + sharding.padded(setup, entries) * size
    return total / sharding.layers(setup)


def reduced(setup: Setup) -> Iterator[Component]:
    """Reduce-scatter inputs, and a block's gradients where they outweigh its activations.

    The input of one block's reduce-scatter is kept until the next block's. At the end of a block's backward its
    gradients are whole and its activations gone: what counts is the larger of the two.

    setup : resolved run. [-]
    """
    if setup.framework.engine not in sharding.FSDP:
        return
    entries = tuple(entry for entry in sharding.with_gradients(setup) if entry.part == "block")
    layers = sharding.layers(setup)
    elements = sharding.whole(setup, entries) / layers
    precision = setup.training.precision
    padded = sharding.padded(setup, entries) / layers
    live = Phase.BACKWARD | Phase.REDUCE
    scattered = dtype_bytes(precision.reduce) * padded
    # The second block to go backward is the first to find an input waiting, when one block's activations are gone.
    gone = activations.released(setup) + resharding.stays_whole(setup) * _gather_bytes(setup)
    yield Component("reduce-scatter input", Category.TEMPORARY, maximum(scattered - gone, 0.0), Phase.BACKWARD)
    yield Component("reduce-scatter input", Category.TEMPORARY, scattered, Phase.REDUCE)
    size = dtype_bytes(precision.compute)
    modules = early_gradients(kernels_of(setup))
    early = sharding.select(setup, lambda e: e.weight.module in modules and e.trains)
    first = size * sharding.whole(setup, early) / layers
    yield Component("first gradients of the block", Category.GRADIENT, first, live)
    beyond = maximum(size * elements - first - activations.backward_working(setup), 0.0)
    yield Component("gradients of the block", Category.GRADIENT, beyond, live)


def root_reduction(setup: Setup) -> Iterator[Component]:
    """The root unit's own reduction, at the very end, where it needs more than the last block's backward did.

    Its parameters are freed before its gradients are copied into the reduce-scatter input.

    setup : resolved run. [-]
    """
    outside = sharding.select(setup, lambda entry: entry.part != "block" and entry.trains)
    if setup.framework.engine not in sharding.FSDP or setup.framework.wrap != "blocks" or not outside:
        return
    precision = setup.training.precision
    compute, wire = dtype_bytes(precision.compute), dtype_bytes(precision.reduce)
    root, shard = sharding.whole(setup, outside), sharding.sliced(setup, outside) * dtype_bytes(precision.grad)
    at_root = (compute + wire) * root - shard
    live_then = [c for part in (gathered, reduced) for c in part(setup) if Phase.REDUCE in c.live]
    before = activations.last_block(setup) + compute * sharding.head_elements(setup)
    for component in live_then:
        before = before + component.nbytes
    beyond = maximum(at_root - before, 0.0)
    yield Component("reduction of the root unit", Category.TEMPORARY, beyond, Phase.REDUCE)


def held_inputs(setup: Setup) -> Iterator[Component]:
    """Block inputs and their gradients that FSDP1 holds to the end of backward when parameters are frozen.

    To reshard a unit without gradients FSDP1 hangs a hook on its inputs. Under a reentrant checkpoint these are leaves,
    so that the inputs and the gradient of each stay until the hooks are dropped: after the last block. A checkpoint
    inside of the unit leaves the unit's inputs in the graph, and nothing is held.

    setup : resolved run. [-]
    Source: PyTorch torch/distributed/fsdp/_runtime_utils.py, _register_post_backward_reshard_only_hook.
    """
    framework, strategy = setup.framework, setup.strategy
    leaves = framework.reentrant_checkpoint and not framework.checkpoint_inside
    if framework.engine != "fsdp1" or setup.training.lora is None or not leaves:
        return
    layers = sharding.layers(setup)
    held = activations.checkpoint_bytes(setup) * strategy.recompute
    yield Component("block inputs held by hooks", Category.ACTIVATION, held * (layers - 1.0), Phase.REDUCE)
    gradients = held * maximum(layers - 2.0, 0.0)
    yield Component("input gradients held by hooks", Category.GRADIENT, gradients, Phase.REDUCE)
