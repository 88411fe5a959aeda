"""Feed-forward layers, dense or a mixture of experts: weights and saved tensors."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks import linear
from vramsim.blocks.tensors import Kernels, Saved, Weight
from vramsim.spec import Mlp


def weights(hidden: int, mlp: Mlp, kernels: Kernels) -> Iterator[Weight]:
    """Projections of one feed-forward layer; experts are one three-dimensional parameter, as in transformers 5.

    hidden : model width. [elements]   mlp : shape. [-]   kernels : implementation. [-]
    """
    model = (("hidden", hidden),)
    if mlp.experts:
        yield Weight("router", "router", (("", mlp.experts),), model)
        width = mlp.ffn * (2 if mlp.gated else 1)
        yield Weight("experts_up", "experts", (("experts", mlp.experts),), (("expert_ffn", width), ("hidden", hidden)))
        yield Weight(
            "experts_down", "experts", (("experts", mlp.experts),), (("hidden", hidden), ("expert_ffn", mlp.ffn))
        )
        if mlp.shared_ffn:
            yield from _dense(hidden, mlp.shared_ffn, mlp, kernels)
    else:
        yield from _dense(hidden, mlp.ffn, mlp, kernels)


def _dense(hidden: int, ffn: int, mlp: Mlp, kernels: Kernels) -> Iterator[Weight]:
    inner, model = (("ffn", ffn),), (("hidden", hidden),)
    if mlp.gated:
        yield from linear.weights("gate_proj", inner, model, mlp.bias, kernels)
    yield from linear.weights("up_proj", inner, model, mlp.bias, kernels)
    yield from linear.weights("down_proj", model, inner, mlp.bias, kernels)


def saved(hidden: int, mlp: Mlp, kernels: Kernels, *, input_bytes: float) -> Iterator[Saved]:
    """Tensors that one feed-forward layer keeps per token (equations A5 and A6 of docs/equations/activations.md).

    hidden : model width. [elements]   mlp : shape. [-]   kernels : implementation. [-]
    input_bytes : bytes per element of the layer's normalised input. [B]
    Source: autograd-saved storages of PyTorch 2.13 (traces), to the byte.
    """
    size = kernels.compute
    readers = ("gate_proj", "up_proj") if mlp.gated else ("up_proj",)
    if not mlp.experts:
        yield from linear.saved_input("mlp input", ("gathered", hidden), readers, kernels, nbytes=input_bytes)
        yield from _inner("ffn", mlp.ffn, mlp, kernels)
        return
    # transformers 5 grouped_mm: sorted copies of the tokens, the routing tables, and each expert's own tensors.
    yield Saved("router logits and indices", "", 1, 4.0 * mlp.experts + 40.0 * mlp.top_k + 4.0)
    yield Saved("routed tokens out", "hidden", hidden * mlp.top_k, size)
    if kernels.trains_base:
        yield Saved("mlp input", "gathered", hidden, input_bytes)
        yield Saved("routed tokens in", "hidden", hidden * mlp.top_k, size)
    yield from _inner("expert_ffn", mlp.ffn * mlp.top_k, mlp, kernels)
    if mlp.shared_ffn:
        yield from _inner("ffn", mlp.shared_ffn, mlp, kernels)


def _inner(dim: str, width: int, mlp: Mlp, kernels: Kernels) -> Iterator[Saved]:
    size = kernels.compute
    if mlp.gated:
        yield Saved("gate and up", dim, width, 2 * size)
        if kernels.activation == "eager":
            yield Saved("activated gate", dim, width, size)
    else:
        yield Saved("up", dim, width, size)
    yield from linear.saved_input("mlp product", (dim, width), ("down_proj",), kernels, nbytes=size)


def working(hidden: int, mlp: Mlp, kernels: Kernels) -> Iterator[Saved]:
    """Gradients alive at once while the feed-forward layer goes backward (equation A8).

    With a fused kernel the worst moment is the product's backward: gradients of the product and of both branches live
    beside everything saved but the product. A decomposed SiLU computes in fp32, and its temporaries come later, when
    the product, the activated gate and one branch are gone.

    hidden : model width. [-]   mlp : shape. [-]   kernels : implementation. [-]
    Source: live-storage tracking of PyTorch 2.13, eager kernels and traced decompositions.
    """
    width, dim = (mlp.ffn * mlp.top_k, "expert_ffn") if mlp.experts else (mlp.ffn, "ffn")
    decomposed = kernels.activation_backward == "decomposed" and mlp.gated
    inner = 4.0 if decomposed else (2.0 if mlp.gated else 1.0)
    yield Saved("gradients of gate and up", dim, width, kernels.compute * inner)
    yield Saved("gradient of the residual stream", "hidden", hidden, kernels.residual * (2.0 if decomposed else 1.0))


def early_gradients(kernels: Kernels) -> tuple[str, ...]:
    """Modules whose weight gradients exist already at the worst moment of a block's backward.

    kernels : implementation. [-]
    """
    first = ("down_proj", "experts_down")
    return (*first, "up_proj") if kernels.activation_backward == "decomposed" else first
