"""Activations: what every block keeps for backward, and what one block needs while it goes backward."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim import blocks
from vramsim.blocks.mlp import early_gradients
from vramsim.equations import activations as equations
from vramsim.layout import Entry, bytes_per_token, kernels_of, kinds, largest_block, model_of
from vramsim.parts import resharding, sharding
from vramsim.spec import ALWAYS, Block, Category, Component, Phase, Setup, Tier, derived, dtype_bytes
from vramsim.units import Num, maximum, minimum, where

KEPT = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD


def block_saved(setup: Setup, block: Block) -> Num:
    """Bytes that one block keeps when it is not recomputed whole. [B]

    setup : resolved run. [-]   block : its shape. [-]
    """
    layer, strategy = blocks.layer(block, kernels_of(setup)), setup.strategy
    everything, coreless = bytes_per_token(layer.saved, setup), bytes_per_token(layer.saved, setup, core=False)
    outputs = bytes_per_token(layer.outputs, setup) + checkpoint_bytes(setup) / setup.tokens
    kept = everything + strategy.recompute_selective * (coreless - everything)
    return setup.tokens * (kept + strategy.recompute_op * (outputs - kept))


@derived
def stream_bytes(setup: Setup) -> Num:
    """Bytes of the residual stream between two blocks. [B]

    setup : resolved run. [-]
    """
    sharded = where(setup.strategy.megatron_sp > 0, 1.0 / setup.strategy.tp, 1.0)
    return setup.tokens * setup.model.hidden * dtype_bytes(setup.training.precision.residual) * sharded


@derived
def checkpoint_bytes(setup: Setup) -> Num:
    """Bytes of one block's input: what full recomputation keeps, cut over the tensor-parallel ranks if distributed. [B]

    setup : resolved run. [-]
    """
    stream, strategy = stream_bytes(setup), setup.strategy
    if not setup.framework.distribute_saved_activations:
        return stream
    return where(strategy.megatron_sp > 0, stream, stream / strategy.tp)


def _grouped(setup: Setup) -> Num:
    """Blocks that share one checkpoint, where blocks are recomputed."""
    return minimum(maximum(setup.framework.recompute_group, 1.0), sharding.layers(setup))


@derived
def backward_working(setup: Setup) -> Num:
    """Bytes alive while the largest block goes backward: all it saves, and the gradients in flight. [B]

    setup : resolved run. [-]
    """
    block = largest_block(setup.model)
    working = bytes_per_token(blocks.layer(block, kernels_of(setup)).working, setup)
    table = blocks.layer(block, kernels_of(setup)).saved
    # A reentrant checkpoint holds the recomputed output beside its gradient.
    reentrant = setup.framework.reentrant_checkpoint
    recomputed = where(setup.strategy.recompute > 0, 1.0, 0.0)
    output = checkpoint_bytes(setup) * recomputed if reentrant else 0.0
    working = setup.tokens * (bytes_per_token(table, setup) + working) + sequence_parallel_output(setup) + output
    if setup.framework.recompute_group > 1:
        # The other blocks of the group have been recomputed, too, and wait for their turn (equation A13).
        working = working + recomputed * (_grouped(setup) - 1.0) * block_saved(setup, block)
    return working


@derived
def sequence_parallel_output(setup: Setup) -> Num:
    """Bytes of the attention output before the Ulysses all-to-all, saved beside the one after it. [B]

    setup : resolved run. [-]
    """
    attention = largest_block(setup.model).attention
    width = float(attention.heads * attention.head_dim) * dtype_bytes(setup.training.precision.compute)
    return where(setup.strategy.sp > 1, setup.tokens * width, 0.0)


def saved(setup: Setup) -> Iterator[Component]:
    """Activations of all blocks from forward to backward, checkpoints included; the share that is offloaded.

    A pipeline stage keeps those of its own blocks, for every micro-batch in flight.

    setup : resolved run. [-]
    """
    strategy, stage = setup.strategy, setup.stage
    checkpoint = checkpoint_bytes(setup)
    kept: Num = 0.0
    model = model_of(setup)
    for block, kind in zip(model.blocks, kinds(model, kernels_of(setup)), strict=True):
        whole = block_saved(setup, block) + sequence_parallel_output(setup)
        held = block.count * sharding.share_of(setup, "block", kind)
        kept = kept + held * equations.checkpointed(whole, 0.0, strategy.recompute)
    inputs = checkpoint * strategy.recompute * (sharding.layers(setup) / _grouped(setup)) * stage.in_flight
    kept = (kept - untrained_input(setup) * (1.0 - strategy.recompute) * stage.embedding) * stage.in_flight
    share = strategy.offload_activations
    yield Component("saved activations", Category.ACTIVATION, kept * (1.0 - share), KEPT)
    # Two inputs stay on the device: the one being written and the one being read back.
    resident = minimum(inputs, inputs * (1.0 - share) + 2.0 * checkpoint * share)
    yield Component("checkpointed block inputs", Category.ACTIVATION, resident, KEPT)
    yield Component("offloaded activations", Category.ACTIVATION, (kept + inputs) * share, KEPT, Tier.HOST)
    rotary = 2.0 * dtype_bytes(setup.training.precision.compute)
    tables = rotary * float(setup.model.rotary_dim) * setup.training.seq_len
    yield Component("rotary tables", Category.ACTIVATION, tables, KEPT)
    embedded = bytes_per_token(blocks.embedding(setup.model, kernels_of(setup)).saved, setup)
    name = "norm and dropout of the embedding"
    yield Component(name, Category.ACTIVATION, setup.tokens * embedded * stage.embedding * stage.in_flight, KEPT)


@derived
def released(setup: Setup) -> Num:
    """Bytes of the device that are gone once one block has been backward: what it kept there, or its checkpoint. [B]

    setup : resolved run. [-]
    """
    recompute = setup.strategy.recompute
    whole = block_saved(setup, largest_block(setup.model)) + sequence_parallel_output(setup)
    kept = (1.0 - recompute) * whole + recompute * checkpoint_bytes(setup)
    return kept * (1.0 - setup.strategy.offload_activations)


@derived
def untrained_input(setup: Setup) -> Num:
    """Bytes that the first norm need not keep when nothing before it trains: its fp32 input and deviation. [B]

    setup : resolved run. [-]
    """
    needed = kernels_of(setup).trains("embed_tokens")
    if needed or setup.framework.norm == "fused" or setup.model.blocks[0].norm == "layernorm":
        return 0.0
    return setup.tokens * (4.0 * setup.model.hidden + 4.0)


def backward(setup: Setup) -> Iterator[Component]:
    """The block that goes backward: first with all activations alive, last with all gradients.

    setup : resolved run. [-]
    """
    strategy = setup.strategy
    block = largest_block(setup.model)
    everything = backward_working(setup)
    # What was offloaded has to be back on the device.
    on_device = (1.0 - strategy.recompute) * (1.0 - strategy.offload_activations)
    already_kept = on_device * (block_saved(setup, block) + sequence_parallel_output(setup))
    yield Component("backward of one block", Category.TEMPORARY, everything - already_kept, Phase.BACKWARD)
    yield Component("backward of one block", Category.TEMPORARY, last_block(setup), Phase.REDUCE)


@derived
def last_block(setup: Setup) -> Num:
    """Bytes that the last block to go backward needs beyond the gradients that count as alive. [B]

    setup : resolved run. [-]
    """
    checkpoint = checkpoint_bytes(setup) * where(setup.strategy.recompute > 0, 1.0, 0.0)
    lasting = backward_working(setup) + checkpoint + block_casts(setup)
    return maximum(lasting - gradients_to_come(setup), tied_gradient_copies(setup))


@derived
def gradients_to_come(setup: Setup) -> Num:
    """Bytes of gradients that count as alive though the last blocks and the embedding have not made them yet. [B]

    Where gradients are whole, all but the down projection's of the last block are to come; FSDP2's worst moment is one
    block earlier, since the last has nothing to prefetch, and its root unit is reduced at the very end.

    setup : resolved run. [-]
    """
    if setup.training.lora is not None or setup.training.optimizer.gradients == "one":
        return 0.0
    # Without a reduction in every micro-step, FSDP's shards are made in the last backward, whatever was accumulated.
    last_only = 1.0 - resharding.reduces_each(setup) if setup.framework.engine in sharding.FSDP else 0.0
    once = where(setup.training.gradient_accumulation_steps > 1, last_only, 1.0)
    size = dtype_bytes(setup.training.precision.grad) * once
    if setup.framework.engine in sharding.FSDP:
        in_blocks = sharding.select(setup, lambda entry: entry.part == "block")
        outside = sharding.select(setup, lambda entry: entry.part != "block")
        # Gradients that go to the host as they are made never count as alive here.
        size = size * (1.0 - setup.strategy.offload_optimizer)
        late = sharding.sliced(setup, in_blocks) * minimum(2.0 / sharding.layers(setup), 1.0)
        return size * (late + (sharding.sliced(setup, outside) if setup.framework.wrap == "blocks" else 0.0))
    if setup.framework.engine not in ("torch", "ddp"):
        return 0.0
    early = early_gradients(kernels_of(setup))
    down = sharding.whole(setup, sharding.select(setup, lambda e: e.weight.module in early))
    late = sharding.embedding_elements(setup) + sharding.block_elements(setup) - down / sharding.layers(setup)
    if setup.model.tied_embeddings:
        late = late - sharding.head_elements(setup)
    return late * size


def tied_gradient_copies(setup: Setup) -> Num:
    """Bytes of the two copies made when a tied embedding's gradient is added to the head's. [B]

    setup : resolved run. [-]
    """
    if not setup.model.tied_embeddings or setup.training.lora is not None:
        return 0.0
    precision = setup.training.precision
    size = dtype_bytes(precision.param if precision.autocast else precision.compute)
    return 2.0 * size * sharding.head_elements(setup) * setup.stage.embedding


@derived
def block_casts(setup: Setup) -> Num:
    """Bytes of autocast's copies of one block's weights. [B]

    setup : resolved run. [-]
    """
    if not setup.training.precision.autocast:
        return 0.0
    entries = sharding.select(setup, lambda entry: entry.part == "block" and entry.trains)
    return _cast_bytes(setup, entries) + _frozen_casts(setup)


def _cast_bytes(setup: Setup, entries: tuple[Entry, ...]) -> Num:
    return sharding.whole(setup, entries) * dtype_bytes(setup.training.precision.compute) / sharding.layers(setup)


@derived
def _frozen_casts(setup: Setup) -> Num:
    """Bytes of one block's casts of frozen weights: no cache has them, but every product keeps its own for backward.

    setup : resolved run. [-]
    Source: PyTorch aten/src/ATen/autocast_mode.cpp, cached_cast: only leaves that need a gradient are cached.
    """
    precision = setup.training.precision
    if not precision.autocast or sharding.frozen_bytes(setup) <= dtype_bytes(precision.compute):
        return 0.0
    frozen = sharding.select(
        setup, lambda e: e.part == "block" and e.weight.role == "linear" and not e.trains and not e.quantized
    )
    return _cast_bytes(setup, frozen)


def weight_casts(setup: Setup) -> Iterator[Component]:
    """Autocast's cache: a copy of every weight in the compute dtype, from its first use to its own backward.

    Recomputed blocks drop theirs when forward ends and make them again, one block at a time. Casts of frozen weights
    are not cached, and a recomputed block drops them at once.

    setup : resolved run. [-]
    """
    precision, recompute = setup.training.precision, setup.strategy.recompute
    if not precision.autocast:
        return
    in_blocks = block_casts(setup) * sharding.layers(setup)
    dropped = _frozen_casts(setup) * (sharding.layers(setup) - 1.0) * recompute
    head = sharding.head_elements(setup) * dtype_bytes(precision.compute)
    name, category = "autocast copies of weights", Category.TEMPORARY
    yield Component(name, category, in_blocks - dropped + head, Phase.FORWARD)
    yield Component(name, category, in_blocks * (1.0 - recompute) + head, Phase.HEAD)
    one = block_casts(setup) * recompute
    yield Component(name, category, in_blocks * (1.0 - recompute) + one, Phase.BACKWARD)


def inputs(setup: Setup) -> Iterator[Component]:
    """Token ids and labels as int64: ids on the first stage for every micro-batch in flight, labels on the last.

    setup : resolved run. [-]
    """
    stage = setup.stage
    nbytes = 8.0 * setup.tokens * (stage.embedding * stage.in_flight + stage.head)
    yield Component("token ids and labels", Category.INPUT, nbytes, ALWAYS ^ Phase.INIT ^ Phase.SAVE)
