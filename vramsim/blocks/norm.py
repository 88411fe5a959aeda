"""Normalisation layers: what they weigh and what they save."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks.tensors import Dim, Kernels, Saved, Weight


def weights(name: str, kind: str, dim: Dim) -> Iterator[Weight]:
    """Weights of one norm over `dim`.

    name : module name. [-]   kind : rmsnorm | gemma | layernorm. [-]   dim : normalised dimension. [elements]
    """
    yield Weight(name, "norm", (dim,))
    if kind == "layernorm":
        yield Weight(name, "bias", (dim,))


def saved(name: str, kind: str, dim: Dim, kernels: Kernels) -> Iterator[Saved]:
    """Tensors that one norm keeps per token (equation A2 of docs/equations/activations.md).

    Eager RMSNorm upcasts its input to fp32 and keeps it, the reciprocal deviation, and (for the gradient of its
    weight) the normalised input; Gemma's multiplies in fp32. Fused kernels and torch's LayerNorm keep the input as is.

    name : module name. [-]   kind : rmsnorm | gemma | layernorm. [-]   dim : normalised dimension. [elements]
    kernels : implementation. [-]
    Source: autograd-saved storages of PyTorch 2.13 (traces), to the byte.
    """
    axis, size = dim
    if kind == "layernorm":
        yield Saved(f"{name} input", axis, size, kernels.residual)
        yield Saved(f"{name} mean and deviation", "", 1, 8.0)
        return
    yield Saved(f"{name} deviation", "", 1, 4.0)
    if kernels.norm == "fused":
        yield Saved(f"{name} input", axis, size, kernels.residual)
        return
    yield Saved(f"{name} input, fp32", axis, size, 4.0)
    if kind == "gemma" and kernels.trains_base:
        yield Saved(f"{name} normalised, fp32", axis, size, 4.0)
    elif kernels.trains_base:
        yield Saved(f"{name} normalised", axis, size, kernels.residual)
