"""The command line: answers, exit statuses, and one sentence for what is wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vramsim
from vramsim.cli import main
from vramsim.units import GiB

ROOT = Path(__file__).parents[1]
SEED = str(ROOT / "studies/cases/llama3_70b_16xa100.yaml")
SPACE = str(Path(SEED).parents[1] / "spaces" / "llama3_70b.yaml")
SMALL = ("model=llama-3-8b", "num_devices=8", "seq_len=2048")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def answer(capsys: Capture, *words: str) -> str:
    """What a command that must succeed prints."""
    status = main(words)
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    return captured.out


def complaint(capsys: Capture, *words: str) -> str:
    """The one sentence with which a command refuses."""
    status = main(words)
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.startswith("vramsim: ")
    assert captured.err.count("\n") == 1
    return captured.err


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def parsed(text: str) -> Any:
    return json.loads(text, parse_constant=refuse_constant)


# estimate -------------------------------------------------------------------------------------------------------------


def test_json_holds_the_contract(capsys: Capture) -> None:
    found = parsed(answer(capsys, "estimate", SEED, "--json"))
    assert found.keys() >= {"fits", "fit_probability", "memory", "time", "case", "notes"}
    assert found["memory"].keys() >= {"hbm", "host", "nvme"}
    hbm = found["memory"]["hbm"]
    numbers = {f"{name}_bytes" for name in ("capacity", "allocated", "reserved", "used", "headroom")}
    assert hbm.keys() >= numbers | {"peak_phase", "by_category", "by_phase"}
    assert found["memory"]["host"].keys() >= {"capacity_bytes_per_node", "used_bytes_per_node"}
    seconds = {"step_seconds", "lower_seconds", "upper_seconds"}
    rates = {"tokens_per_second_per_device", "model_tflops_per_device", "mfu", "hfu"}
    assert found["time"].keys() >= seconds | rates | {"by_activity", "bottleneck"}
    assert hbm["by_phase"][hbm["peak_phase"]] == hbm["used_bytes"]
    assert hbm["headroom_bytes"] == hbm["capacity_bytes"] - hbm["used_bytes"]
    assert found["fits"] is (hbm["headroom_bytes"] >= 0)


def test_json_equals_python(capsys: Capture) -> None:
    found = parsed(answer(capsys, "estimate", SEED, "--json"))
    case = vramsim.Case.load(SEED)
    expected = {**vramsim.simulate(case).to_dict(), "case": case.describe()}
    assert {key: found[key] for key in expected} == json.loads(json.dumps(expected))


def test_advice_does_what_it_says(capsys: Capture) -> None:
    found = parsed(answer(capsys, "estimate", SEED, "--json"))
    assert found["advice"]
    for change in found["advice"]:
        words = [f"{key}={json.dumps(value)}" for key, value in change["values"].items()]
        changed = parsed(answer(capsys, "estimate", SEED, "--set", *words, "--json"))
        assert changed["fits"] is change["fits"]
        assert changed["memory"]["hbm"]["headroom_bytes"] == pytest.approx(change["headroom_bytes"])


def test_the_case_in_the_answer_gives_the_same_answer(capsys: Capture, tmp_path: Path) -> None:
    first = parsed(answer(capsys, "estimate", SEED, "--json"))
    path = tmp_path / "again.json"
    path.write_text(json.dumps(first["case"]), encoding="utf-8")
    assert parsed(answer(capsys, "estimate", str(path), "--json")) == first


@pytest.mark.parametrize(
    "words",
    [
        ("--set", "zero_stage=2", "--set", "training.seq_len=4096"),
        ("--set", "zero_stage=2", "training.seq_len=4096"),
        ("--set=zero_stage=2", "--set=seq_len=4096"),
    ],
)
def test_set_changes_fields(capsys: Capture, words: tuple[str, ...]) -> None:
    case = parsed(answer(capsys, "estimate", SEED, *words, "--json"))["case"]
    assert (case["strategy"]["zero_stage"], case["training"]["seq_len"]) == (2, 4096)
    assert case == parsed(answer(capsys, "estimate", *words, SEED, "--json"))["case"]


def test_set_reads_numbers_with_exponents_texts_and_mappings(capsys: Capture) -> None:
    words = ("reduce_bucket_size=2e8", "recompute=none", "lora={rank: 8}", "method=lora")
    case = parsed(answer(capsys, "estimate", SEED, "--set", *words, "--json"))["case"]
    assert case["framework"]["reduce_bucket_size"] == 2e8
    assert case["strategy"]["recompute"] == "none"
    assert case["training"]["lora"]["rank"] == 8


def test_verdict_comes_first(capsys: Capture) -> None:
    estimate = vramsim.simulate(vramsim.Case.load(SEED))
    hbm = estimate.memory.hbm
    first, second, *_ = answer(capsys, "estimate", SEED).splitlines()
    assert first.startswith("FITS: " if estimate.fits else "DOES NOT FIT: ")
    assert f"{abs(hbm.headroom_bytes) / GiB:.1f} GiB" in first
    assert str(hbm.peak_phase).replace("_", " ") in second
    assert estimate.components()[0].name in second


def test_a_case_that_fits_says_so(capsys: Capture) -> None:
    first = answer(capsys, "estimate", SEED, "--set", *SMALL).splitlines()[0]
    assert re.fullmatch(r"FITS: [\d.]+ GiB to spare on each GPU \([\d.]+ of [\d.]+ GiB usable\)", first)


def test_host_memory_that_runs_out_is_named(capsys: Capture) -> None:
    first = answer(capsys, "estimate", SEED, "--set", *SMALL, "offload_optimizer=cpu", "host_memory=1e9").splitlines()[
        0
    ]
    assert first.startswith("DOES NOT FIT: each node's host RAM is ")


def test_tables_add_up_and_name_their_units(capsys: Capture) -> None:
    text = answer(capsys, "estimate", SEED, "--set", *SMALL, "offload_optimizer=cpu")
    for title in ("Memory per GPU by phase", "At the peak", "Off the GPUs, per node", "Speed", "Where the step goes"):
        assert title in text
    used = vramsim.simulate(vramsim.Case.load(SEED).with_values(dict(_values(SMALL)))).memory.hbm.used_bytes
    text = answer(capsys, "estimate", SEED, "--set", *SMALL)
    assert re.search(rf"used, as the driver shows it +{used / GiB:.2f}", text)
    assert not re.search(r"[\d.]+ GB\b", text)


def _values(assignments: tuple[str, ...]) -> list[tuple[str, Any]]:
    pairs = (text.split("=") for text in assignments)
    return [(key, int(value) if value.isdigit() else value) for key, value in pairs]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_output_stays_within_the_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words in (("estimate", SEED), ("catalog",)):
        assert max(len(line.rstrip()) for line in answer(capsys, *words).splitlines()) <= width


def test_names_with_brackets_are_shown_as_they_are(capsys: Capture) -> None:
    text = answer(capsys, "estimate", SEED, "--set", "model={base: llama-3-8b, name: 'mine [red]'}")
    assert "mine [red]" in text


# search ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def space(tmp_path: Path) -> str:
    """A space of 36 configurations, of which some fit."""
    path = tmp_path / "space.yaml"
    path.write_text(
        json.dumps(
            {
                "base": SEED,
                "search": {
                    "num_devices": [16, 32, 64],
                    "sp": {"powers_of_two": [1, 4]},
                    "offload_optimizer": ["none", "cpu"],
                    "recompute": ["none", "full"],
                },
            }
        ),
        encoding="utf-8",
    )
    return str(path)


def test_search_finds_what_estimate_confirms(capsys: Capture, space: str) -> None:
    found = parsed(answer(capsys, "search", space, "--json", "--top", "3"))
    assert found["size"] == 36
    assert found["method"] == "exhaustive"
    assert found["feasible"] + sum(found["removed"].values()) == 36
    assert 0 < found["feasible"] < 36
    assert len(found["pareto"]) == min(3, found["pareto_size"])
    for row in (*found["pareto"], *found["best"].values()):
        words = [f"{key}={value}" for key, value in row["values"].items()]
        estimate = parsed(answer(capsys, "estimate", SEED, "--set", *words, "--json"))
        assert estimate["fits"]
        assert estimate["memory"]["hbm"]["headroom_bytes"] == pytest.approx(row["headroom_bytes"])
        assert estimate["time"]["step_seconds"] == pytest.approx(row["step_seconds"])


def test_search_tells_a_person(capsys: Capture, space: str) -> None:
    text = answer(capsys, "search", space, "--top", "2")
    assert re.match(r"\d+ FEASIBLE OF 36 CONFIGURATIONS: ", text)
    for title in ("Removed by", "Best", "Pareto front, 2 of "):
        assert title in text


def test_search_with_optuna_is_repeatable(capsys: Capture, space: str) -> None:
    words = ("search", space, "--method", "optuna", "--trials", "40", "--seed", "3", "--json")
    first = parsed(answer(capsys, *words))
    assert first["method"] == "optuna"
    assert first == parsed(answer(capsys, *words))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_search_writes_every_feasible_configuration(capsys: Capture, space: str, tmp_path: Path, suffix: str) -> None:
    pandas = pytest.importorskip("pandas")
    out = tmp_path / f"found.{suffix}"
    found = parsed(answer(capsys, "search", space, "--out", str(out), "--json"))
    table = pandas.read_csv(out) if suffix == "csv" else pandas.read_parquet(out)
    assert len(table) == found["feasible"]


def test_search_for_the_cheapest_run(capsys: Capture, space: str) -> None:
    run = ("--tokens", "1e9", "--objectives", "cost", "time_to_train", "energy", "--price", "A100=1.50")
    found = parsed(answer(capsys, "search", space, *run, "--json"))
    assert [goal["name"] for goal in found["objectives"]] == ["cost_usd", "time_to_train_seconds", "energy_kwh"]
    assert found["run"]["tokens"] == 1e9
    assert found["run"]["prices"]["a100-sxm-80gb"]["usd"] == 1.5
    best = found["best"]["cost_usd"]
    hours = best["time_to_train_seconds"] / 3600 * best["num_devices"]
    assert best["cost_usd"] == pytest.approx(1.5 * hours)
    text = answer(capsys, "search", space, *run, "--top", "2")
    for words in (
        "1 billion tokens",
        "a100-sxm-80gb: 1.5 USD per device-hour, on-demand",
        "least USD",
        "time to train",
    ):
        assert words in text, words
    limit = f"{best['time_to_train_seconds'] / 3600 * 0.9:.3f}h"
    within = parsed(answer(capsys, "search", space, *run, "--deadline", limit, "--budget", "1e6", "--json"))
    assert 0 < within["removed"]["deadline"] < found["feasible"]
    assert within["best"]["cost_usd"]["cost_usd"] > best["cost_usd"]


def test_a_space_in_which_nothing_fits_is_an_answer(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(json.dumps({"base": SEED, "search": {"seq_len": [10**6, 10**7]}}), encoding="utf-8")
    assert answer(capsys, "search", str(path)).startswith("NONE FEASIBLE OF 2 CONFIGURATIONS")
    found = parsed(answer(capsys, "search", str(path), "--json"))
    assert (found["feasible"], found["pareto"], found["best"]) == (0, [], {})


# catalog --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["models", "devices", "frameworks", "optimizers", "quantizations"])
def test_catalog_lists_every_name(capsys: Capture, kind: str) -> None:
    rows = parsed(answer(capsys, "catalog", kind, "--json"))
    assert list(rows) == [kind]
    shown = {line.split()[0] for line in answer(capsys, "catalog", kind).splitlines() if line.strip()}
    assert {row["name"] for row in rows[kind]} <= shown
    assert all(row["source"] for row in rows[kind])


def test_catalog_has_numbers_as_numbers(capsys: Capture) -> None:
    rows = {row["name"]: row for row in parsed(answer(capsys, "catalog", "--json"))["devices"]}
    assert rows["a100-sxm-80gb"]["bf16_tflops"] == 312
    assert rows["a100-sxm-80gb"]["fp8_tflops"] is None


# What is wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("estimate", "no/such.yaml"), "no/such.yaml"),
        (("estimate", "."), "'.'"),
        (("estimate",), "CASE"),
        (("estimat", SEED), "estimat"),
        (("estimate", SEED, "--jsn"), "--jsn"),
        (("estimate", SEED, "surplus"), "surplus"),
        (("estimate", SEED, "--set"), "--set"),
        (("estimate", SEED, "--set", "seq_len"), "key=value"),
        (("estimate", SEED, "--set", "seq_len", "4096"), "key=value"),
        (("estimate", SEED, "--set", "=4096"), "key=value"),
        (("estimate", SEED, "--set", "seq_len=[1"), "'[1'"),
        (("estimate", SEED, "--set", "seq_len=many"), "seq_len"),
        (("estimate", SEED, "--set", "sequence=1"), "sequence"),
        (("estimate", SEED, "--set", "seq_len=[1024, 2048]"), "one case"),
        (("estimate", SEED, "--set", "model=llama-3-71b"), "llama-3-70b"),
        (("estimate", SEED, "--set", "tp=3"), "16"),
        (("search", "no/such.yaml"), "no/such.yaml"),
        (("search", SEED), "base"),
        (("search", SEED, "--top", "0"), "--top"),
        (("search", SEED, "--out", "found.xlsx"), "found.xlsx"),
        (("search", SEED, "--out", "no/such/folder/found.csv"), "no/such/folder"),
        (("search", SEED, "--method", "luck"), "luck"),
        (("search", SPACE, "--objectives", "cost"), "'cost' needs the tokens to train on"),
        (("search", SPACE, "--deadline", "7d"), "'deadline' needs the tokens to train on"),
        (("search", SPACE, "--tokens", "1e9", "--acquire", "lease"), "'lease'"),
        (("catalog", "planets"), "devices"),
    ],
)
def test_wrong_input_is_refused_with_one_sentence(capsys: Capture, words: tuple[str, ...], said: str) -> None:
    assert said in complaint(capsys, *words)


def test_parquet_without_pyarrow_is_refused(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramsim.report.printing.find_spec", lambda name: None)
    assert "vramsim[frames]" in complaint(capsys, "search", SEED, "--out", "found.parquet")


def test_broken_file_is_refused_with_one_sentence(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    for text in ("model: [", "- a\n- b", "", "model: llama-3-8b", "\x00"):
        path.write_text(text, encoding="utf-8")
        complaint(capsys, "estimate", str(path))
    path.write_bytes(b"\xff\xfe\xff")
    complaint(capsys, "estimate", str(path))


# As a program ---------------------------------------------------------------------------------------------------------


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vramsim", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_exit_status_of_the_process() -> None:
    good = run("estimate", SEED, "--json")
    assert good.returncode == 0
    assert "fits" in parsed(good.stdout)
    bad = run("estimate", "no/such.yaml")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "Traceback" not in bad.stderr


def test_version_and_help(capsys: Capture) -> None:
    assert answer(capsys, "--version").strip() == vramsim.__version__
    for command in ("estimate", "search", "catalog"):
        assert command in answer(capsys, "--help")


@pytest.mark.skipif(shutil.which("head") is None, reason="no head on this system")
def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m vramsim catalog --json | head -n 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")
