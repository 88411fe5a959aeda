"""A study of Optuna's that is kept: a journal file or a database, read when a search starts and written in bulk.

A storage takes milliseconds for every value it is given, a search microseconds for every configuration: trials are
therefore evaluated in memory and written together. Who opens the same study again goes on from there, and so does
another worker meanwhile; optuna-dashboard shows it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vramsim.case.numbers import plain
from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.search.scores import BROKEN, Point, Score, Scores
from vramsim.space import Space

if TYPE_CHECKING:
    import optuna

DEFAULT_NAME = "vramsim"
ASKED = "asked"
"""Attribute of a study that says what was asked."""


@dataclass(slots=True)
class Kept:
    """A study in a storage, and which of its trials and of the points are known on the other side."""

    study: optuna.Study
    scores: Scores
    there: set[Point] = field(default_factory=set)
    read: int = 0

    @classmethod
    def open(cls, scores: Scores, storage: Any, name: str | None) -> Kept:
        """The study of that name, made if it is not there.

        scores : what is searched. [-]   storage : journal file, URL of a database, or one of Optuna's. [-]
        name : of the study, vramsim if left out. [-]
        Raises VramsimError for a storage that cannot be opened and a study of other objectives.
        """
        import optuna

        name = name or DEFAULT_NAME
        direction = optuna.study.StudyDirection
        directions = [direction.MAXIMIZE if goal.sign < 0 else direction.MINIMIZE for goal in scores.objectives]
        try:
            opened = _storage(storage)
            study = optuna.create_study(storage=opened, study_name=name, directions=directions, load_if_exists=True)
        except Exception as error:  # every driver of a database has errors of its own
            raise VramsimError(
                f"the storage must be a journal file or the URL of a database such as sqlite:///study.db, "
                f"got {shown(str(storage))}: {str(error).splitlines()[0]}"
            ) from None
        names = [goal.name for goal in scores.objectives]
        known = study.metric_names
        if study.directions != directions or (known is not None and known != names):
            there = ", ".join(known or [each.name.lower() for each in study.directions])
            raise VramsimError(
                f"study {shown(name)} is there with other objectives: {there} instead of {', '.join(names)}; "
                "give another study_name"
            )
        asked = _asked(scores.space)
        if study.user_attrs.get(ASKED, asked) != asked:
            raise VramsimError(
                f"study {shown(name)} is there for another base case, or for other tokens or prices, so that its "
                "values say nothing here; give another study_name"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(names)
        study.set_user_attr(ASKED, asked)
        return cls(study, scores)

    def load(self) -> None:
        """Take in the trials that are there: they are not evaluated again.

        Raises VramsimError where they are of another space.
        """
        import optuna

        trials = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        places = _places(self.scores.space)
        for trial in trials[self.read :]:
            point = _point(places, trial.params, self.study.study_name)
            over = dict(trial.constraints)
            rule = next((name for name, amount in over.items() if amount >= BROKEN), "")
            signs = [goal.sign for goal in self.scores.objectives]
            goals = tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
            self.scores.known.setdefault(point, Score(goals, over, rule))
            self.there.add(point)
        self.read = len(trials)

    def write(self) -> None:
        """Add what is new, with values that a person can read."""
        import optuna
        from optuna.distributions import BaseDistribution, CategoricalDistribution

        space, objectives = self.scores.space, self.scores.objectives
        labels = {space.labels[each.key]: tuple(map(_readable, each.values)) for each in space.choices}
        distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(values) for name, values in labels.items()
        }
        new = {point: score for point, score in self.scores.known.items() if point not in self.there}
        self.study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: values[at] for (name, values), at in zip(labels.items(), point, strict=True)},
                    distributions=distributions,
                    values=[goal.sign * value for goal, value in zip(objectives, score.goals, strict=True)],
                    constraints=dict(score.over),
                )
                for point, score in new.items()
            ]
        )
        self.there.update(new)


def _asked(space: Space) -> str:
    """What the values of a study rest on beside what is searched: the base case, and the run if there is one."""
    said = {"base": plain(space.base.model_dump(exclude_unset=True))}
    if space.run is not None:
        prices = {name: price.usd for name, price in space.run.prices.items()}
        said |= {"tokens": space.run.tokens, "acquire": space.run.acquire, "prices": prices}
    return json.dumps(said, sort_keys=True, default=str)


def _storage(given: Any) -> Any:
    """A storage of Optuna's: a text without :// is the path of a journal file."""
    if not isinstance(given, str) or "://" in given:
        return given
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(given))


def _places(space: Space) -> dict[str, dict[str | int | float | bool, int]]:
    """Label -> readable value -> its position."""
    return {
        space.labels[choice.key]: {_readable(value): at for at, value in enumerate(choice.values)}
        for choice in space.choices
    }


def _point(places: Mapping[str, Mapping[Any, int]], params: Mapping[str, Any], name: str) -> Point:
    try:
        if params.keys() != places.keys():
            raise KeyError
        return tuple(where[params[label]] for label, where in places.items())
    except KeyError:
        raise VramsimError(
            f"study {shown(name)} holds trials of another space, with {', '.join(params)}; give another study_name"
        ) from None


def _readable(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)
