"""Open grids: the numeric choices of one structure as array axes, without the points that break a rule.

Choices that a rule ties together (devices, degrees, batch) share one axis, along which only the combinations that keep
the rules are listed: nothing impossible is evaluated. All other choices have an axis of their own, so that quantities
which do not depend on them are computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vramsim.case import Case
from vramsim.rules import RULES, Mask
from vramsim.space.choices import Choice
from vramsim.spec import Setup

Positions = NDArray[np.uint16]
"""Positions in the lists of values of some keys: a row a combination, a column a key."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Combinations of values of the choices that share an array axis."""

    choices: tuple[Choice, ...]
    positions: Positions

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, within: slice) -> Axis:
        """Some of the combinations.

        within : which. [-]
        """
        return Axis(self.choices, self.positions[within])


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A grid small enough to be evaluated at once: `case` holds arrays that broadcast to `shape`, an axis each.

    `structure` says which position every choice without an array axis has.
    """

    case: Case
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    structure: Mapping[str, int]

    @property
    def size(self) -> int:
        """Number of configurations."""
        return prod(self.shape)

    def positions(self, points: NDArray[np.integer[Any]]) -> dict[str, NDArray[np.uint16]]:
        """Key -> positions in its list of values, for some points of the flattened grid.

        points : indices of points. [-]
        """
        found = {key: np.full(len(points), position, np.uint16) for key, position in self.structure.items()}
        for axis, index in zip(self.axes, np.unravel_index(points, self.shape) if self.axes else (), strict=True):
            for column, choice in enumerate(axis.choices):
                found[choice.key] = axis.positions[index, column]
        return found


def block(base: Case, structure: Mapping[str, int], values: Mapping[str, Any], axes: Sequence[Axis]) -> Block:
    """Block of a case in which some choices are made and others are arrays.

    base : case to start from. [-]   structure : key -> position of the choices that are made. [-]
    values : key -> value of the choices that are made. [as the field]   axes : the arrays. [-]
    """
    arrays: dict[str, Any] = {}
    for number, axis in enumerate(axes):
        spread = [1] * len(axes)
        spread[number] = len(axis)
        for column, choice in enumerate(axis.choices):
            assert choice.numbers is not None
            arrays[choice.key] = choice.numbers[axis.positions[:, column]].reshape(spread)
    shape = tuple(len(axis) for axis in axes)
    return Block(base.with_values({**values, **arrays}), shape, tuple(axes), structure)


def own_axes(choices: Sequence[Choice]) -> list[Axis]:
    """An axis for each choice.

    choices : numeric choices. [-]
    """
    return [Axis((choice,), np.arange(len(choice), dtype=np.uint16)[:, np.newaxis]) for choice in choices]


def valid_axes(grid: Block) -> tuple[list[Axis], Counter[str]]:
    """Axes along which only points that keep all rules remain, and how many points each rule removed.

    A point that breaks several rules counts for the first of them.

    grid : block of which some points break rules. [-]
    """
    setup, removed = grid.case.resolve(), Counter[str]()
    broken: list[Mask] = []
    alive: Mask = np.ones((1,) * len(grid.shape), np.bool_)
    for rule in RULES:
        holds = rule.holds(setup)
        if not np.all(holds):
            kept = alive & holds
            removed[rule.name] = round(grid.size * (np.mean(alive) - np.mean(kept)))
            alive = kept
            broken.append(holds)
    groups = _groups(grid, broken)
    axes = [_valid(grid, group, broken) for group in groups]
    # The longest axis last: loops over the innermost axis are the ones that run in machine code.
    return sorted(axes, key=len), +removed


def _groups(grid: Block, broken: Sequence[Mask]) -> list[list[int]]:
    """Axes that rules tie together, directly or through others."""
    groups = [{number} for number in range(len(grid.axes))]
    for mask in broken:
        tied = {number for number, size in enumerate(np.shape(mask)) if size > 1}
        touched = [group for group in groups if group & tied]
        groups = [group for group in groups if not group & tied]
        groups += [set().union(*touched)] if touched else []
    return [sorted(group) for group in groups]


def _valid(grid: Block, group: Sequence[int], broken: Sequence[Mask]) -> Axis:
    """The combinations of some axes that keep all rules about them."""
    others = tuple(number for number in range(len(grid.axes)) if number not in group)
    alive = np.ones([len(grid.axes[number]) for number in group], np.bool_)
    for mask in broken:
        if all(np.shape(mask)[number] == 1 for number in others):
            alive &= np.squeeze(mask, others)
    axes = [grid.axes[number] for number in group]
    listed = [axis.positions[index] for axis, index in zip(axes, np.nonzero(alive), strict=True)]
    return Axis(tuple(choice for axis in axes for choice in axis.choices), np.concatenate(listed, axis=1))


INNERMOST = 50
"""Length below which the innermost axis is not halved: loops over it are the ones that run in machine code. [-]"""


def parts(axes: Sequence[Axis], most: int) -> Iterator[list[Axis]]:
    """The same grid in parts of at most so many points: the longest axis is halved as often as it takes.

    axes : axes of a grid, the longest last. [-]   most : largest number of points of a part. [-]
    """
    lengths = [len(axis) for axis in axes]
    if prod(lengths) <= max(most, 1):
        if prod(lengths):
            yield list(axes)
        return
    outer = max(lengths[:-1], default=1)
    longest = lengths.index(outer) if outer > 1 and lengths[-1] < 2 * INNERMOST else int(np.argmax(lengths))
    half = lengths[longest] // 2
    for within in (slice(half), slice(half, None)):
        yield from parts([*axes[:longest], axes[longest].part(within), *axes[longest + 1 :]], most)


def broken_rules(setup: Setup, count: int) -> dict[str, NDArray[np.bool_]]:
    """Rule name -> which of some points break it, for the rules that any of them breaks.

    setup : points along one axis. [-]   count : number of points. [-]
    """
    masks = ((rule.name, np.broadcast_to(np.logical_not(rule.holds(setup)), (count,))) for rule in RULES)
    return {name: mask for name, mask in masks if mask.any()}
