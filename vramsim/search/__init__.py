"""Searching a space of configurations: exhaustively where that is affordable, with Optuna beyond."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.search.exhaustive import Progress
from vramsim.search.result import Result
from vramsim.space import Objective, Space
from vramsim.space.metrics import objectives as objectives_named

__all__ = ["Result", "affordable", "search"]

MOST_EXHAUSTIVE = 10_000_000
"""Configurations that keep the rules, up to which all of them are evaluated: some seconds."""

MOST_CHECKED = 300_000_000
"""Configurations, valid or not, up to which the valid ones are counted: some seconds."""


def search(
    space: Space,
    method: str = "auto",
    objectives: Iterable[str | Objective] | None = None,
    n_trials: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    tokens: float | None = None,
    prices: Any = None,
    acquire: str | None = None,
    **options: Any,
) -> Result:
    """Feasible configurations of a space, and those that no other beats.

    space : what to search. [-]
    method : exhaustive | optuna | auto, which is exhaustive up to ten million configurations that keep the rules. [-]
    objectives : names of metrics, the space's own if left out. [-]
    n_trials : different configurations that the search with Optuna tries. [-]   seed : of its sampler. [-]
    progress : called with the numbers of configurations done and of all. [-]
    tokens, prices, acquire : the space's own if left out; with tokens to train on, time_to_train, cost and energy are
        objectives, too. [as in a Space]
    options : of `optuna_search`: sampler, storage, study_name, batch, warm. [-]
    """
    run = {"tokens": tokens, "prices": prices, "acquire": acquire}
    if said := {name: value for name, value in run.items() if value is not None}:
        space = space.with_values(**said)
    goals = space.objectives if objectives is None else objectives_named(objectives, space.metrics)
    if method not in ("auto", "exhaustive", "optuna"):
        raise VramsimError(f"method must be auto, exhaustive or optuna, got {shown(method)}")
    if method == "exhaustive" or (method == "auto" and affordable(space)):
        from vramsim.search.exhaustive import exhaustive

        return exhaustive(space, goals, progress)
    from vramsim.search.optuna_search import optuna_search

    return optuna_search(space, goals, n_trials=n_trials, seed=seed, progress=progress, **options)


def affordable(space: Space) -> bool:
    """Whether evaluating every configuration that keeps the rules takes seconds.

    space : what to search. [-]
    """
    if space.size <= MOST_EXHAUSTIVE:
        return True
    if space.size > MOST_CHECKED:
        return False
    count = accumulate(structure.size for structure in space.structures())
    return all(so_far <= MOST_EXHAUSTIVE for so_far in count)
