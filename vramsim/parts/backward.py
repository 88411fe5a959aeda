"""One block going backward: the first with all activations alive, the last with all gradients."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim import blocks
from vramsim.blocks import Saved
from vramsim.blocks.backward import NETWORK, early_gradients
from vramsim.layout import bytes_per_token, kernels_of, largest_block
from vramsim.parts import activations, casts, resharding, sharding
from vramsim.spec import Category, Component, Moment, Phase, Setup, beside, derived, dtype_bytes, most, without
from vramsim.units import Num, minimum, where


@derived
def backward_working(setup: Setup) -> Num:
    """Bytes alive while the largest block goes backward: all it saves, and the gradients in flight. [B]

    setup : resolved run. [-]
    """
    return most([at_work(setup)])


@derived
def at_work(setup: Setup) -> Moment:
    """What is alive of the largest block while it goes backward: what it saves, and the gradients in flight. [B]

    setup : resolved run. [-]
    """
    return _alive(setup, blocks.layer(largest_block(setup.model), kernels_of(setup)).working)


@derived
def leaving_network(setup: Setup) -> Moment:
    """What is alive of the largest block once its feed-forward network has all weight gradients. [B]

    setup : resolved run. [-]
    """
    return _alive(setup, blocks.layer(largest_block(setup.model), kernels_of(setup)).leaving)


def _alive(setup: Setup, beside_saved: tuple[Saved, ...]) -> Moment:
    block = largest_block(setup.model)
    # A reentrant checkpoint holds the recomputed output beside its gradient.
    reentrant = setup.framework.reentrant_checkpoint
    recomputed = where(setup.strategy.recompute > 0, 1.0, 0.0)
    output = activations.checkpoint_bytes(setup) * recomputed if reentrant else 0.0
    table = blocks.layer(block, kernels_of(setup)).saved
    gone = tuple(tensor for tensor in beside_saved if tensor.nbytes < 0)
    made = tuple(tensor for tensor in beside_saved if tensor.nbytes > 0)
    saved = setup.tokens * (bytes_per_token(table, setup) + bytes_per_token(gone, setup))
    saved = saved + activations.sequence_parallel_output(setup) + output
    if setup.framework.recompute_group > 1:
        # The other blocks of the group have been recomputed, too, and wait for their turn (equation A13).
        saved = saved + recomputed * (activations.grouped(setup) - 1.0) * activations.block_saved(setup, block)
    return {Category.ACTIVATION: saved, Category.TEMPORARY: setup.tokens * bytes_per_token(made, setup)}


def backward(setup: Setup) -> Iterator[Component]:
    """The block that goes backward: first with all activations alive, last with all gradients.

    setup : resolved run. [-]
    """
    strategy, block = setup.strategy, largest_block(setup.model)
    whole = activations.block_saved(setup, block) + activations.sequence_parallel_output(setup)
    # What was offloaded has to be back on the device.
    on_device = (1.0 - strategy.recompute) * (1.0 - strategy.offload_activations)
    already_kept = {Category.ACTIVATION: on_device * whole}
    name, category = "backward of one block", Category.TEMPORARY
    yield Component.worst(name, category, Phase.BACKWARD, beside(at_work(setup), without(already_kept)))
    yield Component.worst(name, category, Phase.REDUCE, *last_moments(setup))


@derived
def last_block(setup: Setup) -> Num:
    """Bytes that the last block to go backward needs beyond the gradients that count as alive. [B]

    setup : resolved run. [-]
    """
    return most(last_moments(setup))


@derived
def last_moments(setup: Setup) -> tuple[Moment, ...]:
    """The last block going backward, and what is left to do then for a tied embedding. [B]

    FSDP2's worst moment is one block earlier, since the last has nothing to prefetch.

    setup : resolved run. [-]
    """
    checkpoint = activations.checkpoint_bytes(setup) * where(setup.strategy.recompute > 0, 1.0, 0.0)
    kept = {Category.ACTIVATION: checkpoint, Category.TEMPORARY: casts.block_casts(setup)}
    copies = {Category.TEMPORARY: tied_gradient_copies(setup)}
    working = beside(at_work(setup), kept)
    if setup.framework.engine in sharding.FSDP:
        before = where(sharding.layers(setup) > 1, activations.released(setup), 0.0)
        there = beside(working, {Category.ACTIVATION: before}), without(shards_to_come(setup))
        return *(beside(there[0], more, there[1]) for more in growing(setup)), copies
    early = early_gradients(largest_block(setup.model).mlp, kernels_of(setup))
    working = beside(working, without(gradients_to_come(setup, early)))
    leaving = beside(leaving_network(setup), kept, without(gradients_to_come(setup, NETWORK)))
    return working, leaving, copies


@derived
def first_gradients(setup: Setup) -> Num:
    """Bytes of the whole gradients that a block has when its fullest moment begins, as FSDP makes them. [B]

    setup : resolved run. [-]
    """
    return _made(setup, early_gradients(largest_block(setup.model).mlp, kernels_of(setup)))


@derived
def growing(setup: Setup) -> tuple[Moment, ...]:
    """A block's whole gradients growing under FSDP while its activations go, beyond what it has at first. [B]

    At the end of its backward all of its gradients are there, and none of its activations.

    setup : resolved run. [-]
    """
    gone, first = without(at_work(setup)), first_gradients(setup)
    network = beside(gone, leaving_network(setup), {Category.GRADIENT: _made(setup, NETWORK) - first})
    entries = tuple(entry for entry in sharding.with_gradients(setup) if entry.part == "block")
    size = dtype_bytes(setup.training.precision.compute)
    everything = size * sharding.whole(setup, entries) / sharding.layers(setup)
    return {}, network, beside(gone, {Category.GRADIENT: everything - first})


def _made(setup: Setup, modules: tuple[str, ...]) -> Num:
    """Bytes of one block's whole gradients in some modules that train, as autograd makes them. [B]"""
    entries = sharding.select(setup, lambda e: e.part == "block" and e.weight.module in modules and e.trains)
    size = dtype_bytes(setup.training.precision.compute)
    return size * sharding.whole(setup, entries) / sharding.layers(setup)


