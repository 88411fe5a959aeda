"""Activations: what every block keeps for backward, and what one block needs while it goes backward."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vramsim import blocks
from vramsim.equations import activations as equations
from vramsim.layout import bytes_per_token, kernels_of, largest_block
from vramsim.parts import sharding
from vramsim.spec import ALWAYS, Block, Category, Component, Phase, Setup, Tier, dtype_bytes
from vramsim.units import Num

KEPT = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD


def block_saved(setup: Setup, block: Block) -> Num:
    """Bytes that one block keeps when it is not recomputed whole. [B]

    setup : resolved run. [-]   block : its shape. [-]
    """
    table = blocks.layer(block, kernels_of(setup)).saved
    selective = setup.strategy.recompute_selective
    with_core, without = bytes_per_token(table, setup), bytes_per_token(table, setup, core=False)
    return setup.tokens * (with_core + selective * (without - with_core))


def checkpoint_bytes(setup: Setup) -> Num:
    """Bytes of one block's input: what full recomputation keeps. [B]

    setup : resolved run. [-]
    """
    sharded = np.where(setup.strategy.megatron_sp > 0, 1.0 / setup.strategy.tp, 1.0)
    return setup.tokens * setup.model.hidden * dtype_bytes(setup.training.precision.residual) * sharded


def backward_working(setup: Setup) -> Num:
    """Bytes alive while the largest block goes backward: all it saves, and the gradients in flight. [B]

    setup : resolved run. [-]
    """
    block = largest_block(setup.model)
    working = bytes_per_token(blocks.layer(block, kernels_of(setup)).working, setup)
    table = blocks.layer(block, kernels_of(setup)).saved
    return setup.tokens * (bytes_per_token(table, setup) + working) + sequence_parallel_output(setup)


def sequence_parallel_output(setup: Setup) -> Num:
    """Bytes of the attention output before the Ulysses all-to-all, saved beside the one after it. [B]

    setup : resolved run. [-]
    """
    attention = largest_block(setup.model).attention
    width = float(attention.heads * attention.head_dim) * dtype_bytes(setup.training.precision.compute)
    return np.where(setup.strategy.sp > 1, setup.tokens * width, 0.0)


def saved(setup: Setup) -> Iterator[Component]:
    """Activations of all blocks from forward to backward, checkpoints included; the share that is offloaded.

    setup : resolved run. [-]
    """
    strategy = setup.strategy
    checkpoint = checkpoint_bytes(setup)
    kept: Num = 0.0
    for block in setup.model.blocks:
        whole = block_saved(setup, block) + sequence_parallel_output(setup)
        kept = kept + (block.count / strategy.pp) * equations.checkpointed(whole, 0.0, strategy.recompute)
    inputs = checkpoint * strategy.recompute * (setup.model.num_layers / strategy.pp)
    share = strategy.offload_activations
    yield Component("saved activations", Category.ACTIVATION, kept * (1.0 - share), KEPT)
    # Two inputs stay on the device: the one being written and the one being read back.
    resident = np.minimum(inputs, inputs * (1.0 - share) + 2.0 * checkpoint * share)
    yield Component("checkpointed block inputs", Category.ACTIVATION, resident, KEPT)
    yield Component("offloaded activations", Category.ACTIVATION, (kept + inputs) * share, KEPT, Tier.HOST)
    rotary = 0.0 if setup.model.positions else 2.0 * dtype_bytes(setup.training.precision.compute)
    head_dim = float(setup.model.blocks[0].attention.head_dim)
    yield Component("rotary tables", Category.ACTIVATION, rotary * head_dim * setup.training.seq_len, KEPT)


def backward(setup: Setup) -> Iterator[Component]:
    """The block that goes backward: first with all activations alive, last with all gradients.

    setup : resolved run. [-]
    """
    strategy = setup.strategy
    block = largest_block(setup.model)
    everything = backward_working(setup)
    already_kept = (1.0 - strategy.recompute) * block_saved(setup, block)
    yield Component("first block's backward", Category.TEMPORARY, everything - already_kept, Phase.BACKWARD)
    # When the last block goes backward, its gradients and the embedding's do not exist yet, but count as alive.
    lasting = everything + checkpoint_bytes(setup) * np.where(strategy.recompute > 0, 1.0, 0.0)
    to_come = gradients_to_come(setup)
    beyond = np.maximum(lasting - to_come, tied_gradient_copies(setup))
    yield Component("last block's backward", Category.TEMPORARY, beyond, Phase.REDUCE)


def gradients_to_come(setup: Setup) -> Num:
    """Bytes of gradients that the last block and the embedding add after the block's activations peak. [B]

    Only engines that keep whole gradients count: sharded ones are a small part of a block's working set.

    setup : resolved run. [-]
    """
    if setup.framework.engine not in ("torch", "ddp") or setup.training.lora is not None:
        return 0.0
    late = sharding.embedding_elements(setup) + sharding.block_elements(setup)
    down = sharding.whole(setup, sharding.select(setup, lambda e: e.weight.module in ("down_proj", "experts_down")))
    late = late - down / setup.model.num_layers
    if setup.model.tied_embeddings:
        late = late - sharding.head_elements(setup)
    once = np.where(setup.training.gradient_accumulation_steps > 1, 0.0, 1.0)
    return late * dtype_bytes(setup.training.precision.grad) * once


def tied_gradient_copies(setup: Setup) -> Num:
    """Bytes of the two copies made when a tied embedding's gradient is added to the head's. [B]

    setup : resolved run. [-]
    """
    if not setup.model.tied_embeddings or setup.training.lora is not None:
        return 0.0
    precision = setup.training.precision
    size = dtype_bytes(precision.param if precision.autocast else precision.compute)
    return 2.0 * size * sharding.head_elements(setup)


def weight_casts(setup: Setup) -> Iterator[Component]:
    """Autocast's cache: a copy of every weight in the compute dtype, from its first use to the end of its backward.

    Recomputed blocks drop theirs when forward ends and make them again, one block at a time.

    setup : resolved run. [-]
    """
    precision, recompute = setup.training.precision, setup.strategy.recompute
    if not precision.autocast:
        return
    size = dtype_bytes(precision.compute)
    in_blocks = sharding.whole(setup, sharding.select(setup, lambda e: e.part == "block" and e.trains)) * size
    head = sharding.head_elements(setup) * size
    name, category = "autocast copies of weights", Category.TEMPORARY
    yield Component(name, category, in_blocks + head, Phase.FORWARD)
    one = in_blocks / setup.model.num_layers
    yield Component(name, category, in_blocks * (1.0 - recompute) + head, Phase.HEAD)
    yield Component(name, category, in_blocks * (1.0 - recompute) + one * recompute, Phase.BACKWARD | Phase.REDUCE)


def inputs(setup: Setup) -> Iterator[Component]:
    """Token ids and labels of one micro-batch, as int64.

    setup : resolved run. [-]
    """
    yield Component("token ids and labels", Category.INPUT, 16.0 * setup.tokens, ALWAYS ^ Phase.INIT ^ Phase.SAVE)
