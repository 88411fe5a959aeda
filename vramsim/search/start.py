"""Where a search with Optuna starts: the optimum of a coarse open grid, and of ever finer ones around it.

A grid of thousands of configurations costs little more than one. What it finds is enqueued: the sampler and the
neighbours are left with what lies between the lines of the grids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, product
from math import prod
from operator import ne
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vramsim.search.pareto import pareto_front
from vramsim.search.scores import Point, looped_choices, spaced
from vramsim.simulate import simulate
from vramsim.space import Axis, Objective, Space
from vramsim.units import Num

MOST_POINTS = 1 << 16
"""Points of all coarse grids together. [-]"""

LEAST_SHARE = 1 / 32
"""Share of the space that the coarse grids may hold: of a small one, the trials are to find the optimum. [-]"""

MOST_STRUCTURES = 64
"""Combinations of what is no number for which a coarse grid is tried. [-]"""

TOGETHER, IN_TURN = 7, 5
"""Choices that one finer grid moves, three values each; and each of several grids, where there are more of them."""

BEST = 16
"""Points that are refined, for each objective. [-]"""

SHORT_LIST = 256
"""Points of a coarse grid among which those are chosen, for each objective. [-]"""

APART = 3
"""Choices in which they differ from each other: two that differ in fewer lead to the same optimum. [-]"""

SWEPT = 3
"""Choices whose values are all tried together around a point. [-]"""

SWEPT_STRUCTURES, SWEPT_SETTINGS = 3, 4
"""Structures, and settings of the switches within them, around whose best point that is done, for each objective: one
sweep each, and the fewest that find optima which fit with nothing to spare (tests/search/test_optuna.py). [-]"""

Lists = Mapping[str, Sequence[int]]
"""Key -> positions in its list of values that a grid holds, for every numeric choice."""


Found = tuple[float, tuple[float, ...], Point]
"""Violation of the constraints, goals, and positions of a point."""


@dataclass(frozen=True, slots=True)
class Start:
    """Points to begin with, best first, and how many configurations were simulated to find them."""

    points: tuple[Point, ...]
    simulated: int


@dataclass(slots=True)
class _Grids:
    """Open grids of one space, and how many points they had."""

    space: Space
    objectives: tuple[Objective, ...]
    simulated: int = 0

    def best(self, made: Mapping[str, int], lists: Lists) -> Iterator[tuple[float, NDArray[np.float64], list[Point]]]:
        """Of each block of a grid: the least violation; goals and points of the best of those that have it.

        made : key -> position of the choices without an array. [-]   lists : positions of the others. [-]
        """
        axes = [
            Axis((self.space.by_key[key],), np.array(positions, np.uint16)[:, np.newaxis])
            for key, positions in lists.items()
        ]
        for block in self.space.structure(made, axes).blocks():
            self.simulated += block.size
            estimate = simulate(block.case)

            def spread(value: Num, shape: tuple[int, ...] = block.shape) -> NDArray[np.float64]:
                return np.broadcast_to(value, shape).ravel()

            none: Num = 0.0
            over = [np.maximum(constraint.over(estimate), 0.0) for constraint in self.space.constraints]
            violation = spread(reduce(np.add, over, none))
            least = float(violation.min())
            inside = np.flatnonzero(violation == least)
            goals = np.column_stack([spread(goal.sign * goal.measure(estimate))[inside] for goal in self.objectives])
            best = np.unique(np.concatenate([pareto_front(goals), *map(_least, goals.T)]))
            found = block.positions(inside[best])
            columns = [found[choice.key] for choice in self.space.choices]
            yield least, goals[best], [tuple(map(int, row)) for row in np.column_stack(columns)]


def start(space: Space, objectives: tuple[Objective, ...], most: int) -> Start:
    """The analytic optimum: of a coarse grid of every structure, then of finer ones around the best of them.

    space : what is searched. [-]   objectives : what is optimized. [-]   most : largest number of points. [-]
    """
    grids = _Grids(space, objectives)
    structures = list(_structures(space))
    budget = min(MOST_POINTS, space.size * LEAST_SHARE) / len(structures)
    coarse, other = (_coarse(space, budget / 2.0, ends=ends) for ends in (True, False))
    front = [
        (least, tuple(row), point)
        for lists in (coarse, other)
        for made in structures
        for least, goals, points in grids.best(made, lists)
        for row, point in zip(goals.tolist(), points, strict=True)
    ]
    if not front:
        return Start((), grids.simulated)
    found = []
    for number in range(len(objectives)):
        front.sort(key=lambda each: (each[0], each[1][number]))
        left = iter(_apart(front))
        allowed = grids.simulated + budget * len(structures) / len(objectives)
        refined = [_refined(grids, next(left), number, coarse)]
        refined += [_refined(grids, each, number, coarse) for each in left if grids.simulated < allowed]
        refined.sort(key=lambda each: (each[0], each[1][number]))
        swept = [_swept(grids, each, number) for each in _to_sweep(space, [*refined, *front])]
        found += sorted([*swept, *refined], key=lambda each: (each[0], each[1][number]))
    least = min(each[0] for each in front)
    good = [each for each in front if each[0] == least]
    outer = [good[row] for row in pareto_front(np.array([each[1] for each in good]))]
    spread = spaced(len(outer), max(1, most - len(found)))
    points = dict.fromkeys([each[2] for each in found] + [outer[row][2] for row in spread])
    return Start(tuple(points)[:most], grids.simulated)


def _to_sweep(space: Space, ranked: Sequence[Found]) -> list[Found]:
    """The first points of some structures, and of some settings of the switches, numbers of two values, within them:
    which is best shows only where each just fits.
    """
    switches = [number for number, choice in enumerate(space.choices) if len(choice) == 2]
    chosen: dict[Point, Found] = {}
    wanted = (looped_choices(space), SWEPT_STRUCTURES), ({*looped_choices(space), *switches}, SWEPT_SETTINGS)
    for places, most in wanted:
        first: dict[tuple[int, ...], Found] = {}
        for each in ranked:
            first.setdefault(tuple(each[2][place] for place in sorted(places)), each)
        chosen |= {each[2]: each for each in list(first.values())[:most]}
    return list(chosen.values())


def _least(column: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows of the least values of a column."""
    count = min(SHORT_LIST, len(column))
    return np.argpartition(column, count - 1)[:count]


