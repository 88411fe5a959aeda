"""Points of a space that are looked at in batches, each evaluated once; and what lies around the best of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np

from vramsim.errors import VramsimError
from vramsim.search.evaluate import evaluate
from vramsim.search.pareto import pareto_front
from vramsim.search.result import Result, gather
from vramsim.simulate import simulate
from vramsim.space import Block, Objective, Space, relation
from vramsim.space.grid import broken_rules

Point = tuple[int, ...]
"""Positions in the lists of values, in the order of the space's choices."""

BROKEN = 1e12
"""What a broken rule counts as: more than any configuration that merely does not fit. [B]"""

REACHES = (1, 2, 8)
"""Values of a number on either side that count as neighbours, the nearest first. [-]"""

MOST_CENTRES = 64
"""Points of a front whose neighbours are tried at once. [-]"""


@dataclass(frozen=True, slots=True)
class Score:
    """Objectives of a point, all to be minimized; by how much it exceeds each constraint; the rule that it breaks."""

    goals: tuple[float, ...]
    over: Mapping[str, float]
    rule: str = ""

    @property
    def feasible(self) -> bool:
        """Whether all rules and constraints hold."""
        return all(amount <= 0.0 for amount in self.over.values())


@dataclass(slots=True)
class Scores:
    """Scores of points, each evaluated once however often it is asked for."""

    space: Space
    objectives: tuple[Objective, ...]
    known: dict[Point, Score] = field(default_factory=dict)

    def of(self, points: Iterable[Point]) -> list[Score]:
        """Scores of some points; the new ones are evaluated together, a grid for each structure.

        points : positions. [-]
        """
        points = list(points)
        for members in self._alike(dict.fromkeys(point for point in points if point not in self.known)):
            self.known.update(zip(members, self._evaluated(members), strict=True))
        return [self.known[point] for point in points]

    def front(self) -> list[Point]:
        """Feasible points so far that no other beats."""
        feasible = [point for point, score in self.known.items() if score.feasible]
        if not feasible:
            return []
        return [feasible[row] for row in pareto_front(np.array([self.known[point].goals for point in feasible]))]

    def least_violating(self) -> list[Point]:
        """The point that exceeds the constraints by least in all, one that breaks no rule if there is any."""
        return sorted(self.known, key=lambda point: sum(max(0.0, each) for each in self.known[point].over.values()))[:1]

    def result(self, simulated: int = 0) -> Result:
        """All points so far as the result of a search.

        simulated : configurations that were simulated besides. [-]
        """
        removed = Counter(score.rule for score in self.known.values() if score.rule)
        keeping = sorted(point for point, score in self.known.items() if not score.rule)
        parts = []
        for members in self._alike(keeping):
            found = evaluate(self._block(members), self.space.constraints, self.objectives)
            removed.update(found.removed)
            if len(found):
                parts.append(found)
        return gather(self.space, self.objectives, parts, removed, len(keeping) + simulated, "optuna")

    def _alike(self, points: Iterable[Point]) -> list[list[Point]]:
        """Points that differ in numbers only, together."""
        looped = looped_choices(self.space)
        groups: dict[Point, list[Point]] = {}
        for point in points:
            groups.setdefault(tuple(point[number] for number in looped), []).append(point)
        return list(groups.values())

    def _block(self, points: Sequence[Point]) -> Block:
        """Points that differ in numbers only, along one axis."""
        table = np.array(points, np.uint16)
        return self.space.listed({choice.key: table[:, n] for n, choice in enumerate(self.space.choices)})

    def _evaluated(self, points: Sequence[Point]) -> list[Score]:
        try:
            setup = self._block(points).case.resolve()
        except VramsimError as error:
            return [self._breaks(relation(error))] * len(points)
        rules = [""] * len(points)
        for name, mask in reversed(broken_rules(setup, len(points)).items()):
            for number in np.flatnonzero(mask):
                rules[number] = name
        keeping = [point for point, rule in zip(points, rules, strict=True) if not rule]
        measured = self._measured(keeping) if keeping else iter(())
        return [self._breaks(rule) if rule else next(measured) for rule in rules]

    def _breaks(self, rule: str) -> Score:
        return Score((0.0,) * len(self.objectives), {rule: BROKEN}, rule)

    def _measured(self, points: Sequence[Point]) -> Iterator[Score]:
        estimate, shape = simulate(self._block(points).case), (len(points),)
        over = {each.name: np.broadcast_to(each.over(estimate), shape) for each in self.space.constraints}
        goals = [np.broadcast_to(goal.sign * goal.measure(estimate), shape) for goal in self.objectives]
        for number in range(len(points)):
            amounts = {name: float(amount[number]) for name, amount in over.items()}
            yield Score(tuple(float(goal[number]) for goal in goals), amounts)


def looped_choices(space: Space) -> list[int]:
    """Numbers of the choices that are no numbers.

    space : what is searched. [-]
    """
    return [number for number, choice in enumerate(space.choices) if choice.numbers is None]


def untried(scores: Scores) -> Iterator[Point]:
    """Neighbours of the front that are not known yet, the nearest of all its points first.

    Where nothing is feasible, neighbours of what exceeds the constraints least.

    scores : what is known so far. [-]
    """
    centres = scores.front() or scores.least_violating()
    centres = [centres[row] for row in spaced(len(centres), MOST_CENTRES)]
    seen: set[Point] = set()
    for reach in REACHES:
        for centre in centres:
            for point in neighbours(scores.space, centre, reach):
                if point not in scores.known and point not in seen:
                    seen.add(point)
                    yield point


def spaced(count: int, most: int) -> list[int]:
    """Indices of at most so many of some things, evenly spaced.

    count : number of things. [-]   most : largest number of indices. [-]

    >>> spaced(9, 3)
    [0, 4, 8]
    """
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, most)).tolist()})


def neighbours(space: Space, point: Point, reach: int) -> Iterator[Point]:
    """Points that differ in one choice, or in two of those that are no numbers (a method and its quantization, say).

    space : what is searched. [-]   point : positions. [-]   reach : values of a number on either side. [-]
    """
    looped = looped_choices(space)
    for number, choice in enumerate(space.choices):
        near = len(choice) if number in looped else reach
        for other in range(max(0, point[number] - near), min(len(choice), point[number] + near + 1)):
            yield (*point[:number], other, *point[number + 1 :])
    for first, second in combinations(looped, 2):
        for one, two in product(range(len(space.choices[first])), range(len(space.choices[second]))):
            yield (*point[:first], one, *point[first + 1 : second], two, *point[second + 1 :])
