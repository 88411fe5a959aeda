"""Adapters and quantized weights of a measured run."""

from __future__ import annotations

import re

from vramsim import catalog
from vramsim.errors import VramsimError
from vramsim.spec import Lora, Quantization
from vramsim.validate.architecture import Inexpressible
from vramsim.validate.rows import Reader, Row
from vramsim.validate.stacks import Stack

TARGETS = {"mlp": ("gate_proj", "up_proj", "down_proj"), "c_attn": ("q_proj", "k_proj", "v_proj")}
"""A table's name of a group of modules -> the modules."""

EMBEDDING_TRAINS = r"trains? (the )?embeddings? and (the )?(lm_head|output)"
"""How notes say that adapters train the embedding and the head whole."""


def is_gptq(row: Row) -> bool:
    """Whether a row's base is stored by GPTQ.

    row : measured run. [-]
    """
    return "gptq" in (row.text("base_quant") + row.text("note")).lower() and row.text("method") == "qlora"


def dequantize(row: Row) -> str:
    """How frozen weights are unpacked.

    AutoGPTQ's exllama kernels have no backward, so that training goes without, by plain code, except by
    fms-acceleration's plug-in, which brings kernels of its own. bitsandbytes held its inputs until 0.43.2 of July 2024
    (autograd/_functions.py, MatMul4Bit; pull request 1270).

    row : measured run. [-]
    """
    if row.text("method") != "qlora":
        return "operator"
    if is_gptq(row):
        return "operator" if "accelerated-peft" in row.text("framework") else "autograd"
    when = re.search(r"(20\d\d)(?:-(\d\d))?", row.text("version"))
    return "operator_with_input" if when and (when[1], when[2] or "12") < ("2024", "07") else "operator"


UNGROUPED = r"TheBloke/.*(70[Bb]|65[Bb]|8x7[Bb]).*GPTQ"
"""Published checkpoints whose main branch is quantized without groups, as the bytes of runs with them imply; the same
publisher's smaller models have groups of 128. Inferred: the model cards that would say so were not at hand."""


def quantization(read: Reader) -> Quantization:
    """How a row's frozen weights are stored.

    read : row, which notes what is assumed. [-]
    Raises Inexpressible for a format that is not modelled.
    """
    text = read.row.text("base_quant", "none").split("(")[0].strip().replace("-", "_")
    method = read.row.text("method", "full")
    if "peft-bnb" in read.row.text("framework"):
        # fms-acceleration's plug-in (framework_plugin_bnb.py) asks for double quantization, whatever the type.
        text = f"{text}_dq" if text == "nf4" else text
    if method == "qlora" and text == "none":
        text = "gptq_int4" if "gptq int4" in read.row.text("note").lower() else "nf4"
        read.assumed.append(("base_quant", text))
    if text == "gptq_int4" and re.search(UNGROUPED, read.row.text("model")):
        text = "gptq_int4_channel"
        read.assumed.append(("base_quant", "no groups in the published checkpoint"))
    try:
        return catalog.quantization(text)
    except VramsimError:
        raise Inexpressible(f"the quantization {text} is not modelled") from None


def lora(read: Reader, stack: Stack) -> Lora | None:
    """A row's adapters, None when all weights train.

    read : row, which notes what is assumed. [-]   stack : software that the row names. [-]
    Raises Inexpressible for a method that is not modelled.
    """
    row = read.row
    method = row.text("method", "full")
    if method == "full":
        return None
    if method not in ("lora", "qlora"):
        raise Inexpressible(f"the method {method} is not modelled")
    targets: list[str] = []
    names = re.split(r"[;,]\s*", read.text("lora_targets", stack.lora_targets))
    if "c_attn" in names and re.search("gpt_bigcode|gpt-?2|santacoder|starcoder", row.text("model").lower()):
        # One list for several architectures: this one has none of the others' names.
        names = [name for name in names if not name.endswith("_proj") or name == "c_proj"]
    for name in names:
        found = TARGETS.get(name, (name if name.endswith("_proj") or name == "all-linear" else f"{name}_proj",))
        targets += [each for each in found if each not in targets]
    if "default attn qkv_proj" in targets:
        targets = ["q_proj", "k_proj", "v_proj"]
    dtype = row.text("lora_adapter_dtype", stack.adapter_dtype)
    return Lora(
        int(read.number("lora_rank", stack.lora_rank)),
        tuple(targets),
        dropout=row.number("lora_dropout", stack.lora_dropout),
        adapter_dtype=dtype,
        modules_to_save=("embed_tokens", "lm_head") if re.search(EMBEDDING_TRAINS, row.text("note")) else (),
    )
