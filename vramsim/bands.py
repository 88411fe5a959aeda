"""Error bands: how far measurements lie from estimates, of memory and of throughput, by engine.

The quantiles of log(measured / estimated) are counted over the validation's published runs by studies/validation.py and
kept in the catalog. They are split in five by a hash of the row's id, so that a row of the validation is judged by a
band that the row itself had no part in.

Rows of one source err alike, so that many rows of few sources say little about the next one. A source weighs as the
root of its rows; an engine has quantiles of its own only from several sources on; and all kinds of memory share one
band, since a source mostly publishes a single kind, and its kind cannot be told from itself.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any
from zlib import crc32

import numpy as np

LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Levels at which quantiles are kept. [-]"""
FOLDS = 5
ALL = "all"
THROUGHPUT, MEMORY = "throughput", "memory"
ENOUGH = 5
"""Sources below which an engine's own quantiles are not trusted, and those of all engines stand in. [-]"""


@dataclass(frozen=True, slots=True)
class Residual:
    """Error of one estimate: log(measured / estimated) of a quantity, by engine, source and row."""

    quantity: str
    engine: str
    source: str
    row_id: str
    value: float


@dataclass(frozen=True, slots=True)
class Band:
    """Quantiles of log(measured / estimated) at LEVELS, from `rows` runs of `sources`."""

    rows: int
    sources: int
    quantiles: tuple[float, ...]

    def quantile(self, level: float) -> float:
        """Quantile of the log ratio, linear between levels. [-]

        level : in [0.01, 0.99]. [-]
        """
        return float(np.interp(level, LEVELS, self.quantiles))

    def probability(self, log_ratio: Any) -> Any:
        """Probability that a measurement is at most exp(log_ratio) times the estimate; elementwise. [-]

        log_ratio : logarithm of a bound over the estimate, number or array. [-]
        """
        # Beyond the outer levels the tail goes on as far again as the last two levels are apart.
        low, high = self.quantiles[0], self.quantiles[-1]
        steps = (2.0 * low - self.quantiles[1], *self.quantiles, 2.0 * high - self.quantiles[-2])
        return np.interp(log_ratio, steps, (0.0, *LEVELS, 1.0))


def fold_of(row_id: str) -> int:
    """Which of the folds a row belongs to.

    row_id : identifier of a measured run. [-]
    """
    return crc32(row_id.encode()) % FOLDS


def band(quantity: str, engine: str, row_id: str | None = None) -> Band:
    """Error band of a quantity under an engine; of all engines where too few sources ran this one.

    quantity : throughput; anything else counts as memory. [-]   engine : framework engine. [-]
    row_id : a run to be left out with its fold, None to leave out nothing. [-]
    """
    return _chosen(_table(), quantity, engine, ALL if row_id is None else str(fold_of(row_id)))


def _chosen(known: Mapping[tuple[str, str, str], Band], quantity: str, engine: str, fold: str) -> Band:
    quantity = quantity if quantity == THROUGHPUT else MEMORY
    own = known.get((quantity, engine, fold))
    return own if own is not None and own.sources >= ENOUGH else known[quantity, ALL, fold]


@lru_cache(maxsize=1)
def _table() -> dict[tuple[str, str, str], Band]:
    text = files("vramsim.catalog").joinpath("error_bands.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        (row["quantity"], row["engine"], row["fold"]): Band(
            int(row["rows"]), int(row["sources"]), tuple(float(row[f"q{level:g}"]) for level in LEVELS)
        )
        for row in rows
    }


def forget() -> None:
    """Read the catalog's table anew at the next question."""
    _table.cache_clear()


def _counted(
    residuals: Iterable[Residual], fold_of_residual: Callable[[Residual], str]
) -> dict[tuple[str, str, str], Band]:
    """Bands of every quantity, engine and fold, each from the residuals of other folds; and of all together."""
    pooled: dict[tuple[str, str], list[Residual]] = defaultdict(list)
    for each in residuals:
        pooled[each.quantity, each.engine].append(each)
        pooled[each.quantity, ALL].append(each)
    result = {}
    for (quantity, engine), found in sorted(pooled.items()):
        for fold in (ALL, *sorted({fold_of_residual(each) for each in found})):
            kept = [each for each in found if fold == ALL or fold_of_residual(each) != fold]
            if kept:
                result[quantity, engine, fold] = _weighted(kept)
    return result


def _weighted(found: list[Residual]) -> Band:
    """Quantiles of residuals where a source weighs as the root of its rows."""
    counts = Counter(each.source for each in found)
    ordered = sorted(found, key=lambda each: each.value)
    weights = np.array([counts[each.source] ** -0.5 for each in ordered])
    middles = (np.cumsum(weights) - weights / 2.0) / np.sum(weights)
    quantiles = np.interp(LEVELS, middles, [each.value for each in ordered])
    return Band(len(found), len(counts), tuple(float(value) for value in quantiles))


def count(residuals: Iterable[Residual]) -> list[dict[str, str]]:
    """Rows of the catalog's error_bands.csv from residuals.

    residuals : errors of estimates. [-]
    Returns the rows, every fold's own and all together.
    """
    return [
        {"quantity": quantity, "engine": engine, "fold": fold, "rows": str(each.rows), "sources": str(each.sources)}
        | {f"q{level:g}": f"{value:.4f}" for level, value in zip(LEVELS, each.quantiles, strict=True)}
        for (quantity, engine, fold), each in _counted(residuals, lambda one: str(fold_of(one.row_id))).items()
    ]


def unseen(residuals: Iterable[Residual], quantity: str) -> tuple[float, float]:
    """Coverage of the 90 % band on sources that it has not seen: each source is judged by all the others. [-]

    residuals : errors of estimates. [-]   quantity : throughput | memory. [-]
    Returns the share of rows inside, and the mean over sources of a source's share.
    """
    found = list(residuals)
    known = _counted(found, lambda one: one.source)
    inside: dict[str, list[bool]] = defaultdict(list)
    for each in found:
        if each.quantity == quantity:
            # An engine that one source alone ran has no band without it.
            chosen = _chosen(known, quantity, each.engine, each.source)
            inside[each.source].append(chosen.quantile(0.05) <= each.value <= chosen.quantile(0.95))
    shares = [float(np.mean(each)) for each in inside.values()]
    return float(np.mean([one for each in inside.values() for one in each])), float(np.mean(shares))
