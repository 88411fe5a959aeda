"""Megatron-Core: a gradient buffer for good, inputs gathered again under sequence parallelism.

Bytes for each parameter in bf16: 2 as stored, 4 of the gradient buffer, 4 + 8 of master copy and moments, the last 12
over d ranks with the distributed optimizer (zero_stage 1): 6 + 12/d, or 18.
"""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.equations import memory, quantization
from vramsim.layout import largest_block, local_size
from vramsim.parts import sharding
from vramsim.spec import ALWAYS, TRAINING, Category, Component, Phase, Setup, Tier, dtype_bytes
from vramsim.units import Num, in_order, maximum, where


def gradients(setup: Setup) -> Iterator[Component]:
    """The contiguous buffer of main gradients, which the weight-gradient products add to (equation M10).

    The embedding's gradient alone is made apart and added. What an offloaded optimizer steps on is copied to the host.

    setup : resolved run. [-]
    Source: Megatron-LM core/distributed/param_and_grad_buffer.py; core/optimizer/distrib_optimizer.py.
    """
    precision, strategy = setup.training.precision, setup.strategy
    entries, category = sharding.trained(setup), Category.GRADIENT
    element = dtype_bytes(precision.grad)
    buffer = memory.main_gradients(sharding.whole(setup, entries), element)
    yield Component("main gradients, allocated for good", category, buffer, ALWAYS)
    embeddings = [entry for entry in entries if entry.part == "embedding"]
    made = dtype_bytes(precision.param) * sharding.whole(setup, embeddings)
    yield Component("gradient of the embedding", category, made * setup.stage.embedding, Phase.REDUCE)
    owned = sharding.optimizer_elements(setup)
    host = 4.0 * owned * strategy.offload_optimizer
    yield Component("gradients on the host", category, host, ALWAYS, Tier.HOST)


def dummy_gradients(setup: Setup) -> Iterator[Component]:
    """Gradients that stand in for those added to the main gradient by the product itself: one for each shape, for good.

    Autograd wants a gradient of every weight, whose values nobody reads. Queries, keys and values are one weight, and
    so are gate and up; experts share their shape.

    setup : resolved run. [-]
    Source: NVIDIA/TransformerEngine pytorch/module/base.py, get_dummy_wgrad; the head's own is freed at once
    (Megatron-LM core/tensor_parallel/layers.py).
    """
    if setup.framework.engine != "megatron" or not setup.framework.dummy_gradients:
        return
    found = sharding.select(setup, lambda e: e.part == "block" and e.trains and e.weight.role in ("linear", "experts"))
    size = dtype_bytes(setup.training.precision.compute)
    nbytes: dict[tuple[object, ...], Num] = {}
    for entry in found:
        weight, elements = entry.weight, sharding.sizes(setup)[entry.index]
        if weight.role == "experts":
            elements = elements / local_size("experts", weight.rows[0][1], setup)
        here = where(sharding.share_of(setup, "block", entry.kind) > 0, 1.0, 0.0)
        shape = (weight.module, weight.rows, weight.cols)
        nbytes[shape] = maximum(nbytes.get(shape, 0.0), size * elements * here)
    yield Component("dummy gradients of every shape", Category.TEMPORARY, in_order(nbytes.values()), TRAINING)


def weight_copies(setup: Setup) -> Iterator[Component]:
    """Casts of linear weights to 8 or 4 bits, which Transformer Engine keeps from one micro-batch and step to the next.

    The weight is cast for its own product and, transposed, for its input's gradient; devices with 4-bit units need no
    transpose of 8-bit elements that one scale is for.

    setup : resolved run. [-]
    Source: TransformerEngine pytorch/module/linear.py, _fp8_workspaces; utils.py, is_non_tn_fp8_gemm_supported.
    """
    narrow = setup.training.precision.products
    if setup.framework.engine != "megatron" or not narrow:
        return
    multiplied = sharding.select(
        setup, lambda e: e.part == "block" and e.weight.role in ("linear", "experts") and not e.weight.adapter
    )
    copies = 1.0 if narrow == "fp8" and setup.cluster.device.peak("fp4") > 0 else 2.0
    nbytes = quantization.weight_copies(sharding.whole(setup, multiplied), dtype_bytes(narrow), copies)
    yield Component(f"{narrow} copies of weights", Category.PARAMETER, nbytes, TRAINING)


def gathered_inputs(setup: Setup) -> Iterator[Component]:
    """The whole input of the linear layer at work under sequence parallelism, and its gradient before it is scattered.

    The input lies in one global buffer that is never freed.

    setup : resolved run. [-]
    Source: Megatron-LM core/tensor_parallel/layers.py, LinearWithGradAccumulationAndAsyncCommunication.
    """
    strategy = setup.strategy
    if not setup.framework.regather_inputs:
        return
    split = where((strategy.megatron_sp > 0) & (strategy.tp > 1), 1.0, 0.0)
    whole = split * setup.tokens * float(largest_block(setup.model).hidden)
    size = dtype_bytes(setup.training.precision.compute)
    yield Component("gathered input of a linear layer", Category.TEMPORARY, whole * size, TRAINING)
    yield Component("gradient of a gathered input", Category.TEMPORARY, whole * size, Phase.BACKWARD | Phase.REDUCE)
