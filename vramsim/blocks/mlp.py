"""Feed-forward layers, dense: weights and saved tensors. `experts` holds those of a mixture."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks import linear
from vramsim.blocks.tensors import Kernels, Saved, Weight
from vramsim.spec import Mlp


def readers(mlp: Mlp) -> tuple[str, ...]:
    """Linear layers that read the layer's input.

    mlp : shape. [-]
    """
    return ("gate_proj", "up_proj") if mlp.gated else ("up_proj",)


def weights(hidden: int, ffn: int, mlp: Mlp, kernels: Kernels) -> Iterator[Weight]:
    """Projections of one dense feed-forward network.

    hidden : model width. [elements]   ffn : its width. [elements]   mlp : shape. [-]   kernels : implementation. [-]
    """
    inner, model = (("ffn", ffn),), (("hidden", hidden),)
    bias = mlp.bias and not mlp.experts
    for module in readers(mlp):
        yield from linear.weights(module, inner, model, bias, kernels)
    yield from linear.weights("down_proj", model, inner, bias, kernels)


def inner(dim: str, width: int, mlp: Mlp, kernels: Kernels) -> Iterator[Saved]:
    """Tensors between the projections, per token (equation A5 of docs/equations/activations.md).

    Eager code keeps each operand: gate, up, the activated gate and the product. A plain network keeps what enters its
    activation and what leaves it, which is the same tensor for ReLU.

    dim : name of the width. [-]   width : elements. [elements]   mlp : shape. [-]   kernels : implementation. [-]
    Source: autograd-saved storages of PyTorch 2.13 (traces) and of transformers 5.23, to the byte.
    """
    size, eager = kernels.compute, kernels.activation == "eager"
    if mlp.gated:
        yield Saved("gate and up", dim, width, 2 * size)
        if eager and mlp.activation == "clamped":
            yield Saved("gate and up, clamped, and the gate's steps", dim, width, 4 * size)
        elif eager:
            yield Saved("activated gate", dim, width, size)
    elif mlp.activation != "relu":
        yield Saved("up", dim, width, size)
    if eager and mlp.activation == "gelu_new":
        yield Saved("steps of a written-out GELU", dim, width, 3 * size)
    if eager and mlp.activation == "quick_gelu":
        yield Saved("gate of the GELU", dim, width, size)
    yield from linear.saved_input("mlp product", (dim, width), ("down_proj",), kernels, nbytes=size)


def working(hidden: int, mlp: Mlp, kernels: Kernels) -> Iterator[Saved]:
    """Gradients alive at once while the feed-forward layer goes backward (equation A8).

    With a fused kernel the worst moment is the product's backward: gradients of the product and of both branches live
    beside everything saved but the product. A decomposed SiLU computes in fp32, and its temporaries come later, when
    the product, the activated gate and one branch are gone. Experts that are layers of their own go backward one by
    one, each with its share of the tokens.

    hidden : model width. [-]   mlp : shape. [-]   kernels : implementation. [-]
    Source: live-storage tracking of PyTorch 2.13, eager kernels and traced decompositions.
    """
    width, dim = (mlp.ffn * mlp.top_k, "expert_ffn") if mlp.experts else (mlp.ffn, "ffn")
    if mlp.experts and not kernels.grouped_experts:
        width = -(-width // mlp.experts)
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
