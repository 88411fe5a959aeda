"""Units and the one numeric type.

Every quantity in vramsim is in bytes, seconds or FLOPs, held as float64. A float64 counts whole numbers exactly up to
2^53 (9 PB), where an int64 array would wrap around silently in a product of two large dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Num = float | NDArray[np.float64]
"""A number, or an array of them: one formula serves one configuration and a grid of millions."""

KiB: Final = 2.0**10
MiB: Final = 2.0**20
GiB: Final = 2.0**30
MB: Final = 1e6
GB: Final = 1e9
GFLOP: Final = 1e9
TFLOP: Final = 1e12
MICROSECOND: Final = 1e-6
HOUR: Final = 3600.0
DAY: Final = 24.0 * HOUR

DTYPE_BYTES: Final[dict[str, float]] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "mxfp8": 1.0 + 1.0 / 32.0,
    "fp4": 0.5,
    "nvfp4": 0.5 + 1.0 / 16.0,
    "mxfp4": 0.5 + 1.0 / 32.0,
    "int8": 1.0,
    "uint8": 1.0,
    "uint4": 0.5,
    "bool": 1.0,
}
"""Bytes per element of a tensor of each storage type; block-scaled ones have one byte of scale in 32 or 16 elements."""


def where(condition: Any, yes: Num, no: Num) -> Num:
    """`yes` where a condition holds, `no` elsewhere; a number stays a Python number, which is ten times faster.

    condition : bool or array of bool. [-]   yes : value where it holds. [-]   no : value elsewhere. [-]

    >>> where(2.0 > 1.0, 5.0, 7.0)
    5.0
    """
    if condition is True or condition is False:
        return yes if condition else no
    return np.where(condition, yes, no)


def maximum(left: Num, right: Num) -> Num:
    """The larger of two numbers, elementwise.

    left : one. [-]   right : the other. [-]

    >>> maximum(2.0, 3.0)
    3.0
    """
    if type(left) is float and type(right) is float:
        return left if left >= right else right
    return np.maximum(left, right)


def minimum(left: Num, right: Num) -> Num:
    """The smaller of two numbers, elementwise.

    left : one. [-]   right : the other. [-]

    >>> minimum(2.0, 3.0)
    2.0
    """
    if type(left) is float and type(right) is float:
        return left if left <= right else right
    return np.minimum(left, right)


def sqrt(value: Num) -> Num:
    """Square root, elementwise; rounded correctly, so that an array and a number agree to the last bit.

    value : amount, >= 0. [-]

    >>> sqrt(9.0)
    3.0
    """
    return math.sqrt(value) if type(value) is float else np.sqrt(value)


def ceil(value: Num) -> Num:
    """Smallest whole number that is no less than a value, elementwise.

    value : amount. [-]

    >>> ceil(2.5)
    3.0
    """
    return float(math.ceil(value)) if type(value) is float else np.ceil(value)


def floor(value: Num) -> Num:
    """Largest whole number that is no more than a value, elementwise.

    value : amount. [-]

    >>> floor(2.5)
    2.0
    """
    return float(math.floor(value)) if type(value) is float else np.floor(value)


def ceil_div(numerator: Num, denominator: Num) -> Num:
    """Smallest whole number of parts of size `denominator` that cover `numerator`.

    numerator : amount to cover. [-]   denominator : size of one part, > 0. [-]
    Returns the ceiling of the quotient. [-]

    >>> ceil_div(10.0, 4.0)
    3.0
    """
    return ceil(numerator / denominator)


def in_order(values: Iterable[Num]) -> Num:
    """Sum of numbers and arrays in the order given: seconds are not whole, and the order shows in the last bit.

    values : amounts. [-]
    """
    left = iter(values)
    # Zero plus a large array would be a copy of it.
    result = next(left, 0.0)
    for value in left:
        result = result + value
    return result


def round_up(amount: Num, multiple: Num) -> Num:
    """Smallest multiple of `multiple` that is no less than `amount`.

    amount : amount to round. [-]   multiple : granularity, > 0. [-]
    Returns the rounded amount. [-]

    >>> round_up(10.0, 4.0)
    12.0
    """
    return ceil_div(amount, multiple) * multiple
