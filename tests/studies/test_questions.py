"""The study of 36 questions: each is answered, measured ones within tolerance, and what cannot be expressed is said."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        yield importlib.import_module("questions")


@pytest.fixture(scope="module")
def given(study: ModuleType) -> dict[int, object]:
    replies: dict[int, object] = study.replies()
    return replies


def test_all_are_answered(study: ModuleType, given: dict[int, object]) -> None:
    asked = study.questions()
    assert [question["number"] for question in asked] == list(range(1, 37))
    assert sorted(given) == list(range(1, 37))
    for reply in given.values():
        assert len(reply.paragraph.split()) >= 40  # type: ignore[attr-defined]
        assert "nan" not in reply.paragraph.split()  # type: ignore[attr-defined]
        assert len(reply.short) <= 130  # type: ignore[attr-defined]


def test_a_check_is_only_made_against_what_a_thread_states(study: ModuleType, given: dict[int, object]) -> None:
    for question in study.questions():
        if not question.get("thread"):
            assert given[question["number"]].agrees is None, question["number"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [1, 24, 26, 27, 28, 33])
def test_what_is_certain_agrees(given: dict[int, object], number: int) -> None:
    assert given[number].check == "agrees"  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [19, 25, 30, 31, 32])
def test_what_cannot_be_expressed_is_said(given: dict[int, object], number: int) -> None:
    assert given[number].check == "cannot express"  # type: ignore[attr-defined]


def test_the_page_has_them_all(study: ModuleType, given: dict[int, object]) -> None:
    page = study.page(study.questions(), given)
    assert page.count("\n### ") == 36
    assert all(line.startswith("|") or len(line) <= 160 for line in page.splitlines() if "](" not in line)
