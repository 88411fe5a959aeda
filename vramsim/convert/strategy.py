"""The strategy section of a case: sharding, degrees, recomputation, offload, quantization."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vramsim.convert.known import Known
from vramsim.convert.training import method_of, quantized_checkpoint

STAGES = {"FULL_SHARD": 3, "HYBRID_SHARD": 3, "SHARD_GRAD_OP": 2, "HYBRID_SHARD_ZERO2": 2, "OPTIM": 1, "NO_SHARD": 0}
AXES = ("tp", "pp", "vpp", "cp", "sp", "ep")


def strategy_of(known: Known, engine: str, cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Sharding, degrees, recomputation, offload and quantization, as far as files give them.

    known : merged facts; notes are added to it. [-]   engine : what shards. [-]   cluster : of the case. [-]
    """
    stated = known.within("strategy")
    strategy: dict[str, Any] = {}
    if (stage := _zero_stage(known, engine)) is not None:
        strategy["zero_stage"] = stage
    strategy |= {axis: value for axis in AXES if (value := known.get(f"strategy.{axis}", 1)) != 1}
    for name in ("schedule", "etp", "shard_size", "secondary_shard_size", "expert_load"):
        if stated.get(name):
            strategy[name] = stated[name]
    replicate = known.get("dp_replicate", 1)
    if replicate > 1 and known.get("dp_shard"):
        strategy["shard_size"] = known.get("dp_shard") * known.get("strategy.cp", 1)
    elif str(known.get("fsdp_sharding")).startswith("HYBRID"):
        if per_node := cluster.get("devices_per_node"):
            strategy["shard_size"] = per_node
        else:
            known.notes.append("hybrid sharding is within a node, whose size no file gives: set shard_size")
    if strategy.get("shard_size") == cluster.get("num_devices"):
        strategy.pop("shard_size", None)
    if known.get("strategy.megatron_sp") and strategy.get("tp", 1) > 1:
        strategy["megatron_sp"] = True
    if chunk := known.get("layers_per_chunk"):
        layers, stages = known.get("model.num_hidden_layers"), strategy.get("pp", 1)
        if layers and stages > 1 and layers % (stages * chunk) == 0:
            strategy["vpp"] = layers // (stages * chunk)
    if (recompute := _recompute(known, strategy)) is not None:
        strategy["recompute"] = recompute
    strategy |= _offload(known, engine, stated)
    if method_of(known) == "qlora":
        strategy["quantization"] = known.stated("strategy.quantization") or _quantization(known)
    return strategy


def _zero_stage(known: Known, engine: str) -> int | None:
    stated = known.stated("strategy.zero_stage")
    if engine == "fsdp":
        return STAGES.get(str(known.get("fsdp_sharding", "FULL_SHARD")), 3)
    if engine in ("ddp", "single"):
        return 0
    if stated is not None:
        return int(stated)
    if engine == "deepspeed" and "deepspeed_file" in known.facts and not known.get("overlap_by_stage"):
        return None
    if known.get("overlap_by_stage") is None and known.get("zero_of_launcher") is not None and engine == "deepspeed":
        return int(known.get("zero_of_launcher"))
    stage = known.get("strategy.zero_stage")
    return None if stage is None else int(stage)


def _recompute(known: Known, strategy: Mapping[str, Any]) -> Any:
    if mode := known.get("titan_checkpointing"):
        option = str(known.get("titan_option", "2"))
        if mode != "selective":
            return "full" if mode in ("full", "memory_budget") else "none"
        if option.isdigit() and int(option) > 0:
            return round(1 / int(option), 6)
        known.notes.append("selective checkpoints per operation are taken to be of attention alone")
        return "selective"
    recompute = known.get("strategy.recompute")
    if known.get("megatron_mesh") and known.get("program") == "swift" and known.stated("strategy.recompute") is None:
        recompute = "selective"  # swift/megatron/argument/megatron_args.py
    layers, count = known.get("model.num_hidden_layers"), known.get("recompute_layers")
    if recompute == "full" and known.get("recompute_method") == "block" and layers and count:
        return min(1.0, count * strategy.get("pp", 1) * strategy.get("vpp", 1) / layers)
    return recompute


def _offload(known: Known, engine: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: stated[name] for name in ("offload_optimizer", "offload_parameters") if name in stated}
    if engine == "fsdp" and known.get("fsdp_offload"):
        found = {"offload_optimizer": "cpu", "offload_parameters": "cpu"}
    found = {name: where for name, where in found.items() if where != "none"}
    ratio = known.get("offload_ratio", 1)
    if found.get("offload_optimizer") == "cpu" and 0 < ratio < 1:
        found["offload_optimizer"] = ratio
    if stated.get("offload_activations", "none") != "none":
        found["offload_activations"] = stated["offload_activations"]
    return found


def _quantization(known: Known) -> str:
    if known.get("bits") is None and (stored := quantized_checkpoint(known)):
        known.notes.append(f"{known.get('model')} is taken to be stored as {stored}, by its name")
        return stored
    if known.get("bits") == 8:
        return "int8"
    kind = str(known.get("quant_type", "nf4")).lower()
    kind = kind if re.fullmatch("nf4|fp4", kind) else "nf4"
    return f"{kind}_dq" if known.get("double_quant") else kind
