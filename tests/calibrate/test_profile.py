"""Profiles: written, named by a case, read back; what they change in an estimate; and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

import vramsim
from vramsim import Case, VramsimError, simulate
from vramsim.bands import band
from vramsim.case.profile import Profile, read_profile
from vramsim.cli import main

CASE: dict[str, Any] = {
    "model": "llama-3-8b",
    "cluster": {"device": "h100-sxm-80gb", "num_devices": 8},
    "framework": "fsdp2",
    "training": {"seq_len": 4096},
    "strategy": {"recompute": "full"},
}
PROFILE: dict[str, Any] = {
    "device": {"base": "h100-sxm-80gb", "gemm_efficiency": 0.5, "context": 6e8},
    "node": {"scale_out_bandwidth": 1e11},
    "framework": {"fragmentation": 0.3},
    "throughput": {
        "runs": 12,
        "error_before": 0.1,
        "error_after": 0.03,
        "error_left_out": 0.04,
        "band": 0.08,
        "shares": {"compute": 1.0, "communication": 0.1, "optimizer": 0.1, "host": 0.5},
    },
    "parameters": {"gemm_efficiency": {"catalog": 0.66, "fitted": 0.5, "relative_error": 0.02, "learned": 0.9}},
    "runs": ["a", "b"],
    "date": "2026-11-24",
}


def written(folder: Path, content: Any = PROFILE, name: str = "mine.yaml") -> Path:
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def on(device: Any, **changes: Any) -> Case:
    case = Case(**CASE | {"cluster": {"device": device, "num_devices": 8}})
    return case.with_values(changes) if changes else case


def test_a_profile_is_the_device_that_it_describes(tmp_path: Path) -> None:
    path = written(tmp_path)
    named, inline = on(str(path)), on(PROFILE["device"], scale_out_bandwidth=1e11)
    inline = inline.with_values({"framework.fragmentation": 0.3})
    assert simulate(named).time.step_seconds == simulate(inline).time.step_seconds
    assert simulate(named).memory.hbm.used_bytes == simulate(inline).memory.hbm.used_bytes
    assert simulate(named).time.step_seconds > simulate(on("h100-sxm-80gb")).time.step_seconds


def test_a_case_file_names_a_profile_that_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cases"
    folder.mkdir()
    written(folder)
    for device in ("mine.yaml", {"base": "mine.yaml", "usable_memory": 7e10}):
        case = written(folder, CASE | {"cluster": {"device": device, "num_devices": 8}}, "case.yaml")
        monkeypatch.chdir(tmp_path)
        setup = Case.load(case).resolve()
        assert setup.cluster.device.gemm_efficiency == 0.5
        assert setup.cluster.scale_out_bandwidth == 1e11
    assert setup.cluster.device.usable_memory == 7e10


def test_described_and_loaded(tmp_path: Path) -> None:
    case = on(str(written(tmp_path)))
    again = Case.load(json.loads(json.dumps(case.describe())))
    assert again == case
    assert simulate(again).time.step_seconds == simulate(case).time.step_seconds
    assert again.resolve().cluster.device.measured == case.resolve().cluster.device.measured


def test_what_a_case_states_comes_before_its_profile(tmp_path: Path) -> None:
    path = str(written(tmp_path))
    stated = on(path, scale_out_bandwidth=2e11).with_values({"framework.fragmentation": 0.1}).resolve()
    assert stated.cluster.scale_out_bandwidth == 2e11
    assert stated.framework.fragmentation == 0.1
    assert on(path).with_values({"cluster.device.gemm_efficiency": 0.4}).resolve().cluster.device.gemm_efficiency == 0.4


def test_a_search_chooses_between_profiles(tmp_path: Path) -> None:
    devices = ["h100-sxm-80gb", str(written(tmp_path))]
    found = vramsim.search(vramsim.Space(CASE, {"device": devices, "micro_batch_size": [1, 2]}))
    assert len(found.frame) == 4
    with pytest.raises(VramsimError, match="cannot read the profile file"):
        vramsim.Space(CASE, {"device": [str(tmp_path / "other.yaml")]})


# What estimates make of it ----------------------------------------------------------------------------------------


def test_errors_of_a_rate_are_those_of_its_owner(tmp_path: Path) -> None:
    estimate = simulate(on(str(written(tmp_path))))
    errors, rate = estimate.rate_errors(), float(estimate.time.tokens_per_second_per_device)
    assert errors.quantile(0.5) == 0.0
    assert list(errors.quantiles) == sorted(errors.quantiles)
    low, high = estimate.throughput_band()
    assert low == pytest.approx(rate * math.exp(errors.quantile(0.05)))
    assert high == pytest.approx(rate * math.exp(errors.quantile(0.95)))
    # Nine of ten within the band; normal, so that half lie within 0.41 of it.
    assert errors.quantile(0.95) >= PROFILE["throughput"]["band"]
    assert errors.quantile(0.75) == pytest.approx(0.41 * errors.quantile(0.95), rel=0.1)
    assert simulate(on("h100-sxm-80gb")).rate_errors() == band("throughput", "fsdp2")


def test_notes_say_who_measured(tmp_path: Path) -> None:
    (note,) = (note for note in simulate(on(str(written(tmp_path)))).notes if "measured by the user" in note)
    assert "12 runs (mine.yaml, 2026-11-24), off by 4% where left out" in note
    assert "tokens/s" in note
    assert not any("measured by the user" in note for note in simulate(on("h100-sxm-80gb")).notes)


def test_memory_that_was_measured_is_noted(tmp_path: Path) -> None:
    accuracy = {key: value for key, value in PROFILE["throughput"].items() if key != "shares"}
    content = {key: value for key, value in PROFILE.items() if key != "throughput"} | {"memory": accuracy}
    case = on(str(written(tmp_path, content)))
    assert "memory beyond tensors is measured by the user: 12 readings (mine.yaml)" in simulate(case).notes
    assert case.resolve().cluster.device.measured is None


def test_the_band_is_the_runs_own_where_steps_are_made_like_theirs(tmp_path: Path) -> None:
    estimate = simulate(on(str(written(tmp_path))))
    rate = estimate.time.tokens_per_second_per_device
    assert estimate.throughput_band() == pytest.approx((rate * math.exp(-0.08), rate * math.exp(0.08)))


def test_the_band_widens_to_that_of_published_runs_where_steps_are_not(tmp_path: Path) -> None:
    narrow = PROFILE | {"throughput": PROFILE["throughput"] | {"shares": {}}}
    estimate = simulate(on(str(written(tmp_path, narrow))))
    rate, published = estimate.time.tokens_per_second_per_device, band("throughput", "fsdp2")
    low, high = estimate.throughput_band()
    assert math.log(low / rate) == pytest.approx(-math.hypot(0.08, published.quantile(0.05)))
    assert math.log(high / rate) == pytest.approx(math.hypot(0.08, published.quantile(0.95)))
    assert "100% of the step is spent on what they did not do" in " ".join(estimate.notes)


# From runs to a file and back -------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    written(tmp_path, CASE, "case.yaml")
    lines = (f"step: {i:2}  loss: 7.1  memory: 41.00GiB(51%)  tps: {7000 + i}  mfu: 30%" for i in range(20))
    (tmp_path / "train.log").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_a_log_becomes_a_profile_that_moves_estimates_towards_it(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "train.log", "--case", "case.yaml", "--out", "mine.yaml"]) == 0
    out = capsys.readouterr().out
    for words in ("CALIBRATED: h100-sxm-80gb", "gemm_efficiency", "Not informed by these runs", "rests on one run"):
        assert words in out
    profile = read_profile("mine.yaml")
    assert profile.runs == ["train.log"]
    assert profile.vramsim == vramsim.__version__
    before, after = simulate(on("h100-sxm-80gb")), simulate(on("mine.yaml"))
    rates = [each.time.tokens_per_second_per_device for each in (before, after)]
    assert abs(rates[1] / 7010 - 1) < abs(rates[0] / 7010 - 1)
    assert profile.throughput is not None
    assert profile.throughput.error_after == pytest.approx(abs(rates[1] / 7011 - 1), abs=2e-3)


def test_json_holds_what_the_table_shows(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "train.log", "--case", "case.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() >= {"device", "parameters", "throughput", "memory", "skipped", "notes", "profile"}
    by_name = {row["name"]: row for row in found["parameters"]}
    assert by_name["gemm_efficiency"]["informed"]
    assert not by_name["pcie_bandwidth"]["informed"]
    (row,) = found["throughput"]["rows"]
    assert row["measured"] == pytest.approx(7010, rel=1e-3)
    assert Profile(**found["profile"]).device == found["profile"]["device"]


def test_a_saved_profile_reads_back_the_same(trained: Path) -> None:
    found = vramsim.calibrate("train.log", "case.yaml")
    found.save("mine.yaml")
    assert read_profile("mine.yaml") == found.profile()


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["is empty", "device"]),
        ("- 1", ["must be a mapping", "list"]),
        ("device: [", ["cannot be read as YAML"]),
        ({"device": "h100"}, ["device", "got 'h100'"]),
        ({"node": {}}, ["device is missing"]),
        ({"devise": {}}, ["unknown key 'devise'"]),
        ({"device": {"base": "h1000"}}, ["unknown device 'h1000'", "did you mean"]),
        ({"device": {"gemm_efficiency": 0.5}}, ["must state memory"]),
        ({"device": {"base": "h100-sxm-80gb", "gemm_efficiency": 2}}, ["gemm_efficiency", "from 1e-06 to 1", "got 2"]),
        ({"device": {"base": "h100-sxm-80gb", "speed": 2}}, ["unknown key", "speed"]),
        ({"device": {"base": "h100-sxm-80gb"}, "node": {"pcie_bandwidth": -1}}, ["node.pcie_bandwidth", "got -1"]),
        ({"device": {"base": "h100-sxm-80gb"}, "throughput": {"runs": 3}}, ["throughput", "is missing"]),
        ({"device": {"base": "h100-sxm-80gb"}, "runs": 3}, ["runs", "list", "got 3"]),
        ({1: 2, "device": {"base": "h100-sxm-80gb"}}, ["texts"]),
    ],
)
def test_a_malformed_profile_is_refused_in_one_sentence(tmp_path: Path, content: Any, parts: list[str]) -> None:
    path = written(tmp_path, content)
    with pytest.raises(VramsimError) as raised:
        on(str(path)).resolve()
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert "pydantic" not in sentence
    assert "mine.yaml" in sentence
    for part in parts:
        assert part in sentence, sentence


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["none.csv"], ["cannot read the table none.csv"]),
        (["train.log"], ["a log needs the case", "--case"]),
        (["train.log", "--case", "case.yaml", "--case", "case.yaml"], ["a log needs the case", "got 2"]),
        (["case.yaml", "--case", "case.yaml"], ["holds no step times"]),
        (["train.log", "--case", "none.yaml"], ["cannot read the case file 'none.yaml'"]),
        (["train.log", "--case", "case.yaml", "--out", "mine.toml"], ["must be written to a .yaml file"]),
        (["train.log", "--case", "case.yaml", "--out", "no/mine.yaml"], ["a folder that exists"]),
        (["table.csv", "--case", "case.yaml"], ["--case goes with a training log"]),
        (["table.csv", "--only", "gpu"], ["--only must be followed by column=text"]),
        (["train.log", "--case", "profiled.yaml"], ["not one that is already a profile"]),
    ],
)
def test_wrong_questions_get_one_sentence_and_status_2(
    trained: Path, capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]
) -> None:
    written(trained)
    written(trained, CASE | {"cluster": {"device": "mine.yaml", "num_devices": 8}}, "profiled.yaml")
    status = main(["calibrate", *words])
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err
