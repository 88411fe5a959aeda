"""The study of the seed case: it runs, its claims hold, and the committed report is what it writes today."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import vramsim
from vramsim.spec import Category, Phase

STUDIES = Path(__file__).parents[2] / "studies"
NAME = "xtuner_llama3_70b"
SEED = vramsim.Case.load(STUDIES / "cases" / "llama3_70b_16xa100.yaml")
WAYS_OUT = (
    "32 GPUs",
    "CPU offload of the optimizer",
    "CPU offload of both",
    "DeepSpeedCPUAdam",
    "torch AdamW",
    "QLoRA",
    "LoRA",
    "sequence parallel 2",
    "sequence parallel 4",
    "sequence parallel 8",
    "accumulation",
    "8-bit AdamW",
    "Liger",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that the study has written to, as a user runs it."""
    folder = tmp_path_factory.mktemp("study")
    script = [sys.executable, str(STUDIES / f"{NAME}.py"), "--out", str(folder)]
    run = subprocess.run(script, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def report(out: Path) -> str:
    return (out / f"{NAME}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    """The study's module: it imports its neighbours, as a script does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        yield importlib.import_module(NAME)


def states(estimate: vramsim.Estimate) -> float:
    kept = (Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER_STATE)
    return sum(float(c.nbytes) for c in estimate.components(Phase.SAVE) if c.category in kept)


def on(gpus: int, **changes: object) -> vramsim.Estimate:
    return vramsim.simulate(SEED.with_values({"num_devices": gpus, **changes}))


# The report -----------------------------------------------------------------------------------------------------------


def test_committed_report_is_current(report: str) -> None:
    committed = (STUDIES / f"{NAME}.md").read_text(encoding="utf-8")
    assert committed == report, f"stale: run `python studies/{NAME}.py` and read what changed"


def test_plots_are_there_and_small(out: Path, report: str) -> None:
    named = re.findall(r"!\[[^]]+\]\(([^)]+)\)", report)
    assert sorted(named) == sorted(path.name for path in out.glob("*.png"))
    for name in named:
        for folder in (out, STUDIES):
            content = (folder / name).read_bytes()
            assert content.startswith(b"\x89PNG")
            assert len(content) < 100_000


@pytest.mark.parametrize("way", WAYS_OUT)
def test_report_mentions(report: str, way: str) -> None:
    assert way in report


def test_report_has_its_sections_in_order(report: str) -> None:
    assert re.findall(r"^## (\d)\.", report, re.MULTILINE) == list("12345678")


def test_tables_are_well_formed(report: str) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", report, re.MULTILINE)
    assert len(tables) == 12
    for table in tables:
        lines = table.splitlines()
        assert len(lines) > 2
        assert len({line.count("|") for line in lines}) == 1, table
        assert re.fullmatch(r"\|(?: -+:? \|)+", lines[1]), lines[1]
        assert not [line for line in lines if "nan" in line or "inf" in line]


def test_report_is_readable_text(report: str) -> None:
    prose = [line for line in report.splitlines() if not line.startswith("|")]
    assert max(map(len, prose)) <= 120
    assert not re.search(r"\{\{|\{%|np\.float|/work|/home|/tmp", report)


# What the words of the template say -----------------------------------------------------------------------------------


def test_states_take_what_the_maintainers_say() -> None:
    assert states(on(16)) == pytest.approx(70.6e9, rel=0.005)
    assert states(on(32)) == pytest.approx(35.3e9, rel=0.005)


def test_16_gpus_do_not_fit_and_32_do() -> None:
    assert not on(16).fits
    assert on(32).fits
    assert on(32).fit_probability > 0.9


def test_first_iteration_passes_and_second_fails() -> None:
    hbm = on(16).memory.hbm
    assert hbm.by_phase["first_step"] < 0.9 * hbm.capacity_bytes
    assert hbm.by_phase["step"] == pytest.approx(hbm.capacity_bytes, rel=0.05)  # "may die there"
    assert hbm.by_phase["backward"] > hbm.capacity_bytes


@pytest.mark.parametrize("sp", [2, 4, 8])
def test_sequence_parallelism_alone_does_not_get_there(sp: int) -> None:
    """At best it is about as likely to fit as not."""
    assert on(16, sp=sp).fit_probability < 0.6


def test_accumulation_alone_changes_nothing() -> None:
    peaks = {on(16, gradient_accumulation_steps=steps).memory.hbm.used_bytes for steps in (1, 4, 16)}
    assert len(peaks) == 1


def test_ways_that_the_words_call_fitting_fit(study: ModuleType) -> None:
    for name in ("OFFLOAD", "BOTH", "LORA", "QLORA"):
        assert study.study.run(16, getattr(study.study, name)).fit_probability > 0.9, name
    assert study.study.run(16, {"optimizer": "adamw_8bit"}).fit_probability > 0.8


def test_published_rates_are_met_as_the_words_say(study: ModuleType) -> None:
    found = {length: study.rates(estimate)[1] / rate for length, _, rate, estimate in study.published()}
    assert found[8192] > 1.3  # "off by far"
    assert found[32768] == pytest.approx(1, abs=0.15)


def test_front_says_what_the_words_say(study: ModuleType) -> None:
    found = study.front()
    front, frame = found.pareto, found.frame
    assert set(front["cpu_optimizer"].astype(str)) == {"cpu_adam"}
    assert frame[frame["offload_optimizer"] == "none"]["num_devices"].min() == 32
    assert study.front_words(found)["without_offload"] == 32
    assert (front["fit_probability"] >= study.CERTAIN).all()