def _once(setup: Setup, last_only: Num) -> Num:
    """Bytes of an element of a gradient that only the last backward makes; 0 where earlier ones made it. [B]"""
    if setup.training.lora is not None or setup.training.optimizer.gradients == "one":
        return 0.0
    first = where(setup.training.gradient_accumulation_steps > 1, last_only, 1.0)
    return dtype_bytes(setup.training.precision.grad) * first


def shards_to_come(setup: Setup) -> Moment:
    """FSDP's gradient shards that count as alive though the last two blocks have not made them yet. [B]

    Its root unit is reduced at the very end. Without a reduction in every micro-step shards are made in the last
    backward, whatever was accumulated.

    setup : resolved run. [-]
    """
    # Gradients that go to the host as they are made never count as alive here.
    size = _once(setup, 1.0 - resharding.reduces_each(setup)) * (1.0 - setup.strategy.offload_optimizer)
    in_blocks = sharding.select(setup, lambda entry: entry.part == "block")
    outside = sharding.select(setup, lambda entry: entry.part != "block")
    late = sharding.sliced(setup, in_blocks) * minimum(2.0 / sharding.layers(setup), 1.0)
    at_once = sharding.sliced(setup, outside) if setup.framework.wrap == "blocks" else 0.0
    return {Category.GRADIENT: size * (late + at_once)}


def gradients_to_come(setup: Setup, made: tuple[str, ...]) -> Moment:
    """Whole gradients that count as alive though the last block and the embedding have not made them yet. [B]

    That of a tied head is there, to be added to the embedding's.

    setup : resolved run. [-]   made : modules of the last block that have theirs. [-]
    """
    if setup.framework.engine not in ("torch", "ddp"):
        return {}
    size = _once(setup, 0.0)
    there = sharding.whole(setup, sharding.select(setup, lambda e: e.part == "block" and e.weight.module in made))
    late = sharding.embedding_elements(setup) + sharding.block_elements(setup) - there / sharding.layers(setup)
    if not setup.model.tied_embeddings:
        return {Category.GRADIENT: late * size}
    return {Category.GRADIENT: late * size, Category.TEMPORARY: -sharding.head_elements(setup) * size}


def tied_gradient_copies(setup: Setup) -> Num:
    """Bytes of the two copies made when a tied embedding's gradient is added to the head's. [B]

    setup : resolved run. [-]
    """
    if not setup.model.tied_embeddings or setup.training.lora is not None:
        return 0.0
    precision = setup.training.precision
    size = dtype_bytes(precision.param if precision.autocast else precision.compute)
    return 2.0 * size * sharding.head_elements(setup) * setup.stage.embedding
