"""What configurations are measured by: named metrics of an estimate; objectives and constraints made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vramsim.catalog.tables import nearest, shown
from vramsim.errors import VramsimError
from vramsim.estimate import Estimate
from vramsim.units import Num

Measure = Callable[[Estimate], Num]

METRICS: Mapping[str, Measure] = {
    "used_bytes": lambda e: e.memory.hbm.used_bytes,
    "headroom_bytes": lambda e: e.memory.hbm.headroom_bytes,
    "host_bytes_per_node": lambda e: e.memory.host.used_bytes_per_node,
    "nvme_bytes_per_node": lambda e: e.memory.nvme.used_bytes_per_node,
    "fit_probability": lambda e: e.fit_probability,
    "step_seconds": lambda e: e.time.step_seconds,
    "tokens_per_second": lambda e: e.time.tokens_per_second_per_device * e.graph.setup.cluster.num_devices,
    "tokens_per_second_per_device": lambda e: e.time.tokens_per_second_per_device,
    "mfu": lambda e: e.time.mfu,
    "num_devices": lambda e: e.graph.setup.cluster.num_devices,
    "gradient_accumulation_steps": lambda e: e.graph.setup.training.gradient_accumulation_steps,
    "global_batch_size": lambda e: e.graph.setup.global_batch_size,
}
"""Name -> how it is read off an estimate; a result has one column for each."""

GREATEST = ("headroom_bytes", "fit_probability", "tokens_per_second", "tokens_per_second_per_device", "mfu")
"""Metrics of which more is better; of the others, less is."""

SPELLINGS = {"headroom": "headroom_bytes", "throughput": "tokens_per_second"}
"""Short name of a metric -> its name."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric to make as large (`sign` -1) or as small (`sign` +1) as possible: `sign` times it is minimized."""

    name: str
    sign: float
    measure: Measure


@dataclass(frozen=True, slots=True)
class Constraint:
    """A named condition: `over` is how far an estimate is beyond what is allowed, positive where it is broken."""

    name: str
    over: Measure


FITS = (
    Constraint("fits in device memory", lambda e: -e.memory.hbm.headroom_bytes),
    Constraint(
        "fits in host memory",
        lambda e: e.memory.host.used_bytes_per_node - e.memory.host.capacity_bytes_per_node,
    ),
    Constraint("fits on nvme", lambda e: e.memory.nvme.used_bytes_per_node - e.memory.nvme.capacity_bytes_per_node),
)
"""What the constraint `fits` stands for. [B]"""

DEFAULT_CONSTRAINTS = ("fits",)
DEFAULT_OBJECTIVES = ("headroom_bytes", "tokens_per_second", "num_devices")


def objectives(given: Iterable[str | Objective]) -> tuple[Objective, ...]:
    """Objectives by name; `headroom` and `throughput` stand for headroom_bytes and tokens_per_second.

    given : names of metrics, or objectives of one's own. [-]
    Raises VramsimError for unknown names and for none at all.
    """
    if isinstance(given, str):
        given = [given]
    found = tuple(each if isinstance(each, Objective) else _objective(each) for each in given)
    if not found:
        raise VramsimError(f"a search needs at least one objective, got none; choose among {', '.join(METRICS)}")
    return tuple({objective.name: objective for objective in found}.values())


def _objective(name: str) -> Objective:
    name = _metric(name, "objective")
    return Objective(name, -1.0 if name in GREATEST else 1.0, METRICS[name])


def _metric(name: Any, what: str) -> str:
    known = SPELLINGS.get(name, name) if isinstance(name, str) else ""
    if known not in METRICS:
        raise VramsimError(f"unknown {what} {shown(name)}: {nearest(str(name), METRICS, spellings=SPELLINGS)}")
    return known


def constraints(given: Iterable[Any] | Mapping[str, Any]) -> tuple[Constraint, ...]:
    """Constraints by name: `fits`, and bounds such as {max_step_seconds: 30} or {min_headroom_bytes: 4.0e+9}.

    given : names, mappings of a bound to its value and constraints of one's own, or one mapping of them all. [-]
    Raises VramsimError for unknown names and bounds that are no numbers.
    """
    items = [given] if isinstance(given, Mapping | str) else list(given)
    found: list[Constraint] = []
    for item in items:
        if isinstance(item, Constraint):
            found.append(item)
        elif isinstance(item, Mapping):
            found += [each for name, bound in item.items() for each in _constraint(name, bound)]
        else:
            found += _constraint(item, True)
    return tuple(found)


def _constraint(name: Any, bound: Any) -> tuple[Constraint, ...]:
    if name == "fits":
        return FITS if bound is True else ()
    side, _, metric = str(name).partition("_")
    if side not in ("max", "min"):
        raise VramsimError(f"unknown constraint {shown(name)}: use fits, or max_ or min_ before one of {_listed()}")
    metric = _metric(metric, f"metric in the constraint {name}:")
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        raise VramsimError(f"constraint {name} must be bounded by a number, got {shown(bound)}; write {name}: 10")
    measure, limit = METRICS[metric], float(bound)
    if side == "max":
        return (Constraint(name, lambda e: measure(e) - limit),)
    return (Constraint(name, lambda e: limit - measure(e)),)


def _listed() -> str:
    return ", ".join(METRICS)
