"""A validation as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vramsim.report.shapes import plain_table, stacked

MOST = 12
"""Reasons for skipping rows that are shown. [-]"""


def validation_report(found: Mapping[str, Any]) -> RenderableType:
    """Errors by source and by kind, verdicts, and the rows that could not be expressed.

    found : the object of `vramsim validate --json`. [-]
    """
    return stacked(table for name, half in found.items() for table in _half(name, half))


def _half(name: str, half: Mapping[str, Any]) -> Iterator[RenderableType]:
    if half["rows"]:
        yield _errors(f"{name} by source", half["by_source"], half)
        if len(half["by_kind"]) > 1:
            yield _errors(f"{name} by kind", half["by_kind"], None)
        if half.get("verdict_accuracy") is not None:
            counts = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in half["verdicts"].items())
            yield Text(f"verdicts: {_percent(half['verdict_accuracy'])} right ({counts})")
    if half["skipped"]:
        table = plain_table(f"{name}: rows that cannot be expressed", "reason", "rows", words={"reason"})
        for reason, count in list(half["skipped"].items())[:MOST]:
            table.add_row(Text(reason), str(count))
        yield table


def _errors(title: str, parts: Mapping[str, Any], total: Mapping[str, Any] | None) -> Table:
    columns = ("rows", "mean error", "median", "90 % below", "bias", "in band")
    table = plain_table(title, "", *columns, words={""})
    for name, part in [*parts.items(), *([("all", total)] if total else [])]:
        errors = (part[key] for key in ("mape", "median_ape", "p90_ape", "bias", "within_band"))
        table.add_row(Text(name), str(part["rows"]), *(_percent(error) for error in errors))
    return table


def _percent(value: float) -> str:
    return f"{100.0 * value:.1f} %"
