"""Exact non-dominated filter for any number of objectives.

Nearly all points of a large set are beaten, and by many others. So a few strong ones are looked for first (the front of
a sample, or of what was seen before), and one look into a table for each point says whether any of them beats it. What
is left over is compared exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Rows = NDArray[np.intp]

BLOCK = 512
"""Points that are compared with the front at once."""

FEW = 4096
"""Points that are compared without a look at a sample."""

STRIDE = 61
"""One point of so many is sampled; prime, so that a sample of a grid does not stay on one of its lines."""

CELLS = 1 << 20
"""Most cells of a table: 8 MiB."""


def pareto_front(values: Points, known: Points | None = None) -> Rows:
    """Indices of the points that no other point beats: no larger in any column and smaller in one.

    Of equal points the first is kept; points with NaN are left out. Sorted lexicographically, a point can only be
    beaten by an earlier one, and points on the front stay on it, so that one pass suffices.

    values : a row for each point, a column for each objective, all to be minimized. [any]
    known : points that came before; what they equal or beat is left out. [any]
    Returns indices in increasing order. [-]

    >>> pareto_front(np.array([[1.0, 4.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0], [2.0, 2.0]])).tolist()
    [0, 1, 3]
    """
    # Columns one by one: what is looked at together lies together.
    columns = [np.ascontiguousarray(column) for column in values.T]
    left = np.arange(len(values))
    missing = np.zeros(len(values), np.bool_)
    for column in columns:
        missing |= np.isnan(column)
    left, columns = _without(missing, left, columns)
    if known is not None and len(known):
        left, columns = _without(_matched(columns, known), left, columns)
    if len(left) > FEW:
        sample = np.column_stack([column[::STRIDE] for column in columns])
        left, columns = _without(_matched(columns, sample[pareto_front(sample)], equal=False), left, columns)
    order = np.lexsort((left, *columns[::-1]))
    left, ordered = left[order], np.column_stack([column[order] for column in columns])
    new = np.ones(len(left), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    left, ordered = left[new], ordered[new]
    on_front = _staircase if len(columns) <= 2 else _sweep if len(columns) == 3 else _in_blocks
    return np.sort(left[on_front(ordered)])


def _without(gone: NDArray[np.bool_], left: Rows, columns: list[Points]) -> tuple[Rows, list[Points]]:
    stays = ~gone
    return left[stays], [column[stays] for column in columns]


def _matched(columns: Sequence[Points], by: Points, *, equal: bool = True) -> NDArray[np.bool_]:
    """Which points some point of a front is no larger than in any column.

    A table says, for every combination of values that the front has in all columns but one, the least value in that one
    of the points that are no larger in the others.

    columns : of the points. [any]   by : a front: none of its points beats another, and none is NaN. [any]
    equal : whether points that are equal to one of the front count; if not, a few others may be missed, too. [-]
    """
    found: NDArray[np.bool_]
    levels = [np.unique(column) for column in by.T]
    # The column with most values is the one that is looked up.
    last = max(range(len(levels)), key=lambda number: len(levels[number]))
    others = [number for number in range(len(levels)) if number != last]
    thinned = by
    while len(thinned) > 1 and prod(len(levels[number]) + 1 for number in others) > CELLS:
        thinned = thinned[::2]
        levels = [np.unique(column) for column in thinned.T]
    if not others:
        found = by.min() <= columns[last]
        return found if equal else found & (by.min() < columns[last])
    table = np.full([len(levels[number]) + 1 for number in others], np.nan)
    places = tuple(np.searchsorted(levels[number], thinned[:, number]) + 1 for number in others)
    np.fmin.at(table, places, thinned[:, last])
    for axis in range(table.ndim):
        np.fmin.accumulate(table, axis=axis, out=table)
    at = tuple(np.searchsorted(levels[number], columns[number], side="right") for number in others)
    least = table[at]
    found = least <= columns[last]
    if not equal:
        # Equal to a point of the front is only what has its values in every column.
        twins = np.flatnonzero(found & (least == columns[last]))
        for number, place in zip(others, at, strict=True):
            twins = twins[levels[number][place[twins] - 1] == columns[number][twins]]
        found[twins] = False
    return found


def _staircase(ordered: Points) -> NDArray[np.bool_]:
    """Which of some sorted distinct points in one or two columns are on the front."""
    front = np.ones(len(ordered), np.bool_)
    last = ordered[:, -1]
    front[1:] = last[1:] < np.minimum.accumulate(last)[:-1]
    return front


def _sweep(ordered: Points) -> NDArray[np.bool_]:
    """The same in three columns: a staircase of the last two grows and shrinks while the first one rises."""
    front = np.zeros(len(ordered), np.bool_)
    steps: list[float] = []
    heights: list[float] = []
    for number, (_, step, height) in enumerate(ordered.tolist()):
        at = bisect_right(steps, step)
        if at and heights[at - 1] <= height:
            continue
        front[number] = True
        first = at - 1 if at and steps[at - 1] == step else at
        end = first
        while end < len(heights) and heights[end] >= height:
            end += 1
        steps[first:end], heights[first:end] = [step], [height]
    return front


def _in_blocks(ordered: Points) -> NDArray[np.bool_]:
    """The same in any number of columns: each block of points against the front so far, then against itself."""
    front = np.zeros(len(ordered), np.bool_)
    # The first column is sorted: whoever comes earlier is no larger in it.
    rest = np.ascontiguousarray(ordered[:, 1:])
    kept = rest[:0]
    for start in range(0, len(rest), BLOCK):
        block = rest[start : start + BLOCK]
        alive = np.flatnonzero(~_beaten(block, kept))
        alive = alive[~_beaten(block[alive], block[alive], earlier=True)]
        front[start + alive] = True
        kept = np.concatenate([kept, block[alive]])
    return front


def _beaten(points: Points, by: Points, *, earlier: bool = False) -> NDArray[np.bool_]:
    """Which points are no smaller in any column than some point of `by` (an earlier one, if points are their own)."""
    beaten = np.ones((len(points), len(by)), np.bool_)
    if earlier:
        beaten = np.tri(len(points), k=-1, dtype=np.bool_)
    for column in range(points.shape[1]):
        beaten &= by[:, column] <= points[:, column, np.newaxis]
    return np.asarray(beaten.any(axis=1))
