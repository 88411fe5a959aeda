"""Kinds of layers: functions from dimensions to tables of named weights and saved tensors.

`layer` describes a block, `embedding` and `head` what stands before and after all blocks, `patches` and `projector`
the ends of a vision tower. They are structure, cached and free of numbers that a search varies; `layout` and the parts
turn them into one device's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from vramsim.blocks import backward, ends, experts, linear, mixer, mlp, norm
from vramsim.blocks.tensors import Kernels, Layer, Saved, Weight
from vramsim.spec import Block, Encoder, Model

__all__ = ["Kernels", "Layer", "Saved", "Weight", "components", "embedding", "head", "layer", "num_parameters"]

PLAIN = Kernels(compute=2.0, residual=2.0)


@lru_cache(maxsize=4096)
def layer(block: Block, kernels: Kernels) -> Layer:
    """One layer of a block.

    block : shape. [-]   kernels : implementation. [-]
    """
    if block.frozen:
        kernels = replace(kernels, trains_base=False)
    hidden = ("hidden", block.hidden)
    weights = [*mixer.weights(block, kernels), *_mlp_weights(block, kernels)]
    saved: list[Saved] = []
    for index in range(block.num_norms):
        # Norms that stand in parallel read the same tensor.
        twice = block.parallel and index > 0
        weights += norm.weights(f"norm_{index}", block.norm, hidden)
        saved += norm.saved(f"norm {index}", block.norm, hidden, kernels, kept=twice)
    saved += [*_inputs(block, kernels), *mixer.saved(block, kernels), *_mlp_saved(block, kernels)]
    if block.dropout:
        saved.append(Saved("dropout masks of both branches", "hidden", 2 * block.hidden, 1.0))
    working = tuple(backward.working(block.hidden, block.mlp, kernels))
    leaving = tuple(backward.leaving(block.hidden, block.mlp, kernels))
    outputs = _kept_outputs(tuple(weights), block, kernels)
    return Layer(tuple(weights), tuple(saved), working, leaving, outputs, block.frozen)


def _inputs(block: Block, kernels: Kernels) -> Iterator[Saved]:
    """Normalised inputs of the mixer and of a dense feed-forward network: one, where they share a norm."""
    first, second = mixer.readers(block), () if block.mlp.experts else mlp.readers(block.mlp)
    dim, size = ("gathered", block.hidden), ends.input_bytes(kernels)
    if block.parallel and block.num_norms == 1:
        yield from linear.saved_input("attention and mlp input", dim, first + second, kernels, nbytes=size)
        return
    yield from linear.saved_input("attention input", dim, first, kernels, nbytes=size)
    if second:
        yield from linear.saved_input("mlp input", dim, second, kernels, nbytes=size)


def _mlp_weights(block: Block, kernels: Kernels) -> Iterator[Weight]:
    if block.mlp.experts:
        return experts.weights(block.hidden, block.mlp, kernels)
    return mlp.weights(block.hidden, block.mlp.ffn, block.mlp, kernels)


def _mlp_saved(block: Block, kernels: Kernels) -> Iterator[Saved]:
    if block.mlp.experts:
        return experts.saved(block.hidden, block.mlp, kernels, input_bytes=ends.input_bytes(kernels))
    return mlp.inner("ffn", block.mlp.ffn, block.mlp, kernels)


def _kept_outputs(weights: tuple[Weight, ...], block: Block, kernels: Kernels) -> tuple[Saved, ...]:
    """What torchtitan's per-op recomputation keeps: every second matrix product, and attention's output.

    A compiler, whose kernels are fused, keeps of them what backward needs: what the last product adds to the stream is
    not (PyTorch torch/_functorch/partitioners.py: MUST_SAVE bans the recomputation of a value that is needed).
    """
    products = [weight for weight in weights if weight.role == "linear" and not weight.adapter]
    needed = products[:-1] if kernels.activation == "fused" else products
    products = needed[::2]
    kept = [Saved(f"{each.module} output", each.rows[0][0], each.first_dim, kernels.compute) for each in products]
    shape = block.attention
    kept.append(Saved("attention output", "heads", shape.output_width, kernels.compute))
    return (*kept, Saved("log-sum-exp", "heads", shape.heads, 4.0))


@lru_cache(maxsize=4096)
def embedding(model: Model, kernels: Kernels = PLAIN) -> Layer:
    """Token embeddings, and what is added to them: learned positions, segments, a norm, dropout.

    model : architecture. [-]   kernels : implementation. [-]
    """
    if not model.frozen_ends:
        return ends.embedding(model, kernels)
    return replace(ends.embedding(model, replace(kernels, trains_base=False)), frozen=True)


@lru_cache(maxsize=4096)
def head(model: Model, kernels: Kernels) -> Layer:
    """Output projection and what stands before it. A tied head adds no weight of its own.

    model : architecture. [-]   kernels : implementation. [-]
    """
    if not model.frozen_ends:
        return ends.head(model, kernels)
    return replace(ends.head(model, replace(kernels, trains_base=False)), frozen=True)


def components(model: Model, kernels: Kernels) -> Iterator[tuple[str, int, Layer]]:
    """Every layer of a model in forward order, as (part, count, layer).

    model : architecture. [-]   kernels : implementation. [-]
    Returns layers of the parts encoder | embedding | block | head.
    """
    if model.encoder is not None:
        yield from _tower(model.encoder, kernels)
    yield "embedding", 1, embedding(model, kernels)
    for block in model.blocks:
        yield "block", block.count, layer(block, kernels)
    yield "head", 1, head(model, kernels)


def _tower(encoder: Encoder, kernels: Kernels) -> Iterator[tuple[str, int, Layer]]:
    yield "encoder", 1, replace(ends.patches(encoder), frozen=encoder.frozen)
    for block in encoder.blocks:
        yield "encoder", block.count, layer(block, kernels)
    yield "encoder", 1, replace(ends.projector(encoder), frozen=encoder.frozen)


def num_parameters(model: Model) -> int:
    """Parameters of a model, embeddings and vision tower included. [-]

    model : architecture. [-]
    """
    return sum(count * sum(weight.numel for weight in each.weights) for _, count, each in components(model, PLAIN))
