"""Activations: what every block keeps from forward to backward."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim import blocks
from vramsim.equations import activations as equations
from vramsim.layout import bytes_per_token, kernels_of, kinds, largest_block, model_of
from vramsim.parts import sharding
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


def grouped(setup: Setup) -> Num:
    """Blocks that share one checkpoint, where blocks are recomputed. [-]

    setup : resolved run. [-]
    """
    return minimum(maximum(setup.framework.recompute_group, 1.0), sharding.layers(setup))


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
    inputs = checkpoint * strategy.recompute * (sharding.layers(setup) / grouped(setup)) * stage.in_flight
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


def inputs(setup: Setup) -> Iterator[Component]:
    """Token ids and labels as int64: ids on the first stage for every micro-batch in flight, labels on the last.

    setup : resolved run. [-]
    """
    stage = setup.stage
    nbytes = 8.0 * setup.tokens * (stage.embedding * stage.in_flight + stage.head)
    yield Component("token ids and labels", Category.INPUT, nbytes, ALWAYS ^ Phase.INIT ^ Phase.SAVE)
