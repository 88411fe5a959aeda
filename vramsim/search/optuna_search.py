"""Search with Optuna: for spaces too large to enumerate.

Trials are asked for in batches and evaluated together; Optuna never sees a simulation. Rules and constraints reach the
sampler by name, as amounts that are positive where they are broken. At the end the neighbours of the front are tried
until none is better: the sampler finds the region, the neighbours its corners.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.search.exhaustive import Progress
from vramsim.search.result import Result
from vramsim.search.scores import Point, Scores, explore
from vramsim.space import Choice, Objective, Space

if TYPE_CHECKING:
    import optuna


def optuna_search(
    space: Space,
    objectives: Sequence[Objective] = (),
    *,
    n_trials: int = 2000,
    seed: int = 0,
    sampler: str | optuna.samplers.BaseSampler = "nsga2",
    batch: int = 100,
    storage: Any = None,
    study_name: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Ask Optuna for configurations, evaluate them in batches, and look around the best.

    space : what to search. [-]   objectives : what to optimize, the space's own if left out. [-]
    n_trials : configurations to ask for. [-]   seed : of the sampler. [-]
    sampler : nsga2 | tpe, or one of Optuna's. NSGA-II costs about a millisecond a trial, TPE tens of them. [-]
    batch : configurations evaluated together, and NSGA-II's population. [-]
    storage : where to keep the study, as Optuna has it (a URL, say); written once, at the end. [-]
    study_name : its name there. [-]   progress : called after every batch. [-]
    """
    import optuna

    if n_trials < 1 or batch < 1:
        raise VramsimError(f"n_trials and batch must be 1 or more, got {n_trials} and {batch}")
    scores = Scores(space, tuple(objectives) or space.objectives)
    chosen = _sampler(sampler, seed, batch)
    names = [space.labels[choice.key] for choice in space.choices]
    distributions = dict(zip(names, map(_distribution, space.choices), strict=True))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(directions=["minimize"] * len(scores.objectives), sampler=chosen)
        study.enqueue_trial(dict(zip(names, defaults(space), strict=True)))
        for asked in range(0, n_trials, batch):
            trials = [study.ask(distributions) for _ in range(min(batch, n_trials - asked))]
            points = [tuple(int(trial.params[name]) for name in names) for trial in trials]
            for trial, score in zip(trials, scores.of(points), strict=True):
                for name, amount in score.over.items():
                    trial.set_constraint(name, amount)
                study.tell(trial, score.goals)
            if progress:
                progress(asked + len(trials), n_trials)
        explore(scores)
        if storage is not None:
            _store(scores, storage, study_name)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return scores.result()


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


def _position(choice: Choice, value: Any) -> int:
    if choice.numbers is not None and isinstance(value, int | float):
        return int(np.argmin(np.abs(choice.numbers - value)))
    return choice.values.index(value) if value in choice.values else 0


def _distribution(choice: Choice) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    ordered = choice.numbers is not None
    return IntDistribution(0, len(choice) - 1) if ordered else CategoricalDistribution(range(len(choice)))


def _sampler(given: str | optuna.samplers.BaseSampler, seed: int, batch: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

    if isinstance(given, BaseSampler):
        return given
    if given == "nsga2":
        return NSGAIISampler(population_size=max(2, batch), seed=seed)
    if given == "tpe":
        return TPESampler(seed=seed)
    raise VramsimError(f"sampler must be nsga2, tpe or a sampler of Optuna's, got {shown(given)}")


def _store(scores: Scores, storage: Any, study_name: str | None) -> None:
    """Write all points to a storage of Optuna's, with values that a person can read."""
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution

    space, goals = scores.space, scores.objectives
    study = optuna.create_study(
        storage=storage,
        study_name=study_name,
        directions=["maximize" if goal.sign < 0 else "minimize" for goal in goals],
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([goal.name for goal in goals])
    labels = {space.labels[each.key]: tuple(map(_readable, each.values)) for each in space.choices}
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in labels.items()
    }
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: values[at] for (name, values), at in zip(labels.items(), point, strict=True)},
                distributions=distributions,
                values=[goal.sign * value for goal, value in zip(goals, score.goals, strict=True)],
                constraints=dict(score.over),
            )
            for point, score in scores.known.items()
        ]
    )


def _readable(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)
