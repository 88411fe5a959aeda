"""Traffic between devices: what data, tensor and sequence parallelism move, when, and what can hide it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vramsim.equations import comm
from vramsim.layout import largest_block
from vramsim.parts import sharding
from vramsim.spec import Category, Component, Flow, Link, Phase, Setup, dtype_bytes
from vramsim.units import Num, ceil_div, maximum, where

NETWORK_EFFICIENCY = 0.8
"""Share of a link's datasheet bandwidth that NCCL rings reach (240 of 300 GB/s on A100, 371 of 450 on H100). [-]"""
OVERLAPPED = 0.9
"""Share of data-parallel traffic that frameworks start early enough to hide behind computation. [-]"""


def data_parallel(setup: Setup) -> Iterator[Flow]:
    """Gathering parameters and reducing gradients over the ranks that share states.

    setup : resolved run. [-]
    """
    engines = {"deepspeed": _zero, "fsdp1": _fsdp, "fsdp2": _fsdp, "ddp": _ddp}
    if setup.framework.engine in engines:
        yield from engines[setup.framework.engine](setup)


class _Network:
    """Bandwidth and latency of a ring over the ranks that share states."""

    def __init__(self, setup: Setup) -> None:
        cluster, strategy = setup.cluster, setup.strategy
        self.ranks = setup.shard_degree
        # Tensor-parallel neighbours fill the node first, so a ring over the rest has fewer ranks in each node.
        node = maximum(cluster.devices_per_node / strategy.tp, 1.0)
        self.bandwidth = comm.ring_bandwidth(
            self.ranks, node, cluster.scale_up_bandwidth, cluster.scale_out_bandwidth / strategy.tp
        )
        self.latency = comm.ring_latency(self.ranks, node, cluster.scale_up_latency, cluster.scale_out_latency)
        self.link = Link.SCALE_OUT if np.any(self.ranks > node) else Link.SCALE_UP

    def gather(self, name: str, nbytes: Num, calls: Num, phase: Phase, hidden: Num, behind: Phase) -> Flow:
        """A Flow of all-gathers or reduce-scatters of `nbytes` in all."""
        seconds = comm.gather_seconds(nbytes, self.ranks, self.bandwidth, self.latency, calls)
        moved = nbytes * (self.ranks - 1.0) / self.ranks
        return Flow(name, self.link, moved, seconds, phase, hidden, behind)


def _zero(setup: Setup) -> Iterator[Flow]:
    network, stage = _Network(setup), setup.strategy.zero_stage
    precision, framework = setup.training.precision, setup.framework
    elements = sharding.whole(setup, sharding.select(setup, lambda entry: True))
    trained = sharding.whole(setup, sharding.trained(setup))
    weights, grads = elements * _stored_bytes(setup), trained * dtype_bytes(precision.reduce)
    overlap = OVERLAPPED if framework.overlap_comm else 0.0
    third = where(stage >= 3, 1.0, 0.0)
    units = 9.0 * setup.model.num_layers
    yield network.gather("gather parameters, forward", third * weights, units, Phase.FORWARD, OVERLAPPED, Phase.FORWARD)
    yield network.gather(
        "gather parameters, backward", third * weights, units, Phase.BACKWARD, OVERLAPPED, Phase.BACKWARD
    )
    calls = ceil_div(trained, framework.reduce_bucket_size)
    yield network.gather("scatter gradients", third * grads, calls, Phase.BACKWARD, overlap, Phase.BACKWARD)
    # Stages 1 and 2 all-reduce a bucket by default; stage 2 at every micro-step, stages 0 and 1 at the boundary only.
    times = 2.0 if framework.all_reduce_gradients else 1.0
    second = where((stage >= 2) & (stage < 3), 1.0, 0.0)
    first = where(stage < 2, 1.0, 0.0)
    yield network.gather("reduce gradients", second * times * grads, calls, Phase.BACKWARD, overlap, Phase.BACKWARD)
    boundary = where(stage < 1, 2.0, times)
    yield network.gather("reduce gradients", first * boundary * grads, calls, Phase.REDUCE, overlap, Phase.BACKWARD)
    after = where((stage >= 1) & (stage < 3), trained * dtype_bytes(precision.param), 0.0)
    calls = ceil_div(trained, framework.allgather_bucket_size)
    yield network.gather("gather updated parameters", after, calls, Phase.STEP, 0.0, Phase.STEP)


def _stored_bytes(setup: Setup) -> float:
    quantization = setup.strategy.quantization
    return quantization.packed or dtype_bytes(setup.training.precision.compute)


