"""The Optuna path: on a space that can be enumerated it finds what enumeration finds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import vramsim
from vramsim.errors import VramsimError
from vramsim.search import Result, search
from vramsim.search.optuna_search import defaults
from vramsim.search.scores import Scores
from vramsim.space import Space


def front(result: Result) -> set[tuple[float, ...]]:
    columns = [goal.name for goal in result.objectives]
    return set(result.pareto[columns].itertuples(index=False, name=None))


@pytest.mark.parametrize("seed", [0, 1])
def test_same_front_as_exhaustive_on_the_seed_space(seed_space: Space, seed: int) -> None:
    exact = search(seed_space, method="exhaustive")
    found = search(seed_space, method="optuna", n_trials=300, seed=seed)
    assert front(found) == front(exact)
    assert found.evaluated < exact.evaluated
    assert found.method == "optuna"


def test_tpe_finds_the_same_front(seed_space: Space) -> None:
    found = search(seed_space, method="optuna", n_trials=60, sampler="tpe", batch=20)
    assert front(found) == front(search(seed_space))


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
    import optuna

    storage = optuna.storages.InMemoryStorage()
    space = make_space({"recompute": ["none", "full"], "micro_batch_size": [1, 2], "method": ["full", "lora"]})
    result = search(space, method="optuna", n_trials=20, storage=storage, study_name="kept")
    study = optuna.load_study(study_name="kept", storage=storage)
    assert len(study.trials) == space.size
    assert {trial.params["recompute"] for trial in study.trials} == {"none", "full"}
    best = {tuple(trial.values) for trial in study.best_trials}
    assert best == front(result)


def test_progress_and_refusals(seed_space: Space) -> None:
    seen: list[tuple[int, int]] = []
    search(seed_space, method="optuna", n_trials=30, batch=20, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(20, 30), (30, 30)]
    with pytest.raises(VramsimError, match="sampler must be nsga2, tpe or a sampler of Optuna's, got 'grid'"):
        search(seed_space, method="optuna", sampler="grid")
    with pytest.raises(VramsimError, match="n_trials and batch must be 1 or more"):
        search(seed_space, method="optuna", n_trials=0)


def test_heavy_packages_are_loaded_when_needed() -> None:
    code = "import sys, vramsim.search, vramsim.space; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"optuna", "pandas", "scipy", "networkx"} & set(loaded) == set()
