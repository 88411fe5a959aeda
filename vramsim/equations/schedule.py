"""How times combine: overlap and its two bounds. Equations S1-S3 of docs/equations/schedule.md."""

from __future__ import annotations

from vramsim.units import Num, maximum

CONTENTION = 0.1256
"""Slowdown of computation beside communication (PKU-DAIR/Hetu-Galvatron overlap_coefficient.json). [-]"""


def overlapped_seconds(computing: Num, network: Num, offload: Num, slowdown: float = CONTENTION) -> Num:
    """Time of computation and of the transfers that run beside it.

    Links run side by side, too. The network's transfers slow the computation meanwhile: both share memory bandwidth and
    processors.

    t = max(n, o, c + k / (1 + k) n)                                                         (S1)

    computing : c. [s]   network : the busiest network link, n. [s]   offload : the busiest link to the host, o. [s]
    slowdown : of computation beside communication, k. [-]
    Returns seconds. [s]
    Source: definition; with k = 0 this is the roofline.

    >>> overlapped_seconds(2.0, 3.0, 1.0)
    3.0
    """
    return maximum(maximum(network, offload), computing + slowdown / (1.0 + slowdown) * network)


def pipelined_share(units: Num) -> Num:
    """Share of the transfers of a chain of units that overlaps the computation of their neighbours.

    The first unit's gather precedes all computation, the last unit's reduction follows it.

    h = 1 - 1 / n                                                                            (S2)

    units : n, at least one. [-]
    Returns a ratio. [-]
    Source: counting; PyTorch FSDP and DDP, DeepSpeed ZeRO.

    >>> pipelined_share(4.0)
    0.75
    """
    return 1.0 - 1.0 / units


def hiding_bandwidth(nbytes: Num, cover: Num) -> Num:
    """Bandwidth at which a transfer would hide behind computation entirely.

    B = b / c                                                                                (S3)

    nbytes : bytes to move, b. [B]   cover : computation they can hide behind, c. [s]
    Returns bandwidth. [B/s]
    Source: S1 with k = 0.

    >>> hiding_bandwidth(5e10, 2.0)
    25000000000.0
    """
    return nbytes / maximum(cover, 1e-12)
