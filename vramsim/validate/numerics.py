"""Dtypes and optimizer of a measured run."""

from __future__ import annotations

import re
from dataclasses import replace

from vramsim import catalog
from vramsim.spec import Framework, Lora, Optimizer, Precision
from vramsim.validate import adapters
from vramsim.validate.architecture import Inexpressible
from vramsim.validate.rows import Reader
from vramsim.validate.stacks import Stack


def _dtype(text: str) -> str:
    return re.split(r"[+ ]", text)[0]


WIDE = ("fp32", "bf16", "fp16")


def precision(read: Reader, framework: Framework, lora: Lora | None, stack: Stack) -> Precision:
    """The dtypes of a row: those that it states, and else what its engine does.

    read : a row's columns. [-]   framework : of the row. [-]   lora : its adapters, if any. [-]
    stack : that its framework names. [-]
    """
    row = read.row
    products = _dtype(read.text("compute_dtype", "bf16"))
    compute = products if products in WIDE else "bf16"
    amp = stack.name.startswith("hf") and lora is None and framework.engine in ("torch", "ddp")
    if amp and not row.text("param_dtype"):
        read.assumed.append(("param_dtype", "fp32 under autocast"))
    stored = _dtype(row.text("param_dtype", "fp32" if amp else stack.param_dtype or compute))
    stored = stored if stored in WIDE else compute
    moments = {"adamw_bf16": "bf16", "adamw_fp16": "fp16", "adamw_fp32states": "fp32"}.get(
        row.text("optimizer"), stored
    )
    master = row.text("master_weights").lower() == "true" and stored != "fp32"
    if framework.engine in ("deepspeed", "megatron"):
        master = master or row.text("master_weights") == ""
        moments = "fp32" if master else moments
    if master:
        moments = "fp32"
    # Megatron accumulates bf16 gradients in fp32, and fp16 ones in fp16.
    usual = "fp32" if framework.engine == "megatron" and stored == "bf16" else stored
    gradient = _dtype(row.text("grad_dtype", stack.grad_dtype or usual))
    if framework.engine in ("fsdp1", "fsdp2"):
        if master and stack.copies_master:
            return Precision("row", stored, stored, products, gradient, gradient, "fp32", master=True)
        # A master copy is FSDP's own fp32 shard; gradients are cast back to the stored dtype after the reduction.
        upcasts = stack.name.startswith("hf") and lora is None and row.text("master_weights") == ""
        if upcasts and compute != "fp32":
            read.assumed.append(("master_weights", "accelerate upcasts trained parameters to fp32"))
        stored = "fp32" if master or upcasts else stored
        reduce = gradient if row.text("grad_dtype") else ("fp32" if stored == "fp32" else compute)
        return Precision("row", stored, stored, products, stored, reduce, stored, master=False)
    autocast = stored == "fp32" and compute != "fp32" and framework.engine in ("torch", "ddp")
    gradient = stored if framework.engine in ("torch", "ddp") else gradient
    # prepare_model_for_kbit_training upcasts what stays unquantized, and with it the residual stream; not for GPTQ.
    prepared = row.text("method") == "qlora" and stack.prepares_kbit(row.text("framework"))
    prepared = prepared and not adapters.is_gptq(row)
    stream = "fp32" if prepared else ""
    return Precision("row", stored, stored, products, gradient, gradient, moments, master, autocast, stream)


OPTIMIZERS = (
    (r"adam.?mini", "adam_mini"),
    (r"schedule.?free", "schedule_free_adamw"),
    (r"apollo.?mini", "apollo_mini"),
    (r"apollo.*layer", "apollo_adamw_layerwise"),
    (r"apollo", "apollo_adamw"),
    (r"galore.*layer", "galore_adamw_layerwise"),
    (r"galore.*8.?bit", "galore_adamw_8bit"),
    (r"galore", "galore_adamw"),
    (r"muon", "muon"),
    (r"adalomo", "adalomo"),
    (r"lomo", "lomo"),
    (r"badam", "badam"),
    (r"^lisa", "lisa"),
    (r"foreach", "adamw_foreach"),
    (r"fused", "adamw_fused"),
    (r"single", "adamw_single"),
    (r"paged.*8.?bit", "paged_adamw_8bit"),
    (r"paged", "paged_adamw_32bit"),
    (r"adamw?_?8.?bit", "adamw_8bit"),
    (r"adamw?_?4.?bit", "adamw_4bit"),
    (r"adamw?_?fp8", "adamw_fp8"),
    (r"adafactor", "adafactor"),
    (r"lion.*8.?bit", "lion_8bit"),
    (r"lion", "lion"),
    (r"^sgd$", "sgd"),
    (r"adam|^$", "adamw"),
)


def optimizer(read: Reader, framework: Framework, stack: Stack) -> Optimizer:
    """The optimizer of a row, AdamW if it names none.

    read : a row's columns. [-]   framework : of the row. [-]   stack : that its framework names. [-]
    Raises Inexpressible for one that is not modelled.
    """
    text = read.text("optimizer", "adamw").lower()
    for pattern, name in OPTIMIZERS:
        if re.search(pattern, text):
            rule = catalog.optimizer(name, framework.gpu_optimizer)
            if found := re.search(r"rank (\d+)", text):
                rule = replace(rule, rank=int(found[1]))
            forgets = rule.forgets or stack.freezes_first
            gradients = "one" if "in backward" in text or "in_bwd" in text else rule.gradients
            return replace(rule, gradients=gradients, forgets=forgets)
    raise Inexpressible(f"the optimizer {text} is not modelled")
