"""The architecture of a measured run: its columns, and what the family's name adds that columns do not say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from vramsim import catalog
from vramsim.blocks import num_parameters
from vramsim.errors import VramsimError
from vramsim.spec import Attention, Block, Mlp, Model
from vramsim.validate.families import BY_CATALOG, Family, family_of
from vramsim.validate.rows import Row

TOLERANCE = 0.08
"""Relative difference from the stated parameters beyond which a row's columns do not describe its model. [-]"""
NEEDED = ("hidden", "n_heads", "vocab")
Assumed = list[tuple[str, str]]
"""Assumptions made for blank columns: (column, value)."""


class Inexpressible(Exception):
    """A row that vramsim cannot express; the message is the reason that a report counts."""


def architecture(row: Row) -> tuple[Model, Assumed]:
    """The model of a row, and the assumptions made for columns that it leaves blank.

    row : measured run. [-]
    Raises Inexpressible when the row says too little, or names an architecture that is not modelled.
    """
    name = row.text("model").lower()
    family = family_of(name)
    known = _from_catalog(row, name)
    if re.search(BY_CATALOG, name) and known is not None:
        return known
    if any(not row.text(column) for column in NEEDED) or family is None:
        if known is not None:
            return known
        what = "the columns do not give the architecture" if family else "the model's family is not known"
        raise Inexpressible(f"{what}, and the catalog does not have the model")
    model, assumed = _from_columns(row, family)
    if known is not None and known[0].blocks[-1].mlp.experts and not row.text("n_experts"):
        return known
    if not _agrees(row, model):
        if known is not None and _agrees(row, known[0]):
            return known
        # A label such as "18B" may have stayed while the layers changed: the columns say what ran.
        assumed.append(("n_params_b", "what the other columns give"))
    return model, assumed


def written_anew(model: Model) -> Model:
    """The model as software writes it that takes no other's code: a head of its own, and activations as one kernel.

    model : as its authors published it. [-]
    """
    blocks = tuple(
        replace(block, mlp=replace(block.mlp, activation="gelu")) if block.mlp.activation == "gelu_new" else block
        for block in model.blocks
    )
    return replace(model, blocks=blocks, tied_embeddings=False)


def _agrees(row: Row, model: Model) -> bool:
    """Whether a model has about as many parameters as a row states, if it states any."""
    stated = row.number("n_params_b", 0.0) * 1e9
    return not stated or abs(num_parameters(model) / stated - 1.0) <= TOLERANCE


def _from_columns(row: Row, family: Family) -> tuple[Model, Assumed]:
    """The model that a row's columns and its family's traits describe, nearest to the parameters that it states."""
    assumed: Assumed = []
    ties = row.text("tied_embeddings").lower()
    block = _block(row, family, assumed)
    choices = [
        _model(row, family, block, tied=tied) for tied in ([ties == "true"] if ties else [family.tied, not family.tied])
    ]
    stated = row.number("n_params_b", 0.0) * 1e9
    model = min(choices, key=lambda each: abs(num_parameters(each) - stated)) if stated else choices[0]
    if not ties:
        assumed.append(("tied_embeddings", str(model.tied_embeddings).lower()))
    if not row.text("n_layers"):
        layers = _layers(model, stated)
        model = replace(model, blocks=(replace(block, count=layers),))
        assumed.append(("n_layers", f"{layers}, from n_params_b"))
    return model, assumed


def _layers(model: Model, stated: float) -> int:
    """Layers that make up the stated parameters."""
    if not stated:
        raise Inexpressible("neither the layers nor the parameters are stated")
    one, block = num_parameters(model), model.blocks[0]
    each = num_parameters(replace(model, blocks=(replace(block, count=block.count + 1),))) - one
    return max(1, round((stated - (one - block.count * each)) / each))


def _block(row: Row, family: Family, assumed: Assumed) -> Block:
    hidden, heads = int(row.number("hidden")), int(row.number("n_heads"))
    for column, value in (("n_kv_heads", "n_heads"), ("ffn", "4 hidden")):
        if not row.text(column):
            assumed.append((column, value))
    experts = int(row.number("n_experts", 0))
    attention = Attention(
        heads,
        int(row.number("n_kv_heads", heads)),
        _head_dim(family, hidden, heads, row),
        qkv_bias=family.qkv_bias,
        out_bias=family.out_bias,
        qk_norm=family.qk_norm,
        rotary=family.rotary,
        causal=family.causal,
        fused_qkv=family.fused_qkv,
        fp32_softmax=not family.learned,
    )
    mlp = Mlp(
        int(row.number("ffn", 4 * hidden)),
        family.gated,
        family.mlp_bias,
        experts,
        int(row.number("topk", 2 if experts else 0)),
        activation=family.activation,
        router=family.router,
    )
    return Block(
        int(row.number("n_layers", 1)),
        hidden,
        attention,
        mlp,
        family.norm,
        family.num_norms,
        parallel=family.parallel,
        dropout=family.dropout,
    )


def _head_dim(family: Family, hidden: int, heads: int, row: Row) -> int:
    # Gemma's 27B models alone of their family have heads of hidden / heads or of 128 elements.
    if family.norm == "gemma" and "27b" in row.text("model").lower():
        return 128
    return family.head_dim or hidden // heads


def _model(row: Row, family: Family, block: Block, *, tied: bool) -> Model:
    return Model(
        row.text("model"),
        block.hidden,
        int(row.number("vocab")),
        (block,),
        tied_embeddings=tied,
        positions=int(row.number("seq_len", 2048)) if family.learned else 0,
        head_bias=family.head_bias,
        embedding_norm=family.embedding_norm,
        token_types=2 if family.classifier else 0,
        head="pooler" if family.classifier else "norm",
        labels=2 if family.classifier else 0,
    )


def _from_catalog(row: Row, name: str) -> tuple[Model, Assumed] | None:
    """The catalog's model of that name, cut to the layers of the row; None where it has none."""
    model = next(_named(name), None)
    if model is None:
        return None
    assumed = [("architecture", f"{model.name} of the catalog")]
    layers = int(row.number("n_layers", model.num_layers))
    if layers < model.num_layers:
        model = replace(model, blocks=_first_layers(model.blocks, layers))
        assumed.append(("n_layers", f"{layers}, of which leading dense layers at most one"))
    return model, assumed


def _named(name: str) -> Iterator[Model]:
    """Models of the catalog that a name may mean, by what is left when its end is cut off piece by piece."""
    plain = name.rsplit("/", 1)[-1]
    # What comes after the size (a version, instruct, the quantized copy's format) does not change the shape.
    for cut in (plain, *(plain[:end] for end in range(len(plain) - 1, 4, -1) if plain[end] in "-_ ")):
        try:
            yield catalog.model(cut)
        except VramsimError:
            continue


def _first_layers(blocks: tuple[Block, ...], layers: int) -> tuple[Block, ...]:
    """The first layers of a model, as a test on few devices keeps them: one dense layer before those with experts."""
    if len(blocks) > 1 and not blocks[0].mlp.experts and blocks[1].mlp.experts:
        blocks = (replace(blocks[0], count=1), *blocks[1:])
    kept: list[Block] = []
    for block in blocks:
        left = layers - sum(each.count for each in kept)
        if left > 0:
            kept.append(replace(block, count=min(block.count, left)))
    return tuple(kept)
