"""What an operator on packed frozen weights holds beside them: unpacked copies, and inputs that outlive backward."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks.linear import QKV
from vramsim.layout import Entry, model_of
from vramsim.parts import sharding
from vramsim.spec import Category, Component, Phase, Setup, dtype_bytes
from vramsim.units import Num


def unpacked_bytes(setup: Setup) -> float:
    """Bytes of one element of a packed weight in use: as it unpacks, and as the product reads it. [B]

    setup : resolved run. [-]
    Source: bitsandbytes 0.42 autograd/_functions.py, MatMul4Bit: `dequantize_4bit(B, quant_state).to(A.dtype)`.
    """
    compute, first = setup.training.precision.compute, setup.framework.unpacks_to
    return dtype_bytes(compute) + (dtype_bytes(first) if first and first != compute else 0.0)


def head_copy(setup: Setup) -> Num:
    """Bytes of the head unpacked, where it is packed. [B]

    setup : resolved run. [-]
    """
    entries = sharding.select(setup, lambda entry: entry.quantized and entry.part == "head")
    return unpacked_bytes(setup) * sharding.whole(setup, entries) if entries else 0.0


def held_inputs(setup: Setup) -> Num:
    """Bytes of the inputs of packed layers that stay for as long as the last micro-step's graph does. [B]

    An operator that holds its input as an attribute of the graph's node, not as a saved tensor, keeps it from what
    backward releases: it goes when the loop lets go of the outputs. Recomputed layers have no such nodes of their own.

    setup : resolved run. [-]
    Source: bitsandbytes 0.42 autograd/_functions.py, MatMul4Bit (ctx.tensors); litgpt finetune/lora.py, fit.
    """
    framework = setup.framework
    if not framework.keeps_graph or framework.dequantize != "operator_with_input":
        return 0.0
    width = sum(entry.count * entry.weight.numel / entry.weight.first_dim for entry in _reading(setup))
    compute = dtype_bytes(setup.training.precision.compute)
    return compute * setup.tokens * width * (1.0 - setup.strategy.recompute) / setup.strategy.tp


def _reading(setup: Setup) -> Iterator[Entry]:
    """Packed layers, one for each input: those that read the same tensor hold it together."""
    for entry in sharding.select(setup, lambda e: e.quantized and e.weight.role == "linear"):
        block = model_of(setup).blocks[entry.kind]
        again = [*QKV[1:], *(["up_proj"] if block.mlp.gated else [])]
        if block.parallel and block.num_norms == 1:
            again += ["gate_proj", "up_proj"]
        if entry.weight.module not in again:
            yield entry


def last_graph(setup: Setup) -> Iterator[Component]:
    """Inputs that the last micro-step's graph holds through the next forward.

    setup : resolved run. [-]
    """
    held = held_inputs(setup)
    yield Component("inputs held by the last graph", Category.ACTIVATION, held * setup.stage.blocks, Phase.FORWARD)


def dequantized(setup: Setup) -> Iterator[Component]:
    """The copy in the compute dtype of one quantized weight, while a block multiplies by it; backward always makes it.

    Plain tensor code in place of an operator leaves its copy in the graph until backward has been there.

    setup : resolved run. [-]
    Source: bitsandbytes autograd/_functions.py, MatMul4Bit and MatMul8bitLt; AutoGPTQ
    nn_modules/qlinear/qlinear_cuda_old.py, forward: bits are shifted out as int32.
    """
    if not setup.strategy.quantization.dequantized:
        return
    packed = sharding.select(setup, lambda entry: entry.quantized and entry.part == "block")
    # Experts that are layers of their own unpack one at a time, and gate and up apart; in one parameter, all together.
    whole = setup.framework.grouped_experts
    one = {
        entry.index: entry.weight.rows[0][1] if entry.weight.role == "experts" and not whole else 1
        for entry in packed
        if whole or entry.weight.module != "experts_up"
    }
    largest = sharding.largest(sharding.sizes(setup)[index] / float(alike) for index, alike in one.items())
    size, temporary = dtype_bytes(setup.training.precision.compute), Category.TEMPORARY
    if setup.framework.dequantize != "autograd":
        live = Phase.FORWARD | Phase.BACKWARD | Phase.REDUCE
        yield Component("dequantized weight", temporary, unpacked_bytes(setup) * largest, live)
        return
    recompute, blocks = setup.strategy.recompute, size * sharding.whole(setup, packed)
    block, name = blocks / sharding.layers(setup), "dequantized weights in the graph"
    yield Component(name, temporary, blocks * (1.0 - recompute), Phase.FORWARD | Phase.HEAD)
    kept = blocks * (1.0 - recompute) + block * recompute
    yield Component(name, temporary, kept, Phase.BACKWARD)
    yield Component(name, temporary, block, Phase.REDUCE)
    yield Component("unpacked integers", temporary, (4.0 + size) * largest, Phase.FORWARD)
