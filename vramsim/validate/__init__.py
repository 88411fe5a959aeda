"""Measured runs against estimates: the proof, and the source of error bands.

`validate` reads a table, expresses each row as a Setup, simulates it and compares. A row that cannot be expressed is
skipped with its reason and counted.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vramsim import bands
from vramsim.bands import Residual
from vramsim.estimate import Estimate
from vramsim.parts import DEFAULT, model_states
from vramsim.simulate import simulate
from vramsim.spec import MICRO_STEP, Component, Setup
from vramsim.validate import categories, metrics
from vramsim.validate.architecture import Inexpressible
from vramsim.validate.express import Expressed, express
from vramsim.validate.metrics import Pair, Verdict
from vramsim.validate.rows import Row, read
from vramsim.validate.stacks import stack_of

__all__ = ["Comparison", "Row", "compare", "express", "read", "residuals", "validate"]

QUALITY = ("A", "B")


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A measured row with its estimate, or the reason why there is none."""

    row: Row
    expressed: Expressed | None
    estimate: Estimate | None
    reason: str = ""


def compare(rows: Iterable[Row]) -> Iterator[Comparison]:
    """Estimate every row that can be expressed.

    rows : measured runs. [-]
    Returns one Comparison a row, in order.
    """
    for row in rows:
        try:
            expressed = express(row)
        except Inexpressible as reason:
            yield Comparison(row, None, None, str(reason))
            continue
        yield Comparison(row, expressed, _estimate(expressed))


def _made_by_it(setup: Setup) -> Iterator[Component]:
    """Gradients that a first micro-step makes: those that earlier ones left are not there."""
    return (component for component in model_states.gradients(setup) if component.live != MICRO_STEP)


FIRST_MICRO_STEP = tuple(_made_by_it if part is model_states.gradients else part for part in DEFAULT)
"""Parts of the first micro-step of all, which finds no gradients to add to."""


def _estimate(expressed: Expressed) -> Estimate:
    """Memory of the longest sequences, time of mean ones where a row tells them apart."""
    setup = expressed.setup
    estimate = simulate(setup, FIRST_MICRO_STEP if expressed.row.longest_first else DEFAULT)
    if not expressed.mean_tokens:
        return estimate
    time = simulate(expressed.timed).time
    return replace(estimate, time=replace(time, tokens=time.tokens / expressed.slowest))


def validate(table: str | Path, quality: Iterable[str] = QUALITY) -> dict[str, Any]:
    """Compare a table of measurements with estimates.

    table : CSV file with the columns of studies/validation/measurements.csv. [-]
    quality : grades of rows that count. [-]
    Returns the object of `vramsim validate --json`: memory and throughput, errors as fractions.
    Raises VramsimError when the table cannot be read.
    """
    grades = set(quality)
    rows = [row for row in read(table) if row.text("quality", "A") in grades]
    found = list(compare(rows))
    return {"memory": _memory(found), "throughput": _throughput(found)}


def measured_memory(row: Row) -> float | None:
    """Peak that a row reports. [B]

    row : measured run. [-]
    """
    return row.number("mem_gib") * stack_of(row).memory_unit if row.text("mem_gib") else None


def memory_kind(row: Row) -> str:
    """Which of an estimate's numbers a row's measurement compares with: as stated, or as its software reads it. [-]

    row : measured run. [-]
    """
    stated = row.text("mem_kind", "unknown")
    return stack_of(row).reads if stated == "unknown" else stated


def predicted_memory(estimate: Estimate, kind: str) -> float:
    """Bytes that compare with a kind of measurement; a kind that is not stated compares with reserved. [B]

    estimate : of the row. [-]   kind : torch_allocated | torch_reserved | nvidia_smi | unknown. [-]
    """
    hbm = estimate.memory.hbm
    chosen = {"torch_allocated": hbm.allocated_bytes, "nvidia_smi": hbm.used_bytes}
    return float(chosen.get(kind, hbm.reserved_bytes))


def residuals(found: Iterable[Comparison]) -> list[Residual]:
    """Errors of estimates, from which error bands are counted.

    found : measured rows with their estimates. [-]
    """
    result = []
    for each in found:
        # A run whose sequence length nobody stated says little about errors of estimates that are told it.
        if each.estimate is None or each.expressed is None or not each.row.text("seq_len"):
            continue
        row, engine = each.row, each.expressed.setup.framework.engine
        measured, rate = measured_memory(row), row.number("tokens_per_s_per_gpu", 0.0)
        ratios = {}
        if measured:
            ratios[bands.MEMORY] = measured / predicted_memory(each.estimate, row.text("mem_kind", "unknown"))
        if rate:
            ratios[bands.THROUGHPUT] = rate / float(each.estimate.time.tokens_per_second_per_device)
        result += [Residual(name, engine, row.source, row.id, math.log(ratio)) for name, ratio in ratios.items()]
    return result


def _group(row: Row) -> tuple[str, ...]:
    return (row.source, row.text("model"), row.text("gpu_type"), row.text("n_gpus"), row.text("mem_kind"))


def _memory(found: list[Comparison]) -> dict[str, Any]:
    pairs: list[Pair] = []
    judged: list[Verdict] = []
    skipped: Counter[str] = Counter()
    assumed: dict[str, Counter[str]] = defaultdict(Counter)
    for each in found:
        measured, died = measured_memory(each.row), each.row.text("oom").lower() == "true"
        if measured is None and not died:
            continue
        if each.estimate is None or each.expressed is None:
            skipped[each.reason] += 1
            continue
        _note(assumed, each.expressed)
        judged.append(Verdict(each.row.id, each.row.source, bool(each.estimate.fits), not died))
        if measured is None:
            continue
        kind = each.row.text("mem_kind", "unknown")
        predicted = predicted_memory(each.estimate, memory_kind(each.row))
        low, high = each.estimate.memory_band(memory_kind(each.row), each.row.id)
        note = f"peak in {each.estimate.memory.hbm.peak_phase}; {each.row.text('note')[:200]}"
        inside = low <= measured <= high
        pairs.append(Pair(each.row.id, each.row.source, kind, predicted, measured, inside, _group(each.row), note))
    traced = categories.report((each.row, each.estimate) for each in found if each.estimate is not None)
    return metrics.report(pairs, skipped, assumed) | metrics.verdicts(judged) | traced


def _throughput(found: list[Comparison]) -> dict[str, Any]:
    pairs: list[Pair] = []
    skipped: Counter[str] = Counter()
    assumed: dict[str, Counter[str]] = defaultdict(Counter)
    for each in found:
        measured = each.row.number("tokens_per_s_per_gpu", 0.0)
        if not measured:
            continue
        if each.estimate is None or each.expressed is None:
            skipped[each.reason] += 1
            continue
        _note(assumed, each.expressed)
        predicted = float(each.estimate.time.tokens_per_second_per_device)
        low, high = each.estimate.throughput_band(each.row.id)
        inside = low <= measured <= high
        group = (each.row.source, each.row.text("model"), each.row.text("gpu_type"), each.row.text("n_gpus"))
        note = f"bound by {each.estimate.time.bottleneck}; {each.row.text('note')[:200]}"
        pairs.append(Pair(each.row.id, each.row.source, "tokens/s", predicted, measured, inside, group, note))
    return metrics.report(pairs, skipped, assumed)


def _note(assumed: dict[str, Counter[str]], expressed: Expressed) -> None:
    for column, value in expressed.assumptions:
        assumed[column][value] += 1
