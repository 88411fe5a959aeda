"""From a case to a setup: every name looked up, every default filled in, every assumption noted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vramsim import catalog, rules
from vramsim.case.fields import ClusterFields, LoraFields, StrategyFields, TrainingFields
from vramsim.case.machine import Machine, machine_of
from vramsim.case.numbers import plain
from vramsim.catalog import tables
from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.formats.hf import ALIASES, is_folder, read_config
from vramsim.layout import RECAST_ENGINES
from vramsim.spec import (
    Cluster,
    Framework,
    Lora,
    Model,
    Optimizer,
    Precision,
    Setup,
    Strategy,
    Tier,
    Training,
)
from vramsim.units import Num, minimum

if TYPE_CHECKING:
    from vramsim.case import Case

STAGES = {"deepspeed": 0.0, "fsdp1": 3.0, "fsdp2": 3.0, "ddp": 0.0, "megatron": 1.0, "torch": 0.0}
"""ZeRO stage of an engine that is told nothing."""

NEEDED_OF_MODEL = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""Keys that an inline model must state: a class's defaults are not a checkpoint's numbers."""

NEEDED_OF_GPT2 = tuple(key for key in NEEDED_OF_MODEL if key != "intermediate_size")

GROUPS = ("etp", "expert_load", "shard_size", "secondary_shard_size")
DEGREES = ("tp", "pp", "vpp", "cp", "sp", "ep", "megatron_sp", *GROUPS)
"""Numbers of a strategy that mean the same in a case and in a setup."""


def resolve(case: Case) -> Setup:
    """The setup that a case means.

    case : checked case. [-]
    Raises VramsimError for names that are unknown and numbers that do not go together.
    """
    notes: list[str] = []
    framework = _framework(case.framework)
    model = _model(case.model, notes)
    machine = machine_of(case.cluster.device)
    notes += machine.notes
    cluster = _cluster(case.cluster, machine)
    framework = replace(framework, **_unstated(machine.framework, case.framework))
    strategy = _strategy(case.strategy, framework, notes)
    training = _training(case.training, framework, cluster, strategy, notes)
    training = replace(training, image_tokens=_image_tokens(case.training, model, notes))
    setup = Setup(
        model=model, cluster=cluster, framework=framework, training=training, strategy=strategy, notes=tuple(notes)
    )
    rules.check(setup)
    return setup


def _framework(given: str | dict[str, Any]) -> Framework:
    if isinstance(given, str):
        return catalog.make_framework(given)
    knobs = dict(given)
    name = knobs.pop("name", None)
    if not isinstance(name, str):
        raise VramsimError(f"framework must have a name such as deepspeed beside its knobs, got {shown(given)}")
    return catalog.make_framework(name, knobs)


def _model(given: str | dict[str, Any], notes: list[str]) -> Model:
    if isinstance(given, dict):
        return _inline_model(given, notes)
    if tables.has("model", given):
        return catalog.model(given)
    if given.endswith(".json") or is_folder(Path(given)):
        return read_config(given)
    return catalog.model(given)


def _inline_model(given: dict[str, Any], notes: list[str]) -> Model:
    try:
        json.dumps(given)
    except (TypeError, ValueError, RecursionError):
        raise VramsimError(f"an inline model must hold what JSON can hold, got {shown(given)}") from None
    config = {ALIASES.get(key, key): value for key, value in given.items() if key != "base"}
    name = config.pop("name", None)
    if not isinstance(name, str | None):
        raise VramsimError(f"model.name must be a text, got {shown(name)}")
    if "base" in given:
        base = tables.rows("model")[tables.canonical("model", given["base"])]
        return read_config({**base["config"], **config}, name=name or f"{base['name']} changed")
    towers = [value for value in config.values() if isinstance(value, dict)]
    needed = NEEDED_OF_GPT2 if config.get("model_type") == "gpt2" else NEEDED_OF_MODEL
    missing = [key for key in needed if config.get(key) is None]
    if missing and not towers:
        raise VramsimError(f"an inline model must state {', '.join(missing)}, got {', '.join(given)}")
    if not towers and "model_type" not in config:
        config["model_type"] = "llama"
        notes.append("model_type of the inline model assumed: llama")
    return read_config(config, name=name or "inline")


def _unstated(knobs: Mapping[str, float], given: str | dict[str, Any]) -> dict[str, Any]:
    """A profile's knobs that the case does not state itself."""
    stated = given if isinstance(given, dict) else {}
    return {name: value for name, value in knobs.items() if name not in stated}


def _cluster(given: ClusterFields, machine: Machine) -> Cluster:
    device, node = machine.device, machine.node
    usual = {"scale_up_bandwidth": device.scale_up_bandwidth, "pcie_bandwidth": device.pcie_bandwidth, **node}
    stated = {name: getattr(given, name) for name in ClusterFields.model_fields if name != "device"}
    numbers: dict[str, Any] = {**usual, **{name: value for name, value in stated.items() if value is not None}}
    # A job smaller than a node has one node, not a part of one: only the devices that take part count.
    fewest = np.minimum(numbers["devices_per_node"], numbers["num_devices"])
    numbers["devices_per_node"] = fewest if fewest.ndim else float(fewest)
    return Cluster(device=device, source=device.source, **numbers)


