"""Evaluating a block of configurations at once, and keeping only those that satisfy every constraint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vramsim.estimate import Estimate, Memory
from vramsim.graph import Graph
from vramsim.simulate import simulate
from vramsim.space import METRICS, Block, Constraint
from vramsim.units import Num

Floats = NDArray[np.float64]
Pick = Callable[[NDArray[Any]], NDArray[Any]]
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Feasible points of a block: which ones, and what they measure. `estimate` is that of these points only."""

    block: Block
    points: NDArray[np.intp]
    estimate: Estimate
    removed: Counter[str]

    def __len__(self) -> int:
        return len(self.points)

    def columns(self) -> dict[str, Floats]:
        """Metric -> its value at every point."""
        return {name: self.column(measure) for name, measure in METRICS.items()}

    def column(self, measure: Callable[[Estimate], Num]) -> Floats:
        """One metric at every point.

        measure : how it is read off an estimate. [-]
        """
        return np.broadcast_to(np.asarray(measure(self.estimate), np.float64), self.points.shape)


def evaluate(block: Block, constraints: Sequence[Constraint]) -> Found:
    """Simulate a block and keep the points that satisfy every constraint.

    A point that breaks several constraints counts for the first of them.

    block : points that keep all rules. [-]   constraints : what must hold. [-]
    """
    estimate, removed = simulate(block.case), Counter[str]()
    alive = np.ones(block.shape, np.bool_)
    left = block.size
    for constraint in constraints:
        alive &= np.less_equal(constraint.over(estimate), 0.0)
        before, left = left, int(np.count_nonzero(alive))
        removed[constraint.name] = before - left
    points = np.flatnonzero(alive)

    def pick(value: NDArray[Any]) -> NDArray[Any]:
        if value.size == block.size:
            return value.reshape(-1).take(points)
        return np.broadcast_to(value, block.shape)[alive]

    return Found(block, points, at(estimate, pick), +removed)


def at(estimate: Estimate, pick: Pick) -> Estimate:
    """The estimate of some points of a grid, along one axis, without breakdowns.

    estimate : of a grid. [-]   pick : takes the points out of an array that broadcasts to the grid. [-]
    """
    setup, memory = estimate.graph.setup, estimate.memory
    chosen = replace(
        setup,
        cluster=_picked(setup.cluster, pick),
        training=_picked(setup.training, pick),
        strategy=_picked(setup.strategy, pick),
    )
    tiers = {field.name: _picked(getattr(memory, field.name), pick) for field in fields(Memory)}
    return Estimate(Graph(chosen, (), (), ()), Memory(**tiers), _picked(estimate.time, pick))


def _picked(record: Record, pick: Pick) -> Record:
    changes: dict[str, Any] = {}
    for field in fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            changes[field.name] = pick(value)
        elif isinstance(value, Mapping):
            changes[field.name] = {}
    return replace(record, **changes)  # type: ignore[type-var]
