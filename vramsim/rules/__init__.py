"""What must hold between the numbers of a setup: each rule once, as a predicate that broadcasts and as a sentence.

One setup that breaks a rule is refused with its sentence; a grid is masked, and the masks say which rule removed what.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from vramsim.errors import VramsimError
from vramsim.rules import methods, parallel, pipeline
from vramsim.rules.rule import Mask, Rule
from vramsim.spec import Setup

__all__ = ["RULES", "Mask", "Rule", "check", "element", "grid_shape", "violations"]

RULES: tuple[Rule, ...] = (*parallel.RULES, *pipeline.RULES, *methods.RULES)
"""All rules, in the order in which they are checked: a later one may rely on an earlier one."""


def violations(setup: Setup) -> dict[str, Mask]:
    """Rule name -> where it is broken, for the rules that are broken somewhere.

    setup : one setup, or an open grid. [-]
    """
    broken = ((rule.name, np.logical_not(rule.holds(setup))) for rule in RULES)
    return {name: mask for name, mask in broken if np.any(mask)}


def check(setup: Setup) -> None:
    """Refuse a setup that breaks a rule wherever one looks; a grid that keeps each rule somewhere passes.

    setup : one setup, or an open grid. [-]
    Raises VramsimError with the sentence of the first such rule.
    """
    grid_shape(setup)
    for rule in RULES:
        if not np.any(rule.holds(setup)):
            raise VramsimError(rule.explain(element(setup)))


def grid_shape(setup: Setup) -> tuple[int, ...]:
    """Common shape of all arrays of a setup; () if it has none.

    setup : one setup, or an open grid. [-]
    Raises VramsimError if the arrays do not broadcast.
    """
    shapes = {name: value.shape for name, value in _numbers(setup) if isinstance(value, np.ndarray)}
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
        raise VramsimError(
            f"arrays of a case must broadcast, but their shapes are {listed}; give each choice an axis of its own "
            "(numpy.ix_)"
        ) from None


def element(setup: Setup, index: int = 0) -> Setup:
    """One setup of a grid, its numbers scalars.

    setup : one setup, or an open grid. [-]   index : position in the flattened grid. [-]
    """
    shape = grid_shape(setup)
    where = np.unravel_index(index, shape) if shape else ()

    def pick(record: Any) -> Any:
        arrays = {f.name: getattr(record, f.name) for f in fields(record)}
        arrays = {name: value for name, value in arrays.items() if isinstance(value, np.ndarray)}
        return replace(record, **{name: float(np.broadcast_to(value, shape)[where]) for name, value in arrays.items()})

    return replace(setup, cluster=pick(setup.cluster), training=pick(setup.training), strategy=pick(setup.strategy))


def _numbers(setup: Setup) -> Iterator[tuple[str, object]]:
    for record in (setup.cluster, setup.training, setup.strategy):
        for field in fields(record):
            yield field.name, getattr(record, field.name)
