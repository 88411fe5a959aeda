"""Equations are numbered once: every number that code cites is explained in docs/equations, and the other way round."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted((ROOT / "vramsim").rglob("*.py"))
PAGES = sorted((ROOT / "docs" / "equations").glob("*.md"))

DEFINED = re.compile(r"\S {2,}\(([A-Z]\d{1,2})\)\s*$", re.MULTILINE)
"""A formula of a docstring, its number at the end of the line."""
CITED = re.compile(r"equations? ((?:[A-Z]\d{1,2}(?:, | and | to |-)?)+)")
RANGE = re.compile(r"([A-Z])(\d{1,2})(?:-| to )[A-Z]?(\d{1,2})")
HEADING = re.compile(r"^### ([A-Z]\d{1,2})\. \S", re.MULTILINE)


def explained() -> Counter[str]:
    return Counter(number for page in PAGES for number in HEADING.findall(page.read_text(encoding="utf-8")))


def defined() -> Counter[str]:
    return Counter(number for path in CODE for number in DEFINED.findall(path.read_text(encoding="utf-8")))


def cited() -> set[str]:
    """Numbers that comments and docstrings mention, ranges spelled out: a table of tensors has no formula."""
    found: set[str] = set()
    for path in CODE:
        for mention in CITED.findall(path.read_text(encoding="utf-8")):
            found.update(re.findall(r"[A-Z]\d{1,2}", mention))
            for letter, first, last in RANGE.findall(mention):
                found.update(f"{letter}{number}" for number in range(int(first), int(last) + 1))
    return found


def test_numbers_are_given_once() -> None:
    assert [number for number, times in explained().items() if times > 1] == []
    assert [number for number, times in defined().items() if times > 1] == []


def test_every_number_in_code_is_explained() -> None:
    assert (set(defined()) | cited()) - set(explained()) == set()


def test_every_explained_number_is_in_code() -> None:
    assert set(explained()) - set(defined()) - cited() == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_equation_has_units_a_source_and_an_example(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    for section in sections:
        number = section.partition(".")[0]
        assert "```python" in section, f"{number} has no example"
        assert re.search(r"\[[^\]\n]+\]|\|", section), f"{number} has no unit"
    # What the tables of activations have in common is said once, above them.
    assert not sections or "Source" in text


def test_citations_are_read_as_meant() -> None:
    assert CITED.findall("(equation A4 of docs)") == ["A4"]
    assert CITED.findall("see equations A5 and A6 of") == ["A5 and A6"]
    assert DEFINED.findall("    n = 1     (M1)\n    A100 (80)\n") == ["M1"]
