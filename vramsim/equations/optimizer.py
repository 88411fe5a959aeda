"""What an optimizer keeps per weight, and how long its step takes. Equations O1-O3 of docs/equations/optimizer.md."""

from __future__ import annotations

from vramsim.units import Num


def state_bytes(numel: Num, element: Num, block: Num, scale: Num = 4.0) -> Num:
    """Bytes of one full optimizer state of a weight, stored in blocks with a scale each.

    b = n (e + s / B)                                                                        (O1)

    numel : elements, n. [-]   element : bytes each, e. [B]   block : elements that share a scale, B (0: none). [-]
    scale : bytes of a scale, s. [B]
    Returns bytes. [B]
    Source: bitsandbytes optim/optimizer.py; torchao optim/README.md.

    >>> float(state_bytes(256.0, 1.0, 256.0))
    260.0
    """
    return numel * (element + (scale / block if block else 0.0))


def factored_elements(rows: Num, cols: Num) -> Num:
    """Elements of a factored second moment: a row and a column vector instead of a matrix.

    n = r + c                                                                                (O2)

    rows : rows, r. [-]   cols : columns, c. [-]
    Returns elements. [-]
    Source: Adafactor, arXiv 1804.04235.

    >>> float(factored_elements(512.0, 512.0))
    1024.0
    """
    return rows + cols


def cpu_step_seconds(numel: Num, bytes_per_element: Num, bandwidth: Num) -> Num:
    """Time of an optimizer step on the CPU, which streams its tensors through DRAM.

    t = n b / W                                                                              (O3)

    numel : elements of this rank, n. [-]   bytes_per_element : DRAM traffic, b. [B]
    bandwidth : this rank's share of DRAM bandwidth, W. [B/s]
    Returns seconds. [s]
    Source: ZeRO-Offload, arXiv 2101.06840 (10 B parameters in 2.57 s on two sockets, b = 28).

    >>> float(cpu_step_seconds(1e9, 28.0, 1.1e11))
    0.254...
    """
    return numel * bytes_per_element / bandwidth
