"""Gated delta net (Qwen3-Next, Qwen3.5): a linear attention layer's weights and saved tensors."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks import linear
from vramsim.blocks.tensors import Kernels, Saved, Weight
from vramsim.spec import LinearAttention

READERS = ("in_proj_qk", "in_proj_vz", "in_proj_ba")
"""Linear layers that read the layer's input."""


def weights(hidden: int, shape: LinearAttention, kernels: Kernels) -> Iterator[Weight]:
    """Projections, the depthwise convolution, decay rates, and the gated norm over each value head.

    hidden : model width. [elements]   shape : dimensions. [-]   kernels : implementation. [-]
    """
    model, heads, groups = (("hidden", hidden),), ("heads", shape.heads), ("kv_heads", shape.kv_heads)
    values = (heads, ("", shape.value_dim))
    yield from linear.weights("in_proj_qk", (groups, ("", 2 * shape.key_dim)), model, False, kernels)
    yield from linear.weights("in_proj_vz", (heads, ("", 2 * shape.value_dim)), model, False, kernels)
    yield from linear.weights("in_proj_ba", (heads, ("", 2)), model, False, kernels)
    taps = (("", shape.conv),)
    yield Weight("conv1d", "conv", (groups, ("", 2 * shape.key_dim)), taps)
    yield Weight("conv1d", "conv", values, taps)
    yield Weight("dt_bias", "bias", (heads,))
    yield Weight("A_log", "bias", (heads,))
    yield Weight("norm", "norm", (("", shape.value_dim),))
    yield from linear.weights("out_proj", model, values, False, kernels)


def saved(shape: LinearAttention, kernels: Kernels) -> Iterator[Saved]:
    """Tensors that one layer keeps per token, its input aside: counted, not traced.

    The convolution keeps its input; the chunked kernel keeps queries, keys, values, decays, update strengths and each
    chunk's matrix of scores; the gated norm keeps its input, the gate and what it makes.

    shape : dimensions. [-]   kernels : implementation. [-]
    Source: the arguments that flash-linear-attention's chunk_gated_delta_rule saves; approximate.
    """
    size, queries, values = kernels.compute, shape.query_width + shape.key_width, shape.value_width
    for dim, width in (("kv_heads", queries), ("heads", values)):
        yield Saved("convolution input", dim, width, size)
        yield Saved("convolved queries, keys and values", dim, width, size)
    yield Saved("decays and update strengths", "heads", shape.heads, 4.0 + size)
    yield Saved("scores of a chunk", "heads", shape.heads * shape.chunk, size)
    yield Saved("output, before the norm", "heads", values, size)
    yield Saved("output gate", "heads", values, size)
    yield Saved("deviation of each head", "heads", shape.heads, 4.0)
    yield from linear.saved_input("normalised output", ("heads", values), ("out_proj",), kernels, nbytes=size)
