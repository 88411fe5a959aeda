"""The framework of a case: a preset of the catalog, and the knobs that files set otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vramsim import catalog
from vramsim.convert.known import Known
from vramsim.errors import VramsimError
from vramsim.formats.hf import read_config

PRESETS = {"fsdp": "hf-trainer-fsdp", "deepspeed": "deepspeed", "ddp": "ddp", "megatron": "megatron"}


def framework_of(known: Known, engine: str) -> dict[str, Any]:
    """The preset as `name`, and the knobs that files set otherwise than it does; nothing where no file gives a hint.

    known : merged facts; notes are added to it. [-]   engine : what shards. [-]
    """
    program, knobs = known.get("program"), known.within("framework")
    if given := known.stated("framework"):
        return {"name": given, **knobs}
    name = PRESETS.get(engine, "hf-trainer" if engine == "single" else None)
    if program == "xtuner":
        name = "xtuner-v0.1" if engine == "deepspeed" else name
        if engine != "deepspeed":
            known.notes.append("no DeepSpeed configuration was given: XTuner trains with plain data parallelism then")
    if program == "torchtitan":
        name = "torchtitan"
    if program == "torchtune":
        name = "torch" if engine == "single" else "fsdp2"
    if program == "megatron" and engine == "deepspeed":
        name = "megatron-deepspeed"
    if engine == "fsdp" and known.get("fsdp_sharding") == "NO_SHARD":
        name = "ddp"
    if name == "hf-trainer-fsdp" and known.get("fsdp_version", 1) == 1:
        name = "hf-trainer-fsdp1"
    if str(known.get("fsdp_wrap", "")).upper() == "NO_WRAP":
        known.notes.append("auto_wrap_policy NO_WRAP gathers the whole model at once; blocks are taken to be wrapped")
    found = {**_kernels(known), **knobs}
    if engine == "deepspeed":
        if known.get("overlap_by_stage") and "overlap_comm" not in found:
            found["overlap_comm"] = known.get("strategy.zero_stage") == 3  # zero/config.py, overlap_comm_valid
        if known.get("torch_adam"):
            found |= {"gpu_optimizer": "foreach", "cpu_optimizer": "torch_adamw"}
        if known.get("force_cpu_adam") is False and "deepspeed_optimizer" not in known.facts:
            found["cpu_optimizer"] = "torch_adamw"
    else:
        found = {key: value for key, value in found.items() if key not in ("zero_init", "overlap_comm")} | (
            {"overlap_comm": found["overlap_comm"]} if engine == "megatron" and "overlap_comm" in found else {}
        )
    # LLaMA-Factory switches to the other kind under FSDP2 (model/model_utils/checkpointing.py).
    fsdp2 = engine == "fsdp" and known.get("fsdp_version") == 2
    reentrant = known.get("framework.reentrant_checkpoint") and not fsdp2
    if reentrant and known.get("strategy.recompute") not in (None, "none"):
        found["reentrant_checkpoint"] = True
    else:
        found.pop("reentrant_checkpoint", None)
    preset = catalog.make_framework(name) if name else None
    # What the preset does by itself needs no word.
    changes = {key: value for key, value in found.items() if preset is None or getattr(preset, key) != value}
    return {"name": name, **changes} if name else {}


def _kernels(known: Known) -> dict[str, Any]:
    """Knobs of Liger's and of compiled kernels."""
    found: dict[str, Any] = {}
    if known.get("compiled"):
        found |= {"norm": "fused", "activation": "fused"}
        if known.get("program") == "torchtitan":
            found["loss"] = "compiled"
    if known.get("liger"):
        found |= {"loss": "liger", "norm": "fused", "activation": "fused"}
    return found


HIDDEN: dict[str, Callable[[int], int]] = {
    "reduce_bucket_size": lambda hidden: hidden**2,
    "prefetch_bucket_size": lambda hidden: int(0.9 * hidden**2),
    "param_persistence_threshold": lambda hidden: 10 * hidden,
}
"""Knob -> what `auto` stands for, by the model's hidden size (transformers integrations/deepspeed.py)."""


def buckets_of(known: Known, model: Any, framework: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSpeed's buckets where a file leaves them to the Trainer, which makes them of the model's hidden size.

    known : merged facts; notes are added to it. [-]   model : as the case has it. [-]   framework : preset, knobs. [-]
    """
    left = [knob for knob in HIDDEN if known.auto(f"framework.{knob}")]
    if not left or known.get("program") == "xtuner" or not framework:
        return {}
    hidden = _hidden(model)
    if hidden is None:
        known.notes.append(
            f"auto, a function of the model, which no file gives: {', '.join(left)} as by DeepSpeed itself"
        )
        return {}
    return {knob: HIDDEN[knob](hidden) for knob in left}


def _hidden(model: Any) -> int | None:
    """Hidden size of a case's model; None where it cannot be told."""
    if isinstance(model, str):
        try:
            if model.endswith(".json"):
                return int(read_config(model).hidden)
            return int(catalog.model(model).hidden)
        except VramsimError:
            return None
    hidden = model.get("hidden_size") if isinstance(model, dict) else None
    return int(hidden) if isinstance(hidden, int | float) else None
