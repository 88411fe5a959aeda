"""Traced steps judged category by category, and moment by moment: the tracer's words beside this package's.

A tracer follows every storage of a step and says what it was for. Its words are finer than the categories of an
estimate; the table below is the only place where the two meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from vramsim.estimate import Estimate
from vramsim.spec import MICRO_STEP, Category, Phase
from vramsim.units import GiB, maximum
from vramsim.validate.rows import Row

CATEGORIES: Mapping[Category, tuple[str, ...]] = {
    # As stored, as gathered for a unit's turn, and buffers of modules.
    Category.PARAMETER: ("parameter", "fsdp_unsharded_parameter", "buffer"),
    # Shards and whole ones; DDP's buckets, in which gradients lie for good.
    Category.GRADIENT: ("gradient", "unsharded_gradient", "ddp_bucket"),
    Category.OPTIMIZER_STATE: ("optimizer_state",),
    # Whatever a forward pass makes, and makes again.
    Category.ACTIVATION: ("activation", "recompute"),
    # Copies on their way through a collective or a product, and what backward and optimizer compute with.
    Category.TEMPORARY: (
        "param_cast",
        "fsdp_all_gather_buffer",
        "fsdp_reduce_scatter_buffer",
        "backward_temporary",
        "optimizer_temporary",
        "other",
    ),
    Category.INPUT: ("input",),
}
"""Category -> words of columns `peak_*`, bytes alive at the peak of the step."""

MOMENTS: Mapping[str, tuple[tuple[str, ...], Phase]] = {
    "micro-step": (("forward_peak_bytes", "backward_peak_bytes"), MICRO_STEP | Phase.REDUCE),
    "optimizer step": (("optimizer_peak_bytes",), Phase.STEP),
}
"""Stretch of a step -> columns of which the largest is its peak, and the phases that it is."""

BETWEEN_STEPS = "step_end_bytes"
"""Column of what is alive once a step is over."""

UNTRACED = ("cuBLAS workspace",)
"""Components that a tracer of tensors does not see: libraries take them."""

LARGE = 0.01
"""Share of the peak from which a category is compared with itself; a smaller one is compared with the peak. [-]"""

WITHIN = 0.03
"""Error that counts as agreement. [-]"""


@dataclass(frozen=True, slots=True)
class Part:
    """One category of one traced step, or one stretch of it: bytes estimated and traced, and those at its peak."""

    id: str
    name: str
    predicted: float
    measured: float
    peak: float

    @property
    def large(self) -> bool:
        """Whether it is compared with itself."""
        return self.measured >= LARGE * self.peak

    @property
    def error(self) -> float:
        """Relative to itself where it is large, and to the peak where it is not; signed. [-]"""
        return (self.predicted - self.measured) / (self.measured if self.large else self.peak)


def report(found: Iterable[tuple[Row, Estimate]]) -> dict[str, Any]:
    """What traced steps add to a report on memory: nothing where no row was traced.

    found : rows with their estimates. [-]
    """
    pairs = list(found)
    categories = summary(part for row, estimate in pairs for part in by_category(row, estimate))
    moments = summary(part for row, estimate in pairs for part in by_moment(row, estimate))
    return {name: each for name, each in (("by_category", categories), ("by_moment", moments)) if each}


def by_category(row: Row, estimate: Estimate) -> Iterator[Part]:
    """Every category at the peak of a traced step; none for a row that does not tell them apart.

    row : measured run. [-]   estimate : of it. [-]
    """
    if not row.text("peak_parameter"):
        return
    peak, found = row.number("mem_gib") * GiB, estimate.by_category()
    found[Category.TEMPORARY.value] -= untraced(estimate)
    for category, words in CATEGORIES.items():
        measured = sum(row.number(f"peak_{word}", 0.0) for word in words)
        yield Part(row.id, category.value, found[category.value], measured, peak)


def by_moment(row: Row, estimate: Estimate) -> Iterator[Part]:
    """Peaks of the stretches of a traced step; none for a row that does not tell them apart.

    row : measured run. [-]   estimate : of it. [-]
    """
    if not row.text(BETWEEN_STEPS):
        return
    peak = row.number("mem_gib") * GiB
    (stage,) = estimate.memory.hbm.stages
    for name, (columns, phases) in MOMENTS.items():
        alive = reduce(maximum, (stage.allocated[phase] for phase in phases)) - untraced(estimate)
        yield Part(row.id, name, float(alive), max(row.number(column) for column in columns), peak)
    standing = float(stage.resident) - untraced(estimate)
    yield Part(row.id, "between steps", standing, row.number(BETWEEN_STEPS), peak)


def untraced(estimate: Estimate) -> float:
    """Bytes at the peak that no tracer of tensors sees. [B]

    estimate : of one case. [-]
    """
    return sum(float(component.nbytes) for component in estimate.components() if component.name in UNTRACED)


def summary(parts: Iterable[Part]) -> dict[str, Any]:
    """Agreement of each category or stretch, and of all of them in one row; errors are fractions.

    parts : of traced steps. [-]
    Returns name -> {rows, large, within, median_ape, worst}; `large` rows are compared with themselves, and have the
    median. `within` is the share inside of 3 %.
    """
    found = list(parts)
    names = {part.name: [other for other in found if other.name == part.name] for part in found}
    result = {name: _agreement(each) for name, each in names.items()}
    if found:
        rows: dict[str, float] = {}
        for part in found:
            rows[part.id] = max(rows.get(part.id, 0.0), abs(part.error))
        result["all in one row"] = {"rows": len(rows), "within": float(np.mean([e <= WITHIN for e in rows.values()]))}
    return result


def _agreement(parts: list[Part]) -> dict[str, Any]:
    errors = {part.id: abs(part.error) for part in parts}
    large = [abs(part.error) for part in parts if part.large]
    worst = max(errors, key=errors.__getitem__)
    return {
        "rows": len(parts),
        "large": len(large),
        "within": float(np.mean([error <= WITHIN for error in errors.values()])),
        "median_ape": float(np.median(large)) if large else None,
        "worst": worst,
        "worst_ape": errors[worst],
    }
