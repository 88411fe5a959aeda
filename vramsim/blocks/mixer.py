"""Token mixers by kind: one question, answered by the module of the kind."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks import attention, delta, latent
from vramsim.blocks.tensors import Kernels, Saved, Weight
from vramsim.spec import Block, LatentAttention, LinearAttention


def readers(block: Block) -> tuple[str, ...]:
    """Linear layers that read the mixer's input.

    block : shape. [-]
    """
    if isinstance(block.attention, LatentAttention):
        return latent.readers(block.attention)
    return delta.READERS if isinstance(block.attention, LinearAttention) else attention.READERS


def weights(block: Block, kernels: Kernels) -> Iterator[Weight]:
    """Weights of a block's token mixer.

    block : shape. [-]   kernels : implementation. [-]
    """
    shape = block.attention
    if isinstance(shape, LatentAttention):
        return latent.weights(block.hidden, shape, kernels)
    if isinstance(shape, LinearAttention):
        return delta.weights(block.hidden, shape, kernels)
    return attention.weights(block.hidden, shape, kernels, block.norm)


def saved(block: Block, kernels: Kernels) -> Iterator[Saved]:
    """Tensors that a block's token mixer keeps per token, its input aside.

    block : shape. [-]   kernels : implementation. [-]
    """
    shape = block.attention
    if isinstance(shape, LatentAttention):
        return latent.saved(shape, kernels)
    if isinstance(shape, LinearAttention):
        return delta.saved(shape, kernels)
    return attention.saved(shape, kernels, block.norm, dropout=block.dropout)
