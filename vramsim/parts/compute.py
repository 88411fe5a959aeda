"""Computation in matrix products, the loss, and the optimizer's step; attention and the rest are in `kernels`."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks import Weight
from vramsim.equations import compute as equations
from vramsim.equations import optimizer as step_equations
from vramsim.layout import Entry, joined, ledger_of, local_numel
from vramsim.parts import products, sharding, stepping
from vramsim.parts.kernels import attention, elementwise
from vramsim.spec import Phase, Setup, Work, dtype_bytes
from vramsim.units import Num, minimum

__all__ = ["attention", "blocks", "elementwise", "head", "optimizer_step"]

LOSS_TRAFFIC = {
    "hf": 44.0,
    "hf_legacy": 60.0,
    "no_upcast": 20.0,
    "fused_legacy": 22.0,
    "vocab_parallel": 46.0,
    "chunked": 44.0,
    "chunked_outputs": 44.0,
    "liger": 8.0,
    "cut": 0.0,
    "compiled": 10.0,
}
"""HBM bytes per logit of the loss, forward and backward, by implementation (table of docs/equations/compute.md). [B]"""
NORM_OF_GRADIENTS = 4.0
"""Bytes per element that one pass over fp32 gradients reads; clipping reads and writes them once more. [B]"""
CPU_ADAM_TRAFFIC = {"cpu_adam": 30.0, "torch_adamw": 84.0}
"""DRAM bytes per element of an optimizer step on the CPU: one fused pass, or eight unfused ones. [B]"""


def blocks(setup: Setup) -> Iterator[Work]:
    """Forward, backward and recomputation of all blocks.

    A trained weight has two products in backward, a frozen one only its input's gradient. Per-op recomputation repeats
    every second product.

    setup : resolved run. [-]
    """
    share = setup.stage.blocks
    forward: Num = 0.0
    of_inputs: Num = 0.0
    of_weights: Num = 0.0
    # What a masked mixture computes on experts that no token chose is no work of the model's.
    unchosen: Num = 0.0
    unchosen_weights: Num = 0.0
    seconds_forward: Num = 0.0
    seconds_inputs: Num = 0.0
    seconds_weights: Num = 0.0
    # Backward needs a block's last product's input, not its output.
    stopped: Num = 0.0
    stopped_seconds: Num = 0.0
    for entry in ledger_of(setup):
        if entry.part != "block" or entry.weight.role not in ("linear", "router", "experts"):
            continue
        if entry.weight.adapter and entry.weight.cols[0][0] and joined(setup, entry):
            continue
        flops, (ahead, inputs, weights) = _products(setup, entry)
        count = float(entry.count)
        forward, seconds_forward = forward + count * flops, seconds_forward + count * ahead
        wasted = count * flops * _unchosen(setup, entry)
        unchosen = unchosen + share * wasted
        unchosen_weights = unchosen_weights + share * wasted * entry.trains
        if setup.framework.stops_early and entry.weight.module == "down_proj" and not entry.weight.adapter:
            stopped, stopped_seconds = stopped + count * flops, stopped_seconds + count * ahead
        of_inputs, seconds_inputs = of_inputs + count * flops, seconds_inputs + count * inputs
        if entry.trains:
            of_weights, seconds_weights = of_weights + count * flops, seconds_weights + count * weights
    forward, seconds_forward = share * forward, share * seconds_forward
    of_inputs, seconds_inputs = share * of_inputs, share * seconds_inputs
    of_weights, seconds_weights = share * of_weights, share * seconds_weights
    full, half = setup.strategy.recompute, 0.5 * setup.strategy.recompute_op
    again = (full + half) * forward - full * share * stopped
    seconds_again = (full + half) * seconds_forward - full * share * stopped_seconds
    back = Phase.BACKWARD
    yield Work("matrix products, forward", forward, forward - unchosen, 0.0, seconds_forward, Phase.FORWARD)
    yield Work("matrix products, gradients of inputs", of_inputs, of_inputs - unchosen, 0.0, seconds_inputs, back)
    name, needed = "matrix products, gradients of weights", of_weights - unchosen_weights
    yield Work(name, of_weights, needed, 0.0, seconds_weights, back, deferrable=True)
    yield Work("matrix products, recomputed", again, 0.0, 0.0, seconds_again, back)


def _products(setup: Setup, entry: Entry) -> tuple[Num, tuple[Num, Num, Num]]:
    """FLOPs of one forward product, and the seconds of all three."""
    weight, tokens = entry.weight, setup.tokens
    if weight.role != "experts":
        return equations.linear_flops(local_numel(weight, setup), tokens), products.linear(setup, weight, tokens)
    each = products.routed(setup, weight)
    return equations.linear_flops(local_numel(weight, setup), each), products.experts(setup, weight, each)


def _unchosen(setup: Setup, entry: Entry) -> float:
    """Share of a weight's products whose results a mask drops."""
    weight = entry.weight
    return 1.0 - products.chosen(setup, weight) if weight.role == "experts" and products.masked(setup, weight) else 0.0


