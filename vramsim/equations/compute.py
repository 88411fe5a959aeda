"""FLOPs and kernel times. Equations C1-C5 of docs/equations/compute.md."""

from __future__ import annotations

from vramsim.units import Num, maximum


def linear_flops(numel: Num, tokens: Num) -> Num:
    """FLOPs of multiplying tokens by a weight: a multiply and an add per element and token.

    f = 2 n T                                                                                (C1)

    numel : elements of the weight, n. [-]   tokens : T. [-]
    Returns FLOPs. [FLOP]
    Source: counting.

    >>> float(linear_flops(10.0, 3.0))
    60.0
    """
    return 2.0 * numel * tokens


def attention_flops(width: Num, tokens: Num, keys: Num, causal: Num = 0.5) -> Num:
    """FLOPs of scores and weighted values, forward.

    f = 4 w T s g                                                                            (C2)

    width : heads times head dim, w. [-]   tokens : queries, T. [-]   keys : keys that one query may see, s. [-]
    causal : share of them that the mask leaves, g. [-]
    Returns FLOPs. [FLOP]
    Source: counting; g = 1/2 is Megatron's convention, 1 is PaLM's.

    >>> float(attention_flops(128.0, 1.0, 1024.0))
    262144.0
    """
    return 4.0 * width * tokens * keys * causal


def saturation(size: Num, half: Num) -> Num:
    """Share of its best rate that a kernel reaches when one of its dimensions is small.

    s = x / (x + x0)                                                                         (C3)

    size : the dimension, x. [-]   half : the size at which half the rate is reached, x0. [-]
    Returns a ratio. [-]
    Source: pipeline filling (Hockney's n-half).

    >>> float(saturation(300.0, 100.0))
    0.75
    """
    return size / (size + half)


def roofline_seconds(flops: Num, rate: Num, nbytes: Num, bandwidth: Num) -> Num:
    """Time of a kernel bound by arithmetic or by memory, whichever is slower.

    t = max(f / F, b / W)                                                                    (C4)

    flops : work, f. [FLOP]   rate : attainable rate, F. [FLOP/s]   nbytes : memory traffic, b. [B]
    bandwidth : attainable bandwidth, W. [B/s]
    Returns seconds. [s]
    Source: Williams, Waterman and Patterson 2009.

    >>> float(roofline_seconds(2e12, 1e12, 1e9, 1e12))
    2.0
    """
    return maximum(flops / rate, nbytes / bandwidth)
