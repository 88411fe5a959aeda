"""Bytes of quantized weights. Equations Q1 and Q2 of docs/equations/quantization.md."""

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


def weight_copies(numel: Num, element: Num, copies: Num) -> Num:
    """Bytes of a weight's casts to 8 or 4 bits: one for its product, one for its input's gradient.

    b = c n e                                                                                (Q2)

    numel : elements, n. [-]   element : bytes of one with its share of a block's scale, e. [B]   copies : c. [-]
    Returns bytes. [B]
    Source: TransformerEngine pytorch/module/linear.py; docs/features/low_precision_training/nvfp4.

    >>> weight_copies(64.0, 0.5625, 2.0)
    72.0
    """
    return copies * numel * element
