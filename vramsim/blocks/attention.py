"""Grouped-query attention: weights and saved tensors. What follows the projections is shared by all kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vramsim.blocks import linear, norm
from vramsim.blocks.tensors import Kernels, Saved, Weight
from vramsim.spec import Attention, Mixer

FP32 = 4.0
"""Bytes of an element for which PyTorch has no fused kernel that takes fewer key/value heads than query heads: it
computes with plain code (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, use_mem_efficient_attention). [B]"""

READERS = linear.QKV
"""Linear layers that read the layer's input."""


def weights(hidden: int, attention: Attention, kernels: Kernels, kind: str) -> Iterator[Weight]:
    """Projections of one attention layer, and its query/key norms.

    hidden : model width. [elements]   attention : shape. [-]   kernels : implementation. [-]   kind : of its norms. [-]
    """
    heads, dim = ("heads", attention.heads), ("", attention.head_dim)
    queries, keys = (heads, dim), (("kv_heads", attention.kv_heads), dim)
    model = (("hidden", hidden),)
    gated = (heads, ("", 2 * attention.head_dim)) if attention.gated else queries
    yield from linear.weights("q_proj", gated, model, attention.qkv_bias, kernels)
    yield from linear.weights("k_proj", keys, model, attention.qkv_bias, kernels)
    yield from linear.weights("v_proj", keys, model, attention.qkv_bias, kernels)
    yield from linear.weights("o_proj", model, queries, attention.out_bias, kernels)
    if attention.qk_norm in ("head", "all"):
        whole = attention.qk_norm == "all"
        yield from norm.weights("q_norm", _norm(kind), *(queries if whole else (dim,)))
        yield from norm.weights("k_norm", _norm(kind), *(keys if whole else (dim,)))
    if attention.sinks:
        yield Weight("sinks", "bias", (heads,))


def kernel_of(attention: Mixer, kernels: Kernels) -> str:
    """Kernel that computes a layer's scores: plain code where PyTorch has no fused one that takes its operands.

    attention : shape. [-]   kernels : implementation. [-]
    """
    grouped = isinstance(attention, Attention) and attention.kv_heads < attention.heads and not kernels.expand_kv
    plain = grouped and kernels.attention == "flash" and kernels.compute >= FP32
    return "eager" if plain else kernels.attention


def saved(attention: Attention, kernels: Kernels, kind: str, *, dropout: bool) -> Iterator[Saved]:
    """Tensors that one attention layer keeps per token, its input aside (equation A4 of docs/equations/activations.md).

    attention : shape. [-]   kernels : implementation. [-]   kind : of its norms. [-]
    dropout : whether the attention matrix is dropped out. [-]
    Source: autograd-saved storages of PyTorch 2.13 (traces), to the byte.
    """
    size = kernels.compute
    queries, keys = attention.query_width, attention.key_width
    if attention.qk_norm:
        yield from _query_key_norms(attention, kernels, _norm(kind))
    yield Saved("queries", "heads", queries, size)
    kernels = replace(kernels, attention=kernel_of(attention, kernels))
    if kernels.attention != "flash" or (kernels.expand_kv and keys < queries):
        yield Saved("keys and values, repeated", "heads", queries, 2 * size)
    else:
        yield Saved("keys and values", "kv_heads", keys, 2 * size)
        if attention.rotary and (attention.fused_qkv or kernels.fused_qkv) and not kernels.megatron:
            # Rotated queries and keys are copies; the values are a view, and keep the unrotated ones alive.
            yield Saved("queries before rotation", "heads", queries, size)
            yield Saved("keys before rotation", "kv_heads", keys, size)
    if kernels.fused_qkv:
        yield from _scattered(attention, kernels)
    yield from core(attention.heads, kernels, fp32_softmax=attention.fp32_softmax, dropout=dropout)
    yield Saved("attention output", "heads", queries, size)
    if attention.gated:
        yield Saved("output gate", "heads", queries, size)
    product = ("heads", queries)
    yield from linear.saved_input(
        "attention output", product, ("o_proj",), kernels, nbytes=size, kept=not attention.gated
    )


def _scattered(attention: Attention, kernels: Kernels) -> Iterator[Saved]:
    """What one adapter of a fused projection adds to some of queries, keys and values, as index_copy keeps it."""
    widths = {"q_proj": attention.query_width, "k_proj": attention.key_width, "v_proj": attention.key_width}
    adapted = [module for module in READERS if kernels.rank and kernels.adapts(module)]
    if len(adapted) < len(READERS):
        for module in adapted:
            dim = "heads" if module == "q_proj" else "kv_heads"
            yield Saved(f"update of {module}, scattered", dim, widths[module], kernels.compute)


def core(heads: int, kernels: Kernels, *, fp32_softmax: bool, dropout: bool) -> Iterator[Saved]:
    """What stands between queries and output: the log-sum-exp of fused kernels, or the attention matrix.

    Eager attention keeps the softmax in the compute dtype, or in fp32 beside its cast, as autocast has it, too;
    Megatron's unfused one has a softmax kernel of the compute dtype. Dropout adds a mask, and drops out a matrix that
    takes the place of the cast; fused kernels draw it again.

    heads : query heads. [-]   kernels : implementation. [-]   fp32_softmax : of the eager code. [-]
    dropout : whether the matrix is dropped out. [-]
    Source: autograd-saved storages of PyTorch 2.13 (traces); Megatron: Korthikanti et al. 2022, 5 a s^2 b.
    """
    size = kernels.compute
    if kernels.attention == "flash":
        yield Saved("log-sum-exp", "heads", heads, 4.0, core=True)
        return
    upcast = (fp32_softmax or kernels.autocast) and kernels.attention == "eager" and size < 4.0
    yield Saved("softmax", "heads", heads, 4.0 if upcast else size, per_key=True, core=True)
    if upcast and not dropout:
        yield Saved("softmax, cast", "heads", heads, size, per_key=True, core=True)
    if dropout:
        yield Saved("attention dropout, mask and matrix", "heads", heads, 1.0 + size, per_key=True, core=True)


def _norm(kind: str) -> str:
    """Kind of the query/key norms of a layer with a kind of norms."""
    return kind if kind in norm.WEIGHTED_IN_FP32 else "rmsnorm"


def _query_key_norms(attention: Attention, kernels: Kernels, kind: str) -> Iterator[Saved]:
    """The fp32 copy, the normalised product where a weight trains, and a deviation each head or token."""
    normalised = 4.0 if kind in norm.WEIGHTED_IN_FP32 else kernels.compute
    product = normalised if kernels.trains_base and attention.qk_norm != "l2" else 0.0
    inner = kernels.compute if kernels.norm == "fused" else 4.0 + product
    for part, heads in (("heads", attention.heads), ("kv_heads", attention.kv_heads)):
        yield Saved(f"norm of {part}", part, heads * attention.head_dim, inner)
        if attention.qk_norm == "all":
            yield Saved(f"norm of {part}, deviation", "", 1, 4.0)
        else:
            yield Saved(f"norm of {part}, deviation", part, heads, 4.0)
