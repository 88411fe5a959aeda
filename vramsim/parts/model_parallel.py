"""Traffic inside of a copy of the model: what sequence, tensor, expert, context and pipeline parallelism move."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.equations import comm, schedule
from vramsim.layout import expert_degree, expert_tokens, largest_block
from vramsim.parts import products, sharding
from vramsim.parts.network import SCALE_OUT_EFFICIENCY, Ring, either_link
from vramsim.spec import Category, Component, Flow, Phase, Setup, dtype_bytes
from vramsim.units import Num, maximum, where


def sequence_parallel(setup: Setup) -> Iterator[Flow | Component]:
    """Ulysses: all-to-alls of queries, keys, values and output around attention, and their copies.

    setup : resolved run. [-]
    """
    strategy = setup.strategy
    attention = largest_block(setup.model).attention
    size = max(dtype_bytes(setup.training.precision.compute), products.SMALLEST_ELEMENT)
    queries = float(attention.heads * attention.head_dim)
    keys = queries if setup.framework.expand_kv else float(attention.kv_heads * attention.head_dim)
    one_pass = size * setup.tokens * (2.0 * queries + 2.0 * keys) * sharding.layers(setup)
    ring, calls = Ring(setup, strategy.sp, strategy.tp), 4.0 * sharding.layers(setup)
    yield from ring.exchange("all-to-all, forward", one_pass, calls, Phase.FORWARD)
    again = 1.0 + strategy.recompute
    yield from ring.exchange("all-to-all, backward", one_pass * again, calls * again, Phase.BACKWARD)
    # List all-to-all: contiguous chunks, received chunks and their concatenation live at once.
    copies = where(strategy.sp > 1, 3.0 * size * setup.tokens * queries, 0.0)
    yield Component("all-to-all copies", Category.TEMPORARY, copies, Phase.FORWARD)


def tensor_parallel(setup: Setup) -> Iterator[Flow]:
    """Tensor parallelism: two all-reduces of the residual stream a block and pass, exposed unless overlapped.

    A mixture without a shared expert has one: its other is of routed tokens (`expert_parallel`). Megatron's sequence
    parallelism splits each into a gather and a scatter of the same volume. The embedding's output and the gradient of
    the head's input are reduced, too.

    setup : resolved run. [-]
    """
    strategy, stage = setup.strategy, setup.stage
    # Of a gather and a scatter, Transformer Engine gathers what it has quantized.
    wide, narrow = products.stream_bytes(setup), dtype_bytes(setup.training.precision.compute)
    gathered = where(strategy.megatron_sp > 0, min(wide, narrow), wide)
    ring = Ring(setup, strategy.tp)
    stream = (wide + gathered) / 2.0 * setup.tokens * setup.model.hidden
    blocks = _reductions(setup) * sharding.layers(setup)
    ahead = blocks + stage.embedding
    # Cut into as many chunks as there are ranks, all but the first travel behind the product that makes or eats them.
    hidden = schedule.pipelined_share(strategy.tp) if setup.framework.overlap_tp else 0.0
    first, then = Phase.FORWARD, Phase.BACKWARD
    yield from ring.all_reduce("tensor-parallel reductions, forward", stream * ahead, ahead, first, hidden, first)
    back = blocks * (1.0 + strategy.recompute) + stage.head
    yield from ring.all_reduce("tensor-parallel reductions, backward", stream * back, back, then, hidden, then)


def _reductions(setup: Setup) -> float:
    """Reductions of the residual stream that a block has in one pass, averaged over blocks. [-]"""
    counts = [
        (block.count, 1.0 if block.mlp.experts and not block.mlp.shared_ffn else 2.0) for block in setup.model.blocks
    ]
    return sum(count * times for count, times in counts) / sum(count for count, _ in counts)


def expert_parallel(setup: Setup) -> Iterator[Flow]:
    """Tokens sent to their experts and back, one by one for each expert or once for each rank (N5, N8).

    Ranks that have a part of an expert gather each other's tokens for it, and sum up what comes out.

    With overlap_experts they travel beside another micro-batch's computation; the first one's forward and the last
    one's backward have none beside them.

    setup : resolved run. [-]
    """
    strategy, framework = setup.strategy, setup.framework
    routed = [block for block in setup.model.blocks if block.mlp.experts]
    if not routed:
        return
    cut, met = expert_degree(setup), expert_tokens(setup)
    share = setup.stage.blocks * where(strategy.megatron_sp > 0, 1.0 / strategy.tp, met)
    size = max(dtype_bytes(setup.training.precision.compute), products.SMALLEST_ELEMENT)
    moved = setup.tokens * maximum(strategy.expert_load, 1.0)
    ring, parts = Ring(setup, strategy.ep, cut), Ring(setup, cut)
    hidden: Num = 0.0
    if framework.overlap_experts:
        hidden = schedule.pipelined_share(maximum(setup.training.gradient_accumulation_steps, 1.0))
    for direction, phase, times in (
        ("forward", Phase.FORWARD, 1.0),
        ("backward", Phase.BACKWARD, 1.0 + strategy.recompute),
    ):
        for copies in sorted({block.mlp.top_k for block in routed}):
            alike = [block for block in routed if block.mlp.top_k == copies]
            width = sum(float(block.count * block.hidden) for block in alike)
            layers = sum(float(block.count) for block in alike)
            one = 2.0 * size * moved * width * share * times
            calls = 2.0 * layers * setup.stage.blocks * times
            name = f"tokens to experts and back, {direction}"
            if framework.dispatcher == "flex":
                yield from ring.dispatch(name, one, float(copies), calls, phase, hidden, phase)
            else:
                yield from ring.exchange(name, one * float(copies), calls, phase, hidden, phase)
            whole = size * moved * met * width * float(copies) * setup.stage.blocks * times
            name = f"tokens of experts in parts, {direction}"
            yield from parts.all_reduce(name, whole, calls / 2.0, phase, hidden, phase)


def context_parallel(setup: Setup) -> Iterator[Flow]:
    """Ring attention: keys and values travel around the ring, behind attention on those that are there.

    setup : resolved run. [-]
    """
    strategy = setup.strategy
    attention = largest_block(setup.model).attention
    size = max(dtype_bytes(setup.training.precision.compute), products.SMALLEST_ELEMENT)
    ring = Ring(setup, strategy.cp, strategy.tp)
    whole = 2.0 * size * setup.tokens * strategy.cp * attention.kv_heads * attention.head_dim / strategy.tp
    hidden = schedule.pipelined_share(strategy.cp)
    ahead, back = Phase.FORWARD, Phase.BACKWARD
    layers = sharding.layers(setup)
    yield from ring.gather("keys and values, forward", whole * layers, layers, ahead, hidden, ahead)
    again = 2.0 + strategy.recompute
    yield from ring.gather("keys and values, backward", whole * layers * again, layers * again, back, hidden, back)


def pipeline_parallel(setup: Setup) -> Iterator[Flow]:
    """Activations sent to the next stage and gradients to the one before, once a micro-batch and chunk of layers.

    setup : resolved run. [-]
    """
    strategy, cluster = setup.strategy, setup.cluster
    chunks = getattr(strategy, "vpp", 1.0)
    split = where(strategy.megatron_sp > 0, strategy.tp, 1.0)
    nbytes = products.stream_bytes(setup) * setup.tokens * setup.model.hidden / split * chunks
    # Stages are the outermost axis: neighbours are in one node only where a node holds several stages.
    leaves = where(cluster.num_devices / strategy.pp >= cluster.devices_per_node, 1.0, 0.0)
    outside = cluster.scale_out_bandwidth * SCALE_OUT_EFFICIENCY / cluster.devices_per_node
    inside = cluster.scale_up_bandwidth * cluster.device.network_efficiency
    bandwidth = where(leaves > 0, outside, inside)
    latency = where(leaves > 0, cluster.scale_out_latency, cluster.scale_up_latency)
    seconds = where(strategy.pp > 1, comm.transfer_seconds(nbytes, bandwidth, latency, chunks), 0.0)
    nbytes = where(strategy.pp > 1, nbytes, 0.0)
    yield from either_link(leaves, "activations to the next stage", nbytes, seconds, Phase.FORWARD, spread=False)
    yield from either_link(leaves, "gradients to the previous stage", nbytes, seconds, Phase.BACKWARD, spread=False)
