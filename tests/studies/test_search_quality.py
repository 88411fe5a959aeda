"""The study of search quality: what it counts, on a space small enough to be counted by hand."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vramsim.search import search
from vramsim.space import Space

STUDIES = Path(__file__).parents[2] / "studies"
SPACES = sorted((STUDIES / "spaces" / "quality").glob("*.yaml"))


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        yield importlib.import_module("search_quality")


def test_hypervolume_by_hand(study: ModuleType) -> None:
    # Scaled corners (0, 1) and (1, 0) against (1.1, 1.1): two strips of 0.1 x 1.1 that share 0.1 x 0.1.
    exact = np.array([[10.0, 300.0], [20.0, 200.0]])
    assert study.hypervolume(exact, exact) == pytest.approx(0.11 + 0.11 - 0.01)
    assert study.hypervolume(exact[:1], exact) == pytest.approx(0.11)
    assert study.hypervolume(np.array([[10.0, 400.0]]), exact) == 0.0


def test_regret_by_hand(study: ModuleType) -> None:
    space = Space.load(STUDIES / "spaces" / "llama3_70b.yaml")
    found = search(space, objectives=["tokens_per_second"])
    best = float(study.front(found).min())
    assert best == -found.best()["tokens_per_second"]
    assert study.regret(found, best) == 0.0
    assert study.regret(found, 2.0 * best) == 0.5


@pytest.mark.parametrize("path", SPACES, ids=[path.stem for path in SPACES])
def test_spaces_are_as_large_as_the_goal_says(path: Path) -> None:
    space = Space.load(path)
    assert 1e5 <= space.size <= 1e6
    assert sum(structure.size for structure in space.structures()) >= 1e5
    assert len(space.objectives) in (2, 3)


@pytest.mark.parametrize("path", SPACES, ids=[path.stem for path in SPACES])
def test_a_seed_of_the_study_reaches_the_goals(study: ModuleType, path: Path) -> None:
    space = Space.load(path)
    for objective in study.sought(space):
        assert study.alone(space, objective, [7])["regret_zero_share"] == 1.0, objective


def test_the_front_of_one_space_is_covered(study: ModuleType) -> None:
    (path,) = (path for path in SPACES if path.stem == "moe_8x7b_h100")
    assert study.together(Space.load(path), [7])["hypervolume_ratio"] >= 0.99


def shape(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("#", "| space"))]


def test_the_script_prints_what_is_promised(tmp_path: Path) -> None:
    script = [sys.executable, str(STUDIES / "search_quality.py"), "--json", "--seeds", "1"]
    first = [*script, "--out", str(tmp_path), str(SPACES[0])]
    run = subprocess.run(first, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    page = (tmp_path / "search_quality.md").read_text(encoding="utf-8")
    assert shape(page) == shape((STUDIES.parent / "docs" / "search_quality.md").read_text(encoding="utf-8"))
    (tmp_path / "found.json").write_text(run.stdout, encoding="utf-8")
    second = [*script, "--read", str(tmp_path / "found.json"), "--out", str(tmp_path)]
    subprocess.run(second, capture_output=True, text=True, check=True)
    assert (tmp_path / "search_quality.md").read_text(encoding="utf-8") == page
    assert found["regret_zero_share"] >= 0.95
    assert found["hypervolume_ratio"] >= 0.99
    assert found["spaces"][0]["alone"][0]["evaluated"] < 0.15 * found["spaces"][0]["size"]
