"""Grouped-query attention: weights and saved tensors."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks import linear, norm
from vramsim.blocks.tensors import Kernels, Saved, Weight
from vramsim.spec import Attention

QKV = ("q_proj", "k_proj", "v_proj")


def weights(hidden: int, attention: Attention, kernels: Kernels) -> Iterator[Weight]:
    """Projections of one attention layer, and its query/key norms.

    hidden : model width. [elements]   attention : shape. [-]   kernels : implementation. [-]
    """
    queries = (("heads", attention.heads), ("", attention.head_dim))
    keys = (("kv_heads", attention.kv_heads), ("", attention.head_dim))
    model = (("hidden", hidden),)
    yield from linear.weights("q_proj", queries, model, attention.qkv_bias, kernels)
    yield from linear.weights("k_proj", keys, model, attention.qkv_bias, kernels)
    yield from linear.weights("v_proj", keys, model, attention.qkv_bias, kernels)
    yield from linear.weights("o_proj", model, queries, attention.out_bias, kernels)
    if attention.qk_norm:
        yield from norm.weights("q_norm", "rmsnorm", ("", attention.head_dim))
        yield from norm.weights("k_norm", "rmsnorm", ("", attention.head_dim))


def saved(hidden: int, attention: Attention, kernels: Kernels, *, input_bytes: float) -> Iterator[Saved]:
    """Tensors that one attention layer keeps per token (equation A4 of docs/equations/activations.md).

    Flash and memory-efficient kernels keep queries, keys, values, output and the fp32 log-sum-exp of each head; eager
    attention keeps the softmax in fp32 and its cast, for every key, and keys and values repeated to all heads.

    hidden : model width. [elements]   attention : shape. [-]   kernels : implementation. [-]
    input_bytes : bytes per element of the layer's normalised input. [B]
    Source: autograd-saved storages of PyTorch 2.13 (traces), to the byte.
    """
    size = kernels.compute
    queries, keys = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    eager = kernels.attention == "eager"
    yield from linear.saved_input("attention input", ("gathered", hidden), QKV, kernels, nbytes=input_bytes)
    if attention.qk_norm:
        # A norm over each head: the fp32 copy, the cast product and a deviation per head.
        for part, heads in (("heads", attention.heads), ("kv_heads", attention.kv_heads)):
            per_head = attention.head_dim * (4.0 + (size if kernels.trains_base else 0.0)) + 4.0
            yield Saved(f"norm of {part}", part, heads, per_head)
    yield Saved("queries", "heads", queries, size)
    if eager or kernels.expand_kv:
        yield Saved("keys and values, repeated", "heads", queries, 2 * size)
    else:
        yield Saved("keys and values", "kv_heads", keys, 2 * size)
    if eager:
        yield Saved("softmax, fp32 and cast", "heads", attention.heads, 4.0 + size, per_key=True, core=True)
    else:
        yield Saved("log-sum-exp", "heads", attention.heads, 4.0, core=True)
    yield Saved("attention output", "heads", queries, size)
    yield from linear.saved_input("attention output", ("heads", queries), ("o_proj",), kernels, nbytes=size, kept=True)