def _strategy(given: StrategyFields, framework: Framework, notes: list[str]) -> Strategy:
    stage = given.zero_stage
    if stage is None:
        stage = STAGES[framework.engine]
        if framework.engine == "deepspeed":
            notes.append("zero_stage not given: 0, as DeepSpeed without a zero_optimization section")
        if framework.engine == "megatron":
            notes.append("zero_stage not given: 1, Megatron's distributed optimizer")
    selective = isinstance(given.recompute, str) and given.recompute == "selective"
    offload = {
        name: getattr(given, name) for name in ("offload_optimizer", "offload_parameters", "offload_activations")
    }
    tiers = {value for value in offload.values() if isinstance(value, str) and value != "none"}
    if len(tiers) > 1:
        listed = ", ".join(f"{name} to {value}" for name, value in offload.items())
        raise VramsimError(f"all that is offloaded must go to one tier, got {listed}; use cpu or nvme for all")
    return Strategy(
        zero_stage=stage,
        **{name: getattr(given, name) for name in DEGREES},
        schedule=given.schedule,
        recompute=0.0 if selective else _share(given.recompute),
        recompute_selective=float(selective),
        **{name: _share(value) for name, value in offload.items()},
        offload_tier=Tier.NVME if "nvme" in tiers else Tier.HOST,
        quantization=catalog.quantization(given.quantization),
    )


def _share(value: Num | str) -> Num:
    return float(value != "none") if isinstance(value, str) else value


def _training(
    given: TrainingFields, framework: Framework, cluster: Cluster, strategy: Strategy, notes: list[str]
) -> Training:
    precision = _precision(given.precision, framework, given.method)
    lora = None
    if given.lora is not None or given.method != "full":
        lora, precision = _lora(given, framework, precision, notes)
    optimizer = _optimizer(given.optimizer, framework)
    if optimizer.matrix == "svd":
        notes.append(f"the singular value decompositions of {optimizer.name} are not in the time")
    return Training(
        method=given.method,
        seq_len=given.seq_len,
        micro_batch_size=given.micro_batch_size,
        gradient_accumulation_steps=_accumulation(given, cluster, strategy),
        precision=precision,
        optimizer=optimizer,
        freeze_vision=given.freeze_vision,
        uneven_lengths=given.uneven_lengths,
        lora=lora,
    )


def _image_tokens(given: TrainingFields, model: Model, notes: list[str]) -> Num:
    """Tokens of a sequence that come from a vision tower: those of one image, unless a case says otherwise."""
    if model.encoder is None:
        return 0.0
    if given.image_tokens is not None:
        return given.image_tokens
    one = (model.encoder.patches - model.encoder.class_token) / model.encoder.merged
    notes.append(f"image_tokens not given: {one:,.0f} of each sequence's tokens, those of one image")
    return minimum(one, given.seq_len)


def _optimizer(given: str | dict[str, Any], framework: Framework) -> Optimizer:
    if isinstance(given, str):
        return catalog.optimizer(given, framework.gpu_optimizer)
    changes = dict(given)
    name = changes.pop("name", "adamw")
    if not isinstance(name, str):
        raise VramsimError(f"optimizer.name must be a text, got {shown(name)}")
    return catalog.make_optimizer(name, framework.gpu_optimizer, changes)


def _precision(given: str | dict[str, Any], framework: Framework, method: str) -> Precision:
    changes = {"name": given} if isinstance(given, str) else dict(given)
    name = changes.pop("name", "bf16")
    return replace(catalog.precision(framework.engine, name, method, framework.name), **changes)


def _lora(
    given: TrainingFields, framework: Framework, precision: Precision, notes: list[str]
) -> tuple[Lora, Precision]:
    """Adapters, and the precision with what trains kept in their dtype."""
    lora = given.lora or LoraFields()
    dtype = lora.adapter_dtype or precision.param
    if dtype != precision.param:
        if framework.engine in RECAST_ENGINES:
            name = {"deepspeed": "DeepSpeed", "megatron": "Megatron"}[framework.engine]
            notes.append(f"{name} recasts adapters to {precision.param}: adapter_dtype {dtype} has no effect")
            dtype = precision.param
        else:
            precision = replace(precision, param=dtype, grad=dtype, moments=dtype)
    adapters = Lora(
        rank=int(lora.rank),
        targets=lora.targets,
        alpha=lora.alpha,
        dropout=lora.dropout,
        adapter_dtype=dtype,
        modules_to_save=lora.modules_to_save,
    )
    return adapters, precision


def _accumulation(given: TrainingFields, cluster: Cluster, strategy: Strategy) -> Num:
    if given.global_batch_size is None:
        return 1.0 if given.gradient_accumulation_steps is None else given.gradient_accumulation_steps
    if given.gradient_accumulation_steps is not None:
        both = f"{plain(given.gradient_accumulation_steps)} and {plain(given.global_batch_size)}"
        raise VramsimError(f"give gradient_accumulation_steps or global_batch_size, not both: got {both}")
    ranks = cluster.num_devices / (strategy.tp * strategy.pp * strategy.cp * strategy.sp)
    return given.global_batch_size / (given.micro_batch_size * ranks)
