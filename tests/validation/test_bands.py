"""Error bands: laws of weighted quantiles, and coverage of a source that a band has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from vramsim import bands
from vramsim.bands import Residual


def drawn(sources: int, rows: int, spread: float, seed: int = 0) -> list[Residual]:
    """Residuals of sources that have an error of their own each, and a little more with each row."""
    random = np.random.default_rng(seed)
    return [
        Residual(bands.MEMORY, "ddp", f"source-{source}", f"{source}-{row}", shift + float(random.normal(0.0, 0.02)))
        for source, shift in enumerate(random.normal(0.0, spread, sources))
        for row in range(rows)
    ]


def quantiles(rows: list[dict[str, str]], engine: str = bands.ALL) -> list[float]:
    """Quantiles of all folds together."""
    (found,) = [row for row in rows if row["engine"] == engine and row["fold"] == bands.ALL]
    return [float(found[f"q{level:g}"]) for level in bands.LEVELS]


def test_a_large_source_weighs_as_the_root_of_its_rows() -> None:
    many = [Residual(bands.MEMORY, "ddp", "large", f"l{n}", 0.0) for n in range(900)]
    few = [Residual(bands.MEMORY, "ddp", "small", f"s{n}", 1.0) for n in range(9)]
    found = quantiles(bands.count(many + few))
    # 30 of 33 parts of the weight lie at 0, 3 at 1: row by row it would be 99 of 100.
    assert found[bands.LEVELS.index(0.9)] < 0.5 < found[bands.LEVELS.index(0.95)]


def test_a_row_has_no_part_in_its_own_band() -> None:
    found = bands.count(drawn(6, 20, 0.1))
    for row in found:
        if row["fold"] != bands.ALL:
            assert int(row["rows"]) < 120
    assert {row["fold"] for row in found} == {bands.ALL, *map(str, range(bands.FOLDS))}


@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_coverage_of_unseen_sources(spread: float) -> None:
    """Many sources of equal rows: nine of ten that were left out lie inside, however far sources differ."""
    rows, sources = bands.unseen(drawn(200, 5, spread), bands.MEMORY)
    assert rows == pytest.approx(0.9, abs=0.03)
    assert sources == pytest.approx(rows, abs=1e-9)


def test_a_source_alone_is_judged_by_the_others() -> None:
    found = [*drawn(5, 20, 0.01), *(Residual(bands.MEMORY, "fsdp2", "far", f"far-{n}", 3.0) for n in range(50))]
    rows, sources = bands.unseen(found, bands.MEMORY)
    assert rows < 100 / 150 + 0.01
    assert sources < 5 / 6 + 0.01


def test_the_catalogs_bands_are_ordered_and_hold_their_engines() -> None:
    for quantity in (bands.MEMORY, bands.THROUGHPUT):
        for engine in ("torch", "ddp", "fsdp1", "fsdp2", "deepspeed", "megatron"):
            found = bands.band(quantity, engine)
            assert found.sources >= bands.ENOUGH
            assert list(found.quantiles) == sorted(found.quantiles)
            assert found.quantile(0.05) < 0.0 < found.quantile(0.95)
