"""Error bands: how far measurements lie from estimates, by what is measured and by engine.

The quantiles of log(measured / estimated) are counted over the validation's published runs by studies/validation.py and
kept in the catalog. They are split in five by a hash of the row's id, so that a row of the validation is judged by a
band that the row itself had no part in.
"""

from __future__ import annotations

import csv
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
ENOUGH = 30
"""Rows below which an engine's own quantiles are not trusted, and those of all engines stand in. [-]"""


@dataclass(frozen=True, slots=True)
class Band:
    """Quantiles of log(measured / estimated) at LEVELS, from `rows` runs."""

    rows: int
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
    """Error band of a quantity under an engine; of all engines where too few of its runs are known.

    quantity : torch_allocated | torch_reserved | nvidia_smi | throughput; anything else counts as torch_reserved. [-]
    engine : framework engine. [-]   row_id : a run to be left out with its fold, None to leave out nothing. [-]
    """
    fold = ALL if row_id is None else str(fold_of(row_id))
    known = _table()
    quantity = quantity if (quantity, ALL, ALL) in known else "torch_reserved"
    own = known.get((quantity, engine, fold))
    if own is not None and own.rows >= ENOUGH:
        return own
    return known[quantity, ALL, fold]


@lru_cache(maxsize=1)
def _table() -> dict[tuple[str, str, str], Band]:
    text = files("vramsim.catalog").joinpath("error_bands.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        (row["quantity"], row["engine"], row["fold"]): Band(
            int(row["rows"]), tuple(float(row[f"q{level:g}"]) for level in LEVELS)
        )
        for row in rows
    }


def forget() -> None:
    """Read the catalog's table anew at the next question."""
    _table.cache_clear()


def count(residuals: dict[tuple[str, str], list[tuple[str, float]]]) -> list[dict[str, str]]:
    """Rows of the catalog's error_bands.csv from residuals.

    residuals : (quantity, engine) -> (row id, log(measured / estimated)). [-]
    Returns the rows, every fold's own and all together.
    """
    pooled: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for (quantity, engine), found in residuals.items():
        pooled.setdefault((quantity, engine), []).extend(found)
        pooled.setdefault((quantity, ALL), []).extend(found)
    result = []
    for (quantity, engine), found in sorted(pooled.items()):
        for fold in (ALL, *map(str, range(FOLDS))):
            kept = [value for row_id, value in found if fold == ALL or str(fold_of(row_id)) != fold]
            if not kept:
                continue
            quantiles = np.quantile(kept, LEVELS)
            result.append(
                {"quantity": quantity, "engine": engine, "fold": fold, "rows": str(len(kept))}
                | {f"q{level:g}": f"{value:.4f}" for level, value in zip(LEVELS, quantiles, strict=True)}
            )
    return result
