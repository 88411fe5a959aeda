"""Looks up names in the catalog and returns the records of `vramsim.spec`.

How the devices' numbers were derived (never from one training run):

* `usable_memory`: what torch reports as total capacity in public reports; otherwise nominal GiB times 79.33/80 (A100
  and H100 of 80 GB), 44.40/48 for GDDR6 with ECC (L40) or 23.64/24 for GeForce-class cards (RTX 4090).
* `gemm_efficiency`: a large square product, sustained over thousands of repetitions on random data, over the dense peak
  of the datasheet (public Azure measurements of A100, H100, H200, GB200, MI300X; 514 shapes on B200); else a short
  run's; else 0.98 of the best shape that a search found; else the same die's value; else 0.65. At most 1. Short runs
  are faster where power limits a long one: 0.80 instead of 0.66 on H100, 0.75 instead of 0.53 on B200.
* `memory_efficiency`: measured copies over the datasheet's bandwidth; else the same memory's value; else 0.85.
* `attention_efficiency`: FlashAttention-2's causal forward on long sequences, heads of 128, over the dense peak: fitted
  on measured shapes (A100 0.73: studies/calibrate_hardware.py), from the same Azure measurements (forward and backward
  together: 328 TFLOP/s on H100, 374 on GB200); the same die's value; else V100 0.35 and others 0.45-0.6 assumed.
* `cudnn_efficiency`: the vendor's kernel that Transformer Engine calls: fitted on B200 (0.64), FlashAttention-3's rate
  on Hopper (arXiv 2407.08608), the value above elsewhere.
* `network_efficiency`: bus bandwidth of large all-reduces over the link's datasheet rate: 0.8 on NVLink (235 of 300 on
  A100, 364 of 450 on H200), 0.34 over PCIe with peer-to-peer copies (10.4 of 31 GB/s on A100 PCIe), 0.2 without, which
  is eight devices' share of the host's memory (equation N9).
* `power_exponent`: 0.93 measured on GB300, for its generation; 0.45 assumed elsewhere (equation C11).
* `processors`: datasheets.
* `context`: 0.45-0.6 GB by generation, with lazily loaded modules, assumed from reports of 0.4-0.7 GB.
* `communicator_buffer`: 0.7 GB for a group of more than two ranks over NVLink (measured on A100, nccl issue 864),
  fewer channels elsewhere, assumed. `all_to_all_buffer`: channels x peers x 14 MiB, 32 x 7 on a switched node of 8
  (measured on H100).
* `pcie_bandwidth`, host memory and NVMe bandwidths are achieved ones; `scale_up_bandwidth` and `scale_out_bandwidth`
  are datasheet rates per direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

from vramsim.catalog import tables
from vramsim.equations.compute import capped_share
from vramsim.errors import VramsimError
from vramsim.spec import Device, Framework, Model, Optimizer, OptimizerState, Precision, Quantization
from vramsim.units import GB, TFLOP, GiB

ENGINES = ("deepspeed", "fsdp1", "fsdp2", "ddp", "megatron", "torch")
"""Code paths that a framework can take."""


def names(kind: str) -> list[str]:
    """Canonical names of one kind: device, model, framework, optimizer, quantization, precision.

    >>> names("quantization")[:2]
    ['none', 'nf4']
    """
    return list(tables.rows(kind))


def describe(kind: str) -> list[dict[str, Any]]:
    """Rows of one kind as the data files have them, with inheritance resolved; for listing. [-]"""
    rows = tables.rows(kind)
    if kind == "model":
        return [{key: value for key, value in row.items() if key != "config"} | row["config"] for row in rows.values()]
    if kind == "device":
        return [
            {**row, **{k: v for k, v in tables.rows("node")[name].items() if k != "source"}}
            for name, row in rows.items()
        ]
    return [{"name": name, **{k: v for k, v in tables.inherited(rows, name).items() if k != "name"}} for name in rows]


@lru_cache(maxsize=256)
def device(name: str) -> Device:
    """Accelerator by name or alias.

    Raises VramsimError for an unknown name.

    >>> device("A100-80GB").name
    'a100-sxm-80gb'
    """
    name = tables.canonical("device", name)
    row = tables.rows("device")[name]
    dtypes = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp4")
    peaks = ((dtype, float(row[f"{dtype}_tflops"] or 0.0) * TFLOP) for dtype in dtypes)
    return Device(
        name=name,
        memory=float(row["memory_gib"]) * GiB,
        usable_memory=float(row["usable_gib"]) * GiB,
        memory_bandwidth=float(row["memory_gbs"]) * GB,
        peak_flops=tuple((dtype, peak) for dtype, peak in peaks if peak),
        scale_up_bandwidth=float(row["scale_up_gbs"]) * GB,
        pcie_bandwidth=float(row["pcie_gbs"]) * GB,
        power=float(row["power_w"]),
        power_exponent=float(row["power_exponent"]),
        context=float(row["context_gb"]) * GB,
        gemm_efficiency=float(row["gemm_efficiency"]),
        attention_efficiency=float(row["attention_efficiency"]),
        memory_efficiency=float(row["memory_efficiency"]),
        communicator_buffer=float(row["communicator_gb"]) * GB,
        all_to_all_buffer=float(row["all_to_all_gb"]) * GB,
        source=row["source"],
        calibration=row["calibration"],
        processors=float(row["processors"]),
        cudnn_efficiency=float(row["cudnn_efficiency"]),
        network_efficiency=float(row["network_efficiency"]),
        staged="no P2P" in row["scale_up_link"],
        sold_as=name,
    )


def powered(device: Device, watts: float) -> Device:
    """The device under a power limit: what draws all that it may is slower.

    device : at its rated power. [-]   watts : limit; one above the rated power changes nothing but `power`. [W]

    >>> powered(device("b200-sxm-180gb"), 750.0).gemm_efficiency < 0.53 * 0.8
    True
    """
    share = float(capped_share(watts, device.power, device.power_exponent))
    return replace(
        device,
        power=watts,
        gemm_efficiency=device.gemm_efficiency * share,
        attention_efficiency=device.attention_efficiency * share,
        cudnn_efficiency=device.cudnn_efficiency * share,
    )


@lru_cache(maxsize=256)
def node(name: str) -> dict[str, float]:
    """Usual node of a device, in the units and with the field names of `spec.Cluster`.

    Raises VramsimError for an unknown device.

    >>> node("h100-sxm-80gb")["devices_per_node"]
    8.0
    """
    row = tables.rows("node")[tables.canonical("device", name)]
    return {
        "devices_per_node": float(row["devices_per_node"]),
        "scale_out_bandwidth": float(row["scale_out_gbs"]) * GB,
        "host_memory": float(row["host_memory_gib"]) * GiB,
        "host_memory_bandwidth": float(row["host_memory_gbs"]) * GB,
        "cpu_cores": float(row["cpu_cores"]),
        "nvme_capacity": float(row["nvme_tb"]) * 1000 * GB,
        "nvme_bandwidth": float(row["nvme_gbs"]) * GB,
    }


@lru_cache(maxsize=256)
def model(name: str) -> Model:
    """Architecture by name or alias.

    Raises VramsimError for an unknown name.

    >>> model("meta-llama/Meta-Llama-3-70B").num_layers
    80
    """
    from vramsim.formats.hf import read_config

    row = tables.rows("model")[tables.canonical("model", name)]
    return replace(read_config(row["config"], name=row["name"]), source=row["source"])


@lru_cache(maxsize=64)
def _framework(name: str) -> dict[str, Any]:
    """Knobs of a framework; the caller must not change them."""
    name = tables.canonical("framework", name)
    return {"name": name, **tables.inherited(tables.rows("framework"), name)}


def framework(name: str) -> dict[str, Any]:
    """Knobs that a framework sets, inheritance resolved; those that it leaves out keep the record's default.

    Raises VramsimError for an unknown name.
    """
    return dict(_framework(name))


def framework_choices() -> dict[str, list[str]]:
    """Knob of words -> the words that it may take."""
    return dict(tables.toml("frameworks")["choices"])


def make_framework(name: str, overrides: Mapping[str, Any] | None = None) -> Framework:
    """Framework by name, with some knobs set otherwise.

    name : name of the framework or preset. [-]   overrides : knob -> value. [as the knob]
    Raises VramsimError for an unknown name or knob, or a value of the wrong kind.

    >>> make_framework("xtuner-v0.1", {"reduce_bucket_size": 2e8}).reduce_bucket_size
    200000000.0
    """
    knobs = _framework(name)
    checked = {key: _knob(knobs["name"], key, value) for key, value in (overrides or {}).items()}
    return Framework(**{**knobs, **checked})


@lru_cache(maxsize=1)
def _knobs() -> dict[str, str]:
    """Knob -> its type, of those that a user may set."""
    fixed = ("name", "engine", "source")
    return {field.name: str(field.type) for field in fields(Framework) if field.name not in fixed}


def _knob(name: str, key: str, value: object) -> object:
    """Checked value of a knob."""
    if key not in _knobs():
        raise VramsimError(f"framework {name} has no knob {tables.shown(key)}: {tables.nearest(key, _knobs())}")
    return _value(f"framework.{key}", _knobs()[key], value, framework_choices().get(key, ()))


def _value(name: str, kind: str, value: object, choices: Sequence[str]) -> object:
    """Checked value of a field of a record, by its type."""
    if kind == "bool":
        if not isinstance(value, bool):
            raise VramsimError(f"{name} must be true or false, got {tables.shown(value)}")
        return value
    if kind == "str":
        if value not in choices:
            raise VramsimError(f"{name} must be one of {', '.join(choices)}, got {tables.shown(value)}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e15:
        raise VramsimError(f"{name} must be a number from 0 to 1e15, got {tables.shown(value)}")
    return int(value) if kind == "int" else float(value)


@lru_cache(maxsize=256)
def precision(engine: str, name: str, method: str = "full", preset: str = "") -> Precision:
    """Dtypes that an engine keeps for a precision such as bf16.

    engine : deepspeed | fsdp1 | fsdp2 | ddp | megatron | torch. [-]
    name : bf16 | fp16 | fp32 | bf16_pure | fp16_pure. [-]
    method : full | lora | qlora; adapters have dtypes of their own on some engines. [-]
    preset : name of the framework, where it may have dtypes of its own. [-]
    Raises VramsimError for an unknown engine or name.

    >>> precision("torch", "bf16", "lora").autocast
    False
    """
    if engine not in ENGINES:
        raise VramsimError(f"unknown engine {engine!r}: {tables.nearest(engine, ENGINES)}")
    table = tables.toml("frameworks")["precision"]
    dtypes = tables.inherited(table, preset if preset in table else engine)
    name = tables.canonical("precision", name)
    row = dict(dtypes[name])
    adapter = row.pop("adapter", {})
    return Precision(name=name, **{**row, **(adapter if method in ("lora", "qlora") else {})})


@lru_cache(maxsize=256)
def optimizer(name: str, framework: str = "fused") -> Optimizer:
    """Optimizer by name, as a framework implements it.

    name : name of the optimizer. [-]   framework : its gpu_optimizer: foreach | foreach_2.0 | single | fused. [-]
    Raises VramsimError for an unknown name.

    >>> optimizer("adamw", "foreach").temporary_factor
    1.0
    """
    name = tables.canonical("optimizer", name)
    row = dict(tables.rows("optimizer")[name])
    implementations = tables.toml("optimizers")["implementation"]
    kind = framework if row["temporary"] == "framework" else row["temporary"]
    if kind not in implementations:
        raise VramsimError(f"unknown optimizer implementation {kind!r}: {tables.nearest(kind, implementations)}")
    states = tuple(OptimizerState(**state) for state in row["states"])
    own = {key: value for key, value in row.items() if key not in ("temporary", "aliases")}
    engines = tuple(row.get("engines", ()))
    return Optimizer(name=name, **{**implementations[kind], **own, "states": states, "engines": engines})


def make_optimizer(name: str, framework: str = "fused", changes: Mapping[str, Any] | None = None) -> Optimizer:
    """Optimizer by name, with some of its numbers and words set otherwise.

    name : name of the optimizer. [-]   framework : implementation, as in `optimizer`. [-]
    changes : field of `spec.Optimizer` -> value, other than its states. [as the field]
    Raises VramsimError for an unknown name or field, or a value of the wrong kind.

    >>> make_optimizer("galore_adamw", changes={"rank": 64}).rank
    64
    """
    known = {field.name: str(field.type) for field in fields(Optimizer) if field.name not in _FIXED}
    checked: dict[str, Any] = {}
    for key, value in (changes or {}).items():
        if key not in known:
            raise VramsimError(f"optimizer has no knob {tables.shown(key)}: {tables.nearest(key, known)}")
        checked[key] = _value(f"optimizer.{key}", known[key], value, _WORDS.get(key, ()))
    return replace(optimizer(name, framework), **checked)


_FIXED = ("name", "states", "source", "temporary", "matrix", "engines")
_WORDS = {"gradients": ("all", "one")}


@lru_cache(maxsize=64)
def quantization(name: str) -> Quantization:
    """Storage of frozen weights by name.

    Raises VramsimError for an unknown name.

    >>> quantization("nf4_dq").packed
    0.5
    """
    name = tables.canonical("quantization", name)
    return Quantization(name=name, **tables.rows("quantization")[name])
