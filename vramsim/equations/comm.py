"""Times of collectives on a two-level network. Equations N1-N5 of docs/equations/comm.md."""

from __future__ import annotations

from vramsim.units import Num, ceil_div, maximum, minimum, where


def ring_bandwidth(ranks: Num, node: Num, scale_up: Num, scale_out: Num) -> Num:
    """Bandwidth that a ring sustains through its narrowest place.

    Inside a node every hop has B_u. Across nodes the ring crosses each node's NICs once, so all of them together
    carry it, whatever the ranks per node.

    B = B_u if N <= G else min(B_u, B_o)                                                     (N1)

    ranks : ranks in the group, N. [-]   node : devices per node, G. [-]   scale_up : B_u, per device. [B/s]
    scale_out : B_o, all NICs of a node. [B/s]
    Returns bandwidth. [B/s]
    Source: NCCL src/graph; rings with one rail per NIC.

    >>> float(ring_bandwidth(16.0, 8.0, 2.4e11, 1e11))
    100000000000.0
    """
    return where(ranks <= node, scale_up, minimum(scale_up, scale_out))


def ring_latency(ranks: Num, node: Num, up: Num, out: Num) -> Num:
    """Latency of one pass around a ring.

    a = (N - n) a_u + (n - 1) a_o,  n = ceil(N / G)                                          (N2)

    ranks : N. [-]   node : devices per node, G. [-]   up : latency of a hop inside a node, a_u. [s]
    out : latency of a hop between nodes, a_o. [s]
    Returns seconds. [s]
    Source: NCCL src/graph/tuning.cc.

    >>> float(ring_latency(16.0, 8.0, 4e-6, 14e-6))
    7e-05
    """
    nodes = ceil_div(ranks, node)
    return (ranks - nodes) * up + (nodes - 1.0) * out


def gather_seconds(nbytes: Num, ranks: Num, bandwidth: Num, latency: Num, calls: Num = 1.0) -> Num:
    """Time of ring all-gathers or reduce-scatters.

    t = n (N - 1) / (N B) + c a                                                              (N3)

    nbytes : bytes of the full tensors together, n. [B]   ranks : N. [-]   bandwidth : B. [B/s]
    latency : of one pass, a. [s]   calls : collectives that carry the bytes, c. [-]
    Returns seconds; 0 for one rank. [s]
    Source: Thakur, Rabenseifner and Gropp 2005.

    >>> float(gather_seconds(8e9, 8.0, 1e9, 0.0))
    7.0
    """
    return where(ranks > 1, nbytes * (ranks - 1.0) / (ranks * bandwidth) + calls * latency, 0.0)


def all_reduce_seconds(nbytes: Num, ranks: Num, bandwidth: Num, latency: Num, calls: Num = 1.0) -> Num:
    """Time of ring all-reduces: a reduce-scatter and an all-gather.

    t = 2 n (N - 1) / (N B) + 2 c a                                                          (N4)

    nbytes : bytes of the full tensors together, n. [B]   ranks : N. [-]   bandwidth : B. [B/s]
    latency : of one pass, a. [s]   calls : collectives that carry the bytes, c. [-]
    Returns seconds; 0 for one rank. [s]
    Source: Thakur, Rabenseifner and Gropp 2005.

    >>> float(all_reduce_seconds(8e9, 8.0, 1e9, 0.0))
    14.0
    """
    return 2.0 * gather_seconds(nbytes, ranks, bandwidth, latency, calls)


def all_to_all_seconds(nbytes: Num, ranks: Num, node: Num, scale_up: Num, scale_out: Num, latency: Num) -> Num:
    """Time of an all-to-all: each rank sends its tensor in N parts, those that leave the node share its NICs.

    t = n max((G' - 1) / (N B_u), (N - G') G' / (N B_o)) + a,  G' = min(N, G)                (N5)

    nbytes : bytes of one rank's tensor, n. [B]   ranks : N. [-]   node : devices per node, G. [-]
    scale_up : B_u, per device. [B/s]   scale_out : B_o, per node. [B/s]   latency : a. [s]
    Returns seconds; 0 for one rank. [s]
    Source: counting bytes per link.

    >>> float(all_to_all_seconds(8e9, 8.0, 8.0, 1e9, 1e9, 0.0))
    7.0
    """
    local = minimum(ranks, node)
    inside = (local - 1.0) / (ranks * scale_up)
    outside = (ranks - local) * local / (ranks * scale_out)
    return where(ranks > 1, nbytes * maximum(inside, outside) + latency, 0.0)
