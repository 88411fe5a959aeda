"""The result of a search as tables for a terminal, and as one object of plain numbers and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vramsim.catalog.prices import BUY
from vramsim.report.shapes import bullets, plain_table, stacked
from vramsim.report.words import amount, assignment, days, percent, usd
from vramsim.search import Result
from vramsim.space import Objective
from vramsim.units import GiB

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]

SHOWN = ("headroom_bytes", "tokens_per_second", "step_seconds", "mfu")
"""Metrics that are shown beside the objectives, where there is room."""

COLUMNS_SHOWN = 5
"""Metrics of a row of the front that a terminal has room for."""

COLUMNS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "used_bytes": ("GiB used", lambda value: f"{value / GiB:,.1f}"),
    "headroom_bytes": ("GiB to spare", lambda value: f"{value / GiB:,.1f}"),
    "host_bytes_per_node": ("host GiB per node", lambda value: f"{value / GiB:,.1f}"),
    "nvme_bytes_per_node": ("NVMe GiB per node", lambda value: f"{value / GiB:,.1f}"),
    "fit_probability": ("odds of fitting", percent),
    "num_devices": ("GPUs", lambda value: f"{value:g}"),
    "step_seconds": ("s per step", lambda value: f"{value:,.4g}"),
    "tokens_per_second": ("tokens/s", lambda value: f"{value:,.0f}"),
    "tokens_per_second_per_device": ("tokens/s per GPU", lambda value: f"{value:,.0f}"),
    "mfu": ("MFU %", lambda value: f"{100 * value:.1f}"),
    "time_to_train_seconds": ("time to train", days),
    "cost_usd": ("USD", usd),
    "energy_kwh": ("kWh", lambda value: f"{value:,.4g}"),
    "carbon_kg": ("kg CO2", lambda value: f"{value:,.4g}"),
    "goodput": ("goodput %", lambda value: f"{100 * value:.2f}"),
}
"""Metric -> its heading, with the unit, and how to show it. Others go by their name."""


def search_report(result: Result, top: int) -> RenderableType:
    """How much of a space is feasible, what removed the rest, the best in each objective, and the Pareto front.

    result : what a search found. [-]   top : largest number of rows of the front. [-]
    """
    sections: list[RenderableType] = [summary(result), *_run(result)]
    if result.removed:
        sections.append(_removed(result))
    if len(result):
        sections += [bullets("Best", [_told(result, goal) for goal in result.objectives]), *_front(result, top)]
    return stacked(sections)


def search_object(result: Result, top: int | None = None) -> dict[str, Any]:
    """The object that `vramsim search --json` prints. Bytes and seconds.

    result : what a search found. [-]   top : largest number of rows of the front; all if left out. [-]
    """
    front = result.pareto if top is None else result.pareto.head(top)
    return {
        "size": result.space.size,
        "method": result.method,
        "evaluated": result.evaluated,
        "feasible": len(result),
        "removed": dict(result.removed),
        "objectives": [{"name": goal.name, "maximize": goal.sign < 0} for goal in result.objectives],
        "best": {goal.name: _best(result, goal.name) for goal in result.objectives} if len(result) else {},
        "pareto_size": len(result.pareto),
        "pareto": _records(result, front),
        "run": _run_object(result),
        "base": result.space.base.describe(),
    }


def summary(result: Result) -> Text:
    """How many configurations there are, are feasible, and are on the front.

    result : what a search found. [-]
    """
    found, size = len(result), result.space.size
    head = f"{f'{found:,}' if found else 'NONE'} FEASIBLE OF {size:,} CONFIGURATIONS: "
    how = f"{result.evaluated:,} evaluated by exhaustive search"
    if result.method != "exhaustive":
        tried = found + sum(result.removed.values())
        how = f"{tried:,} tried with Optuna, {result.evaluated:,} simulated with the grids that it starts from"
    goals = ", ".join(map(_goal, result.objectives))
    front = f"; {len(result.front):,} on the Pareto front of {goals}" if found else ""
    return Text.assemble((head, "bold green" if found else "bold red"), (how + front, "bold"))


def _run(result: Result) -> list[RenderableType]:
    """What is trained on which terms: prices with their dates, and how sure they are."""
    run = result.space.run
    if run is None:
        return []
    terms, today = run.terms, run.terms.today
    lines = [
        f"{amount(run.tokens)} tokens; start-up, checkpoints and failures included; PUE {terms.power.pue:g}",
        *(
            f"{price.device}: {price.usd:,.10g} USD per {price.unit.replace('_', '-')}, "
            f"{'bought' if run.acquire == BUY else run.acquire} ({price.provider}, {price.date.isoformat()})"
            for price in run.prices.values()
        ),
    ]
    if any(price.warning(today) for price in run.prices.values()):
        lines.append("prices older than 90 days: state newer ones (prices in the space, or --price)")
    return [bullets("The run", lines)]


def _run_object(result: Result) -> dict[str, Any] | None:
    run = result.space.run
    if run is None:
        return None
    prices = {
        name: {
            "usd": price.usd,
            "unit": price.unit,
            "provider": price.provider,
            "date": price.date.isoformat(),
            "source": price.source,
        }
        for name, price in run.prices.items()
    }
    return {"tokens": run.tokens, "acquire": run.acquire, "prices": prices}


def _removed(result: Result) -> Table:
    table = plain_table("Removed by", "rule or constraint", "configurations", "share")
    looked_at = len(result) + sum(result.removed.values())  # Optuna looks at a part of the space only
    for name, count in result.removed.items():
        table.add_row(Text(name), f"{count:,}", percent(count / looked_at))
    return table


def _best(result: Result, objective: str) -> Row:
    """The best configuration in one objective."""
    best = result.best(objective)
    return _record(result, best.name, best.to_dict())


def _told(result: Result, objective: Objective) -> str:
    record = _best(result, objective.name)
    value = _column(objective.name)[1](record[objective.name])
    return f"{_goal(objective)}, {value}: {_assignments(record['values'])}"


def _assignments(values: Mapping[str, Any]) -> str:
    return " ".join(assignment(key, value) for key, value in values.items())


def _front(result: Result, top: int) -> list[RenderableType]:
    """The first rows of the front: what they differ in and what they measure; then what they all share."""
    records = _records(result, result.pareto.head(top))
    values = [record["values"] for record in records]
    differ = [key for key in values[0] if len({str(each[key]) for each in values}) > 1]
    title = f"Pareto front, {len(records):,} of {len(result.front):,}"
    goals = [goal.name for goal in result.objectives]
    others = [name for name in SHOWN if name not in goals]
    metrics = [name for name in [*goals, *others[: max(0, COLUMNS_SHOWN - len(goals))]] if name not in differ]
    columns = {key.replace("_", " "): [str(each[key]) for each in values] for key in differ}
    columns |= {_column(name)[0]: [_column(name)[1](record[name]) for record in records] for name in metrics}
    table = plain_table(title, "row", *(_folded(heading, cells) for heading, cells in columns.items()))
    for record, cells in zip(records, zip(*columns.values(), strict=True), strict=True):
        table.add_row(str(record["row"]), *map(Text, cells))
    shared = {key: value for key, value in values[0].items() if key not in differ}
    return [table, bullets("The same in all these rows", [_assignments(shared)])] if shared else [table]


def _folded(heading: str, cells: Sequence[str]) -> str:
    """A heading in lines no wider than its column asks for."""
    width = max(map(len, [*heading.split(), *cells]))
    return "\n".join(wrap(heading, width, break_on_hyphens=False))


def _goal(objective: Objective) -> str:
    return f"{'most' if objective.sign < 0 else 'least'} {_column(objective.name)[0]}"


def _column(name: str) -> tuple[str, Callable[[float], str]]:
    return COLUMNS.get(name, (name, lambda value: f"{value:,.6g}"))


def _records(result: Result, frame: DataFrame) -> list[dict[str, Any]]:
    """Rows of a result's frame."""
    rows = frame.astype(object).to_dict("records")
    return [_record(result, number, row) for number, row in zip(frame.index, rows, strict=True)]


def _record(result: Result, number: Any, row: Mapping[Any, Any]) -> dict[str, Any]:
    """Number of a row, the values of what is searched, and what it measures."""
    labels = result.space.labels.values()
    values = {key: _plain(row[key]) for key in labels}
    return {
        "row": int(number),
        "values": values,
        **{key: _plain(row[key]) for key in row if key in result.space.metrics.measures},
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
