"""The exhaustive search against a loop over single cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vramsim
from vramsim.errors import VramsimError
from vramsim.search import Result, affordable, search
from vramsim.search.exhaustive import exhaustive
from vramsim.space import Space

BASE: dict[str, Any] = {
    "model": "llama-3-8b",
    "cluster": {"device": "a100-sxm-40gb", "num_devices": 8},
    "framework": "deepspeed",
    "training": {"seq_len": 4096, "global_batch_size": 48},
    "strategy": {"zero_stage": 3},
}
SEARCHED = {
    "num_devices": [4, 8, 12, 16],
    "device": ["a100-sxm-40gb", "h100-sxm-80gb"],
    "sp": [1, 2, 8],
    "tp": [1, 2],
    "micro_batch_size": [1, 2, 3],
    "seq_len": [2048, 8192],
    "zero_stage": [0, 1, 2, 3],
    "offload_optimizer": ["none", "cpu"],
    "offload_parameters": ["none", 0.5],
    "recompute": ["none", "full", "selective"],
    "method": ["full", "lora", "qlora"],
    "quantization": ["none", "nf4"],
    "framework": ["deepspeed", "fsdp2"],
    "framework.loss": ["hf", "liger"],
}
SEARCHED.pop("framework")


def one_by_one(space: Space) -> dict[tuple[Any, ...], tuple[float, ...]]:
    """Labels of every feasible configuration -> used bytes, step seconds, tokens/s."""
    found = {}
    for index in range(space.size):
        case = space.case_at(index)
        try:
            estimate = vramsim.simulate(case)
        except VramsimError:
            continue
        if estimate.fits:
            rest, values = index, []
            for choice in reversed(space.choices):
                rest, position = divmod(rest, len(choice))
                values.append(choice.values[position])
            time = estimate.time
            total = time.tokens_per_second_per_device * case.resolve().cluster.num_devices
            found[tuple(reversed(values))] = (estimate.memory.hbm.used_bytes, time.step_seconds, total)
    return found


def rows(result: Result, frame: pd.DataFrame) -> dict[tuple[Any, ...], tuple[float, ...]]:
    keys = [result.space.labels[choice.key] for choice in result.space.choices]
    measured = ["used_bytes", "step_seconds", "tokens_per_second"]
    return {
        tuple(key): tuple(values)
        for key, values in zip(
            frame[keys].astype(object).itertuples(index=False, name=None),
            frame[measured].itertuples(index=False, name=None),
            strict=True,
        )
    }


@settings(max_examples=12)
@given(st.lists(st.sampled_from(sorted(SEARCHED)), min_size=1, max_size=4, unique=True))
def test_equals_a_loop_over_single_cases(keys: list[str]) -> None:
    space = Space(BASE, {key: SEARCHED[key] for key in keys})
    result = exhaustive(space)
    expected = one_by_one(space)
    found = rows(result, result.frame)
    assert {tuple(map(str, key)): v for key, v in found.items()} == {tuple(map(str, k)): v for k, v in expected.items()}
    assert sum(result.removed.values()) + len(result) == space.size


def test_first_reason_counts() -> None:
    space = Space(
        BASE, {"num_devices": [8, 12], "sp": [1, 5], "offload_parameters": ["none", "cpu"], "zero_stage": [1, 3]}
    )
    result = exhaustive(space)
    expected: Counter[str] = Counter()
    for index in range(space.size):
        case = space.case_at(index)
        try:
            case.resolve()
        except VramsimError as error:
            expected[str(error).partition(":")[0]] += 1
    by_rule = {name: count for name, count in result.removed.items() if not name.startswith("fits")}
    assert sorted(by_rule.values()) == sorted(Counter(expected).values())


def test_constraints_remove_by_name() -> None:
    search_ = {"num_devices": [4, 8, 16], "micro_batch_size": [1, 3], "recompute": ["none", "full"]}
    free = exhaustive(Space(BASE, search_)).frame
    bound = float(free["step_seconds"].median())
    result = exhaustive(Space(BASE, search_, constraints=["fits", {"max_step_seconds": bound, "max_num_devices": 8}]))
    kept = free[(free["step_seconds"] <= bound) & (free["num_devices"] <= 8)]
    assert len(result) == len(kept)
    assert result.removed["max_step_seconds"] == int((free["step_seconds"] > bound).sum())
    everything = exhaustive(Space(BASE, search_, constraints=[]))
    assert len(everything) == everything.evaluated


def test_front_is_that_of_the_frame(seed_space: Space) -> None:
    result = exhaustive(seed_space)
    frame = result.frame
    goals = np.column_stack([-frame["headroom_bytes"], -frame["tokens_per_second"], frame["num_devices"]])
    for row in result.pareto.index:
        assert not ((goals <= goals[row]).all(axis=1) & (goals < goals[row]).any(axis=1)).any()
    assert result.pareto["headroom_bytes"].is_monotonic_decreasing
    pd.testing.assert_frame_equal(result.pareto.sort_index(), frame.loc[sorted(result.pareto.index)])


def test_rows_are_cases(seed_space: Space) -> None:
    result = exhaustive(seed_space)
    for goal, best in (
        ("tokens_per_second", "max"),
        ("headroom", "max"),
        ("num_devices", "min"),
        ("step_seconds", "min"),
    ):
        row = result.best(goal)
        column = "headroom_bytes" if goal == "headroom" else goal
        assert row[column] == getattr(result.frame[column], best)()
        estimate = vramsim.simulate(result.case(row))
        assert estimate.memory.hbm.used_bytes == row["used_bytes"]
        assert estimate.time.step_seconds == row["step_seconds"]
        assert estimate.fit_probability == pytest.approx(row["fit_probability"])
    assert result.case(3) == result.case(result.frame.iloc[3])
    with pytest.raises(VramsimError, match="a row must be a number from 0"):
        result.case(len(result))


def test_the_best_of_any_metric(seed_space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    result = search(seed_space)
    monkeypatch.setattr(import_module("vramsim.search.result"), "MOST_ROWS", 100)
    for name, ascending in (("mfu", False), ("step_seconds", True), ("headroom_bytes", False)):
        ranked = result.frame.sort_values(name, ascending=ascending, kind="stable").head(25)
        assert result.top(25, name).index.tolist() == ranked.index.tolist()
    assert result.best("mfu").name == result.top(1, "mfu").index[0]
    assert len(result.top(10**6)) == len(result)


def test_nothing_feasible() -> None:
    result = exhaustive(Space({**BASE, "model": "llama-3-70b"}, {"num_devices": [8], "zero_stage": [1, 2]}))
    assert len(result) == len(result.frame) == len(result.pareto) == 0
    with pytest.raises(VramsimError, match=r"no configuration of the space is feasible.*fits in device memory 2"):
        result.best()


def test_files_and_notebooks(seed_space: Space, tmp_path: Path) -> None:
    result = search(seed_space)
    result.to_csv(tmp_path / "found.csv")
    result.to_parquet(tmp_path / "found.parquet")
    assert len(pd.read_csv(tmp_path / "found.csv")) == len(pd.read_parquet(tmp_path / "found.parquet")) == len(result)
    html = result._repr_html_()
    assert "fits in device memory" in html
    assert "<table" in html


def test_progress_ends_at_the_size(seed_space: Space) -> None:
    seen: list[tuple[int, int]] = []
    search(seed_space, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (seed_space.size, seed_space.size)


def test_blocks_do_not_show(seed_space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = exhaustive(seed_space)
    monkeypatch.setattr(import_module("vramsim.search.exhaustive"), "MOST_POINTS", 50)
    parted = exhaustive(seed_space)
    keys = [seed_space.labels[choice.key] for choice in seed_space.choices]
    left, right = (result.frame.sort_values(keys).reset_index(drop=True) for result in (whole, parted))
    pd.testing.assert_frame_equal(left, right)
    assert len(whole.front) == len(parted.front)
    assert whole.removed == parted.removed


def test_large_grids_are_looped_over(seed_space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = exhaustive(seed_space)
    monkeypatch.setattr(import_module("vramsim.space"), "MOST_OF_A_GRID", 100)
    looped = exhaustive(seed_space)
    assert len(whole) == len(looped)
    assert len(whole.front) == len(looped.front)


def test_own_objectives(make_space: Callable[..., Space]) -> None:
    space = make_space({"recompute": [0, 0.5, 1], "micro_batch_size": [1, 2]}, objectives=["mfu", "used_bytes"])
    result = search(space)
    assert [goal.name for goal in result.objectives] == ["mfu", "used_bytes"]
    assert result.best()["mfu"] == result.frame["mfu"].max()
    assert search(space, objectives=["throughput"]).objectives[0].name == "tokens_per_second"
    with pytest.raises(VramsimError, match="method must be auto, exhaustive or optuna, got 'grid'"):
        search(space, method="grid")


def test_what_is_affordable(seed_space: Space, make_space: Callable[..., Space]) -> None:
    assert affordable(seed_space)
    huge = {"seq_len": {"min": 1024, "max": 60_000}, "num_devices": {"min": 1, "max": 60_000}}
    assert not affordable(make_space(huge))