def head(setup: Setup) -> Iterator[Work]:
    """The output projection and the loss, forward and backward.

    setup : resolved run. [-]
    """
    model, loss, share = setup.model, setup.framework.loss, setup.stage.head
    weight = Weight("lm_head", "head", (("vocab", model.vocab),), (("hidden", model.hidden),))
    chunks = float(setup.framework.loss_chunks) if loss.startswith("chunked") else 1.0
    tokens = setup.tokens
    ahead, inputs, weights = (chunks * each for each in products.linear(setup, weight, tokens / chunks))
    trains = sharding.trains_head(setup)
    flops = share * equations.linear_flops(local_numel(weight, setup), tokens) * (3.0 if trains else 2.0)
    seconds = share * (ahead + inputs + (weights if trains else 0.0))
    yield Work("output projection", flops, flops, 0.0, seconds, Phase.HEAD)
    if loss == "cut":
        again = equations.linear_flops(local_numel(weight, setup), tokens) * share
        yield Work("logits, recomputed", again, 0.0, 0.0, share * ahead, Phase.HEAD)
    nbytes = share * LOSS_TRAFFIC[loss] * tokens * model.vocab / setup.strategy.tp
    yield Work("cross-entropy", 0.0, 0.0, nbytes, nbytes / products.bandwidth(setup), Phase.HEAD)


def _narrowness(setup: Setup) -> float:
    """Bytes of an element over those of fp32 where parameters, gradients and all states are of one dtype, else 1."""
    precision, rule = setup.training.precision, setup.training.optimizer
    kept = {precision.grad, *(precision.moments if s.dtype == "moments" else s.dtype for s in rule.states)}
    return dtype_bytes(precision.param) / 4.0 if kept == {precision.param} and not precision.master else 1.0


def optimizer_step(setup: Setup) -> Iterator[Work]:
    """The optimizer's step with its gradient norm, on the device and, for the offloaded share, on the CPU.

    The ranks of a node share its DRAM bandwidth.

    setup : resolved run. [-]
    """
    cluster, share = setup.cluster, setup.strategy.offload_optimizer
    owned = sharding.optimizer_elements(setup)
    rule = setup.training.optimizer
    # No norm of all gradients exists where each is gone before the next is made.
    clipping = 3.0 * NORM_OF_GRADIENTS if setup.framework.max_grad_norm > 0 and rule.gradients == "all" else 0.0
    nbytes = owned * (rule.traffic + clipping) * _narrowness(setup) * (1.0 - share)
    yield Work("optimizer step", 0.0, 0.0, nbytes, nbytes / products.bandwidth(setup), Phase.STEP, "optimizer")
    if rule.matrix:
        flops = stepping.matrix_flops(setup)
        seconds = flops / (products.core_rate(setup) * cluster.device.gemm_efficiency)
        yield Work("products of the optimizer", flops, 0.0, 0.0, seconds, Phase.STEP, "optimizer")
    per_rank = cluster.host_memory_bandwidth / minimum(cluster.devices_per_node, cluster.num_devices)
    traffic = CPU_ADAM_TRAFFIC[setup.framework.cpu_optimizer]
    seconds = step_equations.cpu_step_seconds(owned * share, traffic, per_rank)
    yield Work("optimizer step on the CPU", 0.0, 0.0, 0.0, seconds, Phase.STEP, "cpu_optimizer")
