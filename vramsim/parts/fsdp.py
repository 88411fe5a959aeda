"""FSDP2 (fully_shard): unsharded units, all-gather outputs and reduce-scatter inputs, one block at a time."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.layout import Entry
from vramsim.parts import activations, backward, resharding, sharding, stepping
from vramsim.spec import Category, Component, Moment, Phase, Setup, beside, dtype_bytes
from vramsim.units import Num, maximum, where


def _root_elements(setup: Setup) -> Num:
    """Elements outside the blocks, which one root unit holds when only blocks are wrapped: as gathered, padded."""
    return sharding.padded(setup, sharding.select(setup, lambda entry: entry.part != "block"))


def gathered(setup: Setup) -> Iterator[Component]:
    """Unsharded parameters and all-gather outputs.

    Stage 3 reshards a block after its forward, stage 2 and some pipelines keep it until its backward. The root unit is
    never resharded between the two.

    setup : resolved run. [-]
    """
    if setup.framework.engine not in sharding.FSDP:
        return
    size = dtype_bytes(setup.training.precision.compute)
    block = resharding.gathered_block(setup)
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


def reduced(setup: Setup) -> Iterator[Component]:
    """Reduce-scatter inputs, and a block's gradients where they outweigh its activations.

    The input of one block's reduce-scatter is kept until the next block's. At the end of backward the block's gradients
    are `backward.last_moments`'s.

    setup : resolved run. [-]
    """
    if setup.framework.engine not in sharding.FSDP:
        return
    entries = tuple(entry for entry in sharding.with_gradients(setup) if entry.part == "block")
    wire = dtype_bytes(setup.training.precision.reduce)
    name, scattered = "reduce-scatter input", wire * sharding.padded(setup, entries) / sharding.layers(setup)
    yield Component.worst(name, Category.TEMPORARY, Phase.BACKWARD, {}, _second_block(setup, entries, scattered))
    yield Component(name, Category.TEMPORARY, scattered, Phase.REDUCE)
    first, category = backward.first_gradients(setup), Category.GRADIENT
    yield Component("first gradients of the block", category, first, Phase.BACKWARD | Phase.REDUCE)
    yield Component.worst("gradients of the block", category, Phase.BACKWARD, *backward.growing(setup))


def _second_block(setup: Setup, entries: tuple[Entry, ...], scattered: Num) -> Moment:
    """The second block to go backward, beyond the first: an input waiting, the first one's shard, less what is gone.

    The shard is there already where every micro-step reduces.
    """
    any_second = where(sharding.layers(setup) > 1, 1.0, 0.0)
    whole = resharding.stays_whole(setup) * resharding.gathered_block(setup)
    again = where(setup.training.gradient_accumulation_steps > 1, resharding.reduces_each(setup), 0.0)
    shard = stepping.gradient_bytes(setup, entries, sharding.sliced) / sharding.layers(setup)
    made = shard * (1.0 - again) * (1.0 - setup.strategy.offload_optimizer)
    there = {Category.PARAMETER: -whole, Category.GRADIENT: made, Category.TEMPORARY: scattered}
    found = beside(there, {Category.ACTIVATION: -activations.released(setup)})
    return {category: any_second * nbytes for category, nbytes in found.items()}


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
    before = backward.last_block(setup) + compute * sharding.head_elements(setup)
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
    # Those of the last two blocks are there in any case.
    held = activations.checkpoint_bytes(setup) * strategy.recompute * maximum(sharding.layers(setup) - 2.0, 0.0)
    yield Component("block inputs held by hooks", Category.ACTIVATION, held, Phase.REDUCE)
    yield Component("input gradients held by hooks", Category.GRADIENT, held, Phase.REDUCE)
