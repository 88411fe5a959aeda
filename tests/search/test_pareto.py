"""The non-dominated filter against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from vramsim.search.pareto import pareto_front

Points = NDArray[np.float64]


def brute_force(points: Points) -> list[int]:
    """Points that no other beats; the first of equal ones."""
    found = []
    for number, point in enumerate(points):
        if np.isnan(point).any():
            continue
        beaten = ((points <= point).all(axis=1) & (points < point).any(axis=1)).any()
        again = (points[:number] == point).all(axis=1).any()
        if not beaten and not again:
            found.append(number)
    return found


numbers = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
shapes = st.tuples(st.integers(0, 40), st.integers(1, 5))


@given(hnp.arrays(np.float64, shapes, elements=numbers))
def test_equals_brute_force(points: Points) -> None:
    assert pareto_front(points).tolist() == brute_force(points)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [3, 30, 10**6])
def test_many_points_equal_brute_force(columns: int, levels: int) -> None:
    points = np.random.default_rng(columns).integers(0, levels, (1500, columns)).astype(float)
    assert pareto_front(points).tolist() == brute_force(points)


def test_points_that_all_stay() -> None:
    angles = np.linspace(0.0, np.pi / 2, 3000)
    circle = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(3000)])
    assert len(pareto_front(circle)) == 3000


def test_a_million_points() -> None:
    points = np.random.default_rng(0).random((1_000_000, 3))
    front = points[pareto_front(points)]
    sample = points[::1000]
    better = (front[:, np.newaxis] <= sample).all(axis=2) & (front[:, np.newaxis] < sample).any(axis=2)
    on_front = (front[:, np.newaxis] == sample).all(axis=2)
    assert (better.any(axis=0) | on_front.any(axis=0)).all()


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [2, 40, 10**6])
def test_what_was_known_before_leaves_the_front_of_all(columns: int, levels: int) -> None:
    """Enough points for a sample to thin them out, with ties, and parted in two as blocks of a search are."""
    points = np.random.default_rng(levels).integers(0, levels, (12_000, columns)).astype(float)
    half = len(points) // 2
    first = pareto_front(points[:half])
    second = half + pareto_front(points[half:], points[first])
    both = np.concatenate([first, second])
    together = both[pareto_front(points[both])]
    assert together.tolist() == pareto_front(points).tolist()
    if columns > 1:
        front = points[together]
        assert all(((front <= point).all(axis=1)).any() for point in points[::37])
        assert brute_force(front) == list(range(len(front)))


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=numbers), st.integers(0, 30))
def test_blocks_equal_the_whole(points: Points, cut: int) -> None:
    first = pareto_front(points[:cut])
    second = min(cut, len(points)) + pareto_front(points[cut:], points[:cut][first])
    both = np.concatenate([first, second]).astype(int)
    assert both[pareto_front(points[both])].tolist() == brute_force(points)


def test_the_first_of_equal_points_is_kept_among_many() -> None:
    points = np.ones((20_000, 3))
    assert pareto_front(points).tolist() == [0]
    points[7] = points[6000] = [0.0, 1.0, 1.0]
    assert pareto_front(points).tolist() == [7]
