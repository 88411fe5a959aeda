"""Recommendations: ranked, consistent, and what the sensitivity says of them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from cyclopts import App

from vramsim import Case, VramsimError, simulate
from vramsim.case.numbers import duration
from vramsim.catalog.prices import Prices
from vramsim.outcome import Factors, Terms
from vramsim.procure import commands
from vramsim.procure.recommend import Recommendation, recommend
from vramsim.procure.sensitivity import chance_cheaper, flips, sobol, tornado

DAY = 86400.0
TERMS = Terms(today=date(2026, 11, 24))
DEVICES = ["A100", "h100-sxm-80gb", "b200-sxm-180gb"]


@pytest.fixture(scope="module")
def given() -> Recommendation:
    return recommend("llama-3-8b", 1e9, 2 * DAY, devices=DEVICES, num_devices=[8, 16, 32], terms=TERMS)


def test_feasible_offers_come_first_and_by_cost(given: Recommendation) -> None:
    frame = given.frame
    assert list(frame["feasible"]) == sorted(frame["feasible"], reverse=True)
    feasible = frame[frame["feasible"]]
    assert feasible["usd"].is_monotonic_increasing
    assert set(frame["device"]) == {"a100-sxm-80gb", "h100-sxm-80gb", "b200-sxm-180gb"}
    assert {"on-demand", "spot", "buy"} <= set(frame["acquisition"])


def test_rows_are_consistent(given: Recommendation) -> None:
    frame = given.frame
    hours = frame["days"] * 24
    assert (frame["usd"] / (frame["num_devices"] * hours) - frame["usd_per_device_hour"]).abs().max() < 1e-6
    assert (frame["days_low"] <= frame["days_high"]).all()
    assert frame["goodput"].between(0.5, 1.0).all()
    assert (frame["headroom_gib"] >= 0).all()
    assert (frame["fit_probability"] >= 0.9 - 1e-9).all()
    bought = frame[frame["acquisition"] == "buy"]
    assert (bought["outlay_usd"] > 1e5).all()
    assert bought["break_even_utilization"].notna().all()


def test_the_case_is_what_was_estimated(given: Recommendation) -> None:
    best = given.best
    assert best.acquisition == "on-demand"
    again = simulate(Case.load(given.case.describe()))
    assert again.time.step_seconds == best.candidate.estimate.time.step_seconds
    assert again.fits


def test_the_best_rent_is_the_cheapest_feasible_one(given: Recommendation) -> None:
    rents = [o for o in given.offers if o.acquisition == "on-demand" and given.feasible(o)]
    assert float(given.best.outcome().usd) == min(float(o.outcome().usd) for o in rents)


def test_pareto_offers_are_not_beaten(given: Recommendation) -> None:
    rents = [o.outcome() for o in given.offers if o.acquisition == "on-demand" and given.feasible(o)]
    for offer in given.pareto:
        mine = offer.outcome()
        assert not any(o.usd < mine.usd and o.seconds < mine.seconds for o in rents)


def test_a_stated_price_moves_the_ranking(given: Recommendation) -> None:
    dear = replace(TERMS, prices=Prices.load(stated={given.best.candidate.device: 50.0}))
    other = recommend("llama-3-8b", 1e9, 2 * DAY, devices=DEVICES, num_devices=[8, 16], terms=dear)
    assert other.best.candidate.device != given.best.candidate.device


def test_a_budget_without_a_deadline_takes_the_fastest() -> None:
    found = recommend("llama-3-8b", 1e9, budget=200.0, devices=DEVICES, num_devices=[8, 16, 32], terms=TERMS)
    rents = [o for o in found.offers if o.acquisition == "on-demand" and found.feasible(o)]
    assert float(found.best.outcome().seconds) == min(float(o.outcome().seconds) for o in rents)
    assert all(float(o.outcome().usd) <= 200.0 for o in rents)


def test_a_tight_deadline_needs_more_devices() -> None:
    loose, tight = (
        recommend("llama-3-8b", 1e9, days * DAY, devices=["H100"], num_devices=[8, 16, 32, 64], terms=TERMS)
        for days in (5.0, 0.1)
    )
    assert tight.best.candidate.num_devices > loose.best.candidate.num_devices


def test_adapters_cost_less() -> None:
    full, qlora = (
        recommend("llama-3-8b", 1e8, devices=["H100"], num_devices=[8], method=method, terms=TERMS)
        for method in ("full", "qlora")
    )
    memory = [float(each.best.candidate.estimate.memory.hbm.used_bytes) for each in (qlora, full)]
    assert memory[0] < memory[1]


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "device: {base: h100-sxm-80gb, gemm_efficiency: 0.5}\n"
        "throughput: {runs: 12, error_before: 0.1, error_after: 0.03, error_left_out: 0.04, band: 0.05,\n"
        "  shares: {compute: 1, communication: 1, optimizer: 1, host: 1}}\n",
        encoding="utf-8",
    )
    return str(path)


def test_a_profile_is_priced_as_its_base_and_judged_by_its_own_errors(profile: str) -> None:
    found = recommend("llama-3-8b", 1e9, DAY, devices=[profile, "H100"], num_devices=[8], terms=TERMS)
    frame = found.frame
    assert set(frame["device"]) == {"h100-sxm-80gb (mine.yaml)", "h100-sxm-80gb"}
    for _, rows in frame.groupby("acquisition"):
        assert rows["usd_per_device_hour"].nunique() == 1
        assert len(set(rows["device"])) == 2
    mine, other = found.by_device["h100-sxm-80gb (mine.yaml)"], found.by_device["h100-sxm-80gb"]
    assert float(mine["on-demand"].outcome().usd) > float(other["on-demand"].outcome().usd)
    quick, slow = mine["on-demand"].candidate.slowness
    assert (quick, slow) == pytest.approx((math.exp(-0.05), math.exp(0.05)))
    assert mine["on-demand"].candidate.usual_slowness == 1.0
    seconds = float(mine["on-demand"].outcome().seconds)
    assert mine["on-demand"].in_time(seconds) == pytest.approx(0.5)
    assert mine["on-demand"].in_time(seconds * math.exp(0.05)) == pytest.approx(0.95)
    assert chance_cheaper(mine["on-demand"], other["on-demand"]) < 0.5


def test_a_profile_without_a_base_has_no_price(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "device: {memory: 80.0e+9, memory_bandwidth: 2.0e+12, peak_flops: {bf16: 3.0e+14}, "
        "scale_up_bandwidth: 3.0e+11, pcie_bandwidth: 2.0e+10}\n",
        encoding="utf-8",
    )
    with pytest.raises(VramsimError, match=r"mine.yaml' is based on no device of the catalog.*give its device a base"):
        recommend("llama-3-8b", 1e9, devices=[str(path)], terms=TERMS)


def test_tornado_is_sorted_and_price_is_proportional(given: Recommendation) -> None:
    bars = tornado(given.best)
    assert [bar.swing for bar in bars] == sorted((bar.swing for bar in bars), reverse=True)
    price = next(bar for bar in bars if bar.name == "price")
    base = float(given.best.outcome().usd)
    assert price.at_low == pytest.approx(0.7 * base)
    assert price.at_high == pytest.approx(1.3 * base)
    assert {bar.name for bar in bars} == {"price", "efficiency", "mtbf"}


def test_owning_depends_on_utilization_most(given: Recommendation) -> None:
    bought = next(offer for offer in given.offers if offer.acquisition == "buy")
    assert tornado(bought)[0].name == "utilization"
    shares = sobol(bought, samples=256)
    assert max(shares, key=lambda name: shares[name][1]) == "utilization"
    assert 0.9 < sum(first for first, _ in shares.values()) < 1.1


def test_flips_make_costs_equal(given: Recommendation) -> None:
    rivals = [ways["on-demand"] for ways in given.by_device.values() if ways["on-demand"] is not given.best]
    target = float(given.best.outcome().usd)
    found = flips(given.best, rivals)
    assert found
    for flip in found:
        assert float(flip.rival.outcome(Factors(**{flip.name: flip.factor})).usd) == pytest.approx(target, rel=1e-6)


def test_chances_are_fair(given: Recommendation) -> None:
    assert chance_cheaper(given.best, given.best) == pytest.approx(0.5, abs=0.02)
    rival = next(o for o in given.offers if float(o.outcome().usd) > 1.5 * float(given.best.outcome().usd))
    assert chance_cheaper(rival, given.best) < 0.5


def test_the_report_says_what_a_buyer_must_know(given: Recommendation) -> None:
    text = given.report()
    for heading in ("workload", "Shortlist", "Renting and buying", "configuration", "flip", "Sensitivity", "Prices"):
        assert re.search(f"(?m)^## .*{heading}", text), heading
    assert "older than 90 days" in text
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block
    import yaml

    assert Case.load(yaml.safe_load(block.group(1))) == given.case
    assert len(given.notes) >= 3


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"model": "llama-3-9999b", "tokens": 1e9}, "unknown model"),
        ({"model": "llama-3-8b", "tokens": -1.0}, "tokens must be"),
        ({"model": "llama-3-8b", "tokens": 1e9, "devices": ["H9"]}, "H9"),
        ({"model": "llama-3-8b", "tokens": 1e9, "devices": ["L4"]}, "L4|l4"),
        ({"model": "llama-3-8b", "tokens": 1e9, "color": 1}, "workload has the fields"),
        ({"model": "llama-3-405b", "tokens": 1e9, "devices": ["A100"], "num_devices": [8]}, "likely to fit"),
    ],
)
def test_refusals_are_sentences(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(VramsimError, match=match):
        recommend(**arguments)  # type: ignore[arg-type]


def test_nothing_in_time_is_a_sentence() -> None:
    found = recommend("llama-3-8b", 1e12, 600.0, devices=["H100"], num_devices=[8], terms=TERMS)
    with pytest.raises(VramsimError, match="no offer keeps the deadline"):
        _ = found.best


@pytest.mark.parametrize(("text", "expected"), [("7d", 7 * DAY), ("12h", DAY / 2), ("90min", 5400.0), ("1e3", 1000.0)])
def test_durations(text: str, expected: float) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "7", "soon", "-1d", "1y", "0d"])
def test_wrong_durations(text: str) -> None:
    if text == "7":
        assert duration(text) == 7.0
        return
    with pytest.raises(VramsimError, match="deadline"):
        duration(text)


@pytest.fixture
def app() -> App:
    app = App(result_action="return_value")
    commands.register(app)
    return app


def test_recommend_command(app: App, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = "recommend llama-3-8b --tokens 1e9 --deadline 2d --devices H100 --num-devices 8 --price H100=2.50 --json"
    app([*words.split(), "--out", str(tmp_path / "offers.csv")], exit_on_error=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed["best"]["usd_per_device_hour"] == 2.5
    assert printed["case"]["model"] == "llama-3-8b"
    assert (tmp_path / "offers.csv").read_text(encoding="utf-8").startswith("device,num_devices")


def test_solve_command(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    seed = str(Path(__file__).parents[2] / "studies" / "cases" / "llama3_70b_16xa100.yaml")
    app(["solve", seed, "devices", "--set", "seq_len=4096", "--json"], exit_on_error=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed["unit"] == "devices"
    assert printed["values"] == {"num_devices": printed["value"]}
    app(["solve", seed, "seq-len", "--set", "num_devices=32"], exit_on_error=False)
    assert "longest seq_len" in capsys.readouterr().out
