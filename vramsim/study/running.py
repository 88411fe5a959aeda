"""Runs a study: every configuration estimated, spaces searched, questions solved, measurements set beside estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vramsim.case import Case
from vramsim.errors import VramsimError
from vramsim.estimate import Estimate
from vramsim.search import Result, search
from vramsim.search.inverse import Answer, solve
from vramsim.simulate import simulate
from vramsim.space import METRICS, Objective
from vramsim.study.definition import Asked, Measured, Study
from vramsim.units import GiB

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One configuration and its estimate; or the sentence why there is none."""

    number: int
    asked: Asked
    case: Case | None
    estimate: Estimate | None
    refused: str = ""

    @property
    def fits(self) -> bool:
        """Whether it can run, as far as the best estimate goes."""
        return self.estimate is not None and bool(self.estimate.fits)

    def metric(self, name: str) -> float:
        """A metric's value; NaN where there is no estimate.

        name : of `space.METRICS`. [-]
        """
        return float(METRICS[name](self.estimate)) if self.estimate is not None else float("nan")

    @property
    def step_band(self) -> tuple[float, float]:
        """Seconds between which nine of ten measured steps should lie. [s]"""
        assert self.estimate is not None
        low, high = self.estimate.throughput_band()
        tokens = self.metric("tokens_per_second_per_device") * self.metric("step_seconds")
        return tokens / high, tokens / low


@dataclass(frozen=True, slots=True)
class Compared:
    """A measurement beside the estimate of the configuration that it is of."""

    row: Row
    source: str
    what: str
    measured: float
    estimated: float

    @property
    def error(self) -> float:
        """Estimate over measurement, less one. [-]"""
        return self.estimated / self.measured - 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of a study."""

    study: Study
    rows: tuple[Row, ...]
    searched: Mapping[str, Result]
    answers: Mapping[str, tuple[Answer, ...]]
    compared: tuple[Compared, ...]
    unmatched: tuple[Measured, ...]

    @property
    def estimated(self) -> tuple[Row, ...]:
        """Configurations that are possible."""
        return tuple(row for row in self.rows if row.estimate is not None)

    @property
    def fitting(self) -> tuple[Row, ...]:
        """Configurations that fit."""
        return tuple(row for row in self.rows if row.fits)

    def best(self, goal: Objective) -> Row | None:
        """The fitting configuration that is best in a metric, the surest to fit among equals; None if none fits.

        goal : what is compared. [-]
        """

        def rank(row: Row) -> tuple[float, float]:
            return goal.sign * row.metric(goal.name), -row.metric("fit_probability")

        return min(self.fitting, key=rank, default=None)

    def notes(self) -> dict[str, int]:
        """Assumptions of the estimates -> of how many configurations each is; and how bases were read."""
        counts: dict[str, int] = {}
        for lines in self.study.notes.values():
            counts |= dict.fromkeys(lines, len(self.rows))
        for row in self.estimated:
            assert row.estimate is not None
            for note in row.estimate.notes:
                counts[note] = counts.get(note, 0) + 1
        return counts


def run(study: Study, progress: Progress | None = None) -> Outcome:
    """What comes of a study.

    study : checked. [-]   progress : called with the numbers of configurations done and of all. [-]
    Raises VramsimError if not a single configuration is possible.
    """
    rows = []
    for number, asked in enumerate(study.asked, start=1):
        rows.append(_row(number, asked, study.bases[asked.base]))
        if progress:
            progress(number, len(study.asked))
    if rows and not any(row.estimate for row in rows):
        raise VramsimError(f"no configuration of the study is possible; of the first: {rows[0].refused}")
    searched = {name: search(space) for name, space in study.spaces.items()}
    answers = {
        name: tuple(solve(case, question) for question in study.questions)
        for name, case in study.bases.items()
        if study.questions
    }
    compared = [each for measured in study.measured for each in _compared(rows, measured)]
    unmatched = [each for each in study.measured if not _rows_of(rows, each)]
    return Outcome(study, tuple(rows), searched, answers, tuple(compared), tuple(unmatched))


def _row(number: int, asked: Asked, base: Case) -> Row:
    try:
        case = base.with_values(asked.values)
        estimate = simulate(case)
    except VramsimError as error:
        return Row(number, asked, None, None, str(error))
    if np.ndim(estimate.memory.hbm.used_bytes) or np.ndim(estimate.time.step_seconds):
        raise VramsimError(f"a study compares single cases, but {asked.name} holds arrays; list them under vary:")
    return Row(number, asked, case, estimate)


def _rows_of(rows: list[Row], measured: Measured) -> list[Row]:
    """Configurations that a measurement is of: those that nothing of what it names tells apart from it."""
    return [
        row
        for row in rows
        if row.case is not None
        and measured.base in ("", row.asked.base)
        and row.case == row.case.with_values(measured.where)
    ]


def _compared(rows: list[Row], measured: Measured) -> Iterator[Compared]:
    for row in _rows_of(rows, measured):
        assert row.estimate is not None
        hbm = row.estimate.memory.hbm
        estimated: dict[str, Any] = {
            "used_gib": float(hbm.used_bytes) / GiB,
            "reserved_gib": float(hbm.reserved_bytes) / GiB,
            "allocated_gib": float(hbm.allocated_bytes) / GiB,
            "tokens_per_second_per_device": row.metric("tokens_per_second_per_device"),
            "step_seconds": row.metric("step_seconds"),
        }
        for key, value in measured.values.items():
            yield Compared(row, measured.source, key, float(value), estimated[key])
