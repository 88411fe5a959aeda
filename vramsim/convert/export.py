"""A case as other programs' configurations: what they can say of it, and notes on what they cannot.

Law: what is written, read back, has the same strategy (`tests/convert/test_export.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vramsim import catalog
from vramsim.case import Case
from vramsim.case.numbers import plain
from vramsim.catalog.tables import nearest, shown
from vramsim.convert.conversion import Conversion
from vramsim.convert.export_options import Written, megatron, trainer
from vramsim.errors import VramsimError
from vramsim.spec import Setup


def export(found: Conversion | Case, target: str) -> Written:
    """A case as another program's configuration.

    found : a case, or what files mean together if nothing is missing. [-]   target : one of `TARGETS`. [-]
    Raises VramsimError for an unknown target, for a case that is not whole, and for one that the program cannot run.
    """
    if target not in TARGETS:
        known = ", ".join(("case", *TARGETS))
        raise VramsimError(f"--to must be one of {known}, got {shown(target)}; {nearest(target, TARGETS)}")
    case = found if isinstance(found, Case) else found.case
    return TARGETS[target](case, case.resolve())


KNOBS = {
    "overlap_comm": "overlap_comm",
    "reduce_bucket_size": "reduce_bucket_size",
    "allgather_bucket_size": "allgather_bucket_size",
    "prefetch_bucket_size": "stage3_prefetch_bucket_size",
    "param_persistence_threshold": "stage3_param_persistence_threshold",
    "max_live_parameters": "stage3_max_live_parameters",
    "max_reuse_distance": "stage3_max_reuse_distance",
    "sub_group_size": "sub_group_size",
}
"""Knob of a framework -> key of DeepSpeed's zero_optimization."""


def _deepspeed(case: Case, setup: Setup) -> Written:
    if setup.framework.engine != "deepspeed":
        raise VramsimError(f"framework {setup.framework.name} does not run DeepSpeed; set framework=deepspeed first")
    strategy, training, knobs = setup.strategy, setup.training, setup.framework
    raw = catalog.make_framework("deepspeed")
    zero: dict[str, Any] = {"stage": strategy.zero_stage, "overlap_comm": knobs.overlap_comm}
    zero |= {key: getattr(knobs, knob) for knob, key in KNOBS.items() if getattr(knobs, knob) != getattr(raw, knob)}
    for field, key in (("offload_optimizer", "offload_optimizer"), ("offload_parameters", "offload_param")):
        where = getattr(case.strategy, field)
        if where == "none" or where == 0:
            continue
        zero[key] = {"device": where if isinstance(where, str) else "cpu", "pin_memory": True}
        if not isinstance(where, str) and where < 1:
            zero[key]["ratio"] = where
    if strategy.secondary_shard_size:
        zero["zero_hpz_partition_size"] = strategy.secondary_shard_size
    if strategy.shard_size:
        zero["mics_shard_size"] = strategy.shard_size
    if knobs.save == "full":
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    compute = training.precision.compute
    content: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "gradient_clipping": knobs.max_grad_norm,
        "bf16": {"enabled": compute == "bf16"},
        "fp16": {"enabled": compute == "fp16"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero,
    }
    usual = catalog.precision("deepspeed", compute)
    if training.precision.grad != usual.grad:
        content["data_types"] = {"grad_accum_dtype": training.precision.grad}
    if training.precision.reduce != usual.reduce:
        content["communication_data_type"] = training.precision.reduce
    if knobs.cpu_optimizer == "torch_adamw":
        content["zero_force_ds_cpu_optimizer"] = False
    if strategy.tp > 1:
        content["tensor_parallel"] = {"autotp_size": strategy.tp}
    if strategy.sp > 1:
        content["sequence_parallel_size"] = strategy.sp
    return plain(content), _unsaid("DeepSpeed's configuration", setup, ("pp", "cp", "ep", "vpp"), recompute=True)


