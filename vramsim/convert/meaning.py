"""From merged facts to a case: what a set of files means together, one topic after another.

Every function takes what is known and returns what it adds to the case; none looks at files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from vramsim import catalog
from vramsim.convert.architecture import model_of
from vramsim.convert.merging import value_of
from vramsim.errors import VramsimError
from vramsim.formats.facts import Fact
from vramsim.formats.words import AUTO

CASE_WORDS = ("cluster", "training", "strategy")


@dataclass(frozen=True, slots=True)
class Known:
    """Merged facts, and notes on what was made of them."""

    facts: Mapping[str, Fact]
    notes: list[str] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        """Value of a field; `auto` is none."""
        return value_of(self.facts, name, default)

    def stated(self, name: str) -> Any:
        """Value of a field if a file states it."""
        fact = self.facts.get(name)
        return fact.value if fact is not None and fact.stated and fact.value != AUTO else None

    def auto(self, name: str) -> bool:
        """Whether a file leaves a field to another, and none gives it."""
        return name in self.facts and self.facts[name].value == AUTO

    def within(self, section: str) -> dict[str, Any]:
        """What files state of a section, by the last words of its fields."""
        start = f"{section}."
        names = [name for name in self.facts if name.startswith(start) and "." not in name.removeprefix(start)]
        return {name.removeprefix(start): value for name in names if (value := self.stated(name)) is not None}


def case_of(known: Known) -> tuple[dict[str, Any], list[str]]:
    """The case that facts describe, as far as they do, and the names of what is missing, as `--set` takes them.

    known : merged facts; notes are added to it. [-]
    """
    cluster = _cluster(known)
    engine = _engine(known, cluster.get("num_devices"))
    model, lacking = model_of(known)
    framework = _framework(known, engine, cluster.get("num_devices"))
    training = _training(known, engine)
    strategy = _strategy(known, engine, cluster)
    framework |= _buckets(known, model, framework)
    name = framework.pop("name", None)
    described: dict[str, Any] = {"model": model} if model else {}
    described["cluster"] = cluster
    if name:
        described["framework"] = {"name": name, **framework} if framework else name
    described |= {"training": training, "strategy": strategy}
    missing = [] if model else ["model"]
    missing += lacking
    absent = [key for key in ("device", "num_devices") if key not in cluster]
    missing += ["cluster"] if len(absent) == 2 and not cluster else absent
    missing += [] if name else ["framework"]
    missing += [] if "seq_len" in training else ["seq_len"]
    unread = known.get("deepspeed_file") is not None and engine == "deepspeed" and strategy.get("zero_stage") is None
    missing += ["zero_stage"] if unread else []
    if not framework:
        described.pop("framework", None) if not name else None
    return {key: value for key, value in described.items() if value != {}}, missing


# Machines and engine --------------------------------------------------------------------------------------------------


def _cluster(known: Known) -> dict[str, Any]:
    cluster = known.within("cluster")
    nodes, mesh = known.get("nodes"), _mesh(known)
    if known.get("engine") == "single":
        if cluster.get("num_devices", 1) != 1:
            known.notes.append("one process is launched, whatever number of processes is written down")
        cluster["num_devices"] = 1
    elif "num_devices" not in cluster:
        world = known.get("world_size")
        per_node = cluster.get("devices_per_node")
        if per_node is not None and (nodes is not None or world is None and mesh is None):
            cluster["num_devices"] = per_node * (nodes or 1)
            if nodes is None:
                known.notes.append(f"no file says how many nodes there are: one of {per_node} devices")
        elif world or mesh:
            cluster["num_devices"] = world or mesh
    devices = cluster.get("num_devices")
    if nodes and devices and "devices_per_node" not in cluster and devices % nodes == 0 and nodes > 1:
        cluster["devices_per_node"] = devices // nodes
    return cluster


def _mesh(known: Known) -> int | None:
    """Devices of a mesh of which every degree is written down."""
    shard, replicate = known.get("dp_shard"), known.get("dp_replicate", 1)
    if shard is None:
        return None
    return int(prod([shard, replicate, *(known.get(f"strategy.{axis}", 1) for axis in ("tp", "pp", "cp", "sp"))]))


def _engine(known: Known, devices: Any) -> str:
    """deepspeed | fsdp | ddp | single | megatron, or nothing where no file gives a hint."""
    program, stated = known.get("program"), known.get("engine")
    if program == "megatron":
        return "deepspeed" if known.get("megatron_deepspeed") or known.get("deepspeed_file") else "megatron"
    if stated == "ddp" and devices == 1:
        return "single"
    if stated:
        return str(stated)
    if known.get("deepspeed_file") or known.get("strategy.zero_stage"):
        return "deepspeed"
    if known.get("fsdp_sharding") or known.get("dp_shard", 1) > 1:
        return "fsdp"
    if program is None:
        return ""
    return "single" if devices == 1 else "ddp"


# Framework ------------------------------------------------------------------------------------------------------------

PRESETS = {"fsdp": "hf-trainer-fsdp", "deepspeed": "deepspeed", "ddp": "ddp", "megatron": "megatron"}


def _framework(known: Known, engine: str, devices: Any) -> dict[str, Any]:
    """The preset, and the knobs that files set."""
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
        name = "torch" if devices in (1, None) and not known.get("fsdp_offload") else "fsdp2"
    if program == "megatron" and engine == "deepspeed":
        name = "megatron-deepspeed"
    if engine == "fsdp" and known.get("fsdp_sharding") == "NO_SHARD":
        name = "ddp"
    if engine == "fsdp" and name == "hf-trainer-fsdp" and known.get("fsdp_version", 1) == 1:
        known.notes.append("FSDP version 1 is estimated as FSDP2 is: its flat parameters are not modelled apart")
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
    reentrant = known.get("framework.reentrant_checkpoint")
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


HIDDEN = {
    "reduce_bucket_size": lambda hidden: hidden**2,
    "prefetch_bucket_size": lambda hidden: int(0.9 * hidden**2),
    "param_persistence_threshold": lambda hidden: 10 * hidden,
}
"""Knob -> what `auto` stands for, by the model's hidden size (transformers integrations/deepspeed.py)."""


