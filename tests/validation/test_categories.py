"""Traced steps category by category: what share of them an estimate's breakdown agrees with."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from vramsim.spec import Category
from vramsim.units import GiB
from vramsim.validate import categories, compare, read

TABLE = Path(__file__).parents[2] / "studies/validation/traces.csv"
ROWS = [(each.row, each.estimate) for each in compare(read(TABLE)) if each.estimate is not None]
FOUND = categories.report(ROWS)


@pytest.mark.parametrize(
    ("category", "share"),
    [
        ("parameter", 1.0),
        ("gradient", 0.99),
        ("optimizer_state", 0.99),
        ("activation", 0.99),
        ("temporary", 0.99),
        ("input", 1.0),
        ("all in one row", 0.99),
    ],
)
def test_categories_at_the_peak(category: str, share: float) -> None:
    """Within 3 %: of the category where it makes up 1 % of the peak, of the peak where it does not."""
    assert FOUND["by_category"][category]["within"] >= share


@pytest.mark.parametrize(("moment", "share"), [("micro-step", 0.99), ("optimizer step", 0.98), ("between steps", 0.99)])
def test_stretches_of_a_step(moment: str, share: float) -> None:
    assert FOUND["by_moment"][moment]["within"] >= share


def test_most_categories_are_judged_by_themselves() -> None:
    """A bound on errors of small categories alone would say little."""
    large = {name: each["large"] for name, each in FOUND["by_category"].items() if "large" in each}
    assert {name for name, rows in large.items() if rows > len(ROWS) / 2} >= {
        "parameter",
        "optimizer_state",
        "activation",
        "temporary",
    }
    assert large["gradient"] >= 30


def test_every_word_of_the_tracer_has_one_category() -> None:
    with TABLE.open(newline="", encoding="utf-8") as file:
        columns = csv.DictReader(file).fieldnames or ()
    words = {column.removeprefix("peak_") for column in columns if column.startswith("peak_")} - {"phase"}
    mapped = [word for each in categories.CATEGORIES.values() for word in each]
    assert sorted(mapped) == sorted(words)
    assert {*categories.CATEGORIES, Category.OVERHEAD} == set(Category)


def test_categories_of_a_row_are_its_peak() -> None:
    """Traced ones sum up to the measurement, estimated ones to the estimate of tensors."""
    for row, estimate in ROWS:
        parts = list(categories.by_category(row, estimate))
        assert sum(part.measured for part in parts) == pytest.approx(row.number("mem_gib") * GiB, rel=1e-6)
        tensors = float(estimate.memory.hbm.allocated_bytes) - categories.untraced(estimate)
        assert sum(part.predicted for part in parts) == pytest.approx(tensors, abs=64)


def test_a_published_run_is_not_judged_by_category() -> None:
    rows = read(TABLE.with_name("torchtitan.csv"))[:1]
    assert categories.report((each.row, each.estimate) for each in compare(rows) if each.estimate is not None) == {}
