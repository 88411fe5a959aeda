"""Bytes of quantized weights. Equation Q1 of docs/equations/quantization.md."""

from __future__ import annotations

from vramsim.units import Num


def scales(numel: Num, rows: Num, scale: Num, row_scale: Num) -> Num:
    """Bytes of a quantized weight's scales, which stay whole on every rank under ZeRO-3 and FSDP.

    b = n s + r s_r                                                                          (Q1)

    numel : elements, n. [-]   rows : output rows, r. [-]   scale : bytes per element, s. [B]
    row_scale : bytes per row, s_r. [B]
    Returns bytes. [B]
    Source: bitsandbytes functional.py, QuantState is an attribute and not a parameter.

    >>> float(scales(64.0, 2.0, 4.0 / 64.0, 4.0))
    12.0
    """
    return numel * scale + rows * row_scale
