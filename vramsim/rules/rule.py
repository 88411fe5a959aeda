"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vramsim.spec import Setup
from vramsim.units import Num

Mask = bool | np.bool_ | NDArray[np.bool_]
"""A truth value, or one for each element of a grid."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A named relation. `holds` broadcasts; `explain` says, for one setup that breaks it: relation, values, remedy."""

    name: str
    holds: Callable[[Setup], Mask]
    explain: Callable[[Setup], str]


def show(value: Num) -> str:
    """A number as a person would write it.

    value : one number. [any]

    >>> show(24.0)
    '24'
    """
    return f"{float(value):.10g}"