def _buckets(known: Known, model: Any, framework: Mapping[str, Any]) -> dict[str, Any]:
    left = [knob for knob in HIDDEN if known.auto(f"framework.{knob}")]
    if not left or known.get("program") == "xtuner" or not framework:
        return {}
    hidden = model_hidden(model)
    if hidden is None:
        known.notes.append(
            f"auto, a function of the model, which no file gives: {', '.join(left)} as by DeepSpeed itself"
        )
        return {}
    return {knob: HIDDEN[knob](hidden) for knob in left}


def model_hidden(model: Any) -> int | None:
    """Hidden size of a case's model; None where it cannot be told.

    model : as the case has it. [-]
    """
    if isinstance(model, str):
        try:
            if model.endswith(".json"):
                from vramsim.formats.hf import read_config

                return int(read_config(model).hidden)
            return int(catalog.model(model).hidden)
        except VramsimError:
            return None
    hidden = model.get("hidden_size") if isinstance(model, dict) else None
    return int(hidden) if isinstance(hidden, int | float) else None


# Training -------------------------------------------------------------------------------------------------------------


def _training(known: Known, engine: str) -> dict[str, Any]:
    training: dict[str, Any] = {}
    method = _method(known)
    if method != "full" or "adapter" in known.facts or "training.method" in known.facts:
        training["method"] = method
    if seq_len := known.get("training.seq_len"):
        training["seq_len"] = seq_len
        if "training.seq_len" in known.facts and not known.facts["training.seq_len"].stated:
            known.notes.append(f"seq_len is {seq_len}, the program's default")
    fact = known.facts.get("training.micro_batch_size")
    if (micro := known.get("training.micro_batch_size")) is not None:
        training["micro_batch_size"] = micro
    if fact is not None and not fact.stated and fact.value not in (1, AUTO):
        known.notes.append(f"micro_batch_size is {fact.value}, the program's default")
    steps, batch = known.stated("training.gradient_accumulation_steps"), known.stated("training.global_batch_size")
    if batch is not None and steps is None:
        training["global_batch_size"] = batch
    elif steps is not None:
        training["gradient_accumulation_steps"] = steps
    if fact is None and batch is not None and steps is not None:
        # DeepSpeed derives the third of micro-batch, accumulation and global batch from the other two.
        if devices := known.stated("cluster.num_devices"):
            training["micro_batch_size"] = max(1, int(batch / steps / devices))
        else:
            del training["gradient_accumulation_steps"]
            training["global_batch_size"] = batch
            known.notes.append("the micro-batch follows from the number of devices, which no file gives: 1")
    if (precision := _precision(known, engine, method)) is not None:
        training["precision"] = precision
    if (optimizer := _optimizer(known, engine)) is not None:
        training["optimizer"] = optimizer
    if method != "full":
        training["lora"] = _lora(known)
    for name in ("freeze_vision", "image_tokens"):
        if (value := known.stated(f"training.{name}")) is not None:
            training[name] = value
    return training


