"""The architecture of a measured run: its columns, and what the family's name adds that columns do not say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vramsim import catalog
from vramsim.blocks import num_parameters
from vramsim.errors import VramsimError
from vramsim.spec import Attention, Block, Mlp, Model
from vramsim.validate.rows import Row


@dataclass(frozen=True, slots=True)
class Family:
    """What a family of models does that a table's columns leave out."""

    norm: str = "rmsnorm"
    gated: bool = True
    qkv_bias: bool = False
    bias: bool = False
    qk_norm: bool = False
    head_dim: int = 0
    positions: bool = False
    tied: bool = False


FAMILIES: tuple[tuple[str, Family], ...] = (
    (r"qwen-?3", Family(qk_norm=True, head_dim=128)),
    (r"qwen", Family(qkv_bias=True)),
    (r"gemma", Family(norm="gemma", head_dim=256, tied=True)),
    (r"bloom|bigscience", Family("layernorm", gated=False, qkv_bias=True, bias=True, tied=True)),
    (
        r"gpt(?!q)|megatron|mpt|opt-|santacoder|starcoder",
        Family("layernorm", False, True, True, positions=True, tied=True),
    ),
    (r"bert", Family("layernorm", False, True, True, positions=True, tied=True)),
    (r"phi-?1", Family("layernorm", gated=False, qkv_bias=True, bias=True)),
    (r"falcon", Family("layernorm", gated=False, tied=True)),
    (r"internlm-7b", Family(qkv_bias=True)),
    (r"llama|mistral|mixtral|yi-|internlm|vicuna|tiny|7b|granite|zephyr|deepseek-(llm|coder)", Family()),
)
"""Pattern in a model's name -> its family; the first that matches counts."""

TOLERANCE = 0.08
"""Relative difference from the stated parameters beyond which a row's columns do not describe its model. [-]"""
NEEDED = ("n_layers", "hidden", "n_heads", "vocab")
UNSUPPORTED = {
    r"deepseek-?v[23]|kimi": "multi-head latent attention is not modelled",
    r"santacoder|starcoder": "multi-query attention with a code model's layout is not modelled",
}


class Inexpressible(Exception):
    """A row that vramsim cannot express; the message is the reason that a report counts."""


def architecture(row: Row) -> tuple[Model, list[tuple[str, str]]]:
    """The model of a row, and the assumptions made for columns that it leaves blank.

    row : measured run. [-]
    Raises Inexpressible when the row says too little, or names an architecture that is not modelled.
    """
    name = row.text("model").lower()
    for pattern, reason in UNSUPPORTED.items():
        if re.search(pattern, name):
            raise Inexpressible(reason)
    if any(not row.text(column) for column in NEEDED) or not row.text("ffn"):
        return _from_catalog(row, name)
    family = next((family for pattern, family in FAMILIES if re.search(pattern, name)), None)
    if family is None:
        raise Inexpressible("the model's family is not known")
    assumed: list[tuple[str, str]] = []
    hidden, heads = int(row.number("hidden")), int(row.number("n_heads"))
    kv_heads = int(row.number("n_kv_heads", heads))
    if not row.text("n_kv_heads"):
        assumed.append(("n_kv_heads", "n_heads"))
    tied = row.text("tied_embeddings").lower()
    if not tied:
        assumed.append(("tied_embeddings", str(family.tied).lower()))
    experts = int(row.number("n_experts", 0))
    attention = Attention(
        heads,
        kv_heads,
        _head_dim(family, hidden, heads, row),
        qkv_bias=family.qkv_bias,
        out_bias=family.bias,
        qk_norm="head" if family.qk_norm else "",
    )
    mlp = Mlp(int(row.number("ffn")), family.gated, family.bias, experts, int(row.number("topk", 2 if experts else 0)))
    block = Block(int(row.number("n_layers")), hidden, attention, mlp, family.norm)
    positions = int(row.number("seq_len", 2048)) if family.positions else 0
    vocab = int(row.number("vocab"))
    model = Model(row.text("model"), hidden, vocab, (block,), tied == "true" if tied else family.tied, positions)
    stated = row.number("n_params_b", 0.0) * 1e9
    if stated and abs(num_parameters(model) / stated - 1.0) > TOLERANCE:
        return _from_catalog(row, name)
    return model, assumed


def _head_dim(family: Family, hidden: int, heads: int, row: Row) -> int:
    if family.head_dim and not (family.norm == "gemma" and hidden % heads == 0 and "27b" in row.text("model").lower()):
        return family.head_dim
    return hidden // heads


def _from_catalog(row: Row, name: str) -> tuple[Model, list[tuple[str, str]]]:
    known = catalog.names("model")
    plain = name.rsplit("/", 1)[-1]
    # What comes after the size (a version, instruct, the quantized copy's format) does not change the shape.
    for cut in (plain, *(plain[:end] for end in range(len(plain) - 1, 4, -1) if plain[end] in "-_ ")):
        try:
            model = catalog.model(cut)
        except VramsimError:
            continue
        return model, [("architecture", f"{model.name} of the catalog")]
    raise Inexpressible(f"the columns do not give the architecture, and none of {len(known)} in the catalog matches")
