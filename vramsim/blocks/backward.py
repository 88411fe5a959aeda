"""A block going backward: what its two fullest moments need, and what of its saved tensors is gone by then.

Both are in the feed-forward network, which goes backward first. Rows of negative bytes are saved tensors that are gone.
"""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks import mlp as dense
from vramsim.blocks.tensors import Kernels, Saved
from vramsim.spec import Mlp

DOWN = ("down_proj", "experts_down")
"""Linear layers that a feed-forward network ends with."""

NETWORK = (*DOWN, "gate_proj", "up_proj", "experts_up")
"""All linear layers of a feed-forward network."""


def working(hidden: int, mlp: Mlp, kernels: Kernels) -> Iterator[Saved]:
    """The network between its projections going backward (equation A8).

    With a fused kernel the worst moment is the product's backward: gradients of the product and of both branches live
    beside everything saved but the product. A SiLU that is spelt out keeps six tensors of its own until it is done,
    beside its gradient; the product, the activated gate and the other branch are gone then, unless both branches are
    halves of one tensor. Experts that are layers of their own go backward one by one, each with its share of tokens.

    hidden : model width. [-]   mlp : shape. [-]   kernels : implementation. [-]
    Source: live-storage tracking of PyTorch 2.13: eager kernels, and traces, to the byte, of SiLU as PyTorch spells it
    out (aten/src/ATen/native/Activation.cpp, math_silu_backward).
    """
    joined = bool(mlp.experts) and kernels.grouped_experts
    width, dim = (mlp.ffn * mlp.top_k, "expert_ffn") if mlp.experts else (mlp.ffn, "ffn")
    if mlp.experts and not joined:
        width = -(-width // mlp.experts)
    spelt_out = _spelt_out(mlp, kernels)
    made = (8 if joined else 7) if spelt_out else (3 if mlp.gated else 2)
    yield Saved("gradients of gate and up", dim, width, kernels.compute * made)
    streams = 2 if spelt_out and not joined else 1
    yield Saved("gradient of the residual stream", "hidden", hidden, kernels.residual * streams)
    if spelt_out:
        yield from _gone(dim, width, mlp, kernels, but=("gate", "up") if joined else ("gate",))
    else:
        yield Saved("mlp product, gone", dim, width, -kernels.compute)
    if joined:
        yield from _routed_out(hidden, mlp, kernels)


def leaving(hidden: int, mlp: Mlp, kernels: Kernels) -> Iterator[Saved]:
    """The network's first projections going backward: the network's weight gradients are all there.

    What is between its projections is gone. Gate and up of grouped experts have one gradient, of separate linear layers
    the last to go backward has its own.

    hidden : model width. [-]   mlp : shape. [-]   kernels : implementation. [-]
    Source: as of `working`; for linear layers, autograd's order.
    """
    joined = bool(mlp.experts) and kernels.grouped_experts
    width, dim = (mlp.ffn * mlp.top_k, "expert_ffn") if mlp.experts else (mlp.ffn, "ffn")
    if joined:
        yield Saved("gradients of gate and up", dim, width, kernels.compute * (2 if mlp.gated else 1))
    elif not mlp.experts:
        yield Saved("gradient of the gate", dim, width, kernels.compute)
    if mlp.experts:
        yield Saved("gradient of routed tokens", "hidden", hidden * mlp.top_k, kernels.compute)
        yield from _routed_out(hidden, mlp, kernels)
    else:
        readers = len(dense.readers(mlp))
        yield Saved("gradients of the input, a reader each", "hidden", hidden, kernels.compute * readers)
    yield Saved("gradient of the residual stream", "hidden", hidden, kernels.residual)
    yield from _gone(dim, width, mlp, kernels)


def _gone(dim: str, width: int, mlp: Mlp, kernels: Kernels, but: tuple[str, ...] = ()) -> Iterator[Saved]:
    """Saved tensors between the projections that are gone: all but some."""
    for tensor in dense.inner(dim, width, mlp, kernels):
        if tensor.name not in but:
            yield Saved(f"{tensor.name}, gone", tensor.dim, tensor.size, -tensor.nbytes)


def _routed_out(hidden: int, mlp: Mlp, kernels: Kernels) -> Iterator[Saved]:
    if not mlp.masked and not kernels.megatron:
        yield Saved("routed tokens out", "hidden", hidden * mlp.top_k, -kernels.compute)


def early_gradients(mlp: Mlp, kernels: Kernels) -> tuple[str, ...]:
    """Modules whose weight gradients exist already while the network between its projections goes backward.

    mlp : shape. [-]   kernels : implementation. [-]
    """
    return (*DOWN, "up_proj") if _spelt_out(mlp, kernels) else DOWN


def _spelt_out(mlp: Mlp, kernels: Kernels) -> bool:
    return kernels.activation_backward == "decomposed" and mlp.gated and mlp.activation == "silu"
