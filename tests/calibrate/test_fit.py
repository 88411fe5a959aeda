"""The fit by itself, on a model whose truth is known: a step is a sum of terms, each over an efficiency."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramsim.calibrate.fit import Array, Fit, Predict, fit, jacobian

SPREADS = np.array([0.15, 0.25, 0.4])
FREE = np.full(3, np.inf)
SCATTER, WEIGHT = 0.15, 3.0


def steps(rows: int, seed: int) -> Predict:
    """Log rates of `rows` runs whose steps are made of three activities in other shares each."""
    shares = np.random.default_rng(seed).dirichlet([4.0, 2.0, 1.0], rows)

    def predict(points: Array) -> Array:
        return np.asarray(-np.log(np.exp(-points) @ shares.T))

    return predict


def run(predict: Predict, truth: Array, scatter: float, seed: int) -> Fit:
    clean = predict(truth[None])[0]
    measured = clean + scatter * np.random.default_rng(seed).standard_normal(clean.size)
    return fit(predict, measured, SPREADS, FREE, np.zeros(clean.size), SCATTER, WEIGHT)


@settings(max_examples=25, deadline=None)
@given(truth=st.tuples(*(st.floats(-0.3, 0.3),) * 3), seed=st.integers(0, 1000))
def test_many_exact_runs_give_the_truth_whatever_was_believed(truth: tuple[float, ...], seed: int) -> None:
    found = run(steps(200, seed), np.array(truth), 0.0, seed)
    assert np.all(np.abs(found.factors - truth) < 3.0 * found.errors)
    assert np.all(np.abs(found.factors - truth) < 0.03)


def test_one_run_moves_what_it_leans_on_and_no_more_than_it_says() -> None:
    predict = steps(1, 3)
    slopes = jacobian(predict, np.zeros(3))[0]
    found = fit(predict, np.array([-0.2]), SPREADS, FREE, np.zeros(1), SCATTER, WEIGHT)
    assert np.all(found.factors < 0.0)
    assert -0.2 < predict(found.factors[None])[0, 0] < -0.03
    # Each moves as its prior variance times its derivative: the ridge's own rule.
    assert found.factors / found.factors[0] == pytest.approx(
        SPREADS**2 * slopes / (SPREADS[0] ** 2 * slopes[0]), rel=0.1
    )
    assert np.all(found.errors < SPREADS)


def test_what_no_run_leans_on_keeps_its_value_and_its_error() -> None:
    def predict(points: Array) -> Array:
        return np.asarray(points[:, :1] * np.ones(5))

    found = fit(predict, np.full(5, 0.1), SPREADS, FREE, np.zeros(5), SCATTER, WEIGHT)
    assert found.factors[1:] == pytest.approx([0.0, 0.0])
    assert found.errors[1:] == pytest.approx(SPREADS[1:])


def test_a_ceiling_holds() -> None:
    ceilings = np.array([0.05, np.inf, np.inf])
    predict = steps(30, 5)
    found = fit(predict, predict(np.array([[0.3, 0.0, 0.0]]))[0], SPREADS, ceilings, np.zeros(30), SCATTER, WEIGHT)
    assert found.factors[0] == pytest.approx(0.05, abs=1e-4)


def test_runs_that_measured_badly_count_less() -> None:
    def predict(points: Array) -> Array:
        return np.asarray(points[:, :1] * np.ones(4))

    measured, spread, free = np.array([0.1, 0.1, -0.3, -0.3]), np.array([0.5]), np.array([np.inf])
    noise = np.array([0.0, 0.0, 0.5, 0.5])
    assert fit(predict, measured, spread, free, noise, 0.05, WEIGHT).factors[0] > 0.05
    assert fit(predict, measured, spread, free, 0.0 * noise, 0.05, WEIGHT).factors[0] < 0.0


def test_a_run_left_out_is_what_a_fit_without_it_says() -> None:
    predict, truth = steps(12, 11), np.array([0.2, -0.2, 0.3])
    whole = run(predict, truth, 0.1, 11)
    measured = predict(truth[None])[0] + 0.1 * np.random.default_rng(11).standard_normal(12)
    for index in range(12):
        kept = np.arange(12) != index
        part = fit(
            lambda points, kept=kept: predict(points)[:, kept],
            measured[kept],
            SPREADS,
            FREE,
            np.zeros(11),
            SCATTER,
            WEIGHT,
        )
        alone = measured[index] - predict(part.factors[None])[0, index]
        assert whole.left_out[index] == pytest.approx(alone, abs=0.02)
    assert np.mean(np.abs(whole.left_out)) > np.mean(np.abs(whole.after))


@pytest.mark.parametrize("rows", [1, 4, 20])
def test_stated_errors_hold_the_truth_as_often_as_they_say(rows: int) -> None:
    """Machines drawn from the priors, scatter too: nine of ten parameters and new runs lie in their intervals."""
    from scipy.stats import t

    rng = np.random.default_rng(rows)
    inside, ahead = [], []
    for draw in range(300):
        truth = SPREADS * rng.standard_normal(3)
        scatter = SCATTER * np.sqrt(WEIGHT / rng.chisquare(WEIGHT))
        predict = steps(rows + 1, draw)
        outcome = predict(truth[None])[0] + scatter * rng.standard_normal(rows + 1)

        def seen(points: Array, predict: Predict = predict) -> Array:
            return predict(points)[:, :-1]

        found = fit(seen, outcome[:-1], SPREADS, FREE, np.zeros(rows), SCATTER, WEIGHT)
        width = float(t.ppf(0.95, found.freedom))
        inside.append(np.abs(found.factors - truth) < width * found.errors)
        ahead.append(abs(outcome[-1] - predict(found.factors[None])[0, -1]) < found.half_width())
    assert 0.87 < np.mean(inside) < 0.97
    assert 0.85 < np.mean(ahead) < 0.96