def _apart(ranked: Sequence[Found]) -> list[Found]:
    """The best of some points that differ from each other in several choices."""
    chosen: list[Found] = []
    for each in ranked:
        if all(sum(map(ne, each[2], other[2])) >= APART for other in chosen):
            chosen.append(each)
            if len(chosen) == BEST:
                break
    return chosen


def defaults(space: Space) -> Point:
    """Where the base case lies in the space; for a choice among whose values it is not, the nearest or first one.

    space : what is searched. [-]
    """
    described = space.base.describe()
    return tuple(_position(choice, _look_up(described, choice.key)) for choice in space.choices)


def _look_up(described: Any, key: str) -> Any:
    for word in key.split("."):
        described = described.get(word) if isinstance(described, Mapping) else None
    return described.get("name", described) if isinstance(described, Mapping) else described


def _position(choice: Any, value: Any) -> int:
    if choice.numbers is not None and isinstance(value, int | float):
        return int(np.argmin(np.abs(choice.numbers - value)))
    return choice.values.index(value) if value in choice.values else 0


def _structures(space: Space) -> Iterator[Mapping[str, int]]:
    """Combinations of the choices that are no numbers: all, or those that differ from the defaults in one."""
    looped = [space.choices[number] for number in looped_choices(space)]
    if prod(len(choice) for choice in looped) <= MOST_STRUCTURES:
        for positions in product(*(range(len(choice)) for choice in looped)):
            yield {choice.key: position for choice, position in zip(looped, positions, strict=True)}
        return
    usual = {choice.key: at for choice, at in zip(space.choices, defaults(space), strict=True) if choice in looped}
    yield usual
    changed = [{**usual, choice.key: at} for choice in looped for at in range(len(choice)) if at != usual[choice.key]]
    yield from changed[: MOST_STRUCTURES - 1]


