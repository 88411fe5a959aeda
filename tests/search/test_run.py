"""Cost, energy and time to train as objectives: against a loop over single cases, and against `recommend`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vramsim
from vramsim.catalog.prices import Prices
from vramsim.errors import VramsimError
from vramsim.outcome import Terms, checkpoint_bytes
from vramsim.procure.workload import FRAMEWORKS, STRATEGIES
from vramsim.search import Result, search
from vramsim.space import Space

DEVICES = ["a100-sxm-40gb", "h100-sxm-80gb", "b200-sxm-180gb"]
PRICES = {"A100-40GB": 1.0, "H100": 2.5, "B200": 5.5}
BASE: dict[str, Any] = {
    "model": "llama-3-8b",
    "cluster": {"device": "h100-sxm-80gb", "num_devices": 8},
    "framework": "deepspeed",
    "training": {"seq_len": 4096, "global_batch_size": 96},
    "strategy": {"zero_stage": 3},
}
SEARCHED: dict[str, Any] = {
    "device": DEVICES,
    "num_devices": [8, 16, 24],
    "zero_stage": [1, 3],
    "micro_batch_size": [1, 2, 4],
    "recompute": ["none", 0.5, "full"],
    "offload_optimizer": ["none", "cpu"],
}
GOALS = ("cost", "time_to_train", "energy", "headroom")
COLUMNS = ["cost_usd", "time_to_train_seconds", "energy_kwh", "headroom_bytes"]


def make(**options: Any) -> Space:
    return Space(BASE, SEARCHED, **{"tokens": 2e9, "prices": PRICES, "objectives": GOALS, **options})


@pytest.fixture(scope="module")
def exact() -> Result:
    return search(make())


def by_hand(case: vramsim.Case, usd: float, tokens: float) -> list[float]:
    """Dollars, seconds, kWh, bytes to spare of one case, from what the docs say of them, in plain numbers."""
    estimate, terms = vramsim.simulate(case), Terms()
    cluster, how, power = estimate.graph.setup.cluster, terms.reliability, terms.power
    number = float(cluster.num_devices)
    mtbf = how.device_mtbf / number
    writing = float(checkpoint_bytes(estimate)) / (number / 8 * how.storage_bandwidth)
    ratio = writing / (2 * mtbf)
    work = np.sqrt(2 * writing * mtbf) * (1 + np.sqrt(ratio) / 3 + ratio / 9) - writing
    share = work / (mtbf * np.exp(how.restart_seconds / mtbf) * np.expm1((work + writing) / mtbf))
    rate = float(estimate.time.tokens_per_second_per_device) * number
    seconds = how.startup_seconds + tokens / rate / share
    kilowatts = cluster.device.power * power.server_factor * power.load * power.pue / 1000 * number
    spare = float(estimate.memory.hbm.headroom_bytes)
    return [number * seconds / 3600 * usd, seconds, kilowatts * seconds / 3600, spare]


def test_brute_force_finds_the_same(exact: Result) -> None:
    price = dict(zip(DEVICES, PRICES.values(), strict=True))
    rows = []
    for index in range(exact.space.size):
        case = exact.space.case_at(index)
        try:
            estimate = vramsim.simulate(case)
        except VramsimError:
            continue
        if estimate.fits:
            rows.append(by_hand(case, price[str(case.cluster.device)], 2e9))
    table = np.array(rows)
    signed = table * [1.0, 1.0, 1.0, -1.0]
    beaten = [((signed <= row).all(axis=1) & (signed < row).any(axis=1)).any() for row in signed]

    def ordered(values: Any) -> Any:
        values = np.asarray(values, np.float64)
        return values[np.lexsort(values.T[::-1])]

    found = exact.frame[COLUMNS]
    np.testing.assert_allclose(ordered(found), ordered(table), rtol=1e-12)
    front = ordered(exact.pareto[COLUMNS])
    np.testing.assert_allclose(front, np.unique(ordered(table[~np.array(beaten)]), axis=0), rtol=1e-12)
    assert 10 < len(front) < len(table)


def test_cost_is_hours_times_price(exact: Result) -> None:
    frame = exact.frame
    hours = frame["time_to_train_seconds"] / 3600 * frame["num_devices"]
    price = frame["device"].astype(str).map(dict(zip(DEVICES, PRICES.values(), strict=True)))
    np.testing.assert_allclose(frame["cost_usd"], hours * price, rtol=1e-12)
    np.testing.assert_allclose(frame["carbon_kg"], frame["energy_kwh"] * Terms().power.carbon, rtol=1e-12)
    assert frame["goodput"].between(0.9, 1.0, inclusive="left").all()


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(1.01, 20.0), device=st.sampled_from(list(PRICES)))
def test_a_dearer_device_costs_as_much_more_and_nothing_else_changes(exact: Result, factor: float, device: str) -> None:
    dearer = search(make(prices={**PRICES, device: PRICES[device] * factor}))
    one, two = exact.frame, dearer.frame
    own = one["device"].astype(str) == dict(zip(PRICES, DEVICES, strict=True))[device]
    np.testing.assert_allclose(two["cost_usd"], one["cost_usd"] * np.where(own, factor, 1.0), rtol=1e-12)
    pd.testing.assert_frame_equal(one.drop(columns="cost_usd"), two.drop(columns="cost_usd"))
    assert dearer.best("cost")["cost_usd"] >= exact.best("cost")["cost_usd"]


@settings(max_examples=15, deadline=None)
@given(tokens=st.floats(1e6, 1e14), factor=st.floats(1.5, 100.0))
def test_steps_take_as_much_longer_as_there_are_more_tokens(tokens: float, factor: float) -> None:
    start = Terms().reliability.startup_seconds
    small = {"device": ["h100-sxm-80gb"], "num_devices": [8, 16], "recompute": ["none", "full"]}
    few, many = (
        search(Space(BASE, small, tokens=each), objectives=["time_to_train"]).frame["time_to_train_seconds"] - start
        for each in (tokens, tokens * factor)
    )
    np.testing.assert_allclose(many, few * factor, rtol=1e-6)


def test_limits_are_constraints_with_names(exact: Result) -> None:
    within = search(make(constraints=["fits", {"deadline": "5h", "budget": 400}]))
    frame = exact.frame
    late, dear = frame["time_to_train_seconds"] > 5 * 3600, frame["cost_usd"] > 400
    assert within.removed["deadline"] == late.sum() > 0
    assert within.removed["budget"] == (dear & ~late).sum() > 0
    assert len(within) == (~late & ~dear).sum() > 0
    spelled = search(make(constraints=["fits", {"max_time_to_train": 18000.0, "max_cost": 400}]))
    assert len(spelled) == len(within)


def test_search_takes_tokens_for_a_space_that_has_none(exact: Result) -> None:
    found = search(Space(BASE, SEARCHED), objectives=["cost"], tokens=2e9, prices=PRICES)
    assert found.best()["cost_usd"] == exact.best("cost")["cost_usd"]
    assert "cost_usd" not in search(Space(BASE, SEARCHED)).frame


@pytest.mark.parametrize("objective", ["cost", "time-to-train", "energy"])
def test_optuna_finds_the_exact_optimum(exact: Result, objective: str) -> None:
    found = search(make(), "optuna", [objective], 150)
    name = found.objectives[0].name
    assert found.best()[name] == exact.best(name)[name]


def test_the_cheapest_is_what_recommend_ranks_first() -> None:
    terms = Terms(Prices.load(stated={"h100-sxm-80gb": 2.5, "a100-sxm-80gb": 1.4}), today=date(2026, 11, 24))
    devices = ["h100-sxm-80gb", "a100-sxm-80gb"]
    given = vramsim.recommend("llama-3-8b", 1e9, devices=devices, num_devices=[8, 16], terms=terms)
    rented = given.frame[given.frame["acquisition"] == "on-demand"].sort_values("usd", kind="stable")
    space = Space(
        given.workload.case("h100-sxm-80gb", 8),
        {"device": devices, "framework": list(FRAMEWORKS), "num_devices": [8, 16], **STRATEGIES},
        constraints=["fits", {"min_fit_probability": given.workload.likely}],
        objectives=["cost"],
        tokens=1e9,
        terms=terms,
    )
    best = search(space).best()
    assert best["cost_usd"] == pytest.approx(rented["usd"].iloc[0], rel=1e-12)
    assert (best["device"], best["num_devices"]) == (rented["device"].iloc[0], rented["num_devices"].iloc[0])
    assert best["energy_kwh"] == pytest.approx(rented["kwh"].iloc[0], rel=1e-12)


@pytest.mark.parametrize("acquire", ["spot", "buy"])
def test_other_ways_to_come_by_devices(acquire: str) -> None:
    case, on_demand = (
        search(make(prices=None, acquire=each, objectives=["time_to_train"])) for each in (acquire, "on-demand")
    )
    ratio = case.frame["time_to_train_seconds"] / on_demand.frame["time_to_train_seconds"]
    assert (ratio > 1.0).all() if acquire == "spot" else (ratio == 1.0).all()


def test_files_carry_the_columns(exact: Result, tmp_path: Path) -> None:
    exact.to_csv(tmp_path / "found.csv")
    exact.to_parquet(tmp_path / "found.parquet")
    for table in (pd.read_csv(tmp_path / "found.csv"), pd.read_parquet(tmp_path / "found.parquet")):
        np.testing.assert_allclose(table[COLUMNS], exact.frame[COLUMNS])


def test_a_profile_is_priced_as_its_base(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("device: {base: h100-sxm-80gb, gemm_efficiency: 0.5}\n", encoding="utf-8")
    inline = {"base": "H100", "usable_memory": 60e9}
    space = Space(BASE, {"device": [str(profile), "h100-sxm-80gb", inline]}, tokens=1e9, prices={"H100": 2.0})
    frame = search(space, objectives=["cost"]).frame
    hours = frame["time_to_train_seconds"] / 3600 * 8
    np.testing.assert_allclose(frame["cost_usd"], 2.0 * hours, rtol=1e-12)
    assert frame["cost_usd"].iloc[0] > frame["cost_usd"].iloc[1]


UNPRICED = {"device": ["l4-24gb"]}
INLINE = {
    "device": [
        {
            "name": "mine",
            "memory": 80e9,
            "memory_bandwidth": 2e12,
            "peak_flops": {"bf16": 3e14},
            "scale_up_bandwidth": 3e11,
            "pcie_bandwidth": 2e10,
        }
    ]
}


@pytest.mark.parametrize(
    ("searched", "options", "sentence"),
    [
        (SEARCHED, {"objectives": ["cost"]}, "objective 'cost' needs the tokens to train on.*tokens: 1.0e\\+9"),
        (SEARCHED, {"constraints": ["fits", {"deadline": "7d"}]}, "constraint 'deadline' needs the tokens"),
        (SEARCHED, {"prices": PRICES}, "prices say nothing without the tokens"),
        (SEARCHED, {"tokens": "1e9"}, "tokens must be a number.*got the text '1e9'"),
        (SEARCHED, {"tokens": [1e9]}, "tokens must be one number"),
        (SEARCHED, {"tokens": 0}, "tokens must be a number from 1"),
        (SEARCHED, {"tokens": 1e9, "acquire": "lease"}, "acquire must be one of on-demand.*got 'lease'"),
        (SEARCHED, {"tokens": 1e9, "prices": 2.5}, "prices must be a CSV file, or map devices"),
        (SEARCHED, {"tokens": 1e9, "prices": {"H100": "free"}}, "must be a number of US dollars above 0"),
        (SEARCHED, {"tokens": 1e9, "prices": {"H100": 2e5}, "acquire": "buy"}, "must stand in a price file"),
        (SEARCHED, {"tokens": 1e9, "prices": "none.csv"}, "cannot read the price file 'none.csv'"),
        (SEARCHED, {"tokens": 1e9, "constraints": {"deadline": "soon"}}, "the constraint deadline must be a time"),
        (SEARCHED, {"tokens": 1e9, "constraints": {"deadline": "7"}}, "must be bounded by a number, got '7'.*7d"),
        (UNPRICED, {"tokens": 1e9, "objectives": ["cost"]}, r"needs a price of l4-24gb \(on-demand\)"),
        (UNPRICED, {"tokens": 1e9, "acquire": "buy", "objectives": ["cost"]}, "a price to buy l4-24gb for"),
        (INLINE, {"tokens": 1e9, "objectives": ["cost"]}, "devices of the catalog, but mine is none: give it a base"),
    ],
)
def test_what_is_wrong_is_one_sentence(searched: dict[str, Any], options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(VramsimError, match=sentence):
        Space(BASE, searched, **options)


def test_without_a_price_there_is_still_time_and_energy() -> None:
    frame = search(Space(BASE, {**INLINE, "recompute": ["full"]}, tokens=1e9), objectives=["time_to_train"]).frame
    assert {"time_to_train_seconds", "energy_kwh"} <= set(frame)
    assert "cost_usd" not in frame


def test_a_kept_study_is_of_the_same_run(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal")
    search(make(), "optuna", n_trials=5, storage=storage)
    search(make(), "optuna", n_trials=5, storage=storage)
    for change in ({"tokens": 3e9}, {"prices": {**PRICES, "H100": 2.4}}, {"base": {**BASE, "model": "llama-2-7b"}}):
        with pytest.raises(VramsimError, match="for another base case, or for other tokens or prices"):
            search(make().with_values(**change), "optuna", n_trials=5, storage=storage)
