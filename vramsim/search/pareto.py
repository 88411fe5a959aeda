"""Exact non-dominated filter for any number of objectives."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
"""Points that are compared with the front at once."""

PIVOTS = 16
"""Strong points that thin out all others before points are compared with each other."""


def pareto_front(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the points that no other point beats: no larger in any column and smaller in one.

    Of equal points the first is kept; points with NaN are left out. Sorted lexicographically, a point can only be
    beaten by an earlier one, and points on the front stay on it, so that one pass in blocks suffices.

    values : a row for each point, a column for each objective, all to be minimized. [any]
    Returns indices in increasing order. [-]

    >>> pareto_front(np.array([[1.0, 4.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0], [2.0, 2.0]])).tolist()
    [0, 1, 3]
    """
    left = _thinned(values, np.flatnonzero(~np.isnan(values).any(axis=1)))
    left = left[np.lexsort((left, *values[left].T[::-1]))]
    ordered = values[left]
    new = np.ones(len(left), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    left, ordered = left[new], ordered[new]
    columns = ordered.shape[1]
    on_front = _staircase if columns <= 2 else _sweep if columns == 3 else _in_blocks
    return np.sort(left[on_front(ordered)])


def _staircase(ordered: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of some sorted distinct points in one or two columns are on the front."""
    front = np.ones(len(ordered), np.bool_)
    last = ordered[:, -1]
    front[1:] = last[1:] < np.minimum.accumulate(last)[:-1]
    return front


def _sweep(ordered: NDArray[np.float64]) -> NDArray[np.bool_]:
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


def _in_blocks(ordered: NDArray[np.float64]) -> NDArray[np.bool_]:
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


def _beaten(points: NDArray[np.float64], by: NDArray[np.float64], *, earlier: bool = False) -> NDArray[np.bool_]:
    """Which points are no smaller in any column than some point of `by` (an earlier one, if points are their own)."""
    beaten = np.ones((len(points), len(by)), np.bool_)
    if earlier:
        beaten = np.tri(len(points), k=-1, dtype=np.bool_)
    for column in range(points.shape[1]):
        beaten &= by[:, column] <= points[:, column, np.newaxis]
    return np.asarray(beaten.any(axis=1))


def _thinned(values: NDArray[np.float64], left: NDArray[np.intp]) -> NDArray[np.intp]:
    """What some strong points leave over: one pass over all points each, and most points are gone."""
    columns = [np.ascontiguousarray(values[left, column]) for column in range(values.shape[1])]
    scaled = [_scaled(column) for column in columns]
    for pivot in range(PIVOTS):
        if len(left) <= BLOCK:
            break
        # Each pivot weighs the objectives otherwise, so that different corners of the front are tried.
        favoured, extra = pivot % len(columns), pivot // len(columns)
        strongest = int(np.argmin(np.sum(scaled, axis=0) + extra * scaled[favoured]))
        stays = np.zeros(len(left), np.bool_)
        for column in columns:
            stays |= column < column[strongest]
        stays[strongest] = True
        left = left[stays]
        columns, scaled = [each[stays] for each in columns], [each[stays] for each in scaled]
    return left


def _scaled(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """A column brought to the range from 0 to 1; zeros where it has no finite range."""
    least, most = (float(column.min()), float(column.max())) if len(column) else (0.0, 0.0)
    if not 0.0 < most - least < np.inf:
        return np.zeros(len(column))
    scaled: NDArray[np.float64] = (column - least) / (most - least)
    return scaled
