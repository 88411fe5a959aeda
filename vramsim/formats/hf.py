"""Reads a Hugging Face config.json as a `Model`, without transformers and without running a line of remote code.

A config leaves out what equals its class's default, so each model type has a table of those (hf_defaults.json, taken
from the configuration classes of transformers 5.23); the older names of a key (n_embd, num_experts) are accepted. A
model type whose layers the core cannot express exactly is refused rather than approximated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.formats import hf_classic as classic
from vramsim.formats import hf_layers as layers
from vramsim.formats import hf_vision as vision
from vramsim.formats.hf_keys import Keys
from vramsim.spec import Block, Model

Config = Mapping[str, Any]

ALIASES = {
    "n_embd": "hidden_size",
    "d_model": "hidden_size",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "num_layers": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "max_seq_len": "max_position_embeddings",
    "n_inner": "intermediate_size",
    "ffn_dim": "intermediate_size",
    "ffn_hidden_size": "intermediate_size",
    "padded_vocab_size": "vocab_size",
    "multi_query_group_num": "num_key_value_heads",
    "kv_channels": "head_dim",
    "num_experts": "num_local_experts",
    "n_routed_experts": "num_local_experts",
    "qkv_bias": "attention_bias",
}
"""Another name of a key -> the name used here."""

TOWERS = ("text_config", "llm_config", "language_config")
"""Where a multimodal config keeps its language model."""

NULLABLE = ("sliding_window", "q_lora_rank")
"""Keys whose null means that there is none, not that the default holds."""

NOT_YET = {
    "deepseek_v32": "multi-head latent attention with a sparse indexer",
    "nemotron_h": "state-space layers",
    "gemma4_text": "layers of several shapes",
}
"""Known model types that cannot be expressed exactly, and why."""


def read_config(config: Config | str | Path, *, name: str | None = None) -> Model:
    """Architecture of a Hugging Face configuration. [-]

    config : the parsed mapping, or the path of a config.json or of a directory that holds one. [-]
    name : what to call the model; by default what the config or its directory is called. [-]
    Raises VramsimError for a file that cannot be read, a model type that cannot be expressed, numbers that are wrong.

    >>> tiny = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    >>> read_config(tiny | {"intermediate_size": 128, "vocab_size": 100}).blocks[0].attention.head_dim
    16
    """
    source = "inline"
    if not isinstance(config, Mapping):
        config, source = _load(Path(config))
        name = name or (Path(source).parent.name if Path(source).name == "config.json" else Path(source).stem)
    model_name = name or str(config.get("_name_or_path") or config.get("name") or "inline")
    if "model_type" not in config and not any(tower in config for tower in TOWERS):
        raise VramsimError(f"model {model_name} has no model_type: add one, such as model_type: llama")
    tower = _tower(config, model_name)
    if "auto_map" in config:
        _refuse_remote_code(tower, model_name)
    kind = vision.LANGUAGE.get(str(tower["model_type"]), str(tower["model_type"]))
    if kind not in _defaults() or kind not in BUILDERS:
        why = f" ({NOT_YET[kind]})" if kind in NOT_YET else ""
        known = ", ".join(sorted(BUILDERS))
        raise VramsimError(
            f"model {model_name}: model_type {shown(kind)} cannot be expressed yet{why}; known are {known}"
        )
    keys = {**_defaults()[kind], **{ALIASES.get(key, key): value for key, value in tower.items() if value is not None}}
    keys.update({key: None for key in NULLABLE if key in tower and tower[key] is None})
    model = _model(Keys(model_name, kind, keys), source)
    return replace(model, encoder=vision.encoder(config, model_name, model.hidden))


def is_folder(path: Path) -> bool:
    """Whether a path is a directory; False for one that cannot exist.

    path : path to look at. [-]
    """
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name too long, a null byte
        return False


def reason(error: OSError | ValueError) -> str:
    """Why a file could not be read, in words.

    error : what the operating system said. [-]
    """
    return getattr(error, "strerror", None) or str(error)


def _load(path: Path) -> tuple[Config, str]:
    """Parsed JSON mapping, and where it was found."""
    path = path / "config.json" if is_folder(path) else path
    where = shown(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise VramsimError(f"cannot read the model configuration {where}: it is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise VramsimError(f"cannot read the model configuration {where}: {reason(error)}") from None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VramsimError(f"the model configuration {where} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise VramsimError(f"the model configuration {where} must be a mapping, got {type(config).__name__}")
    return config, str(path)


def _tower(config: Config, name: str) -> Config:
    """The language model of a config: itself, or what it wraps."""
    for key in TOWERS:
        if isinstance(config.get(key), Mapping):
            inner = config[key]
            kind = inner.get("model_type") or str(config.get("model_type")) + "_text"
            return {"tie_word_embeddings": config.get("tie_word_embeddings"), **inner, "model_type": kind}
    if not isinstance(config["model_type"], str):
        raise VramsimError(f"model {name}: model_type must be a word such as llama, got {shown(config['model_type'])}")
    return config


def _refuse_remote_code(config: Config, name: str) -> None:
    """Remote code is never run: such a config must say every number itself."""
    given = {ALIASES.get(key, key) for key, value in config.items() if value is not None}
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if missing := [key for key in needed if key not in given]:
        raise VramsimError(
            f"model {name} relies on remote code (auto_map), which is never run, and its configuration leaves out "
            f"{', '.join(missing)}: state them"
        )


@lru_cache(maxsize=1)
def _defaults() -> dict[str, dict[str, Any]]:
    """Model type -> what its configuration class assumes for keys that are left out."""
    table: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("hf_defaults.json").read_text("utf-8"))
    return table


BUILDERS: dict[str, Callable[[Keys, int], Block]] = {
    **dict.fromkeys(("llama", "mistral", "ministral3", "qwen2", "qwen3", "phi3", "smollm3", "internlm3"), layers.llama),
    **dict.fromkeys(("seed_oss", "glm4", "granite", "olmo2", "olmo3", "hunyuan_v1_dense"), layers.llama),
    **dict.fromkeys(("qwen", "chatglm", "baichuan", "internlm", "internlm2"), layers.llama),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), layers.gemma),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe", "minimax_m2", "gpt_oss"), layers.mixture),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2"), layers.deepseek),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), layers.qwen_next),
    "llama4_text": layers.llama4,
    **dict.fromkeys(("gpt2", "gpt_neox", "gpt_bigcode", "opt"), classic.gpt),
    **dict.fromkeys(("gptj", "phi", "cohere", "cohere2"), classic.one_norm),
    **dict.fromkeys(("bloom", "mpt"), classic.alibi),
    **dict.fromkeys(("starcoder2", "nemotron"), classic.grouped),
    "falcon": classic.falcon,
    "bert": classic.bert,
}
"""Model type -> the function that builds one of its layers."""


def _model(keys: Keys, source: str) -> Model:
    """Architecture from checked keys; equal neighbouring layers become one block."""
    count = keys.count("num_hidden_layers")
    if count > 10_000:
        raise keys.wrong(f"num_hidden_layers must be at most 10000, got {count}")
    build = BUILDERS[keys.kind]
    runs = [(block, sum(1 for _ in same)) for block, same in groupby(build(keys, layer) for layer in range(count))]
    return Model(
        name=keys.name,
        hidden=keys.count("hidden_size"),
        vocab=keys.count("vocab_size"),
        blocks=tuple(replace(block, count=length) for block, length in runs),
        tied_embeddings=keys.flag("tie_word_embeddings"),
        source=source,
        **classic.frame(keys),
    )
