"""The study of speed: what it counts, and what it says of a peer that is not there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from vramsim.space import Space

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        yield importlib.import_module("speed")


def test_every_configuration_that_keeps_the_rules_is_counted(study: ModuleType) -> None:
    space = Space(study.BASE, {"zero_stage": [0, 1, 2, 3], "offload_parameters": [0, 0.5], "sp": [1, 2, 3]})
    # Offloading parameters needs stage 3, and three does not divide sixteen devices.
    assert study.simulate_grid(space) == (4 + 1) * 2


def test_blocks_of_a_large_grid_are_counted_once(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space(study.BASE, {key: study.SEARCH[key] for key in ("seq_len", "recompute", "micro_batch_size")})
    monkeypatch.setattr(importlib.import_module("vramsim.search.exhaustive"), "MOST_POINTS", 7)
    assert study.simulate_grid(space) == space.size


def test_sizes_grow_to_a_hundred_million(study: ModuleType) -> None:
    assert Space(study.BASE, study.SEARCH | study.FINER).size > 1e8
    assert set(study.FIXED) < set(study.SEARCH)


def test_a_peer_that_is_absent_has_a_sentence(study: ModuleType, tmp_path: Path) -> None:
    here = {name: Path(sys.executable) for name in ("calculon", "llm-analysis")}
    found = study.peers(here, None)
    assert {name: list(each) for name, each in found.items()} == {"calculon": ["absent"], "llm-analysis": ["absent"]}
    assert "does not start" in study.peers({"calculon": Path(sys.executable)}, tmp_path)["calculon"]["absent"]


def test_peers_are_asked_of_runs_they_have_words_for(study: ModuleType) -> None:
    questions = study.peer_questions()
    assert len({each.digest for each in questions}) == len(questions) == study.PEER_RUNS
    throughput = importlib.import_module("peers_throughput")
    for each in questions:
        throughput.for_calculon(each)
