"""Numbers as a user gives them: one, or an array of them (an open grid), checked element by element.

Booleans are no numbers here, and neither are texts, however much they look like one: YAML reads `1e3` as a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.units import DAY, HOUR, Num

Checked = TypeVar("Checked")

MOST: float = 1e9
"""Largest count that makes sense of anything here: devices, tokens, sequences."""

TIMES = {"": 1.0, "s": 1.0, "min": 60.0, "h": HOUR, "d": DAY, "w": 7.0 * DAY}
"""Suffix of a duration -> its seconds."""


def number(
    least: float, most: float, *, whole: bool = False, words: tuple[str, ...] = (), switch: bool = False
) -> Callable[[Any], Num | str]:
    """Validator of a number or an array of numbers.

    least, most : smallest and largest value. [as the field]   whole : whether only whole numbers will do. [-]
    words : texts that are accepted instead. [-]   switch : whether true and false stand for 1 and 0. [-]
    The validator raises ValueError with what would be right and what was given.
    """
    kind = "a whole number" if whole else "a number"
    right = f"{kind} from {least:g} to {most:g}" + (f", or one of {', '.join(words)}" if words else "")

    def validate(value: Any) -> Num | str:
        if isinstance(value, str):
            if value.lower() in words:
                return value.lower()
            raise ValueError(f"must be {right}, got the text {shown(value)}{_hint(value)}")
        if switch and isinstance(value, bool):
            return float(value)
        if isinstance(value, list | tuple | np.ndarray):
            return _array(value, least, most, whole, right)
        return _one(value, least, most, whole, right)

    return validate


def optional(validate: Callable[[Any], Checked]) -> Callable[[Any], Checked | None]:
    """Validator that lets None pass.

    validate : validator of everything else. [-]
    """
    return lambda value: None if value is None else validate(value)


def plain(value: Any) -> Any:
    """A number or array as JSON has it: whole numbers without a decimal point, arrays as lists.

    value : what a field holds. [-]

    >>> plain(2.0), plain(0.5), plain("full")
    (2, 0.5, 'full')
    """
    if isinstance(value, np.ndarray):
        return [plain(each) for each in value] if value.ndim else plain(value.item())
    if isinstance(value, float | np.floating):
        return int(value) if float(value).is_integer() else float(value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def _one(value: Any, least: float, most: float, whole: bool, right: str) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"must be {right}, got {shown(value)}")
    try:
        single = float(value)
    except OverflowError:  # an integer beyond float64
        digits = int(int(value).bit_length() * 0.30103) + 1
        raise ValueError(f"must be {right}, got a number of about {digits} digits") from None
    # Written so that NaN, which compares false with everything, is refused as well.
    if not (least <= single <= most) or (whole and single != np.floor(single)):
        raise ValueError(f"must be {right}, got {shown(value)}")
    return single


def _array(values: Any, least: float, most: float, whole: bool, right: str) -> NDArray[np.float64]:
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        array = values.astype(np.float64)
        good = (array >= least) & (array <= most) & ((array == np.floor(array)) | (not whole))
        if not good.all():
            raise ValueError(f"must hold {right} in every element, got {float(array[~good][0])!r}")
    else:
        items = values.tolist() if isinstance(values, np.ndarray) else list(values)
        try:
            nested = [
                _array(v, least, most, whole, right) if isinstance(v, list | tuple | np.ndarray) else v for v in items
            ]
            array = np.array([v if isinstance(v, np.ndarray) else _one(v, least, most, whole, right) for v in nested])
        except ValueError as error:
            if "inhomogeneous" in str(error) or "broadcast" in str(error):
                raise ValueError(f"must be {right}, or a regular array of them, got {values!r}") from None
            raise
    if array.size == 0:
        raise ValueError(f"must be {right}, or an array of them, got an empty array")
    array.setflags(write=False)
    return array


def _hint(text: str) -> str:
    try:
        value = float(text.replace("_", "").replace(",", ""))
    except ValueError:
        return ""
    return f"; write the number {value:.12g} without quotes (YAML takes 1e3 for a text: write 1.0e+3 or 1000)"


def duration(text: str, name: str = "a deadline") -> float:
    """Seconds of a duration such as 7d, 12h or 90min.

    text : number and unit: s, min, h, d, w; seconds without one. [-]   name : what it is, for the error. [-]
    Raises VramsimError for anything else.

    >>> duration("1.5h")
    5400.0
    """
    match = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z]*)\s*", text.lower())
    try:
        seconds = float(match.group(1)) * TIMES[match.group(2)] if match else 0.0
    except (KeyError, ValueError):
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise VramsimError(f"{name} must be a time such as 7d, 12h or 90min, got {shown(text)}")
    return seconds
