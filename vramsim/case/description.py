"""From a resolved case back to a case file in which nothing is left to defaults."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramsim import catalog
from vramsim.case.fields import PRECISION_DTYPES, PRECISION_SWITCHES, ClusterFields
from vramsim.case.numbers import plain
from vramsim.case.profile import is_profile
from vramsim.case.resolution import DEGREES
from vramsim.catalog import tables
from vramsim.spec import Device, Framework, Lora, Setup

if TYPE_CHECKING:
    from vramsim.case import Case


def describe(case: Case) -> dict[str, Any]:
    """The case as understood, as JSON has it.

    case : checked case. [-]
    Raises VramsimError if the case cannot be resolved.
    """
    setup = case.resolve()
    cluster, strategy = setup.cluster, setup.strategy
    numbers = (name for name in ClusterFields.model_fields if name != "device")
    degrees = ("zero_stage", "schedule", *DEGREES)
    described = {
        "model": _model(case.model),
        "cluster": {"device": _device(case, setup), **{name: getattr(cluster, name) for name in numbers}},
        "framework": _framework(setup.framework),
        "training": _training(setup),
        "strategy": {
            **{name: getattr(strategy, name) for name in degrees},
            **{name: getattr(case.strategy, name) for name in ("recompute", *_OFFLOADS)},
            "quantization": strategy.quantization.name,
        },
    }
    result: dict[str, Any] = plain(described)
    return result


_OFFLOADS = ("offload_optimizer", "offload_parameters", "offload_activations")


def _model(given: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(given, dict):
        return given
    return tables.canonical("model", given) if tables.has("model", given) else str(Path(given).resolve())


def _device(case: Case, setup: Setup) -> str | dict[str, Any]:
    if isinstance(case.cluster.device, str):
        return (
            str(Path(case.cluster.device).resolve()) if is_profile(case.cluster.device) else setup.cluster.device.name
        )
    device = setup.cluster.device
    unsaid = ("source", "calibration", "measured", "sold_as")
    numbers = {f.name: getattr(device, f.name) for f in fields(Device) if f.name not in unsaid}
    base = {"base": device.sold_as} if device.sold_as else {}
    return {**base, **numbers, "peak_flops": dict(device.peak_flops)}


def _framework(framework: Framework) -> dict[str, Any]:
    return {key: value for key, value in asdict(framework).items() if key not in ("engine", "source")}


def _optimizer(setup: Setup) -> str | dict[str, Any]:
    """Its name, with what differs from the record that has it."""
    given = setup.training.optimizer
    if not tables.has("optimizer", given.name):
        return given.name
    known = asdict(catalog.optimizer(given.name, setup.framework.gpu_optimizer))
    changes = {key: value for key, value in asdict(given).items() if value != known[key]}
    return {"name": given.name, **changes} if changes else given.name


def _training(setup: Setup) -> dict[str, Any]:
    training = setup.training
    precision = {name: getattr(training.precision, name) for name in ("name", *PRECISION_DTYPES, *PRECISION_SWITCHES)}
    precision["compute"] = training.precision.linear
    described: dict[str, Any] = {
        "method": training.method,
        "seq_len": training.seq_len,
        "micro_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "precision": precision,
        "optimizer": _optimizer(setup),
    }
    if setup.model.encoder is not None:
        described |= {"image_tokens": training.image_tokens, "freeze_vision": training.freeze_vision}
    if training.uneven_lengths:
        described["uneven_lengths"] = True
    if training.lora:
        described["lora"] = {field.name: getattr(training.lora, field.name) for field in fields(Lora)}
    return described
