"""Computation: matrix products, attention, memory-bound kernels, the loss, and the optimizer's step."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks import Weight
from vramsim.equations import compute as equations
from vramsim.equations import optimizer as step_equations
from vramsim.layout import TENSOR_PARALLEL_DIMS, degree, ledger_of, local_numel
from vramsim.parts import sharding
from vramsim.spec import Phase, Setup, Work, dtype_bytes
from vramsim.units import Num, maximum, minimum, where

TILE = 128.0
"""Rows or columns of one output tile: a product with a dimension this small runs at half its best rate. [elements]"""
NORM_TRAFFIC = {"eager": 34.0, "fused": 4.0}
"""HBM bytes per element of the hidden dim that one norm's forward touches, by implementation. [B]"""
GATE_TRAFFIC = {"eager": 10.0, "fused": 6.0}
"""HBM bytes per element of the feed-forward width that the activation's forward touches. [B]"""
CPU_ADAM_TRAFFIC = {"cpu_adam": 30.0, "torch_adamw": 84.0}
"""DRAM bytes per element of an optimizer step on the CPU: one fused pass, or eight unfused ones. [B]"""


def _weight_seconds(weight: Weight, setup: Setup) -> tuple[Num, Num]:
    """FLOPs and seconds of multiplying one micro-step's tokens by a weight, on one device."""
    device, tokens = setup.cluster.device, setup.tokens
    flops = equations.linear_flops(local_numel(weight, setup), tokens)
    rate: Num = device.peak(setup.training.precision.compute) * device.gemm_efficiency
    rate = rate * equations.saturation(tokens, TILE)
    for dims in (weight.rows, weight.cols):
        size: Num = 1.0
        for dim, extent in dims:
            size = size * extent / (degree(dim, setup) if dim in TENSOR_PARALLEL_DIMS else 1.0)
        rate = rate * equations.saturation(size, TILE)
    return flops, flops / rate


def blocks(setup: Setup) -> Iterator[Work]:
    """Forward, backward and recomputation of all blocks.

    A trained weight costs its forward twice again in backward, a frozen one once: nothing needs its gradient.

    setup : resolved run. [-]
    """
    forward: Num = 0.0
    forward_seconds: Num = 0.0
    backward: Num = 0.0
    backward_seconds: Num = 0.0
    for entry in ledger_of(setup):
        if entry.part != "block" or entry.weight.role not in ("linear", "router", "experts"):
            continue
        flops, seconds = _weight_seconds(entry.weight, setup)
        if entry.weight.role == "experts":
            share = _active_share(setup, entry.weight)
            flops, seconds = flops * share, seconds * share
        passes = 2.0 if entry.trains else 1.0
        forward, forward_seconds = forward + entry.count * flops, forward_seconds + entry.count * seconds
        backward = backward + passes * entry.count * flops
        backward_seconds = backward_seconds + passes * entry.count * seconds
    recompute = setup.strategy.recompute
    yield Work("matrix products, forward", forward, forward, 0.0, forward_seconds, Phase.FORWARD)
    yield Work("matrix products, backward", backward, backward, 0.0, backward_seconds, Phase.BACKWARD)
    yield Work(
        "matrix products, recomputed", forward * recompute, 0.0, 0.0, forward_seconds * recompute, Phase.BACKWARD
    )


def _active_share(setup: Setup, weight: Weight) -> float:
    """Share of a three-dimensional expert weight that one token meets."""
    return next((b.mlp.top_k / b.mlp.experts for b in setup.model.blocks if b.mlp.experts == weight.rows[0][1]), 1.0)


