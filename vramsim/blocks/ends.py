"""What stands before and after all blocks: embeddings, the head, and a vision tower's patches and projector."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks import linear, norm
from vramsim.blocks.tensors import Kernels, Layer, Saved, Weight
from vramsim.spec import Encoder, Model


def input_bytes(kernels: Kernels) -> float:
    """Bytes per element of a normalised input. [B]

    kernels : implementation. [-]
    """
    return kernels.residual if kernels.autocast else kernels.compute


def embedding(model: Model, kernels: Kernels) -> Layer:
    """Token embeddings, and what is added to them: learned positions, segments, a norm, dropout.

    model : architecture. [-]   kernels : implementation. [-]
    """
    hidden = ("hidden", model.hidden)
    weights = [Weight("embed_tokens", "embedding", (("vocab", model.vocab),), (hidden,))]
    if model.positions:
        weights.append(Weight("embed_positions", "embedding", (("", model.positions),), (hidden,)))
    if model.token_types:
        weights.append(Weight("embed_token_types", "embedding", (("", model.token_types),), (hidden,)))
    saved: list[Saved] = []
    if model.embedding_norm:
        weights += norm.weights("embedding_norm", "layernorm", hidden)
        saved += norm.saved("embedding norm", "layernorm", hidden, kernels)
    if model.blocks[0].dropout:
        saved.append(Saved("embedding dropout mask", *hidden, 1.0))
    return Layer(tuple(weights), tuple(saved))


def head(model: Model, kernels: Kernels) -> Layer:
    """Output projection and what stands before it. A tied head adds no weight of its own.

    model : architecture. [-]   kernels : implementation. [-]
    """
    weights = [*_before_head(model)]
    rows = ("", model.labels) if model.labels else ("vocab", model.vocab)
    if not model.tied_embeddings or model.labels:
        weights.append(Weight("lm_head", "head", (rows,), (("hidden", model.hidden),)))
    if model.head_bias or model.labels:
        weights.append(Weight("lm_head", "bias", (rows,)))
    return Layer(tuple(weights), tuple(_head_saved(model, kernels)))


def _before_head(model: Model) -> Iterator[Weight]:
    kind, hidden = model.blocks[-1].norm, ("hidden", model.hidden)
    if model.head == "norm":
        yield from norm.weights("final_norm", kind, hidden)
        return
    yield Weight(model.head, "linear", (("", model.hidden),), (hidden,))
    yield Weight(model.head, "bias", (("", model.hidden),))
    if model.head == "transform":
        yield from norm.weights("transform_norm", kind, hidden)


def _head_saved(model: Model, kernels: Kernels) -> Iterator[Saved]:
    kind, hidden, size = model.blocks[-1].norm, ("hidden", model.hidden), input_bytes(kernels)
    if model.head == "pooler":
        # The first token of each sequence alone.
        return
    if model.head == "transform":
        yield from linear.saved_input("transform input", hidden, ("transform",), kernels, nbytes=size)
        yield Saved("transform, before its activation", *hidden, kernels.compute)
    yield from norm.saved("final norm", kind, hidden, kernels)
    yield from linear.saved_input("head input", ("gathered", model.hidden), ("lm_head",), kernels, nbytes=size)


def patches(encoder: Encoder) -> Layer:
    """What makes patches vectors: a projection, a class token, learned positions, and the norms outside the blocks.

    encoder : vision tower. [-]
    """
    hidden = ("hidden", encoder.blocks[0].hidden)
    weights = [Weight("patch_embedding", "conv", (hidden,), (("", encoder.inputs),))]
    if encoder.patch_bias:
        weights.append(Weight("patch_embedding", "bias", (hidden,)))
    if encoder.class_token:
        weights.append(Weight("class_token", "embedding", (hidden,)))
    if encoder.positions:
        weights.append(Weight("patch_positions", "embedding", (("", encoder.positions),), (hidden,)))
    for index in range(encoder.norms):
        weights += norm.weights(f"encoder_norm_{index}", encoder.blocks[0].norm, hidden)
    return Layer(tuple(weights))


def projector(encoder: Encoder) -> Layer:
    """What leads from the tower to the language model: norms and biased linear layers.

    encoder : vision tower. [-]
    """
    weights: list[Weight] = []
    for index, width in enumerate(encoder.merger_norms):
        weights += norm.weights(f"merger_norm_{index}", encoder.blocks[0].norm, ("", width))
    for index, (inner, outer) in enumerate(encoder.projector):
        weights.append(Weight(f"projector_{index}", "linear", (("", outer),), (("", inner),)))
        weights.append(Weight(f"projector_{index}", "bias", (("", outer),)))
    return Layer(tuple(weights))
