"""How times combine: overlap and its two bounds. Equations S1-S3 of docs/equations/schedule.md."""

from __future__ import annotations

from vramsim.units import Num, maximum, minimum


def exposed_seconds(seconds: Num, hidden: Num, cover: Num, slowdown: float = 0.0) -> Num:
    """Time by which a transfer lengthens a step.

    What is hidden still slows the computation that hides it: both share memory bandwidth and processors.

    x = t - u / (1 + k),  u = min(h t, c)                                                    (S1)

    seconds : the transfer, t. [s]   hidden : share that the framework can overlap, h. [-]
    cover : computation it can hide behind, c. [s]   slowdown : of that computation meanwhile, k. [-]
    Returns seconds. [s]
    Source: definition; h = 1, k = 0 is the roofline, h = 0 the serial sum.

    >>> float(exposed_seconds(3.0, 1.0, 2.0))
    1.0
    """
    return seconds - relief(minimum(hidden * seconds, cover), slowdown)


def relief(covered: Num, slowdown: float = 0.0) -> Num:
    """Time that hiding a transfer saves: what is hidden, less what it slows down, the second term of S1.

    covered : part of a transfer that computation hides, u. [s]   slowdown : of that computation, k. [-]
    Returns seconds. [s]
    Source: S1. Computation that takes u beside a transfer would take u / (1 + k) undisturbed.

    >>> relief(2.0, 0.25)
    1.6
    """
    return covered / (1.0 + slowdown) if slowdown else covered


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
    Source: S1 with h = 1.

    >>> hiding_bandwidth(5e10, 2.0)
    25000000000.0
    """
    return nbytes / maximum(cover, 1e-12)
