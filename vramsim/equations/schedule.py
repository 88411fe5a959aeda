"""How times combine: overlap and its two bounds. Equations S1-S2 of docs/equations/schedule.md."""

from __future__ import annotations

from vramsim.units import Num, minimum


def exposed_seconds(seconds: Num, hidden: Num, cover: Num) -> Num:
    """Time of a transfer that computation does not hide.

    x = t - min(h t, c)                                                                      (S1)

    seconds : the transfer, t. [s]   hidden : share that the framework can overlap, h. [-]
    cover : computation it can hide behind, c. [s]
    Returns seconds. [s]
    Source: definition; h = 1 is the roofline, h = 0 the serial sum.

    >>> float(exposed_seconds(3.0, 1.0, 2.0))
    1.0
    """
    return seconds - minimum(hidden * seconds, cover)
