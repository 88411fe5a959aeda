"""A case as options of the program that trains: Hugging Face TrainingArguments, Megatron-LM's arguments."""

from __future__ import annotations

from typing import Any

from vramsim import catalog
from vramsim.case import Case
from vramsim.case.numbers import plain
from vramsim.catalog import tables
from vramsim.errors import VramsimError
from vramsim.spec import Setup

Written = tuple[dict[str, Any], list[str]]
"""Content of a file, and notes on what it cannot say."""

OPTIM = {
    "adamw": "adamw_torch",
    "adamw_foreach": "adamw_torch",
    "adamw_fused": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "adamw_4bit": "adamw_torch_4bit",
    "adamw_fp8": "adamw_torch_fp8",
    "lion": "lion_32bit",
    **{name: name for name in ("paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit", "adafactor", "sgd", "adalomo")},
    **{name: name for name in ("lomo", "galore_adamw", "galore_adamw_8bit", "galore_adamw_layerwise", "apollo_adamw")},
}
"""Optimizer of the catalog -> the Trainer's name for it."""


def trainer(case: Case, setup: Setup) -> Written:
    """What a Trainer is told: model, batch, length, precision, optimizer, recomputation, adapters.

    case : checked. [-]   setup : of it. [-]
    Raises VramsimError for a case that no Trainer runs.
    """
    training, strategy, framework = setup.training, setup.strategy, setup.framework
    if framework.engine == "megatron":
        raise VramsimError(f"a Trainer does not run framework {framework.name}; set deepspeed, fsdp2 or ddp first")
    notes: list[str] = []
    compute, pure = training.precision.compute, training.precision.name.endswith("pure")
    content: dict[str, Any] = {
        "model_name_or_path": _checkpoint(case),
        "output_dir": "out",
        "per_device_train_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "max_length": training.seq_len,
        "max_grad_norm": framework.max_grad_norm,
        "gradient_checkpointing": strategy.recompute == 1,
    }
    content |= {"dtype": compute} if pure else {compute: True} if compute != "fp32" else {}
    name = training.optimizer.name
    if name in OPTIM:
        fused = name == "adamw" and framework.gpu_optimizer == "fused"
        content["optim"] = "adamw_torch_fused" if fused else OPTIM[name]
    else:
        notes.append(f"the Trainer has no optimizer {name}")
    if strategy.recompute == 1 and framework.reentrant_checkpoint:
        content["gradient_checkpointing_kwargs"] = {"use_reentrant": True}
    if 0 < float(strategy.recompute) < 1 or strategy.recompute_selective:
        notes.append("recompute is written as none: the Trainer recomputes every block or nothing")
    if strategy.offload_activations:
        content["activation_offloading"] = True
    if framework.loss == "liger":
        content["use_liger_kernel"] = True
    if training.lora is not None:
        content |= _adapters(setup)
    notes.append("sharding, degrees and offload are in another file: --to deepspeed or --to accelerate")
    return plain(content), notes


def _checkpoint(case: Case) -> str:
    """What a catalog's model is called where checkpoints are; its path, if it has one."""
    if isinstance(case.model, dict):
        return str(case.model.get("name") or case.model.get("base") or "inline")
    if not tables.has("model", case.model):
        return case.model
    row = tables.rows("model")[tables.canonical("model", case.model)]
    return next((each for each in row.get("aliases") or () if "/" in each), str(row["name"]))


def _adapters(setup: Setup) -> dict[str, Any]:
    lora, stored = setup.training.lora, setup.strategy.quantization.name
    assert lora is not None
    found: dict[str, Any] = {
        "use_peft": True,
        "lora_r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "lora_target_modules": "all-linear" if "all-linear" in lora.targets else list(lora.targets),
    }
    if lora.modules_to_save:
        found["lora_modules_to_save"] = list(lora.modules_to_save)
    if stored == "int8":
        found["load_in_8bit"] = True
    elif stored.startswith(("nf4", "fp4")):
        found |= {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": stored[:3],
            "use_bnb_nested_quant": stored.endswith("dq"),
        }
    return found


def megatron(case: Case, setup: Setup) -> Written:
    """Megatron-LM's arguments for parallelism, batch, precision and recomputation; keys without their dashes.

    case : checked. [-]   setup : of it. [-]
    Raises VramsimError for a case that Megatron does not run.
    """
    training, strategy, framework = setup.training, setup.strategy, setup.framework
    if framework.engine != "megatron":
        raise VramsimError(f"framework {framework.name} is not Megatron's; set framework=megatron first")
    devices, per_node = float(setup.cluster.num_devices), float(setup.cluster.devices_per_node)
    options: dict[str, Any] = {
        "nproc-per-node": per_node,
        "nnodes": devices / per_node,
        "tensor-model-parallel-size": strategy.tp,
        "pipeline-model-parallel-size": strategy.pp,
        "context-parallel-size": strategy.cp,
        "expert-model-parallel-size": strategy.ep,
        "micro-batch-size": training.micro_batch_size,
        "global-batch-size": setup.global_batch_size,
        "seq-length": training.seq_len,
        "clip-grad": framework.max_grad_norm,
    }
    if strategy.etp:
        options["expert-tensor-parallel-size"] = strategy.etp
    if strategy.vpp > 1:
        options["num-virtual-stages-per-pipeline-rank"] = strategy.vpp
    flags = {
        "sequence-parallel": bool(strategy.megatron_sp),
        "use-distributed-optimizer": strategy.zero_stage == 1,
        "overlap-grad-reduce": framework.overlap_comm,
        "tp-comm-overlap": framework.overlap_tp,
        "optimizer-cpu-offload": strategy.offload_optimizer == 1,
        training.precision.compute: training.precision.compute != "fp32",
    }
    options |= {name: True for name, on in flags.items() if on}
    if strategy.recompute_selective:
        options["recompute-granularity"] = "selective"
    elif strategy.recompute:
        options |= _recomputed(setup)
    notes = ["the architecture is not written: keep your model's arguments"]
    usual = catalog.precision("megatron", training.precision.compute)
    if training.precision.linear == "fp8":
        options["fp8-format"] = "hybrid"
    if training.precision.reduce != usual.reduce:
        options["grad-reduce-in-bf16"] = True
    if training.lora is not None:
        notes.append("adapters are not written")
    return plain(options), notes


def _recomputed(setup: Setup) -> dict[str, Any]:
    """All layers one by one, or the first ones of every chunk."""
    share, strategy = float(setup.strategy.recompute), setup.strategy
    if share == 1:
        return {"recompute-granularity": "full", "recompute-method": "uniform", "recompute-num-layers": 1}
    layers = share * setup.model.num_layers / float(strategy.pp * strategy.vpp)
    return {"recompute-granularity": "full", "recompute-method": "block", "recompute-num-layers": max(1, round(layers))}
