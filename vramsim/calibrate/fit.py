"""The fit: factors on parameters that explain measured runs, held back by what was known before.

A run's logarithm is the model's at factors exp(x), plus an error of standard deviation s:

    log y_i = f_i(x) + e_i,   e_i ~ N(0, s^2 + n_i^2),   x_k ~ N(0, t_k^2).

x minimizes the sum of squares of both (ridge towards the catalog), s^2 is the scatter left over together with a prior
of a few rows' weight, and the curvature at the minimum gives the errors: S = (J' W J + T^-2)^-1. One run moves the
parameters that it leans on, each as far as it may be off; many runs override the catalog.

Source: Gelman et al., Bayesian Data Analysis, chapters 4 and 14; MacKay (1992), Bayesian interpolation, for the number
of parameters that the data determine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Predict = Callable[[Array], Array]
"""Points (m x k) of log factors -> log predictions (m x n)."""

STEP = 0.02
"""Half-width of the differences that make a Jacobian, in log factors: wide enough for bytes that come whole. [-]"""
ROUNDS = 12
"""Most alternations between parameters and scatter. [-]"""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Log factors of parameters and what is uncertain about them, over n rows and k parameters.

    `covariance` is that of the log factors, `scatter` the standard deviation of a row's log error, `freedom` the
    degrees of freedom of that. `before`, `after` and `left_out` are log(measured / predicted) of each row: by the
    catalog, by this fit, and by the fit to the other rows. `leverage` is the variance that the parameters' errors give
    to each row's prediction.
    """

    factors: Array
    covariance: Array
    scatter: float
    freedom: float
    before: Array
    after: Array
    left_out: Array
    leverage: Array

    @property
    def errors(self) -> Array:
        """Standard errors of the log factors. [-]"""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    def half_width(self, level: float = 0.9) -> float:
        """Half the interval of log(measured / predicted) that holds a share of runs like the fitted ones. [-]

        level : share. [-]
        """
        from scipy.stats import t

        spread = float(np.sqrt(self.scatter**2 + self.leverage.mean()))
        return float(t.ppf(0.5 + level / 2.0, self.freedom)) * spread


def jacobian(predict: Predict, at: Array) -> Array:
    """Derivatives of log predictions by log factors, n x k.

    predict : the model. [-]   at : log factors. [-]
    """
    steps = STEP * np.eye(at.size)
    found = predict(np.concatenate([at + steps, at - steps]))
    return np.asarray((found[: at.size] - found[at.size :]).T / (2.0 * STEP))


def _remembered(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of a point that is not asked twice: each prediction simulates all runs."""
    known: dict[bytes, Array] = {}

    def ask(at: Array) -> Array:
        key = at.tobytes()
        if key not in known:
            known[key] = function(at)
        return known[key]

    return ask


def fit(
    predict: Predict, measured: Array, spreads: Array, ceilings: Array, noise: Array, scatter: float, weight: float
) -> Fit:
    """Fit log factors to measured runs.

    predict : points (m x k) of log factors -> log predictions (m x n). [-]   measured : log measurements, n. [-]
    spreads : prior standard deviations of the log factors, k. [-]   ceilings : their largest values, k. [-]
    noise : standard errors of the measurements themselves, n. [-]   scatter : prior standard deviation of errors. [-]
    weight : rows that the prior scatter counts for. [-]
    """
    from scipy.optimize import least_squares

    values = _remembered(lambda at: predict(at[None])[0])
    derivatives = _remembered(lambda at: jacobian(predict, at) if at.size else np.zeros((measured.size, 0)))
    x, variance, rows = np.zeros(spreads.size), scatter**2, measured.size
    before = measured - values(x)
    for _ in range(ROUNDS):
        weights = 1.0 / np.sqrt(variance + noise**2)

        def residuals(at: Array, weights: Array = weights) -> Array:
            return np.concatenate([weights * (values(at) - measured), at / spreads])

        def slopes(at: Array, weights: Array = weights) -> Array:
            return np.concatenate([weights[:, None] * derivatives(at), np.diag(1.0 / spreads)])

        if x.size:
            start = np.minimum(x, ceilings - 1e-9)
            found = least_squares(residuals, start, slopes, bounds=(-np.inf, ceilings), xtol=1e-5, ftol=1e-6)
            x = np.asarray(found.x, dtype=np.float64)
        left, by = measured - values(x), derivatives(x)
        covariance = np.asarray(np.linalg.inv((by.T * weights**2) @ by + np.diag(spreads**-2.0)), dtype=np.float64)
        leverage = np.einsum("ik,kl,il->i", by, covariance, by)
        # A row's own measuring error explains its part of what is left.
        freedom = weight + rows - float(np.sum(weights**2 * leverage))
        squares = float(np.sum(left**2 * variance / (variance + noise**2)))
        updated = (weight * scatter**2 + squares) / freedom
        settled = abs(updated / variance - 1.0) < 1e-2
        variance = updated
        if settled:
            break
    pull = np.clip(leverage * weights**2, 0.0, 1.0 - 1e-9)
    return Fit(
        factors=x,
        covariance=covariance,
        scatter=float(np.sqrt(variance)),
        freedom=freedom,
        before=before,
        after=left,
        left_out=left / (1.0 - pull),
        leverage=leverage,
    )
