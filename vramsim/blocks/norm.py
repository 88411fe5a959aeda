"""Normalisation layers: what they weigh and what they save."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks.tensors import Dim, Kernels, Saved, Weight

CENTRED = ("layernorm", "layernorm_unbiased")
"""Kinds that PyTorch's own layer-norm kernel computes."""
WEIGHTED_IN_FP32 = ("gemma", "rmsnorm_fp32")
"""RMSNorms that multiply by their weight before they cast back."""


def weights(name: str, kind: str, *dims: Dim) -> Iterator[Weight]:
    """Weights of one norm over `dims`.

    name : module name. [-]   kind : of norm, as in Block. [-]   dims : normalised dimensions. [elements]
    """
    yield Weight(name, "norm", dims)
    if kind == "layernorm":
        yield Weight(name, "bias", dims)


def saved(name: str, kind: str, dim: Dim, kernels: Kernels, *, kept: bool = False) -> Iterator[Saved]:
    """Tensors that one norm keeps per token (equation A2 of docs/equations/activations.md).

    Eager RMSNorm upcasts its input to fp32 and keeps it, the reciprocal deviation, and (for the gradient of its
    weight) the normalised input; Gemma's, OLMo's and GPT-OSS's multiply in fp32, Cohere's centres it twice. Fused
    kernels and torch's LayerNorm keep the input as is.

    name : module name. [-]   kind : of norm, as in Block. [-]   dim : normalised dimension. [elements]
    kernels : implementation. [-]   kept : whether another norm keeps the same input already. [-]
    Source: autograd-saved storages of PyTorch 2.13 (traces), to the byte.
    """
    axis, size = dim
    if kind in CENTRED or kernels.norm == "fused":
        if not kept:
            yield Saved(f"{name} input", axis, size, kernels.residual)
        yield Saved(f"{name} statistics", "", 1, 8.0 if kind in CENTRED else 4.0)
        return
    yield Saved(f"{name} deviation", "", 1, 4.0)
    yield Saved(f"{name} input, fp32", axis, size, 8.0 if kind == "cohere" else 4.0)
    if kernels.trains_base:
        fp32 = kind == "cohere" or kind in WEIGHTED_IN_FP32
        yield Saved(f"{name} normalised", axis, size, 4.0 if fp32 else kernels.residual)
