"""Search with Optuna: for spaces too large to enumerate.

Trials are asked for in batches and evaluated together; Optuna never sees a simulation. Rules and constraints reach the
sampler by name, as amounts that are positive where they are broken. The study begins with the base case and with what a
coarse grid finds (`start`); from then on batches of the sampler's choosing alternate with neighbours of the front: the
sampler finds the region, the neighbours its corners. Neighbours are trials like all others, enqueued and counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.search.exhaustive import Progress
from vramsim.search.kept import Kept
from vramsim.search.result import Result
from vramsim.search.scores import Point, Scores, untried
from vramsim.search.start import Start, defaults, start
from vramsim.space import Choice, Objective, Space

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("auto", "nsga2", "nsga3", "tpe", "gp")

BATCHES = 10
"""Batches into which few trials are divided. [-]"""

MOST_OF_A_BATCH = 100

ASKED = 4
"""Trials that are asked for, known configurations included, for each that is wanted. [-]"""

WRITTEN = 10
"""Batches after which a kept study is written and what others have written is read. [-]"""


def optuna_search(
    space: Space,
    objectives: Sequence[Objective] = (),
    *,
    n_trials: int = 2000,
    seed: int = 0,
    sampler: str | optuna.samplers.BaseSampler = "auto",
    batch: int | None = None,
    storage: Any = None,
    study_name: str | None = None,
    warm: bool | Start = True,
    progress: Progress | None = None,
) -> Result:
    """Ask Optuna for configurations, evaluate them in batches, and look around the best.

    space : what to search. [-]   objectives : what to optimize, the space's own if left out. [-]
    n_trials : different configurations to try, neighbours and those that break a rule included. [-]
    seed : of the sampler. [-]
    sampler : nsga2 | nsga3 | tpe | gp, auto (nsga2, and nsga3 from four objectives on), or one of Optuna's. NSGA costs
        about a millisecond a trial, TPE tens of them, GP (which needs torch) hundreds. [-]
    batch : trials evaluated together, and NSGA's population; a tenth of all, at most a hundred, if left out. [-]
    storage : where to keep the study: a journal file, the URL of a database, or a storage of Optuna's. Trials that
        are there count as known, so that a search resumes and workers share; new ones are written in bulk. [-]
    study_name : its name there, vramsim if left out. [-]
    warm : begin with what coarse grids find, or with a start that was made before: it does not depend on the seed. [-]
    progress : called after every batch. [-]
    """
    import optuna

    batch = max(1, min(MOST_OF_A_BATCH, n_trials // BATCHES)) if batch is None else batch
    if n_trials < 1 or batch < 1:
        raise VramsimError(f"n_trials and batch must be 1 or more, got {n_trials} and {batch}")
    scores = Scores(space, tuple(objectives) or space.objectives)
    chosen = _sampler(sampler, seed, batch, len(scores.objectives))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        kept = Kept.open(scores, storage, study_name) if storage is not None else None
        if kept:
            kept.load()
        begin = warm if isinstance(warm, Start) else started(space, scores.objectives, n_trials) if warm else NOTHING
        study = optuna.create_study(directions=["minimize"] * len(scores.objectives), sampler=chosen)
        conversation = _Conversation(study, scores)
        conversation.recall()
        first = [defaults(space), *begin.points]
        before, asked, number = len(scores.known), 0, 0
        while (left := min(n_trials - len(scores.known) + before, space.size - len(scores.known))) > 0:
            room = min(batch, left)
            near = list(islice(_candidates(scores, first, around=number % 2 == 1), room))
            conversation.turn(near, room)
            asked, number = asked + room, number + 1
            if progress:
                progress(min(len(scores.known) - before, n_trials), n_trials)
            if kept and number % WRITTEN == 0:
                kept.write()
                kept.load()
            if asked >= ASKED * n_trials:
                break
        if kept:
            kept.write()
    finally:
        optuna.logging.set_verbosity(verbosity)
    return scores.result(begin.simulated)


NOTHING = Start((), 0)
"""The start of a search that knows nothing."""


def started(space: Space, objectives: tuple[Objective, ...], n_trials: int) -> Start:
    """Where a search begins: a quarter of its trials at most are what coarse grids find.

    space : what to search. [-]   objectives : what to optimize. [-]   n_trials : trials of the search. [-]
    """
    return start(space, objectives, max(1, n_trials // 4))


def _candidates(scores: Scores, first: Iterable[Point], *, around: bool) -> Iterator[Point]:
    """Points to enqueue: those to begin with, then, every other time, neighbours of the front; new ones only."""
    waiting = [point for point in dict.fromkeys(first) if point not in scores.known]
    yield from waiting
    if around and not waiting:
        yield from untried(scores)


class _Conversation:
    """A study in memory that is asked and told: parameters are positions in the lists of values."""

    def __init__(self, study: optuna.Study, scores: Scores) -> None:
        self.study, self.scores = study, scores
        self.names = [scores.space.labels[choice.key] for choice in scores.space.choices]
        self.distributions = dict(zip(self.names, map(_distribution, scores.space.choices), strict=True))

    def recall(self) -> None:
        """Tell the study what is known from before."""
        import optuna

        self.study.add_trials(
            [
                optuna.trial.create_trial(
                    params=dict(zip(self.names, point, strict=True)),
                    distributions=self.distributions,
                    values=list(score.goals),
                    constraints=dict(score.over),
                )
                for point, score in self.scores.known.items()
            ]
        )

    def turn(self, near: Sequence[Point], room: int) -> None:
        """Ask for a batch, of which some points are given, evaluate it, and tell.

        near : points to enqueue. [-]   room : number of trials. [-]
        """
        for point in near:
            self.study.enqueue_trial(dict(zip(self.names, point, strict=True)))
        trials = [self.study.ask(self.distributions) for _ in range(room)]
        points = [tuple(int(trial.params[name]) for name in self.names) for trial in trials]
        for trial, score in zip(trials, self.scores.of(points), strict=True):
            for name, amount in score.over.items():
                trial.set_constraint(name, amount)
            self.study.tell(trial, score.goals)


def _distribution(choice: Choice) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    ordered = choice.numbers is not None
    return IntDistribution(0, len(choice) - 1) if ordered else CategoricalDistribution(range(len(choice)))


def _sampler(
    given: str | optuna.samplers.BaseSampler, seed: int, batch: int, num_objectives: int
) -> optuna.samplers.BaseSampler:
    import optuna
    from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler

    if isinstance(given, BaseSampler):
        return given
    if given not in SAMPLERS:
        raise VramsimError(f"sampler must be {', '.join(SAMPLERS)} or a sampler of Optuna's, got {shown(given)}")
    population = max(2, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if given == "nsga3" or (given == "auto" and num_objectives > 3):
            return NSGAIIISampler(population_size=population, seed=seed)
        if given == "tpe":
            return TPESampler(seed=seed)
        if given == "gp":
            from importlib.util import find_spec

            if find_spec("torch") is None:
                raise VramsimError("sampler gp needs torch, which is not installed; install vramsim[torch] or use tpe")
            return GPSampler(seed=seed)
        return NSGAIISampler(population_size=population, seed=seed)
