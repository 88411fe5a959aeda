"""What a search found: every feasible configuration, the Pareto front, and what removed the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vramsim.case import Case
from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.search.evaluate import Floats, Found, Rows
from vramsim.search.pareto import pareto_front
from vramsim.simulate import simulate
from vramsim.space import Objective, Space
from vramsim.space.metrics import Measure
from vramsim.space.metrics import objectives as objectives_named
from vramsim.units import GiB

if TYPE_CHECKING:
    from pandas import DataFrame, Series

SHOWN_ROWS = 20
"""Rows of the front that a notebook shows."""

MOST_POINTS = 1 << 17
"""Rows that are simulated again at once."""

MOST_ROWS = 1 << 20
"""Rows that are measured again before the best are picked."""


def gather(
    space: Space,
    objectives: Sequence[Objective],
    parts: Sequence[Found],
    removed: Mapping[str, int],
    evaluated: int,
    method: str,
) -> Result:
    """Result of a search from what it found in every block.

    space : what was searched. [-]   objectives : what was optimized. [-]   parts : feasible points. [-]
    removed : reason -> number of configurations. [-]   evaluated : number of configurations simulated. [-]
    method : exhaustive | optuna. [-]
    """
    starts = np.concatenate([[0], np.cumsum([len(part.points) for part in parts])]).astype(np.intp)
    front: Rows = np.concatenate(
        [np.zeros(0, np.intp), *(start + part.front for start, part in zip(starts, parts, strict=False))]
    )
    goals = np.concatenate([np.zeros((0, len(objectives))), *(part.goals for part in parts)])
    best = pareto_front(goals)
    by_count = dict(sorted(removed.items(), key=lambda item: -item[1]))
    return Result(space, tuple(objectives), by_count, evaluated, method, tuple(parts), starts, front[best], goals[best])


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Feasible configurations of a space.

    `front` are the rows that no other beats, `goals` their objectives, all to be minimized. `removed` counts
    configurations by the rule or constraint that removed them (the first, where several would), `evaluated` those that
    were simulated. Rows of `frame` and `pareto` are numbered alike; `case` takes the number.
    """

    space: Space
    objectives: tuple[Objective, ...]
    removed: Mapping[str, int]
    evaluated: int
    method: str
    parts: tuple[Found, ...] = field(repr=False)
    starts: Rows = field(repr=False)
    front: Rows = field(repr=False)
    goals: Floats = field(repr=False)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __repr__(self) -> str:
        goals = ", ".join(f"{'max' if goal.sign < 0 else 'min'} {goal.name}" for goal in self.objectives)
        return (
            f"Result: {len(self):,} feasible of {self.space.size:,} configurations ({self.evaluated:,} evaluated by "
            f"{self.method} search), {len(self.front):,} on the Pareto front of {goals}"
        )

    @cached_property
    def frame(self) -> DataFrame:
        """Every feasible configuration: the searched keys, then what it measures (bytes, seconds, tokens/s)."""
        return self._frame(np.arange(len(self)))

    @cached_property
    def pareto(self) -> DataFrame:
        """The rows that no other beats in all objectives, best in the first objective first."""
        return self._frame(self.front[np.lexsort(self.goals.T[::-1])])

    def best(self, objective: str | Objective | None = None) -> Series[Any]:
        """The row that is best in one objective; among equals, in the others in turn.

        objective : name of a metric, the first objective if left out. [-]
        Raises VramsimError if nothing is feasible.
        """
        if not len(self):
            reasons = ", ".join(f"{name} {count:,}" for name, count in self.removed.items())
            raise VramsimError(f"no configuration of the space is feasible; removed were: {reasons or 'none'}")
        (goal,) = objectives_named([objective], self.space.metrics) if objective is not None else self.objectives[:1]
        if goal.name in [each.name for each in self.objectives]:
            first = [each.name for each in self.objectives].index(goal.name)
            row = self.front[np.lexsort((*self.goals.T[::-1], self.goals[:, first]))[0]]
            return self._frame(np.array([row])).iloc[0]
        return self.top(1, goal).iloc[0]

    def top(self, count: int, objective: str | Objective | None = None) -> DataFrame:
        """The rows that are best in one objective, the best first; equals in the order of the frame.

        count : largest number of rows. [-]   objective : name of a metric, the first objective if left out. [-]
        """
        (goal,) = objectives_named([objective], self.space.metrics) if objective is not None else self.objectives[:1]
        best, least = np.zeros(0, np.intp), np.zeros(0)
        for start in range(0, len(self), MOST_ROWS):
            rows = np.arange(start, min(start + MOST_ROWS, len(self)))
            best = np.concatenate([best, rows])
            least = np.concatenate([least, goal.sign * self._measured(rows, {goal.name: goal.measure})[goal.name]])
            chosen = np.argsort(least, kind="stable")[: max(0, count)]
            best, least = best[chosen], least[chosen]
        return self._frame(best)

    def case(self, row: int | Series[Any]) -> Case:
        """A feasible configuration as a case.

        row : number of a row of the frame, or such a row. [-]
        """
        number = row if isinstance(row, int | np.integer) else getattr(row, "name", row)
        if not isinstance(number, int | np.integer) or not 0 <= number < len(self):
            raise VramsimError(f"a row must be a number from 0 to {len(self) - 1}, got {shown(row)}")
        where = self._positions(np.array([number]))
        return self.space.case_of({key: int(positions[0]) for key, positions in where.items()})

    def to_csv(self, path: str | Path) -> None:
        """Write every feasible configuration as CSV.

        path : file to write. [-]
        """
        self.frame.to_csv(path, index_label="row")

    def to_parquet(self, path: str | Path) -> None:
        """Write every feasible configuration as Parquet.

        path : file to write. [-]
        """
        self.frame.to_parquet(path)

    def _repr_html_(self) -> str:
        removed = "".join(f"<li>{name}: {count:,}</li>" for name, count in self.removed.items())
        table = self.pareto.head(SHOWN_ROWS).to_html()
        return f"<p>{self!r}</p><p>Removed:</p><ul>{removed}</ul>{table}"

    def _split(self, rows: Rows) -> list[tuple[Found, Rows, Rows]]:
        """Part -> where its rows are among those asked for, and their places in the part."""
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        found = []
        for number in np.unique(owner):
            there = np.flatnonzero(owner == number)
            found.append((self.parts[number], there, rows[there] - self.starts[number]))
        return found

    def _positions(self, rows: Rows) -> dict[str, NDArray[np.uint16]]:
        found = {key: np.zeros(len(rows), np.uint16) for key in self.space.by_key}
        for part, there, places in self._split(rows):
            for key, positions in part.block.positions(part.points[places]).items():
                found[key][there] = positions
        return found

    def _measured(self, rows: Rows, measures: Mapping[str, Measure]) -> dict[str, Floats]:
        """Metric -> its value in every row."""
        found = {name: np.zeros(len(rows)) for name in measures}
        for part, there, places in self._split(rows):
            for start in range(0, len(there), MOST_POINTS):
                within = slice(start, start + MOST_POINTS)
                block = self.space.listed(part.block.positions(part.points[places[within]]))
                estimate = simulate(block.case)
                for name, measure in measures.items():
                    found[name][there[within]] = measure(estimate)
        return found

    def _frame(self, rows: Rows) -> DataFrame:
        import pandas as pd

        columns: dict[str, Any] = {}
        for key, positions in self._positions(rows).items():
            values = self.space.by_key[key].values
            columns[self.space.labels[key]] = _values(values, positions)
        columns |= self._measured(
            rows, {name: each for name, each in self.space.metrics.measures.items() if name not in columns}
        )
        for name in ("used", "headroom"):
            columns[f"{name}_gib"] = columns[f"{name}_bytes"] / GiB
        return pd.DataFrame(columns, index=rows)


def _values(values: Sequence[Any], positions: NDArray[np.uint16]) -> Any:
    """A column: numbers as they are, texts and mappings as categories."""
    import pandas as pd

    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return np.asarray(values)[positions]
    return pd.Categorical.from_codes(
        positions.astype(np.int32), categories=pd.Index([_label(value) for value in values])
    )


def _label(value: Any) -> str:
    """A value as one word where it has one."""
    return value if isinstance(value, str) else str(value)
