"""What software a measured run ran: the knobs of its framework."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from vramsim import catalog
from vramsim.spec import Framework
from vramsim.validate import adapters, lengths, recipes
from vramsim.validate.families import family_of
from vramsim.validate.rows import Reader, Row
from vramsim.validate.stacks import Stack


def framework(read: Reader, stack: Stack) -> Framework:
    """The framework of a row: its stack's knobs, and what columns, versions and notes say otherwise.

    read : a row's columns. [-]   stack : that its framework names. [-]
    """
    row = read.row
    sharding = stack.sharded(row.text("sharding") or stack.sharding)
    second = stack.name in ("torchtitan", "torchtune") or "fsdp2" in row.text("framework").lower()
    fsdp = "fsdp2" if second else "fsdp1"
    engine = {"none": "torch", "ddp": "ddp", "fsdp": fsdp, "hsdp": fsdp}.get(sharding, "deepspeed")
    # A table may give the sharding as the ZeRO stage that it amounts to.
    if engine == "deepspeed" and re.search(r"fsdp|torchtitan", row.text("framework").lower()):
        engine = fsdp
    knobs: dict[str, object] = dict(stack.knobs) | (recipes.knobs(row) if stack.name == "nemo" else {})
    if stack.preset and not sharding.startswith(("fsdp", "hsdp")):
        preset = catalog.make_framework(stack.preset)
        engine = preset.engine
    else:
        preset = Framework(name=stack.name, engine=engine)
    attention = row.text("attention", "flash").lower()
    if re.search(r"eager|unfused|no flash", attention):
        knobs["attention"] = "unfused" if stack.preset else "eager"
    elif "sdpa" in attention and row.text("gpu_type").startswith("MI"):
        # PyTorch's on ROCm is AOTriton's (aten/src/ATen/native/transformers/hip).
        knobs["attention"] = "triton"
    elif re.search(r"flash|sdpa", row.text("attention").lower()) and knobs.get("attention") == "unfused":
        knobs["attention"] = "flash"
    elif attention == "sdpa_mask":
        # With a mask transformers repeats keys and values itself (integrations/sdpa_attention.py, use_gqa_in_sdpa).
        knobs["expand_kv"] = True
    if row.text("compile").lower() == "true" or re.search(r"torch\.compile|, compile,", row.text("note")):
        knobs |= {"norm": "fused", "activation": "fused"}
        if stack.name == "torchtitan" and not re.match(r"202[0-4]", row.text("version")):
            # From 2025 on; at the end of 2024 the loss was left out (torchtitan e8977b0, d1f62be).
            knobs["loss"] = "compiled"
    if stack.name == "torchtitan" and not re.match(r"202[6-9]", row.text("version")):
        # Until January 2026 keys and values were repeated for each query head (torchtitan ff0829c).
        knobs["expand_kv"] = True
    if knobs.get("loss") == "hf_legacy" and _transformers(row) >= (4, 46):
        # The loss function casts logits up itself, without a shifted copy that the model holds.
        knobs["loss"] = "hf"
    loss = row.text("fused_ce")
    if loss == "none" and stack.plain_loss:
        knobs["loss"] = stack.plain_loss
    elif loss.startswith("chunked") and stack.chunk_tokens:
        knobs["loss_chunks"] = max(math.ceil(lengths.seq_len(read) / stack.chunk_tokens), 1)
    elif loss.startswith("chunked"):
        knobs |= {"loss": "chunked", "loss_chunks": int(loss[7:] or 8)}
    elif loss == "liger" and stack.knobs.get("loss") != "liger":
        # Liger patches the whole model; the accelerated plug-ins take its loss alone.
        knobs |= {"loss": "liger", "norm": "fused", "activation": "fused"}
    elif loss == "cut":
        knobs["loss"] = "cut"
    if engine == "fsdp2" and re.match(r"202[0-4]|2025-0[1-8]", row.text("version")):
        # accelerate's no_sync did nothing to FSDP2 until September 2025 (accelerate ec92b1af).
        knobs["sync_accumulation"] = True
    if re.search(r"\bdeepep\b", row.text("note")):
        knobs["dispatcher"] = "flex"
    if row.text("fsdp_wrap"):
        knobs["wrap"] = row.text("fsdp_wrap")
    if row.text("ddp_gradient_as_bucket_view"):
        knobs["gradient_as_bucket_view"] = row.text("ddp_gradient_as_bucket_view") == "true"
    if row.text("keep_outputs"):
        knobs["keep_outputs"] = "compute" if row.text("keep_outputs") == "true" else "none"
    if row.mean_tokens and not row.text("seq_len"):
        knobs["reads_lengths"] = stack.name.startswith("hf")
    # Its fused adapters stay out of FSDP (fms-acceleration, framework_plugin_fast_kernels.py).
    if "foak" in stack.name and row.text("method") == "qlora":
        knobs["replicates_adapters"] = True
    # The Trainer's outputs are alive while the loss goes backward; under FSDP only the last hidden state is.
    if stack.name.startswith("hf") and row.text("method", "full") != "full":
        knobs["keep_outputs"] = "hidden" if engine == "fsdp1" else "compute"
    family = family_of(row.text("model").lower())
    if knobs.get("loss") == "hf_legacy" and family is not None and not family.upcasts:
        # Autocast makes the loss compute in fp32, and accelerate casts the outputs; nothing else does.
        knobs |= {"loss": "hf", "keep_outputs": "none"} if stack.name.startswith("hf") else {"loss": "no_upcast"}
    if "quantize_moe_experts" in row.text("note"):
        knobs["packs_experts"] = True
    if "experts made linear layers" in row.text("note"):
        knobs["grouped_experts"] = False
    knobs.setdefault("dequantize", adapters.dequantize(row))
    if "gpu_optimizer" not in knobs and not stack.preset:
        # A foreach step is PyTorch's default from 2.0 (March 2023) on, and had one more temporary at first.
        version = row.text("version").lower()
        if re.search(r"torch 2\.0\b", version):
            knobs["gpu_optimizer"] = "foreach_2.0"
        elif re.match(r"20(1\d|2[0-2])\b", version):
            knobs["gpu_optimizer"] = "single"
    return replace(preset, name=stack.name, engine=engine, **knobs)  # type: ignore[arg-type]


def _transformers(row: Row) -> tuple[int, int]:
    """Release of transformers that a row's version names; (0, 0) if it names none."""
    found = re.search(r"transformers (\d+)\.(\d+)", row.text("version"))
    return (int(found[1]), int(found[2])) if found else (0, 0)