def attention(setup: Setup) -> Iterator[Work]:
    """Scores and weighted values: causal, over the whole sequence, whichever ranks share it.

    Backward needs five products where forward needs two, since flash attention recomputes the scores.

    setup : resolved run. [-]
    """
    device, training = setup.cluster.device, setup.training
    forward: Num = 0.0
    for block in setup.model.blocks:
        shape = block.attention
        keys = training.seq_len if not shape.window else minimum(training.seq_len, 2.0 * shape.window)
        width = float(shape.heads * shape.head_dim) / setup.strategy.tp
        forward = forward + block.count * equations.attention_flops(width, setup.tokens, keys)
    rate = device.peak(training.precision.compute) * device.attention_efficiency
    recompute = maximum(setup.strategy.recompute, setup.strategy.recompute_selective)
    yield Work("attention, forward", forward, forward, 0.0, forward / rate, Phase.FORWARD)
    yield Work("attention, backward", 2.5 * forward, 2.0 * forward, 0.0, 2.5 * forward / rate, Phase.BACKWARD)
    yield Work("attention, recomputed", recompute * forward, 0.0, 0.0, recompute * forward / rate, Phase.BACKWARD)


def elementwise(setup: Setup) -> Iterator[Work]:
    """Norms, activations, rotary embeddings and residual additions: bound by memory bandwidth.

    setup : resolved run. [-]
    """
    framework, strategy, device = setup.framework, setup.strategy, setup.cluster.device
    size = dtype_bytes(setup.training.precision.compute)
    sharded = where(strategy.megatron_sp > 0, 1.0 / strategy.tp, 1.0)
    per_token: Num = 0.0
    for block in setup.model.blocks:
        shape = block.attention
        norms = block.num_norms * NORM_TRAFFIC[framework.norm] * block.hidden
        residual = block.num_norms * 3.0 * size * block.hidden
        width = block.mlp.ffn * max(block.mlp.top_k, 1) + block.mlp.shared_ffn
        inner = GATE_TRAFFIC[framework.activation] * width
        rotary = 4.0 * size * shape.head_dim * (shape.heads + shape.kv_heads)
        per_token = per_token + block.count * ((norms + residual) * sharded + (inner + rotary) / strategy.tp)
    nbytes = per_token * setup.tokens
    seconds = nbytes / (device.memory_bandwidth * device.memory_efficiency)
    yield Work("elementwise, forward", 0.0, 0.0, nbytes, seconds, Phase.FORWARD)
    # Backward reads what forward wrote and writes as many gradients; recomputation repeats forward.
    again = 2.0 + strategy.recompute
    yield Work("elementwise, backward", 0.0, 0.0, again * nbytes, again * seconds, Phase.BACKWARD)


def head(setup: Setup) -> Iterator[Work]:
    """The output projection and the loss, forward and backward.

    setup : resolved run. [-]
    """
    device, model = setup.cluster.device, setup.model
    weight = Weight("lm_head", "head", (("vocab", model.vocab),), (("hidden", model.hidden),))
    flops, seconds = _weight_seconds(weight, setup)
    passes = 3.0 if setup.training.lora is None else 2.0
    yield Work("output projection", passes * flops, passes * flops, 0.0, passes * seconds, Phase.HEAD)
    # Upcast, log-softmax and its gradient: about six passes over fp32 logits.
    nbytes = 24.0 * setup.tokens * model.vocab / setup.strategy.tp
    bandwidth = device.memory_bandwidth * device.memory_efficiency
    yield Work("cross-entropy", 0.0, 0.0, nbytes, nbytes / bandwidth, Phase.HEAD)


def optimizer_step(setup: Setup) -> Iterator[Work]:
    """The optimizer's step, on the device and, for the offloaded share, on the CPU.

    The ranks of a node share its DRAM bandwidth.

    setup : resolved run. [-]
    """
    device, cluster, share = setup.cluster.device, setup.cluster, setup.strategy.offload_optimizer
    owned = sharding.optimizer_elements(setup)
    nbytes = owned * setup.training.optimizer.traffic * (1.0 - share)
    bandwidth = device.memory_bandwidth * device.memory_efficiency
    yield Work("optimizer step", 0.0, 0.0, nbytes, nbytes / bandwidth, Phase.STEP, "optimizer")
    per_rank = cluster.host_memory_bandwidth / minimum(cluster.devices_per_node, cluster.num_devices)
    traffic = CPU_ADAM_TRAFFIC[setup.framework.cpu_optimizer]
    seconds = step_equations.cpu_step_seconds(owned * share, traffic, per_rank)
    yield Work("optimizer step on the CPU", 0.0, 0.0, 0.0, seconds, Phase.STEP, "cpu_optimizer")
