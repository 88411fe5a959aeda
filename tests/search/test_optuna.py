"""The Optuna path: on a space that can be enumerated it finds what enumeration finds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

import vramsim
from vramsim.errors import VramsimError
from vramsim.search import Result, kept, search
from vramsim.search.optuna_search import started
from vramsim.search.scores import Scores
from vramsim.search.start import defaults, start
from vramsim.space import Space
from vramsim.space.metrics import objectives


def front(result: Result) -> set[tuple[float, ...]]:
    columns = [goal.name for goal in result.objectives]
    return set(result.pareto[columns].itertuples(index=False, name=None))


@pytest.mark.parametrize("seed", [0, 1])
def test_same_front_as_exhaustive_on_the_seed_space(seed_space: Space, seed: int) -> None:
    exact = search(seed_space, method="exhaustive")
    found = search(seed_space, method="optuna", n_trials=1500, seed=seed)
    assert front(found) == front(exact)
    assert found.method == "optuna"


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "tpe"])
def test_every_sampler_finds_the_optimum(seed_space: Space, sampler: str) -> None:
    """One that fits with nothing to spare, five choices away from the next best."""
    exact = search(seed_space, objectives=["tokens_per_second"])
    found = search(seed_space, "optuna", ["tokens_per_second"], 100, sampler=sampler, batch=20)
    assert front(found) == front(exact)


@pytest.mark.parametrize(("n_trials", "batch"), [(1, None), (30, 7), (200, None)])
def test_neighbours_count_as_trials(seed_space: Space, n_trials: int, batch: int | None) -> None:
    found = search(seed_space, "optuna", n_trials=n_trials, batch=batch, warm=False)
    assert 0 < len(found) + sum(found.removed.values()) <= n_trials
    assert found.evaluated <= n_trials


def test_a_search_ends_where_nothing_is_left(make_space: Callable[..., Space]) -> None:
    space = make_space({"recompute": ["none", "full"], "micro_batch_size": [1, 2]})
    found = search(space, "optuna", n_trials=500, warm=False)
    assert front(found) == front(search(space, "exhaustive"))


def test_a_seed_fixes_the_result(seed_space: Space) -> None:
    one, two = (search(seed_space, method="optuna", n_trials=150, seed=3) for _ in range(2))
    assert one.frame.equals(two.frame)


def test_rows_are_cases(seed_space: Space) -> None:
    result = search(seed_space, method="optuna", n_trials=100)
    row = result.best("tokens_per_second")
    assert vramsim.simulate(result.case(row)).time.step_seconds == row["step_seconds"]


def test_scores_equal_single_simulations(seed_space: Space) -> None:
    rng = np.random.default_rng(0)
    points = [tuple(int(rng.integers(len(choice))) for choice in seed_space.choices) for _ in range(60)]
    scores = Scores(seed_space, seed_space.objectives)
    for point, score in zip(points, scores.of(points), strict=True):
        case = seed_space.case_of(dict(zip(seed_space.by_key, point, strict=True)))
        try:
            estimate = vramsim.simulate(case)
        except VramsimError:
            assert score.rule
            assert not score.feasible
            continue
        assert not score.rule
        assert score.feasible == estimate.fits
        assert score.over["fits in device memory"] == -estimate.memory.hbm.headroom_bytes
        assert score.goals == tuple(goal.sign * goal.measure(estimate) for goal in seed_space.objectives)


def test_defaults_are_where_the_base_lies(seed_space: Space) -> None:
    point = dict(zip(seed_space.labels.values(), defaults(seed_space), strict=True))
    assert point["num_devices"] == 1  # 16 of 8, 16, ...
    assert point["zero_stage"] == 2
    assert point["method"] == point["recompute"] == point["quantization"] == 0


def test_study_is_written_once(make_space: Callable[..., Space]) -> None:
    storage = optuna.storages.InMemoryStorage()
    space = make_space({"recompute": ["none", "full"], "micro_batch_size": [1, 2], "method": ["full", "lora"]})
    result = search(space, method="optuna", n_trials=20, storage=storage, study_name="kept")
    study = optuna.load_study(study_name="kept", storage=storage)
    assert len(study.trials) == space.size
    assert {trial.params["recompute"] for trial in study.trials} == {"none", "full"}
    best = {tuple(trial.values) for trial in study.best_trials}
    assert best == front(result)


@pytest.mark.parametrize("where", ["study.journal", "sqlite:///{}/study.db"])
def test_a_kept_study_is_taken_up_again(seed_space: Space, tmp_path: Path, where: str) -> None:
    storage = where.format(tmp_path) if "://" in where else str(tmp_path / where)
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        evaluated = Scores._evaluated

        def counted(scores: Scores, points: Sequence[tuple[int, ...]]) -> list[Any]:
            asked.append(len(points))
            return evaluated(scores, points)

        patch.setattr(Scores, "_evaluated", counted)
        first = search(seed_space, "optuna", n_trials=40, storage=storage, warm=False)
        one = sum(asked)
        second = search(seed_space, "optuna", n_trials=40, seed=1, storage=storage, warm=False)
        two = sum(asked) - one
    assert (one, two) == (40, 40)
    assert set(map(tuple, first.frame.to_numpy().tolist())) <= set(map(tuple, second.frame.to_numpy().tolist()))
    trials = optuna.load_study(study_name="vramsim", storage=kept._storage(storage)).trials
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials) == 80


def test_kept_scores_are_those_that_were_told(seed_space: Space, tmp_path: Path) -> None:
    scores, again = (Scores(seed_space, seed_space.objectives) for _ in range(2))
    scores.of([defaults(seed_space), (0,) * len(seed_space.choices)])
    storage = str(tmp_path / "study.journal")
    kept.Kept.open(scores, storage, None).write()
    kept.Kept.open(again, storage, None).load()
    assert again.known == scores.known


def test_a_study_of_something_else_is_refused(seed_space: Space, tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal")
    search(seed_space, "optuna", n_trials=5, storage=storage)
    with pytest.raises(VramsimError, match=r"study 'vramsim' is there with other objectives.*another study_name"):
        search(seed_space, "optuna", ["mfu"], 5, storage=storage)
    other = Space(seed_space.base, {"recompute": ["none", "full"]}, objectives=seed_space.objectives)
    with pytest.raises(VramsimError, match=r"study 'vramsim' holds trials of another space.*another study_name"):
        search(other, "optuna", n_trials=5, storage=storage)
    with pytest.raises(VramsimError, match="the storage must be a journal file or the URL of a database"):
        search(seed_space, "optuna", n_trials=5, storage="nothing://here")


def test_the_optimum_of_open_grids_is_where_a_search_starts(seed_space: Space) -> None:
    (goal,) = objectives(["tokens_per_second"])
    begin = start(seed_space, (goal,), 10)
    assert 0 < begin.simulated < seed_space.size / 2
    assert 0 < len(begin.points) <= 10
    exact = search(seed_space, "exhaustive", [goal])
    best = max(-score.goals[0] for score in Scores(seed_space, (goal,)).of(begin.points) if score.feasible)
    assert best == exact.best()["tokens_per_second"]


def test_a_start_serves_every_seed(seed_space: Space) -> None:
    (goal,) = objectives(["tokens_per_second"])
    begin = started(seed_space, (goal,), 40)
    for seed in (0, 1):
        given, own = (search(seed_space, "optuna", [goal], 40, seed, warm=warm) for warm in (begin, True))
        assert given.frame.equals(own.frame)
        assert given.evaluated == own.evaluated


def test_starts_keep_the_rules_wherever_there_are_some(make_space: Callable[..., Space]) -> None:
    # Rules tie degrees to the devices: positions along a thinned axis must be those of the whole list.
    ties = {"tp": [3, 1, 8, 2], "sp": [8, 5, 1], "zero_stage": [0, 3]}
    shares = {"min": 0, "max": 1, "step": 0.05}
    space = make_space({**ties, "micro_batch_size": [1, 2, 3, 4], "recompute": shares, "offload_optimizer": shares})
    scores = Scores(space, space.objectives)
    begin = start(space, space.objectives, 50)
    assert begin.points
    assert not [score.rule for score in scores.of(begin.points) if score.rule]


def test_progress_and_refusals(seed_space: Space) -> None:
    seen: list[tuple[int, int]] = []
    search(seed_space, method="optuna", n_trials=30, batch=20, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(20, 30), (30, 30)]
    with pytest.raises(VramsimError, match=r"sampler must be auto, nsga2, nsga3, tpe, gp or a sampler.*got 'grid'"):
        search(seed_space, method="optuna", sampler="grid")
    with pytest.raises(VramsimError, match="n_trials and batch must be 1 or more"):
        search(seed_space, method="optuna", n_trials=0)


def test_heavy_packages_are_loaded_when_needed() -> None:
    code = "import sys, vramsim.search, vramsim.space; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"optuna", "pandas", "scipy", "networkx"} & set(loaded) == set()