def _method(known: Known) -> str:
    if given := known.stated("training.method"):
        return str(given)
    adapter = known.get("adapter")
    adapter = "lora" if adapter is None and known.stated("training.lora.rank") else adapter or "full"
    if adapter == "full":
        return "full"
    return "qlora" if known.get("bits") in (4, 8) or adapter == "qlora" else "lora"


def _lora(known: Known) -> dict[str, Any]:
    names = ("rank", "alpha", "targets", "dropout", "adapter_dtype", "modules_to_save")
    found = {name: value for name in names if (value := known.get(f"training.lora.{name}")) is not None}
    if known.get("program") == "llamafactory" and known.stated("training.lora.alpha") is None:
        found["alpha"] = 2 * found["rank"]  # hparams/finetuning_args.py
    attention = known.stated("tune_attention")
    if attention is not None or known.get("tune_mlp"):
        feed_forward = ["gate_proj", "up_proj", "down_proj"] if known.get("tune_mlp") else []
        found["targets"] = [*(attention or ()), *feed_forward]
    return found


def _precision(known: Known, engine: str, method: str) -> Any:
    """A precision by its name, and the dtypes of it that files change."""
    changes = known.within("training.precision")
    if known.auto("dtype"):
        known.notes.append("the precision is auto, and no other file gives it: bf16")
    if not changes and not {"dtype", "model_dtype", "training.precision", "grad_in_bf16"} & set(known.facts):
        return None
    name = known.stated("training.precision") or _named_precision(known, engine, method)
    if known.get("grad_in_bf16"):
        changes |= {"grad": "bf16", "reduce": "bf16"} if known.get("program") == "megatron" else {}
    base = catalog.precision(_catalog_engine(engine, known), name, method)
    changes = {key: value for key, value in changes.items() if getattr(base, key, None) != value}
    return {"name": name, **changes} if changes else name


def _catalog_engine(engine: str, known: Known) -> str:
    if engine == "fsdp" and known.get("fsdp_sharding") == "NO_SHARD":
        return "ddp"
    return {"fsdp": "fsdp2", "single": "torch", "": "torch"}.get(engine, engine)


def _named_precision(known: Known, engine: str, method: str) -> str:
    dtype, model, program = known.get("dtype", "bf16"), known.get("model_dtype"), known.get("program")
    if dtype == "no":
        # Nothing is cast: a model computes in the dtype that it is loaded in.
        dtype, model = model or "fp32", None
        return dtype if dtype == "fp32" or engine == "deepspeed" else f"{dtype}_pure"
    if engine in ("deepspeed", "megatron") or dtype == "fp32":
        return str(dtype)
    loaded = model == dtype if program != "torchtitan" else model == "bf16"
    pure = known.get("pure") and (engine != "fsdp" or program == "torchtune") and method == "full"
    # accelerate keeps FSDP's trainable shards in fp32, whatever a model was loaded in.
    return f"{dtype}_pure" if pure or (loaded and (engine != "fsdp" or program == "torchtitan")) else str(dtype)


def _optimizer(known: Known, engine: str) -> Any:
    name = known.get("deepspeed_optimizer") if engine == "deepspeed" else None
    name = name or known.get("training.optimizer")
    fused = known.get("titan_implementation") == "fused" or known.get("tune_fused")
    if fused and name == "adamw":
        name = "adamw_fused"
    if isinstance(name, str) and known.get("early_step"):
        return {"name": name, "gradients": "one"}
    return name


# Strategy -------------------------------------------------------------------------------------------------------------

STAGES = {"FULL_SHARD": 3, "HYBRID_SHARD": 3, "SHARD_GRAD_OP": 2, "HYBRID_SHARD_ZERO2": 2, "OPTIM": 1, "NO_SHARD": 0}
AXES = ("tp", "pp", "vpp", "cp", "sp", "ep")


def _strategy(known: Known, engine: str, cluster: Mapping[str, Any]) -> dict[str, Any]:
    stated = known.within("strategy")
    strategy: dict[str, Any] = {}
    if (stage := _zero_stage(known, engine)) is not None:
        strategy["zero_stage"] = stage
    strategy |= {axis: value for axis in AXES if (value := known.get(f"strategy.{axis}", 1)) != 1}
    for name in ("schedule", "shard_size", "secondary_shard_size", "expert_load"):
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
    if _method(known) == "qlora":
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
    if known.get("bits") == 8:
        return "int8"
    kind = str(known.get("quant_type", "nf4")).lower()
    kind = kind if re.fullmatch("nf4|fp4", kind) else "nf4"
    return f"{kind}_dq" if known.get("double_quant") else kind
