"""The model that files name or describe: a name of the catalog, the path of a config.json, or inline numbers."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from vramsim.catalog import tables
from vramsim.convert.known import Known
from vramsim.formats.hf import is_folder

SUFFIXES = re.compile(
    r"[-_](instruct|chat|awq|it|hf|base|sft|dpo|bf16|fp16|fp8|bnb|nf4|4bit|8bit|linearized|thinking|distill|preview"
    r"|v\d+(\.\d+)?|\d{4}|\d+k|gptq|int4|int8)$",
    re.IGNORECASE,
)
"""What fine-tuned, dated and requantized checkpoints of one architecture are called by behind its name."""


def model_of(known: Known) -> tuple[Any, list[str]]:
    """The case's model, None where no file gives one; and keys of it that are missing, as `--set` takes them.

    known : merged facts; notes are added to it. [-]
    """
    given = known.get("model")
    if isinstance(given, dict):
        return given, []
    if known.get("program") == "torchtune":
        given = given or _of_torchtune(known)
    name, flavor = known.get("titan_model"), known.get("titan_flavor")
    if name and flavor:
        given = given or f"{name}-{flavor}"
    if isinstance(given, str):
        return _named(known, given), []
    return _inline(known)


def _named(known: Known, given: str) -> str | None:
    if given.endswith(".json") or is_folder(Path(given)):
        return given
    name = catalog_name(given)
    if name is None:
        known.notes.append(f"the model {given} is not in the catalog: give its config.json as well")
    elif not any(tables.has("model", each) for each in (given, given.rpartition("/")[2])):
        known.notes.append(f"the model {given} is taken to have the architecture of {name}")
    return name


def catalog_name(given: str) -> str | None:
    """Name in the catalog of a checkpoint's architecture; None if there is none.

    given : as programs name checkpoints. [-]

    >>> catalog_name("meta-llama/Meta-Llama-3-70B-Instruct"), catalog_name("models/Qwen2.5-7B"), catalog_name("mine")
    ('llama-3-70b', 'qwen2.5-7b', None)
    """
    tried = given.rstrip("/")
    for _ in range(6):
        for name in (tried, tried.rpartition("/")[2]):
            if tables.has("model", name):
                return tables.canonical("model", name)
        if found := _squashed().get(_squash(tried.rpartition("/")[2])):
            return found
        shorter = SUFFIXES.sub("", tried)
        if shorter == tried:
            return None
        tried = shorter
    return None


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@lru_cache(maxsize=1)
def _squashed() -> dict[str, str]:
    """Names and aliases without what parts their words -> names; those that two models share are left out."""
    found: dict[str, set[str]] = {}
    for name, row in tables.rows("model").items():
        for each in (name, *(row.get("aliases") or ())):
            found.setdefault(_squash(each.rpartition("/")[2]), set()).add(name)
    return {spelling: names.pop() for spelling, names in found.items() if len(names) == 1}


def _of_torchtune(known: Known) -> str | None:
    component = known.get("tune_model")
    return None if component is None else re.sub(r"^(q?lora|dora)_", "", component.rpartition(".")[2])


VOCABULARIES = {"GPT2BPETokenizer": 50257, "BertWordPieceLowerCase": 30522, "BertWordPieceCase": 28996}
"""Tokenizers that have one vocabulary -> its size. [-]"""

NEEDED = ("num_hidden_layers", "hidden_size", "num_attention_heads")


def _inline(known: Known) -> tuple[dict[str, Any] | None, list[str]]:
    """The architecture that Megatron's arguments describe."""
    stated = known.within("model")
    if not all(key in stated for key in NEEDED):
        return None, []
    hidden, swiglu = stated["hidden_size"], known.get("swiglu")
    grouped = bool(known.get("grouped_query")) and stated.get("num_key_value_heads", 0) > 0
    keys = {key: stated[key] for key in NEEDED}
    # training/arguments.py: 4h, or 8/3 h rounded down to a multiple of 64 with SwiGLU.
    keys["intermediate_size"] = stated.get("intermediate_size") or (
        int(4 * hidden * 2 / 3 / 64) * 64 if swiglu else 4 * hidden
    )
    if grouped:
        keys["num_key_value_heads"] = stated["num_key_value_heads"]
    if "head_dim" in stated and (swiglu or grouped):
        keys["head_dim"] = stated["head_dim"]
    keys["tie_word_embeddings"] = stated.get("tie_word_embeddings", True)
    if positions := stated.get("max_position_embeddings") or known.get("training.seq_len"):
        keys["max_position_embeddings"] = positions
    if experts := stated.get("num_local_experts"):
        kind = "mixtral"
        keys |= {"num_local_experts": experts, "num_experts_per_tok": stated.get("num_experts_per_tok", 2)}
        keys["intermediate_size"] = stated.get("moe_intermediate_size") or keys["intermediate_size"]
    else:
        kind = "llama" if swiglu else "starcoder2" if grouped else "gpt2"
    vocab = stated.get("vocab_size") or VOCABULARIES.get(str(known.get("tokenizer_type")))
    if vocab is None and (name := known.get("tokenizer")) and (found := catalog_name(str(name))):
        known.notes.append(f"the vocabulary is that of {found}, whose tokenizer is named")
        vocab = tables.rows("model")[found]["config"].get("vocab_size")
    if vocab is not None:
        keys["vocab_size"] = vocab
    return {"model_type": kind, **keys}, [] if vocab is not None else ["model.vocab_size"]
