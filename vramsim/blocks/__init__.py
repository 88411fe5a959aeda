"""Kinds of layers: functions from dimensions to tables of named weights and saved tensors.

`layer` describes a block, `embedding` and `head` what stands before and after all blocks. They are structure, cached
and free of numbers that a search varies; `layout` and the parts turn them into one device's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vramsim.blocks import attention, linear, mlp, norm
from vramsim.blocks.tensors import Kernels, Saved, Weight
from vramsim.spec import Block, Model

__all__ = ["Kernels", "Layer", "Saved", "Weight", "embedding", "head", "layer", "num_parameters"]

PLAIN = Kernels(compute=2.0, residual=2.0)


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights, saved tensors and backward working set of one layer; `outputs` is what per-op recomputation keeps."""

    weights: tuple[Weight, ...]
    saved: tuple[Saved, ...] = ()
    working: tuple[Saved, ...] = ()
    outputs: tuple[Saved, ...] = ()


@lru_cache(maxsize=4096)
def layer(block: Block, kernels: Kernels) -> Layer:
    """One decoder layer of a block.

    block : shape. [-]   kernels : implementation. [-]
    """
    hidden = block.hidden
    weights = [*attention.weights(hidden, block.attention, kernels), *mlp.weights(hidden, block.mlp, kernels)]
    saved: list[Saved] = []
    for index in range(block.num_norms):
        weights += norm.weights(f"norm_{index}", block.norm, ("hidden", hidden))
        saved += norm.saved(f"norm {index}", block.norm, ("hidden", hidden), kernels)
    size = kernels.residual if kernels.autocast else kernels.compute
    saved += attention.saved(hidden, block.attention, kernels, input_bytes=size)
    saved += mlp.saved(hidden, block.mlp, kernels, input_bytes=size)
    working = tuple(mlp.working(hidden, block.mlp, kernels))
    return Layer(tuple(weights), tuple(saved), working, _kept_outputs(tuple(weights), block, kernels))


def _kept_outputs(weights: tuple[Weight, ...], block: Block, kernels: Kernels) -> tuple[Saved, ...]:
    """What torchtitan's per-op recomputation keeps: every second matrix product, and attention's output."""
    products = [weight for weight in weights if weight.role == "linear" and not weight.adapter][::2]
    kept = [Saved(f"{each.module} output", each.rows[0][0], each.first_dim, kernels.compute) for each in products]
    shape = block.attention
    kept.append(Saved("attention output", "heads", shape.heads * shape.head_dim, kernels.compute))
    return (*kept, Saved("log-sum-exp", "heads", shape.heads, 4.0))


@lru_cache(maxsize=4096)
def embedding(model: Model) -> Layer:
    """Token (and learned position) embeddings.

    model : architecture. [-]
    """
    weights = [Weight("embed_tokens", "embedding", (("vocab", model.vocab),), (("hidden", model.hidden),))]
    if model.positions:
        weights.append(Weight("embed_positions", "embedding", (("", model.positions),), (("hidden", model.hidden),)))
    return Layer(tuple(weights))


@lru_cache(maxsize=4096)
def head(model: Model, kernels: Kernels) -> Layer:
    """Final norm and output projection. A tied head adds no weight of its own.

    model : architecture. [-]   kernels : implementation. [-]
    """
    kind, hidden = model.blocks[-1].norm, ("hidden", model.hidden)
    weights = [*norm.weights("final_norm", kind, hidden)]
    if not model.tied_embeddings:
        weights.append(Weight("lm_head", "head", (("vocab", model.vocab),), (hidden,)))
    if model.head_bias:
        weights.append(Weight("lm_head", "bias", (("vocab", model.vocab),)))
    size = kernels.residual if kernels.autocast else kernels.compute
    saved = [*norm.saved("final norm", kind, hidden, kernels)]
    saved += linear.saved_input("head input", ("gathered", model.hidden), ("lm_head",), kernels, nbytes=size)
    return Layer(tuple(weights), tuple(saved))


def num_parameters(model: Model) -> int:
    """Parameters of a model, embeddings included. [-]

    model : architecture. [-]
    """
    total = sum(weight.numel for weight in embedding(model).weights + head(model, PLAIN).weights)
    for block in model.blocks:
        total += block.count * sum(weight.numel for weight in layer(block, PLAIN).weights)
    return total
