"""The nouns of a case file: what a user may write, each field checked by itself.

These classes guard the boundary and compute nothing; `resolution` turns them into the records of `vramsim.spec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator

from vramsim.case.numbers import MOST, number, optional
from vramsim.catalog.tables import shown
from vramsim.equations.pipeline import SCHEDULES
from vramsim.spec import Precision
from vramsim.units import DTYPE_BYTES, Num

AMOUNT = 1e18
"""Largest number of bytes, or bytes per second, of one node."""

PRECISION_DTYPES = ("param", "frozen", "compute", "grad", "reduce", "moments")
PRECISION_SWITCHES = ("master", "autocast")


def word(value: Any) -> str:
    """A non-empty text."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be a name, got {shown(value)}")
    return value.strip()


def schedule(value: Any) -> str:
    """Name of a pipeline schedule."""
    if value not in SCHEDULES:
        raise ValueError(f"must be one of {', '.join(SCHEDULES)}, got {shown(value)}")
    return str(value)


def name_or_mapping(value: Any) -> str | dict[str, Any]:
    """A non-empty text, or a non-empty mapping with texts as keys."""
    if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
        return dict(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise ValueError(f"must be a name or a mapping, got {shown(value)}")


def precision_given(value: Any) -> str | dict[str, Any]:
    """A precision's name, or a mapping that changes some of its dtypes."""
    checked = name_or_mapping(value)
    if isinstance(checked, str):
        return checked
    if not isinstance(checked.get("name", "bf16"), str):
        raise ValueError(f"must have a text as name, got {shown(checked['name'])}")
    for key, given in checked.items():
        if key in (*PRECISION_DTYPES, "products") and (not isinstance(given, str) or given not in DTYPE_BYTES):
            raise ValueError(f"must name a dtype for {key}, one of {', '.join(DTYPE_BYTES)}, got {shown(given)}")
        if key in PRECISION_SWITCHES and not isinstance(given, bool):
            raise ValueError(f"must say true or false for {key}, got {shown(given)}")
        if key not in Precision.__dataclass_fields__:
            known = ", ".join(("name", *PRECISION_DTYPES, *PRECISION_SWITCHES))
            raise ValueError(f"has no key {shown(key)}; known are {known}")
    return checked


def targets_given(value: Any) -> tuple[str, ...]:
    """Names of linear modules: a list, or one text with commas."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not given or not all(isinstance(each, str) for each in given):
        raise ValueError(f"must be all-linear or a list of modules such as q_proj, got {shown(value)}")
    names = tuple(MODULES.get(each.strip(), each.strip()) for each in given)
    for each in names:
        if each not in MODULES.values():
            raise ValueError(f"must name modules among {', '.join(sorted(set(MODULES.values())))}, got {shown(each)}")
    return ("all-linear",) if "all-linear" in names else tuple(dict.fromkeys(names))


def modules_given(value: Any) -> tuple[str, ...]:
    """Names of modules that train whole: a list, or one text with commas; none by default."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
        raise ValueError(f"must be a list of modules such as lm_head, got {shown(value)}")
    for each in given:
        if each.strip() not in WHOLE_MODULES:
            raise ValueError(f"must name modules among {', '.join(WHOLE_MODULES)}, got {shown(each)}")
    return tuple(dict.fromkeys(WHOLE_MODULES[each.strip()] for each in given))


WHOLE_MODULES = {
    "embed_tokens": "embed_tokens",
    "lm_head": "lm_head",
    "wte": "embed_tokens",
    "word_embeddings": "embed_tokens",
    "embed_in": "embed_tokens",
    "embed_out": "lm_head",
}
"""How users call the modules that LoRA may train whole -> how the weights are called."""

MODULES = {
    "all-linear": "all-linear",
    "all": "all-linear",
    **{f"{short}_proj": f"{short}_proj" for short in ("q", "k", "v", "o", "gate", "up", "down")},
    **{short: f"{short}_proj" for short in ("q", "k", "v", "o", "gate", "up", "down")},
}
"""How users call the linear modules of a layer -> how the weights are called."""

Count = Annotated[Num, PlainValidator(number(1, MOST, whole=True))]
OptionalCount = Annotated[Num | None, PlainValidator(optional(number(1, MOST, whole=True)))]
OptionalAmount = Annotated[Num | None, PlainValidator(optional(number(1, AMOUNT)))]
OptionalCapacity = Annotated[Num | None, PlainValidator(optional(number(0, AMOUNT)))]
OptionalStage = Annotated[Num | None, PlainValidator(optional(number(0, 3, whole=True)))]
Share = Annotated[Num | str, PlainValidator(number(0, 1, words=("none", "cpu", "nvme")))]
DeviceShare = Annotated[Num | str, PlainValidator(number(0, 1, words=("none", "cpu")))]
Recompute = Annotated[Num | str, PlainValidator(number(0, 1, words=("none", "selective", "full")))]
Group = Annotated[Num, PlainValidator(number(0, MOST, whole=True))]
Load = Annotated[Num, PlainValidator(number(1, 1e6))]
Schedule = Annotated[str, PlainValidator(schedule)]
Switch = Annotated[Num, PlainValidator(number(0, 1, switch=True))]
Word = Annotated[str, PlainValidator(word)]
OptionalWord = Annotated[str | None, PlainValidator(optional(word))]
NameOrMapping = Annotated[str | dict[str, Any], PlainValidator(name_or_mapping)]


class Fields(BaseModel):
    """A section of a case: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class ClusterFields(Fields):
    """Devices and nodes. What is None comes from the catalog's usual node of the device. Bytes and B/s.

    `device` is a name of the catalog, the path of a profile that `vramsim calibrate` wrote, or a mapping.
    """

    device: NameOrMapping
    num_devices: Count
    devices_per_node: OptionalCount = None
    scale_up_bandwidth: OptionalAmount = None
    scale_out_bandwidth: OptionalAmount = None
    pcie_bandwidth: OptionalAmount = None
    host_memory: OptionalAmount = None
    host_memory_bandwidth: OptionalAmount = None
    cpu_cores: OptionalCount = None
    nvme_capacity: OptionalCapacity = None
    nvme_bandwidth: OptionalAmount = None


class LoraFields(Fields):
    """Adapters. `adapter_dtype` None: as the precision stores what trains."""

    rank: Annotated[float, PlainValidator(number(1, 1e6, whole=True))] = 16.0
    alpha: Annotated[float, PlainValidator(number(0, 1e9))] = 32.0
    targets: Annotated[tuple[str, ...], PlainValidator(targets_given)] = ("all-linear",)
    dropout: Annotated[float, PlainValidator(number(0, 1))] = 0.0
    adapter_dtype: Literal["fp32", "bf16", "fp16"] | None = None
    modules_to_save: Annotated[tuple[str, ...], PlainValidator(modules_given)] = ()


class TrainingFields(Fields):
    """What is trained and how; batch sizes are per data-parallel rank, except the global one.

    `uneven_lengths`: batches are padded to their longest sample only, and `seq_len` is that of the longest of all.
    """

    method: Literal["full", "lora", "qlora"] = "full"
    seq_len: Count
    micro_batch_size: Count = 1.0
    gradient_accumulation_steps: OptionalCount = None
    global_batch_size: OptionalCount = None
    precision: Annotated[str | dict[str, Any], PlainValidator(precision_given)] = "bf16"
    optimizer: NameOrMapping = "adamw"
    image_tokens: Annotated[Num | None, PlainValidator(optional(number(0, MOST)))] = None
    freeze_vision: bool = False
    uneven_lengths: bool = False
    lora: LoraFields | None = None


class StrategyFields(Fields):
    """Degrees of parallelism, ZeRO stage (None: what the framework does by itself), recomputation and offload.

    `shard_size` is how many ranks share states (0: all), `secondary_shard_size` the same of ZeRO++'s second copy (0:
    none), `etp` how many ranks an expert is cut over (0: as many as `tp`), `expert_load` tokens of the busiest
    expert-parallel rank over the mean.
    """

    zero_stage: OptionalStage = None
    tp: Count = 1.0
    pp: Count = 1.0
    vpp: Count = 1.0
    schedule: Schedule = "1f1b"
    cp: Count = 1.0
    sp: Count = 1.0
    ep: Count = 1.0
    etp: Group = 0.0
    expert_load: Load = 1.0
    shard_size: Group = 0.0
    secondary_shard_size: Group = 0.0
    megatron_sp: Switch = 0.0
    recompute: Recompute = "none"
    offload_optimizer: Share = "none"
    offload_parameters: Share = "none"
    offload_activations: DeviceShare = "none"
    quantization: Word = "none"