def _fsdp(setup: Setup) -> Iterator[Flow]:
    network, stage, precision = _Network(setup), setup.strategy.zero_stage, setup.training.precision
    elements = sharding.whole(setup, sharding.select(setup, lambda entry: True))
    weights = elements * _stored_bytes(setup)
    grads = sharding.whole(setup, sharding.trained(setup)) * dtype_bytes(precision.reduce)
    units = float(setup.model.num_layers)
    again = where(stage >= 3, 1.0, 0.0)
    yield network.gather("gather parameters, forward", weights, units, Phase.FORWARD, OVERLAPPED, Phase.FORWARD)
    yield network.gather(
        "gather parameters, backward", again * weights, units, Phase.BACKWARD, OVERLAPPED, Phase.BACKWARD
    )
    phase = Phase.BACKWARD if setup.framework.sync_accumulation else Phase.REDUCE
    yield network.gather("scatter gradients", grads, units, phase, OVERLAPPED, Phase.BACKWARD)


def _ddp(setup: Setup) -> Iterator[Flow]:
    network = _Network(setup)
    grads = sharding.whole(setup, sharding.trained(setup)) * dtype_bytes(setup.training.precision.grad)
    calls = ceil_div(grads, setup.framework.ddp_bucket_bytes)
    yield network.gather("reduce gradients", 2.0 * grads, calls, Phase.REDUCE, OVERLAPPED, Phase.BACKWARD)


def sequence_parallel(setup: Setup) -> Iterator[Flow | Component]:
    """Ulysses: all-to-alls of queries, keys, values and output around attention, and their copies.

    setup : resolved run. [-]
    """
    strategy, cluster = setup.strategy, setup.cluster
    attention = largest_block(setup.model).attention
    size = dtype_bytes(setup.training.precision.compute)
    queries = float(attention.heads * attention.head_dim)
    keys = queries if setup.framework.expand_kv else float(attention.kv_heads * attention.head_dim)
    one_pass = size * setup.tokens * (2.0 * queries + 2.0 * keys) * setup.model.num_layers
    node = cluster.devices_per_node
    latency = cluster.scale_up_latency * 4.0 * setup.model.num_layers
    seconds = comm.all_to_all_seconds(
        one_pass, strategy.sp, node, cluster.scale_up_bandwidth, cluster.scale_out_bandwidth, latency
    )
    moved = one_pass * (strategy.sp - 1.0) / strategy.sp
    link = Link.SCALE_OUT if np.any(strategy.sp > node) else Link.SCALE_UP
    yield Flow("all-to-all, forward", link, moved, seconds, Phase.FORWARD)
    again = 1.0 + strategy.recompute
    yield Flow("all-to-all, backward", link, moved * again, seconds * again, Phase.BACKWARD)
    # List all-to-all: contiguous chunks, received chunks and their concatenation live at once.
    copies = where(strategy.sp > 1, 3.0 * size * setup.tokens * queries, 0.0)
    yield Component("all-to-all copies", Category.TEMPORARY, copies, Phase.FORWARD)


def tensor_parallel(setup: Setup) -> Iterator[Flow]:
    """Tensor parallelism: two all-reduces of the residual stream a block and pass, exposed.

    Megatron's sequence parallelism splits each into a gather and a scatter of the same volume.

    setup : resolved run. [-]
    """
    strategy, cluster = setup.strategy, setup.cluster
    size = dtype_bytes(setup.training.precision.compute)
    nbytes = 2.0 * size * setup.tokens * setup.model.hidden * setup.model.num_layers
    node = cluster.devices_per_node
    bandwidth = comm.ring_bandwidth(strategy.tp, node, cluster.scale_up_bandwidth, cluster.scale_out_bandwidth)
    latency = comm.ring_latency(strategy.tp, node, cluster.scale_up_latency, cluster.scale_out_latency)
    seconds = comm.all_reduce_seconds(nbytes, strategy.tp, bandwidth, latency, 2.0 * setup.model.num_layers)
    moved = 2.0 * nbytes * (strategy.tp - 1.0) / strategy.tp
    link = Link.SCALE_OUT if np.any(strategy.tp > node) else Link.SCALE_UP
    yield Flow("tensor-parallel reductions, forward", link, moved, seconds, Phase.FORWARD)
    again = 1.0 + strategy.recompute
    yield Flow("tensor-parallel reductions, backward", link, moved * again, seconds * again, Phase.BACKWARD)
