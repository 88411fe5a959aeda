"""The study of other estimators of throughput: how rows are put to them, stored answers, and the page."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

STUDIES = Path(__file__).parents[2] / "studies"
GPT3 = "korthikanti22-0004"
"""GPT-3, 175 billion parameters, 64 A100s, sequence parallel with selective recomputation: 13.75 s a step."""


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        yield importlib.import_module("peers_throughput")


@pytest.fixture(scope="module")
def runs(study: ModuleType) -> dict[str, Any]:
    return {each.row.id: each for each in study.runs()}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("docs")
    script = [sys.executable, str(STUDIES / "peers_throughput.py"), "--out", str(out)]
    run = subprocess.run(script, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return (out / "peers_throughput.md").read_text(encoding="utf-8")


def test_a_question_says_what_the_paper_says(study: ModuleType, runs: dict[str, Any]) -> None:
    # arXiv:2205.05198, tables 3 and 5; calculon's validation/seqsel/tab5/gpt3-175B_seqsel.json says the same.
    asked = study.question(runs[GPT3])
    assert (asked.layers, asked.hidden, asked.heads, asked.ffn, asked.gated) == (96, 12288, 96, 49152, False)
    assert (asked.tp, asked.pp, asked.vpp, asked.dp) == (8, 8, 3, 1)
    assert (asked.micro_batch * asked.accumulation, asked.recompute, asked.sequence_parallel) == (64, "selective", True)
    assert not asked.flash


def test_rates_follow_from_stored_steps(study: ModuleType, runs: dict[str, Any]) -> None:
    stored = {each["id"]: each for each in study.stored() if each["peer"] == "calculon"}
    rate = study.peer("calculon", stored[GPT3]["version"])(runs[GPT3])
    assert rate == pytest.approx(64 * 2048 / 64 / float(stored[GPT3]["step_seconds"]))
    # calculon's own `llm-validation` prints an error of a few per cent on this row.
    assert rate == pytest.approx(runs[GPT3].row.number("tokens_per_s_per_gpu"), rel=0.1)


def test_half_of_peak_by_hand(study: ModuleType, runs: dict[str, Any]) -> None:
    # Half of 312 TFLOP/s over 8 FLOPs for each of some 175 billion parameters.
    assert study.half_of_peak(runs[GPT3]) == pytest.approx(156e12 / (8 * 175e9), rel=0.01)


def test_peers_keep_silent_where_they_have_no_words(study: ModuleType, runs: dict[str, Any]) -> None:
    adapters = next(run for run in runs.values() if run.row.text("method") == "lora")
    with pytest.raises(study.Silent, match=r"adapters|not among"):
        study.question(adapters)
    asked = study.question(runs[GPT3])
    for field, value in (("experts", 8), ("kv_heads", 8), ("stage", 3)):
        with pytest.raises(study.Silent):
            study.for_calculon(replace(asked, **{field: value}))
        study.for_llm_analysis(replace(asked, **{field: value}))


def test_an_answer_for_other_inputs_is_not_used(study: ModuleType, runs: dict[str, Any]) -> None:
    asked = study.question(runs[GPT3])
    assert replace(asked, micro_batch=2).digest != asked.digest
    current = {row_id: study.question(runs[row_id]).digest for row_id in [GPT3]}
    assert {each["inputs"] for each in study.stored() if each["id"] == GPT3} == set(current.values())


def test_stored_answers_say_where_they_come_from(study: ModuleType) -> None:
    versions = {(each["peer"], each["version"]) for each in study.stored()}
    assert {name for name, _ in versions} == {"calculon", "llm-analysis"}
    assert ("llm-analysis", "0.2.2") in versions
    assert all(each["made"] and (each["step_seconds"] or each["reason"]) for each in study.stored())


def test_a_peer_that_does_not_start_is_an_error(study: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        study.talk("calculon", [], Path(sys.executable), tmp_path)


def test_the_page_has_well_formed_tables(study: ModuleType, page: str) -> None:
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1, block[0]
        assert "nan" not in "".join(block)
    for estimator in study.estimators():
        assert page.count(estimator.name) >= 3, estimator.name


def test_the_committed_page_has_the_same_shape(page: str) -> None:
    committed = (STUDIES.parent / "docs" / "peers_throughput.md").read_text(encoding="utf-8")

    def shape(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("#")]

    assert shape(page) == shape(committed)
