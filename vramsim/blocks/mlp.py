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
        yield Saved("gate", dim, width, size)
        yield Saved("up", dim, width, size)
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
