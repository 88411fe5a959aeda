"""Evaluating a block of configurations at once, and keeping only those that satisfy every constraint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vramsim.search.pareto import pareto_front
from vramsim.simulate import simulate
from vramsim.space import Block, Constraint, Objective

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Positions = NDArray[np.int32]
"""Indices of points in a block, of which millions are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Feasible points of a block, and how many points each constraint removed.

    `front` are the points that no other of the block beats, nor any that came before it; `goals` has a row for each of
    those and a column for each objective, all to be minimized. What else there is to know of a point is simulated again
    when somebody asks.
    """

    block: Block
    points: Positions
    front: Rows
    goals: Floats
    removed: Counter[str]

    def __len__(self) -> int:
        return len(self.points)


def evaluate(
    block: Block, constraints: Sequence[Constraint], objectives: Sequence[Objective], known: Floats | None = None
) -> Found:
    """Simulate a block and keep the points that satisfy every constraint.

    A point that breaks several constraints counts for the first of them.

    block : points that keep all rules. [-]   constraints : what must hold. [-]   objectives : what to optimize. [-]
    known : goals of points that came before. [any]
    """
    estimate, removed = simulate(block.case), Counter[str]()
    alive = np.ones(block.shape, np.bool_)
    left = block.size
    for constraint in constraints:
        alive &= np.less_equal(constraint.over(estimate), 0.0)
        before, left = left, int(np.count_nonzero(alive))
        removed[constraint.name] = before - left
    points = np.flatnonzero(alive)

    def pick(value: Any) -> Floats:
        if np.size(value) == block.size:
            return np.ravel(value).take(points)
        picked: Floats = np.broadcast_to(value, block.shape)[alive]
        return picked

    goals = np.empty((len(points), len(objectives)), order="F")
    for column, goal in enumerate(objectives if len(points) else ()):
        goals[:, column] = goal.sign * pick(goal.measure(estimate))
    front = pareto_front(goals, known)
    return Found(block, points.astype(np.int32), front, goals[front], +removed)
