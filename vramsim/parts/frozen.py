"""What a frozen base costs beside its products: adapters' casts, dropout and sums, and casts around packed weights."""

from __future__ import annotations

from vramsim.layout import joined, ledger_of
from vramsim.parts import products
from vramsim.spec import Block, Setup, dtype_bytes
from vramsim.units import Num

CAST = 6.0
"""HBM bytes per element of a cast between fp32 and 16 bits. [B]"""
MASK = 1.0
"""Bytes per element of dropout's mask. [B]"""


def adapter_bytes(setup: Setup) -> tuple[Num, Num]:
    """HBM bytes per token of all adapters beside their products, forward and backward.

    PEFT casts the input to the adapter's dtype, drops some of it, multiplies twice, scales the result and adds it to
    the layer's own. Each has its gradient but the addition, whose sums are counted with those of other readers.

    setup : resolved run. [-]
    Source: huggingface/peft tuners/lora/layer.py, Linear.forward.
    """
    lora = setup.training.lora
    if lora is None:
        return 0.0, 0.0
    own = dtype_bytes(products.adapter_dtype(setup))
    base = products.SMALLEST_ELEMENT
    cast = CAST if own > base else 0.0
    dropped = 2.0 * own + MASK if lora.dropout else 0.0
    ahead: Num = 0.0
    back: Num = 0.0
    for entry in ledger_of(setup):
        weight = entry.weight
        if not weight.adapter or entry.part != "block":
            continue
        if weight.cols[0][0] == "":
            scaled, added = 2.0 * own, base + 2.0 * own
            ahead = ahead + entry.count * float(weight.first_dim) * (scaled + added + cast)
            back = back + entry.count * float(weight.first_dim) * (scaled + cast)
        elif not joined(setup, entry):
            width = entry.count * weight.numel / weight.first_dim
            ahead, back = ahead + width * (cast + dropped), back + width * (cast + dropped)
    return ahead / setup.strategy.tp, back / setup.strategy.tp


def cast_bytes(setup: Setup, block: Block) -> Num:
    """HBM bytes per token of one layer's casts, where packed weights compute in 16 bits within an fp32 stream.

    Each linear layer casts its input down and its result up again, and attention casts queries, keys and values; the
    projection of its output reads 16 bits and leaves them.

    setup : resolved run. [-]   block : of the model. [-]
    Source: bitsandbytes nn/modules.py, Linear4bit.forward; huggingface/transformers modeling_flash_attention_utils.py.
    """
    if not wide(setup):
        return 0.0
    shape, mlp = block.attention, block.mlp
    qkv = (shape.heads + 2.0 * shape.kv_heads) * shape.head_dim
    copies, gates = max(mlp.top_k, 1), 2.0 if mlp.gated else 1.0
    ffn = copies * mlp.ffn + mlp.shared_ffn
    narrowed = 3.0 * block.hidden + qkv + copies * gates * block.hidden + ffn
    widened = qkv + gates * ffn + copies * block.hidden
    return CAST * (narrowed + widened)


def wide(setup: Setup) -> bool:
    """Whether what packed weights read and write is fp32: the residual stream of prepare_model_for_kbit_training.

    setup : resolved run. [-]
    """
    return setup.strategy.quantization.dequantized and products.stream_bytes(setup) > products.SMALLEST_ELEMENT
