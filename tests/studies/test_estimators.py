"""The study of other estimators: their formulas, how rows are put to them, and the page."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vramsim.units import GiB

STUDIES = Path(__file__).parents[2] / "studies"
LLAMA3_8B = 8_030_261_248
EMBEDDING = 128_256 * 4_096


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        yield importlib.import_module("estimators")


@pytest.fixture(scope="module")
def runs(study: ModuleType) -> dict[str, Any]:
    return {run.row.id: run for run in study.runs()}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page as a user writes it, in less than a minute."""
    out = tmp_path_factory.mktemp("docs")
    start = time.monotonic()
    script = [sys.executable, str(STUDIES / "estimators.py"), "--out", str(out)]
    run = subprocess.run(script, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert time.monotonic() - start < 60
    return (out / "estimators.md").read_text(encoding="utf-8")


# What the functions of the released deepspeed 0.19.8 return for Llama-3-8B on two nodes of eight GPUs, second of the
# returned numbers: called once, with and without offload.
def test_deepspeed_zero2_is_the_released_function(study: ModuleType) -> None:
    assert study.deepspeed_zero2(LLAMA3_8B, 16) == 25_094_566_400
    assert study.deepspeed_zero2(LLAMA3_8B, 16, offload=True) == 16_060_522_496


def test_deepspeed_zero3_is_the_released_function(study: ModuleType) -> None:
    zero3 = study.deepspeed_zero3
    assert zero3(LLAMA3_8B, EMBEDDING, 16) == 11_135_390_208
    assert zero3(LLAMA3_8B, EMBEDDING, 16, offload=True) == 3_105_128_960
    assert zero3(LLAMA3_8B, EMBEDDING, 16, offload=True, offload_parameters=True) == 2_101_346_304


def test_deepspeed_zero2_by_hand(study: ModuleType) -> None:
    # 10 parameters on 2 GPUs: 2 bytes each whole, 18 bytes each halved.
    assert study.deepspeed_zero2(10, 2) == 20 + 90


# estimate_training_usage of the released accelerate 1.15.0 for 4 bytes x Llama-3-8B: the largest of its four values.
def test_accelerate_is_the_released_function(study: ModuleType) -> None:
    assert study.accelerate(LLAMA3_8B, "fp32") == 128_484_179_968
    assert study.accelerate(LLAMA3_8B, "bf16") == 64_242_089_984


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_sixteen_bytes_are_the_zero_papers(study: ModuleType, stage: int, gigabytes: float) -> None:
    # ZeRO paper, figure 1: 7.5 billion parameters on 64 GPUs.
    assert study.sixteen_bytes(7.5e9, 64, stage) / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_runs_report_memory_or_its_end(runs: dict[str, Any]) -> None:
    assert len(runs) > 600
    assert all(run.died or run.measured for run in runs.values())


def test_a_trace_gives_its_model_states(runs: dict[str, Any]) -> None:
    # trace-1: 1.07e9 parameters in bf16 with bf16 gradients and moments, 8 bytes each.
    run = runs["trace-1"]
    assert run.states == 4 * 2_143_363_072
    assert runs["trace-10"].states is None, "gathered logits outlive the backward pass of a tensor-parallel step"


def test_vramsim_gives_the_states_of_a_trace(study: ModuleType, runs: dict[str, Any]) -> None:
    assert study.vramsim(runs["trace-1"])[1] == pytest.approx(runs["trace-1"].states, rel=1e-6)


def test_estimators_keep_silent_where_they_have_no_words(study: ModuleType, runs: dict[str, Any]) -> None:
    adapters = next(run for run in runs.values() if run.row.text("method") == "qlora")
    for ask in (study.deepspeed, study.deepspeed_on_fsdp, study.accelerate_estimate, study.sixteen, study.question):
        with pytest.raises(study.Silent):
            ask(adapters)
    for ask in (study.deepspeed, study.deepspeed_on_fsdp):
        with pytest.raises(study.Silent):
            ask(runs["trace-1"])


def test_accelerate_counts_no_head(study: ModuleType, runs: dict[str, Any]) -> None:
    # trace-1: half of 4 bytes x (parameters - 32000 x 4096), four times over.
    assert study.accelerate_estimate(runs["trace-1"])[0] == 8 * (2_143_363_072 // 2 - 32_000 * 4_096)


def test_a_question_keeps_bytes_per_parameter(study: ModuleType, runs: dict[str, Any]) -> None:
    run = runs["trace-1"]
    asked = study.question(run)
    assert asked.weight + asked.gradient + asked.optimizer == 8
    wide = study.question(replace(run, weight=4, gradient=4, optimizer=8))
    assert (wide.weight, wide.weight + wide.gradient + wide.optimizer) == (2, 16)
    assert asked.digest != wide.digest


def test_an_answer_for_other_inputs_is_not_used(study: ModuleType, runs: dict[str, Any]) -> None:
    version = study.stored()[0]["version"]
    answer = study.llm_analysis(version)
    known = next(run for run in runs.values() if _told(study, answer, run))
    assert answer(known)[0] > answer(known)[1] > 0
    with pytest.raises(study.Silent, match="not asked yet"):
        answer(replace(known, gradient=known.gradient + 1))


def _told(study: ModuleType, answer: Any, run: Any) -> bool:
    try:
        return bool(answer(run))
    except study.Silent:
        return False


def test_stored_answers_say_where_they_come_from(study: ModuleType) -> None:
    assert {each["version"] for each in study.stored()} == {"0.2.2", "git d841e40"}
    assert all(each["made"] and each["inputs"] for each in study.stored())


def test_stored_states_by_hand(study: ModuleType) -> None:
    # llama2-7b cut to 4 layers, 8 bytes a parameter, one embedding matrix; 0.2.2 is given two MLP matrices of
    # 16384, the multiple of the hidden size next to 1.5 x 11008 (its own file of Llama-7B says 16384 too).
    found = {each["version"]: int(each["states_bytes"]) for each in study.stored() if each["id"] == "trace-1"}
    attention, norms, rest = 4 * 4096**2, 2 * 4096, 4096 + 32_000 * 4096
    assert found["git d841e40"] == 8 * (4 * (attention + 3 * 4096 * 11_008 + norms) + rest)
    assert found["0.2.2"] == 8 * (4 * (attention + 2 * 4096 * 16_384 + norms) + rest)


def test_errors_are_counted_as_they_are_named(study: ModuleType) -> None:
    assert study.summary([(11.0, 10.0), (8.0, 10.0)]) == ["15.0 %", "15.0 %", "19.0 %", "-5.0 %"]
    assert study.summary([]) == [""] * 4


def test_fits_is_compared_with_the_device(study: ModuleType, runs: dict[str, Any]) -> None:
    run = next(run for run in runs.values() if run.comparison.estimate and not run.died and run.table == "published")
    answers = study.Answers(study.estimators()[-1], [])
    assert study._fits(answers, run, (run.capacity, 0.0))
    assert not study._fits(answers, run, (run.capacity + GiB, 0.0))


def test_the_page_names_every_estimator(study: ModuleType, page: str) -> None:
    for estimator in study.estimators():
        assert page.count(f"| {estimator.name} |") >= 4, estimator.name


def test_the_page_has_well_formed_tables(page: str) -> None:
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for lines in blocks:
        widths = {line.count("|") for line in lines}
        assert len(widths) == 1, lines[0]
        assert set(lines[1]) <= set("|-: ")
        assert len(lines) > 4
        assert "nan" not in "".join(lines)


def test_the_committed_page_has_the_same_shape(page: str) -> None:
    committed = (STUDIES.parent / "docs" / "estimators.md").read_text(encoding="utf-8")
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings == [line for line in committed.splitlines() if line.startswith("#")]
