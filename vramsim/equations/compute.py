"""FLOPs and times of kernels. Equations C1-C12 of docs/equations/compute.md."""

from __future__ import annotations

from vramsim.units import Num, ceil_div, maximum, minimum, where


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


def padded_outputs(
    rows: Num, cols: Num, tile: tuple[float, float], processors: Num, count: Num = 1.0, whole: float = 1.0
) -> Num:
    """Output elements that a tiled product occupies the device for: whole tiles, in waves of them.

    One tile runs on one processor, so that the last wave would take as long as a full one; kernels that split tiles
    along the depth spread its work over idle processors.

    e = P a b (u ceil(w) + (1 - u) w),  w = c ceil(m / a) ceil(n / b) / P                    (C5)

    rows : m. [-]   cols : n. [-]   tile : rows a and columns b of one output tile. [-]
    processors : streaming multiprocessors, P. [-]   count : equal products in one launch, c. [-]
    whole : share of the last wave's idle time that stays, u. [-]
    Returns elements, no fewer than c m n. [-]
    Source: NVIDIA, Matrix multiplication background user's guide (tile and wave quantization); split-K and stream-K.

    >>> padded_outputs(4096.0, 4096.0, (128.0, 256.0), 108.0) / 4096.0**2
    1.0546875
    """
    tiles = count * ceil_div(rows, tile[0]) * ceil_div(cols, tile[1])
    waves = whole * ceil_div(tiles, processors) + (1.0 - whole) * tiles / processors
    return processors * tile[0] * tile[1] * waves


def product_seconds(wide: Num, narrow: Num, depth: Num, rate: Num, fill: Num, penalty: float) -> Num:
    """Time of a tiled matrix product, with the better of two tile shapes.

    Each tile adds up k products and pays for filling its pipeline as if there were k0 more.

    t = 2 (k + k0) min(e1, q e2) / F                                                         (C6)

    wide : occupied outputs with large tiles, e1. [-]   narrow : with small ones, e2. [-]   depth : k. [-]
    rate : rate of a large product, F. [FLOP/s]   fill : k0. [-]   penalty : how much slower small tiles are, q. [-]
    Returns seconds. [s]
    Source: C3 and C5; constants fitted by studies/calibrate_hardware.py.

    >>> product_seconds(2e6, 1e6, 900.0, 1e12, 100.0, 1.05)
    0.0021
    """
    return 2.0 * (depth + fill) * minimum(wide, penalty * narrow) / rate


def product_bytes(rows: Num, cols: Num, depth: Num, size: float, output: float, count: Num = 1.0) -> Num:
    """Memory traffic of a matrix product that reads each operand once.

    b = c (e k (m + n) + o m n)                                                              (C7)

    rows : m. [-]   cols : n. [-]   depth : k. [-]   size : bytes per element of an operand, e. [B]
    output : bytes per element of the product, twice where it is added to, o. [B]   count : equal products, c. [-]
    Returns bytes. [B]
    Source: counting; operands that fit a cache are read once.

    >>> product_bytes(2.0, 3.0, 4.0, 2.0, 2.0)
    52.0
    """
    return count * (size * depth * (rows + cols) + output * rows * cols)


def score_bytes(tokens: Num, keys: Num, heads: Num, passes: Num) -> Num:
    """Memory traffic of attention that writes its matrix of scores.

    b = p T s a                                                                              (C8)

    tokens : queries, T. [-]   keys : s. [-]   heads : a. [-]   passes : bytes moved per score, p. [B]
    Returns bytes. [B]
    Source: counting kernels (table of docs/equations/compute.md).

    >>> float(score_bytes(1024.0, 1024.0, 16.0, 7.0))
    117440512.0
    """
    return passes * tokens * keys * heads


def copied_bytes(elements: Num, read: Num, written: Num) -> Num:
    """HBM traffic of copying tensors into or out of a buffer, cast on the way.

    b = n (e_r + e_w)                                                                        (C10)

    elements : n. [-]   read, written : bytes of one as it is read and written, e_r, e_w. [B]
    Returns bytes. [B]
    Source: counting.

    >>> copied_bytes(10.0, 2.0, 4.0)
    60.0
    """
    return elements * (read + written)


def capped_share(limit: Num, rated: Num, exponent: float) -> Num:
    """Share of its rate that a device sustains under a power limit, in kernels that draw all that it may.

    q = min(1, (P / P0)^g)                                                                  (C11)

    limit : power limit, P. [W]   rated : power at which the rate was measured, P0. [W]
    exponent : g: 1 where the voltage is at its floor, 1/3 where it follows the clock. [-]
    Returns a ratio. [-]
    Source: dynamic power, C V^2 f; cuBLAS on GB300 (docs/equations/compute.md).

    >>> capped_share(1000.0, 1000.0, 0.9), round(float(capped_share(500.0, 1000.0, 1.0)), 3)
    (1.0, 0.5)
    """
    return minimum(1.0, (limit / rated) ** exponent)


def unaligned_share(row_bytes: Num) -> Num:
    """Share of its rate that a product keeps whose matrices have rows that do not fill loads of 16 bytes.

    q = 3^(-n / 3), n = 0, 1, 2, 3 for rows of whole 16, 8, 4, 2 bytes                      (C12)

    row_bytes : length of a row of any of the matrices. [B]
    Returns a ratio. [-]
    Source: a third for odd rows of 16-bit elements, reported (docs/equations/compute.md); equal steps assumed between.

    >>> [round(float(unaligned_share(2.0 * columns)), 2) for columns in (50264.0, 50260.0, 50258.0, 50257.0)]
    [1.0, 0.69, 0.48, 0.33]
    """
    share: Num = 1.0
    for halvings, whole in enumerate((16.0, 8.0, 4.0), 1):
        share = where(row_bytes % whole > 0.0, 3.0 ** (-halvings / 3.0), share)
    return share


def waiting_seconds(host: Num, device: Num) -> Num:
    """Time that a device waits for its host, which launches kernels one after the other while the device works.

    w = max(h - d, 0), the largest at any point of a step                                    (C9)

    host : time to launch all kernels up to a point, h. [s]   device : time to run those, d. [s]
    Returns seconds. [s]
    Source: asynchronous launches: a device is never ahead of its host.

    >>> waiting_seconds(3.0, 2.0)
    1.0
    """
    return maximum(host - device, 0.0)