def _coarse(space: Space, budget: float, *, ends: bool) -> dict[str, list[int]]:
    """Positions of a coarse grid: the most thinned choice grows first, or, of `ends`, after all have both their ends.

    Neither is better everywhere: a switch that is left in one position hides half of a space, and one that is not takes
    half of the points from all others.
    """
    numeric = [choice for choice in space.choices if choice.numbers is not None]
    counts = {choice.key: 1 for choice in numeric}
    while growing := [choice for choice in numeric if counts[choice.key] < len(choice)]:
        choice = min(growing, key=lambda each: (ends and counts[each.key] > 1, counts[each.key] / len(each)))
        count = counts[choice.key]
        larger = min(len(choice), 2 if count == 1 else 2 * count - 1)
        if prod(counts.values()) // count * larger > budget:
            break
        counts[choice.key] = larger
    return {choice.key: _spaced(len(choice), counts[choice.key]) for choice in numeric}


def _spaced(size: int, count: int) -> list[int]:
    if count == 1:
        return [size // 2]
    return sorted({round(index * (size - 1) / (count - 1)) for index in range(count)})


def _refined(grids: _Grids, found: Found, number: int, coarse: Lists) -> Found:
    """The optimum of ever finer grids around a point, in one objective; the structure stays."""
    space = grids.space
    steps = {key: max(1, (len(space.by_key[key]) - 1) // max(1, len(at) - 1)) for key, at in coarse.items()}
    made = {space.choices[at].key: found[2][at] for at in looped_choices(space)}
    while True:
        before = found
        steps = {key: (step + 1) // 2 for key, step in steps.items()}
        for moved in _windows(steps):
            at = dict(zip(space.by_key, found[2], strict=True))
            lists = {
                key: sorted({at[key], max(0, at[key] - step), min(len(space.by_key[key]) - 1, at[key] + step)})
                if key in moved
                else [at[key]]
                for key, step in steps.items()
            }
            for least, goals, points in grids.best(made, lists):
                row = int(np.argmin(goals[:, number]))
                better = (least, tuple(goals[row].tolist()), points[row])
                found = min(found, better, key=lambda each: (each[0], each[1][number]))
        if found[2] == before[2] and all(step == 1 for step in steps.values()):
            return found


def _swept(grids: _Grids, found: Found, number: int) -> Found:
    """The optimum over all values of any three numeric choices around a point, again and again: where what just fits is
    best, a choice is worth its change only together with others.
    """
    space = grids.space
    numeric = [choice.key for choice in space.choices if choice.numbers is not None]
    while True:
        before = found
        for few in combinations(numeric, SWEPT):
            at = dict(zip(space.by_key, found[2], strict=True))
            made = {space.choices[place].key: found[2][place] for place in looped_choices(space)}
            lists = {key: list(range(len(space.by_key[key]))) if key in few else [at[key]] for key in numeric}
            for least, goals, points in grids.best(made, lists):
                row = int(np.argmin(goals[:, number]))
                better = (least, tuple(goals[row].tolist()), points[row])
                found = min(found, better, key=lambda each: (each[0], each[1][number]))
        if found[2] == before[2]:
            return found


def _windows(steps: Mapping[str, int]) -> list[list[str]]:
    """Choices that are moved together: each with its next ones, round and round, so that most pairs meet."""
    keys = list(steps)
    if len(keys) <= TOGETHER:
        return [keys]
    return [[keys[(first + more) % len(keys)] for more in range(IN_TURN)] for first in range(len(keys))]
