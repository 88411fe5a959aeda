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

NEAR = 8
"""Values of a choice on either side that count as neighbours. [-]"""

MOST_EXPLORED = 100_000
"""Points that `explore` evaluates at most. [-]"""


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

    def result(self) -> Result:
        """All points so far as the result of a search."""
        removed = Counter(score.rule for score in self.known.values() if score.rule)
        keeping = sorted(point for point, score in self.known.items() if not score.rule)
        parts = []
        for members in self._alike(keeping):
            found = evaluate(self._block(members), self.space.constraints, self.objectives)
            removed.update(found.removed)
            if len(found):
                parts.append(found)
        return gather(self.space, self.objectives, parts, removed, len(keeping), "optuna")

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


def explore(scores: Scores) -> None:
    """Evaluate the neighbours of the front until they no longer change it.

    scores : what is known so far. [-]
    """
    tried: set[Point] = set()
    most = len(scores.known) + MOST_EXPLORED
    while (new := [point for point in scores.front() if point not in tried]) and len(scores.known) < most:
        for point in new:
            tried.add(point)
        scores.of(dict.fromkeys(near for point in new for near in neighbours(scores.space, point)))


def neighbours(space: Space, point: Point) -> Iterator[Point]:
    """Points that differ in one choice, or in two of those that are no numbers (a method and its quantization, say).

    space : what is searched. [-]   point : positions. [-]
    """
    for number, choice in enumerate(space.choices):
        for other in range(max(0, point[number] - NEAR), min(len(choice), point[number] + NEAR + 1)):
            yield (*point[:number], other, *point[number + 1 :])
    for first, second in combinations(looped_choices(space), 2):
        for one, two in product(range(len(space.choices[first])), range(len(space.choices[second]))):
            yield (*point[:first], one, *point[first + 1 : second], two, *point[second + 1 :])