def _accelerate(case: Case, setup: Setup) -> Written:
    cluster, strategy, training = setup.cluster, setup.strategy, setup.training
    engine = setup.framework.engine
    if engine not in ("deepspeed", "fsdp1", "fsdp2", "ddp", "torch"):
        raise VramsimError(
            f"accelerate does not run framework {setup.framework.name}; set deepspeed, fsdp2 or ddp first"
        )
    kinds = {"deepspeed": "DEEPSPEED", "ddp": "MULTI_GPU", "torch": "NO"}
    compute = training.precision.compute
    pure = training.precision.name.endswith("pure") and engine != "deepspeed"
    content: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": kinds.get(engine, "FSDP"),
        "mixed_precision": "no" if compute == "fp32" or pure else compute,
        "num_machines": float(cluster.num_devices) / float(cluster.devices_per_node),
        "num_processes": cluster.num_devices,
    }
    notes = _unsaid("accelerate's configuration", setup, ("pp", "ep", "vpp"), recompute=not engine.startswith("fsdp"))
    if engine == "deepspeed":
        section: dict[str, Any] = {
            "zero_stage": strategy.zero_stage,
            "gradient_accumulation_steps": training.gradient_accumulation_steps,
            "gradient_clipping": setup.framework.max_grad_norm,
            "zero3_init_flag": setup.framework.zero_init,
            "zero3_save_16bit_model": setup.framework.save == "full",
        }
        for field, key in (("offload_optimizer", "optimizer"), ("offload_parameters", "param")):
            where = getattr(case.strategy, field)
            section[f"offload_{key}_device"] = where if isinstance(where, str) else "cpu" if where else "none"
            if not isinstance(where, str) and 0 < where < 1:
                notes.append(f"{field} {where:g} is written whole: give a DeepSpeed configuration for a share")
        if strategy.shard_size or strategy.secondary_shard_size:
            notes.append("shard sizes are not written: give a DeepSpeed configuration (--to deepspeed) for them")
        content["deepspeed_config"] = section
    elif content["distributed_type"] == "FSDP":
        offloads = bool(strategy.offload_parameters)
        if offloads != bool(strategy.offload_optimizer):
            notes.append("FSDP offloads parameters, gradients and optimizer together, or nothing")
        content["fsdp_config"] = {
            "fsdp_version": 1 if engine == "fsdp1" else 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": strategy.zero_stage == 3,
            "fsdp_offload_params": offloads,
            "fsdp_activation_checkpointing": strategy.recompute == 1,
            "fsdp_state_dict_type": "FULL_STATE_DICT" if setup.framework.save == "full" else "SHARDED_STATE_DICT",
        }
        if 0 < float(strategy.recompute) < 1 or strategy.recompute_selective:
            notes.append("recompute is written as none: accelerate recomputes every block or nothing")
    if mesh := _mesh(setup):
        content["parallelism_config"] = mesh
    return plain(content), notes


def _mesh(setup: Setup) -> dict[str, Any]:
    """Degrees that accelerate has in a section of its own."""
    strategy = setup.strategy
    degrees = {axis: getattr(strategy, axis) for axis in ("tp", "cp", "sp") if getattr(strategy, axis) > 1}
    grouped = 0 < strategy.shard_size < setup.cluster.num_devices and setup.framework.engine.startswith("fsdp")
    if not degrees and not grouped:
        return {}
    shard = strategy.shard_size / strategy.cp if grouped else setup.data_parallel
    replicate = setup.data_parallel / shard if grouped else 1
    found = {
        "dp_replicate_size": replicate,
        "dp_shard_size": shard,
        **{f"{axis}_size": n for axis, n in degrees.items()},
    }
    return {f"parallelism_config_{key}": value for key, value in found.items()}


def _unsaid(where: str, setup: Setup, axes: tuple[str, ...], recompute: bool) -> list[str]:
    """What belongs in another file."""
    strategy, training = setup.strategy, setup.training
    beyond = [f"{axis} {getattr(strategy, axis):g}" for axis in axes if getattr(strategy, axis) > 1]
    if recompute and (strategy.recompute or strategy.recompute_selective):
        beyond.append("recomputation (gradient_checkpointing of the trainer)")
    if strategy.offload_activations:
        beyond.append("offload of activations")
    beyond += [training.method] if training.method != "full" else []
    return [f"{where} cannot say: {', '.join(beyond)}"] if beyond else []


TARGETS: Mapping[str, Callable[[Case, Setup], Written]] = {
    "deepspeed": _deepspeed,
    "accelerate": _accelerate,
    "trainer": trainer,
    "megatron": megatron,
}
"""Name of a target -> how a case is written as its configuration."""
