"""What values of other programs' configurations mean in a case: small converters, by the names that the tables use.

A converter takes the value that a file gives and returns what the case's field holds, or None where the value says
nothing of it. It raises ValueError, with what would be right, for a value that cannot be meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from vramsim.catalog import tables
from vramsim.catalog.tables import shown
from vramsim.equations.pipeline import SCHEDULES

Converter = Callable[[Any], Any]

AUTO = "auto"
"""What DeepSpeed's and other files write for a value that another file gives."""

YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "none", "null", "")


def amount(value: Any) -> Any:
    """A number, also where YAML or a command line gives it as a text.

    value : what a file gives. [-]

    >>> amount("5e8"), amount(8), amount("auto")
    (500000000, 8, 'auto')
    """
    if value is None or (isinstance(value, str) and value.strip().lower() == AUTO):
        return value if value is None else AUTO
    try:
        number = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) < 1e18:
        raise ValueError(f"must be a number, got {shown(value)}")
    return int(number) if number.is_integer() else number


def switch(value: Any) -> bool | str | None:
    """A truth value, also as a text.

    value : what a file gives. [-]
    """
    if value is None or isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word == AUTO:
        return AUTO
    if word in YES or word in NO:
        return word in YES
    raise ValueError(f"must be true or false, got {shown(value)}")


def word(value: Any) -> str | None:
    """A text; what an expression or a mapping gives says nothing.

    value : what a file gives. [-]
    """
    return value.strip() or None if isinstance(value, str) else None


def _least(least: int, below: float | None) -> Converter:
    def convert(value: Any) -> Any:
        number = amount(value)
        if number is None or number == AUTO:
            return number
        return number if number >= least else below

    return convert


def _stage(value: Any) -> Any:
    if isinstance(value, bool):  # DeepSpeed's legacy form
        return int(value)
    number = amount(value)
    if number not in (None, AUTO, 0, 1, 2, 3):
        raise ValueError(f"must be 0, 1, 2 or 3, got {shown(value)}")
    return number


def _negated(value: Any) -> Any:
    truth = switch(value)
    return (not truth) if isinstance(truth, bool) else truth


def _if_true(result: Any) -> Converter:
    return lambda value: result if switch(value) is True else None


def _named(names: Mapping[str, Any], right: str) -> Converter:
    def convert(value: Any) -> Any:
        if value is None:
            return None
        key = str(value).rpartition(".")[2].strip().lower().replace("-", "_") if isinstance(value, str | bool) else ""
        if key in names:
            return names[key]
        raise ValueError(f"must be {right}, got {shown(value)}")

    return convert


DTYPES = {
    **dict.fromkeys(("fp32", "float32", "float", "32", "32_true"), "fp32"),
    **dict.fromkeys(("bf16", "bfloat16", "bf16_mixed", "bf16_true"), "bf16"),
    **dict.fromkeys(("fp16", "float16", "half", "16", "16_mixed", "fp16_mixed"), "fp16"),
    "auto": AUTO,
    "no": "no",
}

OPTIMIZERS = {
    **dict.fromkeys(("adam", "adamw", "adamwtorchxla", "adamwanyprecision", "distributedfusedadam"), "adamw"),
    **dict.fromkeys(("adamwtorch",), "adamw_foreach"),
    **dict.fromkeys(("adamwtorchfused", "adamwapexfused", "fusedadam", "adamwfused"), "adamw_fused"),
    "adamwhf": "adamw_single",
    **dict.fromkeys(("adamw8bit", "adamwbnb8bit", "adamwtorch8bit", "adam8bit"), "adamw_8bit"),
    **dict.fromkeys(("adamw4bit", "adamwtorch4bit"), "adamw_4bit"),
    **dict.fromkeys(("adamwfp8", "adamwtorchfp8"), "adamw_fp8"),
    **dict.fromkeys(("pagedadamw8bit",), "paged_adamw_8bit"),
    **dict.fromkeys(("pagedadamw", "pagedadamw32bit"), "paged_adamw_32bit"),
    **dict.fromkeys(("lion", "lion32bit", "fusedlion", "pagedlion", "pagedlion32bit"), "lion"),
    **dict.fromkeys(("lion8bit", "pagedlion8bit"), "lion_8bit"),
    **dict.fromkeys(("scheduleroptimizeradamw", "schedulefreeadamw", "schedulefree"), "schedule_free_adamw"),
    **dict.fromkeys(("galoreadamw",), "galore_adamw"),
    "galoreadamwlayerwise": "galore_adamw_layerwise",
    "galoreadamw8bit": "galore_adamw_8bit",
    "apolloadamw": "apollo_adamw",
    "apolloadamwlayerwise": "apollo_adamw_layerwise",
}  # fmt: skip
"""Names of optimizers, without what parts their words -> the catalog's name."""


