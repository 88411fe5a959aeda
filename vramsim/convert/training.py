"""The training section of a case: lengths, batches, precision, optimizer, adapters."""

from __future__ import annotations

import re
from typing import Any

from vramsim import catalog
from vramsim.convert.known import Known
from vramsim.formats.words import AUTO


def training_of(known: Known, engine: str) -> dict[str, Any]:
    """What is trained and how, as far as files give it.

    known : merged facts; notes are added to it. [-]   engine : what shards. [-]
    """
    training: dict[str, Any] = {}
    method = method_of(known)
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


def method_of(known: Known) -> str:
    """Full | lora | qlora.

    known : merged facts. [-]
    """
    if given := known.stated("training.method"):
        return str(given)
    # ms-swift adapts by default, except where it trains with Megatron.
    adapter = known.stated("adapter") if known.get("megatron_mesh") else known.get("adapter")
    adapter = "lora" if adapter is None and known.stated("training.lora.rank") else adapter or "full"
    if adapter == "full":
        return "full"
    quantized = known.get("bits") in (4, 8) or adapter == "qlora" or quantized_checkpoint(known)
    return "qlora" if quantized else "lora"


def quantized_checkpoint(known: Known) -> str:
    """How the weights of a checkpoint are stored that says so by its name; nothing where it does not.

    known : merged facts. [-]
    """
    found = re.search(r"gptq|awq|bnb-4bit|nf4", str(known.get("model", "")), re.IGNORECASE)
    return {"gptq": "gptq_int4", "awq": "gptq_int4"}.get(found.group().lower(), "nf4") if found else ""


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
