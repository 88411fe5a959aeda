"""Times of collectives on a two-level network. Equations N1-N9 of docs/equations/comm.md."""

from __future__ import annotations

from vramsim.units import Num, ceil_div, maximum, minimum, sqrt, where


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


def staged_bandwidth(pcie: Num, host: Num, devices: Num) -> Num:
    """Bandwidth of devices that exchange through host memory, which each byte is written to and read from.

    B = min(B_p, B_h / (2 n))                                                                (N9)

    pcie : achieved rate of one device's lanes, B_p. [B/s]   host : bandwidth of the host's memory, B_h. [B/s]
    devices : that share it, n. [-]
    Returns bandwidth. [B/s]
    Source: counting; NVIDIA/nccl issue 1639, a maintainer: usually limited by what CPU and memory can deliver.

    >>> staged_bandwidth(25e9, 1e11, 8.0)
    6250000000.0
    """
    return minimum(pcie, host / (2.0 * devices))


PROTOCOLS = ((6.6e-6, 0.18, 0.19, 2.0), (14.0e-6, 0.56, 0.29, 1.09), (8.4e-6, 1.0, 1.0, 1.0))
"""NCCL's protocols LL, LL128 and Simple: base latency [s], a hop's latency inside a node and between nodes over that of
Simple [-], wire bytes per payload byte [-] (ring columns of src/graph/tuning.cc, which picks the fastest)."""


def ring_seconds(
    nbytes: Num, ranks: Num, node: Num, bandwidth: Num, hops: tuple[Num, Num], calls: Num = 1.0, rounds: float = 1.0
) -> Num:
    """Time of ring collectives with the fastest protocol: small messages wait for hops, large ones for wires.

    t = min over p of  c b_p + l + v + sqrt(l v)                                             (N2)
    with l = c R ((N - n) u_p a_u + (n - 1) o_p a_o), v = R w_p n_b (N - 1) / (N B), n = ceil(N / G)

    The last term is the pipeline of chunks: small ones wait for hops, large ones for the first to come round. The best
    size costs 2 sqrt(l v) on a chain of hops that each store a chunk before they send it; NCCL's rings reach half.

    nbytes : bytes of the full tensors together, n_b. [B]   ranks : N. [-]   node : ranks per node, G. [-]
    bandwidth : B. [B/s]   hops : latency of a hop inside a node and between nodes, a_u and a_o. [s]
    calls : collectives that carry the bytes, c. [-]   rounds : passes around the ring, R. [-]
    Returns seconds; 0 for one rank. [s]
    Source: Thakur, Rabenseifner and Gropp 2005; NCCL src/graph/tuning.cc; the half is measured on A100 and GB200
    (studies/calibrate_hardware.py: 7 % and 10 % mean error from 256 KiB to 8 GiB).

    >>> round(ring_seconds(8e9, 8.0, 8.0, 1e9, (4e-6, 14e-6)), 2)
    7.01
    """
    nodes = ceil_div(ranks, node)
    inside, outside = rounds * (ranks - nodes), rounds * (nodes - 1.0)
    moved = rounds * nbytes * (ranks - 1.0) / (ranks * bandwidth)
    inside, outside = inside * hops[0], outside * hops[1]
    best: Num = float("inf")
    for base, up, out, wire in PROTOCOLS:
        hopping, moving = calls * (up * inside + out * outside), wire * moved
        best = minimum(best, calls * base + hopping + moving + sqrt(hopping * moving))
    return where((ranks > 1) & (nbytes > 0), best, 0.0)


def gather_seconds(nbytes: Num, ranks: Num, node: Num, bandwidth: Num, hops: tuple[Num, Num], calls: Num = 1.0) -> Num:
    """Time of ring all-gathers or reduce-scatters: one pass around the ring.

    t = N2 with R = 1                                                                        (N3)

    nbytes : bytes of the full tensors together. [B]   ranks : N. [-]   node : ranks per node. [-]
    bandwidth : B. [B/s]   hops : latency of a hop inside a node and between nodes. [s]   calls : collectives. [-]
    Returns seconds; 0 for one rank. [s]
    Source: NCCL nccl-tests doc/PERFORMANCE.md.

    >>> round(gather_seconds(8e9, 8.0, 8.0, 1e9, (0.0, 0.0)), 3)
    7.0
    """
    return ring_seconds(nbytes, ranks, node, bandwidth, hops, calls)


def all_reduce_seconds(
    nbytes: Num, ranks: Num, node: Num, bandwidth: Num, hops: tuple[Num, Num], calls: Num = 1.0
) -> Num:
    """Time of ring all-reduces: a reduce-scatter and an all-gather.

    t = N2 with R = 2                                                                        (N4)

    nbytes : bytes of the full tensors together. [B]   ranks : N. [-]   node : ranks per node. [-]
    bandwidth : B. [B/s]   hops : latency of a hop inside a node and between nodes. [s]   calls : collectives. [-]
    Returns seconds; 0 for one rank. [s]
    Source: NCCL nccl-tests doc/PERFORMANCE.md.

    >>> round(all_reduce_seconds(8e9, 8.0, 8.0, 1e9, (0.0, 0.0)), 3)
    14.0
    """
    return ring_seconds(nbytes, ranks, node, bandwidth, hops, calls, rounds=2.0)


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


def destinations(places: Num, copies: Num) -> Num:
    """Places that some copies of a token go to, where each goes to any of them: several may go to one.

    d(N) = N (1 - (1 - 1 / N)^k)                                                             (N7)

    places : ranks or nodes, N. [-]   copies : of one token, k. [-]
    Returns a mean number, at most k. [-]
    Source: counting, for experts drawn evenly.

    >>> float(destinations(2.0, 2.0))
    1.5
    """
    return places * (1.0 - (1.0 - 1.0 / places) ** copies)


def dispatch_seconds(
    nbytes: Num, copies: Num, ranks: Num, node: Num, scale_up: Num, scale_out: Num, latency: Num
) -> Num:
    """Time to send tokens to the ranks of their experts, each once to a node and there once to a rank.

    t = n max(d(N) (G' - 1) / (G' B_u), d(M) (M - 1) G' / (M B_o)) + a,  M = N / G'          (N8)

    nbytes : bytes of a rank's tokens, one copy of each, n. [B]   copies : experts of a token, k. [-]
    ranks : N. [-]   node : devices per node, G. [-]   scale_up : B_u, per device. [B/s]
    scale_out : B_o, per node. [B/s]   latency : a. [s]
    Returns seconds; 0 for one rank. [s]
    Source: deepseek-ai/DeepEP README: within nodes over NVLink, between them over RDMA to one rank that forwards.

    >>> float(dispatch_seconds(1e9, 2.0, 4.0, 2.0, 1e9, 1e9, 0.0))
    1.5
    """
    local = minimum(ranks, node)
    nodes = ranks / local
    inside = destinations(ranks, copies) * (local - 1.0) / (local * scale_up)
    outside = destinations(nodes, copies) * (nodes - 1.0) / nodes * local / scale_out
    return where(ranks > 1, nbytes * maximum(inside, outside) + latency, 0.0)


def transfer_seconds(nbytes: Num, bandwidth: Num, latency: Num, calls: Num = 1.0) -> Num:
    """Time of sends from one rank to one other.

    t = n / B + c a                                                                          (N6)

    nbytes : n. [B]   bandwidth : B. [B/s]   latency : a. [s]   calls : c. [-]
    Returns seconds. [s]
    Source: counting.

    >>> transfer_seconds(1e9, 1e9, 1e-3, 2.0)
    1.002
    """
    return nbytes / bandwidth + calls * latency