def _optimizer(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        return None
    last = value.rpartition(".")[2].strip()
    plain = re.sub(r"[^a-z0-9]", "", last.lower())
    if plain in OPTIMIZERS:
        return OPTIMIZERS[plain]
    for name in tables.rows("optimizer"):
        if name.replace("_", "") == plain:
            return name
    raise ValueError(
        f"is no optimizer that vramsim knows: {shown(last)}; {tables.nearest(last, tables.rows('optimizer'))}"
    )


MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ELSEWHERE = {
    "all": "all-linear", "all_linear": "all-linear", "all-linear": "all-linear", "output_proj": "o_proj",
    "c_attn": "q_proj,k_proj,v_proj", "linear_qkv": "q_proj,k_proj,v_proj", "query_key_value": "q_proj,k_proj,v_proj",
    "qkv_proj": "q_proj,k_proj,v_proj", "linear_proj": "o_proj", "linear_fc1": "gate_proj,up_proj",
    "gate_up_proj": "gate_proj,up_proj", "linear_fc2": "down_proj", "w1": "gate_proj", "w2": "down_proj",
    "w3": "up_proj",
}  # fmt: skip
"""Other models' names of linear modules -> the case's."""


def _modules(value: Any) -> Any:
    """Modules that adapters are on: a list, a text with commas, or a regular expression, of which the names count."""
    if value in (None, "", []):
        return None
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError(f"must name linear modules, got {shown(value)}")
    found: list[str] = []
    for text in given:
        # The last part of a dotted path is the module, whatever a regular expression says around it.
        for name in re.findall(r"[\w-]+", str(text)):
            plain = ELSEWHERE.get(name, f"{name}_proj" if f"{name}_proj" in MODULES else name)
            found += [each for each in plain.split(",") if each in (*MODULES, "all-linear")]
    if not found:
        raise ValueError(f"is no list of modules that vramsim knows: {shown(value)}; known are {', '.join(MODULES)}")
    return ["all-linear"] if "all-linear" in found else list(dict.fromkeys(found))


WHOLE = {
    "embed_tokens": "embed_tokens", "wte": "embed_tokens", "word_embeddings": "embed_tokens",
    "embed_in": "embed_tokens", "lm_head": "lm_head", "embed_out": "lm_head",
}  # fmt: skip


def _whole_modules(value: Any) -> Any:
    given = value.split(",") if isinstance(value, str) else value
    if not given or not isinstance(given, list | tuple):
        return None
    return list(dict.fromkeys(WHOLE[name] for each in given if (name := str(each).strip()) in WHOLE)) or None


SHARDINGS = {
    **dict.fromkeys(("full_shard", "1"), "FULL_SHARD"),
    **dict.fromkeys(("shard_grad_op", "2"), "SHARD_GRAD_OP"),
    **dict.fromkeys(("no_shard", "3"), "NO_SHARD"),
    **dict.fromkeys(("hybrid_shard", "4"), "HYBRID_SHARD"),
    **dict.fromkeys(("hybrid_shard_zero2", "5"), "HYBRID_SHARD_ZERO2"),
}


def _sharding(value: Any) -> Any:
    """FSDP's sharding, also among other words of the Trainer's option."""
    if value in (None, "", False, []):
        return None
    given = value if isinstance(value, list) else str(value).replace(",", " ").split()
    found = [SHARDINGS[name] for each in given if (name := str(each).strip().lower()) in SHARDINGS]
    return found[0] if found else "FULL_SHARD"


def _reshard(value: Any) -> Any:
    """FSDP2's switch, which version 1 gives as the name of a sharding."""
    if isinstance(value, str) and value.lower() in SHARDINGS:
        return SHARDINGS[value.lower()]
    truth = switch(value)
    return None if truth in (None, AUTO) else "FULL_SHARD" if truth else "SHARD_GRAD_OP"


def _checkpointing(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("offload", "offload_disk", "unsloth"):
        return "full"
    truth = switch(value)
    return truth if truth in (None, AUTO) else "full" if truth else "none"


def _checkpoint_offload(value: Any) -> Any:
    return "cpu" if isinstance(value, str) and value.lower() in ("offload", "offload_disk") else None


def _activation_offload(value: Any) -> Any:
    words = ("legacy", "disk", "hidden_states")
    return "cpu" if (isinstance(value, str) and value in words) or switch(value) is True else None


def _no_checkpointing(value: Any) -> Any:
    truth = switch(value)
    return truth if truth in (None, AUTO) else "none" if truth else "full"


ATTENTION = {
    **dict.fromkeys(("eager", "disabled"), "eager"),
    **dict.fromkeys(("flash_attention_2", "flash_attention_3", "flash_attn", "fa2", "fa3", "flash"), "flash"),
    **dict.fromkeys(("sdpa", "auto", "true", "flex_attention", "kernels_community/flash_attn"), "flash"),
}


def _attention(value: Any) -> Any:
    text = str(value).strip().lower().replace("-", "_") if isinstance(value, str | bool) else ""
    return ATTENTION.get(text, "flash" if "flash" in text else None)


def _device(value: Any) -> Any:
    name = str(value).partition(":")[0].strip()
    if not tables.has("device", name):
        raise ValueError(
            f"is no device that vramsim knows: {shown(name)}; {tables.nearest(name, tables.rows('device'))}"
        )
    return tables.canonical("device", name)


def _schedule(value: Any) -> Any:
    if not isinstance(value, str):
        return None
    plain = re.sub(r"[^a-z0-9]", "", value.lower())
    known = {re.sub(r"[^a-z0-9]", "", name): name for name in SCHEDULES}
    if plain in known:
        return known[plain]
    for part, name in (("zbv", "zb-v"), ("dualpipe", "dualpipe"), ("interleaved", "interleaved")):
        if part in plain:
            return name
    raise ValueError(f"is no schedule that vramsim knows: {shown(value)}; known are {', '.join(SCHEDULES)}")


def _tune_adapter(value: Any) -> Any:
    """A torchtune model's builder says by its name what trains."""
    name = str(value).rpartition(".")[2]
    return "qlora" if name.startswith("qlora_") else "lora" if name.startswith(("lora_", "dora_")) else "full"


CONVERTERS: Mapping[str, Converter] = {
    "number": amount,
    "switch": switch,
    "word": word,
    "not": _negated,
    "stage": _stage,
    "legacy_stage": lambda value: 1 if value is True else None,
    "degree": _least(1, None),
    "group": lambda value: _least(2, 0)(value),
    "rest": _least(1, None),
    "tier": _named({"cpu": "cpu", "nvme": "nvme", "none": "none", "false": "none", "auto": AUTO}, "cpu, nvme or none"),
    "dtype": _named(DTYPES, "a dtype such as bf16"),
    "optimizer": _optimizer,
    "modules": _modules,
    "whole_modules": _whole_modules,
    "sharding": _sharding,
    "reshard": _reshard,
    "checkpointing": _checkpointing,
    "checkpoint_offload": _checkpoint_offload,
    "no_checkpointing": _no_checkpointing,
    "attention": _attention,
    "device": _device,
    "schedule": _schedule,
    "four": _if_true(4),
    "eight": _if_true(8),
    "one": _if_true(1),
    "granularity": _named({"full": "full", "selective": "selective", "none": "none"}, "full or selective"),
    "fp8": lambda value: "fp8" if value not in (None, False, "", "none") else None,
    "tune_adapter": _tune_adapter,
    "present": lambda value: True,
    "activation_offload": _activation_offload,
    "lora": lambda value: "lora" if value is not None else None,
    "tune_loss": lambda value: "chunked" if "Chunk" in str(value) or "Linear" in str(value) else "hf",
}
"""Name in a table -> converter."""
