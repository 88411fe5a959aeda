"""Traffic between devices: what each kind of parallelism moves, when, and what can hide it."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.equations import schedule
from vramsim.layout import ledger_of
from vramsim.parts import products, resharding, sharding, stepping, wrapping
from vramsim.parts.network import Ring
from vramsim.spec import Flow, Phase, Setup, Work, dtype_bytes
from vramsim.units import Num, ceil_div, maximum, minimum, where

ZERO_LOOKAHEAD = 0.9
"""Share of ZeRO-3's gathers that its prefetcher starts early enough: it looks ahead by one parameter where these are
larger than the prefetch bucket. [-]"""
GATHERS = 7.0
"""All-gathers of one block under ZeRO-3: one for each of its large weights. [-]"""


def data_parallel(setup: Setup) -> Iterator[Flow | Work]:
    """Gathering parameters and reducing gradients over the ranks that share states.

    setup : resolved run. [-]
    """
    engines = {"deepspeed": _zero, "fsdp1": _fsdp, "fsdp2": _fsdp, "ddp": _ddp, "megatron": _megatron}
    if setup.framework.engine in engines:
        yield from engines[setup.framework.engine](setup)


def _ring(setup: Setup) -> Ring:
    return Ring(setup, setup.shard_degree, setup.strategy.tp)


def _states_ring(setup: Setup) -> Ring:
    """The ranks that share one copy of the states: all of them, or a shard group."""
    return Ring(setup, sharding.ranks(setup), setup.strategy.tp)


def _copies_ring(setup: Setup) -> Ring:
    """The ranks that hold the same slice in different shard groups (HSDP, MiCS)."""
    return Ring(setup, setup.shard_degree / sharding.ranks(setup), setup.strategy.tp * sharding.ranks(setup))


def _layers(setup: Setup) -> Num:
    return setup.model.num_layers * setup.stage.blocks


def gathered_bytes(setup: Setup) -> Num:
    """Bytes of one gathering pass: quantized weights travel as they are packed, the rest in the compute dtype. [B]

    setup : resolved run. [-]
    """
    total: Num = 0.0
    for quantized, size in (
        (False, max(dtype_bytes(setup.training.precision.compute), products.SMALLEST_ELEMENT)),
        (True, setup.strategy.quantization.packed),
    ):
        entries = sharding.select(setup, lambda e, q=quantized: e.quantized is q)  # type: ignore[misc]
        total = total + size * sharding.whole(setup, entries)
    return total


def _zero(setup: Setup) -> Iterator[Flow]:
    ring, stage, states = _ring(setup), setup.strategy.zero_stage, _states_ring(setup)
    precision, framework = setup.training.precision, setup.framework
    weights = gathered_bytes(setup)
    trained = sharding.whole(setup, sharding.trained(setup))
    grads = trained * dtype_bytes(precision.reduce)
    third = where(stage >= 3, 1.0, 0.0)
    units = GATHERS * _layers(setup)
    ahead, back = Phase.FORWARD, Phase.BACKWARD
    yield from states.gather("gather parameters, forward", third * weights, third * units, ahead, ZERO_LOOKAHEAD, ahead)
    # ZeRO++'s second copy keeps backward's gathers inside of its few ranks.
    few, all_of_them = setup.strategy.secondary_shard_size, sharding.ranks(setup)
    near = Ring(setup, where(few > 0, minimum(few, all_of_them), all_of_them), setup.strategy.tp)
    yield from near.gather("gather parameters, backward", third * weights, third * units, back, ZERO_LOOKAHEAD, back)
    buckets = ceil_div(trained, framework.reduce_bucket_size)
    hidden = schedule.pipelined_share(maximum(buckets, 1.0)) if framework.overlap_comm else 0.0
    third_hidden = schedule.pipelined_share(_layers(setup)) if framework.overlap_comm else 0.0
    yield from states.gather("scatter gradients", third * grads, third * buckets, back, third_hidden, back)
    # MiCS reduces shards between its groups at the boundary (runtime/zero/mics.py, allreduce_mics_shard_grads).
    shards = third * grads / all_of_them
    yield from _copies_ring(setup).all_reduce("reduce shards of gradients", shards, third * buckets, Phase.REDUCE)
    # Stages 1 and 2 all-reduce a bucket by default; stage 2 at every micro-step, stages 0 and 1 at the boundary only.
    reduce = ring.all_reduce if framework.all_reduce_gradients else ring.gather
    second, first = where((stage >= 2) & (stage < 3), 1.0, 0.0), where((stage >= 1) & (stage < 2), 1.0, 0.0)
    yield from reduce("reduce gradients", second * grads, second * buckets, back, hidden, back)
    yield from reduce("reduce gradients", first * grads, first * buckets, Phase.REDUCE, hidden, back)
    none = where(stage < 1, 1.0, 0.0)
    yield from ring.all_reduce("reduce gradients", none * grads, none * buckets, Phase.REDUCE, hidden, back)
    after = where((stage >= 1) & (stage < 3), trained * dtype_bytes(precision.param), 0.0)
    yield from ring.gather(
        "gather updated parameters", after, ceil_div(after, framework.allgather_bucket_size), Phase.STEP
    )


def _fsdp(setup: Setup) -> Iterator[Flow | Work]:
    ring, copies, precision = _states_ring(setup), _copies_ring(setup), setup.training.precision
    weights, whole, each = gathered_bytes(setup), resharding.stays_whole(setup), resharding.reduces_each(setup)
    grads = sharding.whole(setup, sharding.trained(setup)) * dtype_bytes(precision.reduce)
    units = _layers(setup) + 1.0
    hidden = schedule.pipelined_share(units)
    ahead, back = Phase.FORWARD, Phase.BACKWARD

    def gather(name: str, times: Num, phase: Phase, beside: Num) -> Iterator[Flow | Work]:
        for flow in ring.gather(name, times * weights, times * units, phase, beside * hidden, phase):
            yield flow
            # The host that waits for the device waits for what the device waits for.
            yield Work("launches behind gathers", 0.0, 0.0, 0.0, (1.0 - beside) * flow.seconds, phase, "host")

    after_forward, after_backward = _prefetched(setup)
    # A pipeline reshards nothing before its last backward: what stays whole is gathered once in a step.
    once, again = whole * where(setup.strategy.pp > 1, 1.0, 0.0), 1.0 - whole
    yield from gather("gather parameters, forward", 1.0 - once, ahead, after_forward)
    yield from ring.gather(
        "gather parameters, first forward", once * weights, once * units, Phase.STEP, after_forward * hidden, ahead
    )
    # A checkpoint around a unit runs its hooks once more: its second forward gathers, and frees, before backward does.
    if setup.framework.engine == "fsdp1" and not setup.framework.checkpoint_inside:
        recompute = setup.strategy.recompute
        yield from gather("gather parameters, recomputed", again * recompute, back, after_backward)
        after_backward = recompute * after_forward + (1.0 - recompute) * after_backward
    yield from gather("gather parameters, backward", again, back, after_backward)
    if wrapping.replicated(setup):
        # Hooks on the matrices' gradients wait for each all-reduce.
        calls = float(sum(entry.count for entry in sharding.trained(setup)))
        yield from ring.all_reduce("reduce gradients of adapters", grads, calls, back)
        return
    for name, share, phase in (("", each, back), (", last backward", 1.0 - each, Phase.REDUCE)):
        yield from ring.gather(f"scatter gradients{name}", share * grads, share * units, phase, hidden, back)
        shards = share * grads / sharding.ranks(setup)
        yield from copies.all_reduce(f"reduce shards of gradients{name}", shards, share * units, phase, hidden, back)


def _prefetched(setup: Setup) -> tuple[Num, Num]:
    """Whether (1 or 0) FSDP gathers a block's weights beside the block before, after its forward and its backward.

    The limiter of two units in flight counts a block's adapters: the next block's weights wait for the last but one. So
    they do for a host that waits for the device in every forward of a layer.
    """
    if not wrapping.adapter_units(setup):
        reads = setup.framework.engine == "fsdp1" and setup.framework.reads_lengths
        return (0.0 if reads else 1.0), 1.0
    weights = [entry.weight for entry in ledger_of(setup) if entry.part == "block"]
    adapted = {weight.module for weight in weights if weight.adapter}
    last = [weight.module for weight in weights if weight.role in ("linear", "experts") and not weight.adapter][-1]
    return float(last not in adapted), 0.0


def _ddp(setup: Setup) -> Iterator[Flow]:
    grads = sharding.whole(setup, sharding.trained(setup)) * dtype_bytes(setup.training.precision.grad)
    buckets = maximum(ceil_div(grads, setup.framework.ddp_bucket_bytes), 1.0)
    hidden = schedule.pipelined_share(buckets)
    yield from _ring(setup).all_reduce("reduce gradients", grads, buckets, Phase.REDUCE, hidden, Phase.BACKWARD)


def _megatron(setup: Setup) -> Iterator[Flow]:
    """The distributed optimizer scatters gradients and gathers weights; without it gradients are all-reduced."""
    ring, precision = _ring(setup), setup.training.precision
    trained = sharding.whole(setup, sharding.trained(setup))
    grads = trained * dtype_bytes(precision.grad)
    hidden = schedule.pipelined_share(maximum(_layers(setup), 1.0)) if setup.framework.overlap_comm else 0.0
    shards = where(setup.strategy.zero_stage >= 1, 1.0, 0.0)
    calls = _layers(setup)
    back = Phase.BACKWARD
    yield from ring.gather("scatter gradients", shards * grads, shards * calls, Phase.REDUCE, hidden, back)
    weights = shards * trained * dtype_bytes(precision.param)
    yield from ring.gather("gather updated parameters", weights, shards * calls, Phase.STEP, hidden, Phase.FORWARD)
    rest = 1.0 - shards
    yield from ring.all_reduce("reduce gradients", rest * grads, rest * calls, Phase.REDUCE, hidden, back)


def whole_matrices(setup: Setup) -> Iterator[Flow]:
    """Matrices that an optimizer needs whole, where a rank has slices of them: gathered, worked on, handed back.

    Tensor-parallel ranks gather those that they work on, and each keeps its slice of the update.

    ZeRO-3 gathers the momentum, and then the update and the new momentum from the rank that made them; FSDP's
    distributed implementations gather the gradient and hand back the update. Stages 1 and 2 have whole gradients, and
    Megatron hands out whole matrices to begin with.

    setup : resolved run. [-]
    Source: DeepSpeed runtime/zero/stage3.py, Muon; Megatron-LM core/optimizer/layer_wise_optimizer.py.
    """
    engine, tp = setup.framework.engine, setup.strategy.tp
    if setup.training.optimizer.matrix != "newton_schulz":
        return
    passes = {"deepspeed": where(setup.strategy.zero_stage >= 3, 3.0, 0.0), "fsdp1": 2.0, "fsdp2": 2.0}.get(engine, 0.0)
    phase = Phase.BACKWARD if engine == "deepspeed" else Phase.STEP
    once, calls = stepping.matrix_gradients(setup), GATHERS * _layers(setup)
    yield from _ring(setup).gather("whole matrices of the optimizer", passes * once, passes * calls, phase)
    share = stepping.handed_out(setup)
    name = "whole matrices over tensor-parallel ranks"
    yield from Ring(setup, tp).gather(name, share * tp * once, share * calls, phase)
