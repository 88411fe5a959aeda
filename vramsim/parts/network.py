"""The network between the ranks of one group: which links a ring crosses, and how fast it is."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.equations import comm
from vramsim.spec import Cluster, Flow, Link, Phase, Setup
from vramsim.units import Num, maximum, minimum, where

SCALE_OUT_EFFICIENCY = 0.9
"""Share of the NICs' datasheet rate that large collectives reach (380 of 400 GB/s on 4 nodes of B200). [-]"""
EXCHANGE_EFFICIENCY = 0.85
"""Rate of all-to-alls inside a node over that of rings: 577 GB/s a device on eight B200, of 675 (MooreThreads/SimuMax
configs/system/b200_bf16_ceperm.json: 0.5968 of 900 GiB/s). [-]"""


def _scale_up(cluster: Cluster) -> Num:
    """Bandwidth of large collectives inside a node; a faster link than the device's own is not the host's."""
    device = cluster.device
    direct = cluster.scale_up_bandwidth * device.network_efficiency
    if not device.staged:
        return direct
    sharing = minimum(cluster.devices_per_node, cluster.num_devices)
    staged = comm.staged_bandwidth(cluster.pcie_bandwidth, cluster.host_memory_bandwidth, sharing)
    return where(cluster.scale_up_bandwidth > device.scale_up_bandwidth, direct, staged)


class Ring:
    """Rings over `ranks` neighbours, `inner` devices apart: tensor-parallel groups fill a node first.

    `node` is how many ranks of one group share a node; the groups of one node share its NICs.
    """

    def __init__(self, setup: Setup, ranks: Num, inner: Num = 1.0) -> None:
        cluster = setup.cluster
        self.ranks = ranks
        self.alone = type(ranks) is float and ranks == 1.0
        self.per_node = cluster.devices_per_node
        self.node = maximum(cluster.devices_per_node / inner, 1.0)
        self.scale_up = _scale_up(cluster)
        groups = minimum(inner, cluster.devices_per_node)
        self.scale_out = cluster.scale_out_bandwidth * SCALE_OUT_EFFICIENCY / groups
        self.bandwidth = comm.ring_bandwidth(ranks, self.node, self.scale_up, self.scale_out)
        self.hops = (cluster.scale_up_latency, cluster.scale_out_latency)
        self.leaves = where(ranks > self.node, 1.0, 0.0)

    def gather(
        self, name: str, nbytes: Num, calls: Num, phase: Phase, hidden: Num = 0.0, behind: Phase | None = None
    ) -> Iterator[Flow]:
        """All-gathers or reduce-scatters of tensors that are `nbytes` in all."""
        if self.alone:
            return
        seconds = comm.gather_seconds(nbytes, self.ranks, self.node, self.bandwidth, self.hops, calls)
        moved = nbytes * (self.ranks - 1.0) / self.ranks
        yield from either_link(self.leaves, name, moved, seconds, phase, hidden, behind)

    def all_reduce(
        self, name: str, nbytes: Num, calls: Num, phase: Phase, hidden: Num = 0.0, behind: Phase | None = None
    ) -> Iterator[Flow]:
        """All-reduces of tensors that are `nbytes` in all."""
        if self.alone:
            return
        seconds = comm.all_reduce_seconds(nbytes, self.ranks, self.node, self.bandwidth, self.hops, calls)
        moved = 2.0 * nbytes * (self.ranks - 1.0) / self.ranks
        yield from either_link(self.leaves, name, moved, seconds, phase, hidden, behind)

    def exchange(
        self, name: str, nbytes: Num, calls: Num, phase: Phase, hidden: Num = 0.0, behind: Phase | None = None
    ) -> Iterator[Flow]:
        """All-to-alls of tensors that are `nbytes` in all."""
        if self.alone:
            return
        latency = calls * (self.hops[0] + self.leaves * self.hops[1])
        inside = self.scale_up * EXCHANGE_EFFICIENCY
        seconds = comm.all_to_all_seconds(nbytes, self.ranks, self.node, inside, self.scale_out, latency)
        moved = nbytes * (self.ranks - 1.0) / self.ranks
        yield from either_link(self.leaves, name, moved, seconds, phase, hidden, behind)

    def dispatch(
        self,
        name: str,
        nbytes: Num,
        copies: Num,
        calls: Num,
        phase: Phase,
        hidden: Num = 0.0,
        behind: Phase | None = None,
    ) -> Iterator[Flow]:
        """Tokens that are `nbytes` in all, each sent once to the places of its `copies`."""
        if self.alone:
            return
        latency = calls * (self.hops[0] + self.leaves * self.hops[1])
        links = self.ranks, self.node, self.scale_up, self.scale_out
        seconds = comm.dispatch_seconds(nbytes, copies, *links, latency)
        moved = nbytes * comm.destinations(self.ranks, copies) * (self.ranks - 1.0) / self.ranks
        yield from either_link(self.leaves, name, moved, seconds, phase, hidden, behind)


def either_link(
    leaves: Num,
    name: str,
    nbytes: Num,
    seconds: Num,
    phase: Phase,
    hidden: Num = 0.0,
    behind: Phase | None = None,
    spread: bool = True,
) -> Iterator[Flow]:
    """A flow on the link that it takes, element by element: between nodes where `leaves` is 1, inside one where 0.

    leaves : 0 or 1. [-]   name, nbytes, seconds, phase, hidden, behind, spread : of the flow. [as in Flow]
    """
    if type(leaves) is float:
        yield Flow(name, Link.SCALE_OUT if leaves else Link.SCALE_UP, nbytes, seconds, phase, hidden, behind, spread)
        return
    stays = 1.0 - leaves
    yield Flow(name, Link.SCALE_UP, stays * nbytes, stays * seconds, phase, hidden, behind, spread)
    yield Flow(name, Link.SCALE_OUT, leaves * nbytes, leaves * seconds, phase, hidden, behind, spread)
