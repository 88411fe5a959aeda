"""What configurations are measured by: named metrics of an estimate; objectives and constraints made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vramsim.case.numbers import duration
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

OF_A_RUN = ("time_to_train_seconds", "cost_usd", "energy_kwh", "carbon_kg", "goodput")
"""Metrics that need the tokens to train on, and perhaps prices (`vramsim.space.run`)."""

GREATEST = ("headroom_bytes", "fit_probability", "tokens_per_second", "tokens_per_second_per_device", "mfu", "goodput")
"""Metrics of which more is better; of the others, less is."""

SPELLINGS = {
    "headroom": "headroom_bytes",
    "throughput": "tokens_per_second",
    "step_time": "step_seconds",
    "time_to_train": "time_to_train_seconds",
    "cost": "cost_usd",
    "energy": "energy_kwh",
    "carbon": "carbon_kg",
}
"""Short name of a metric -> its name."""

BOUNDS = {"deadline": "max_time_to_train_seconds", "budget": "max_cost_usd"}
"""Short name of a bound -> the bound."""


@dataclass(frozen=True, slots=True)
class Known:
    """The metrics that there are, and of those that there are not, why."""

    measures: Mapping[str, Measure] = field(default_factory=lambda: METRICS)
    absent: Mapping[str, str] = field(
        default_factory=lambda: dict.fromkeys(
            OF_A_RUN, "the tokens to train on: state them, such as tokens: 1.0e+9 (or --tokens 1e9)"
        )
    )


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


def objectives(given: Iterable[str | Objective], known: Known | None = None) -> tuple[Objective, ...]:
    """Objectives by name; `headroom`, `cost` and the like stand for headroom_bytes, cost_usd and so on.

    given : names of metrics, or objectives of one's own. [-]   known : metrics, those of one step if left out. [-]
    Raises VramsimError for unknown names and for none at all.
    """
    known = known or Known()
    if isinstance(given, str):
        given = [given]
    found = tuple(each if isinstance(each, Objective) else _objective(each, known) for each in given)
    if not found:
        raise VramsimError(f"a search needs at least one objective, got none; choose among {_listed(known)}")
    return tuple({objective.name: objective for objective in found}.values())


def _objective(name: str, known: Known) -> Objective:
    name = _metric(name, "objective", known)
    return Objective(name, -1.0 if name in GREATEST else 1.0, known.measures[name])


def _metric(name: Any, what: str, known: Known) -> str:
    said = name.replace("-", "_").replace(" ", "_") if isinstance(name, str) else ""
    found = SPELLINGS.get(said, said)
    if found in known.absent:
        raise VramsimError(f"{what} {shown(name)} needs {known.absent[found]}")
    if found not in known.measures:
        meant = nearest(str(name), [*known.measures, *known.absent], spellings=SPELLINGS, most=99)
        raise VramsimError(f"unknown {what} {shown(name)}: {meant}")
    return found


def constraints(given: Iterable[Any] | Mapping[str, Any], known: Known | None = None) -> tuple[Constraint, ...]:
    """Constraints by name: `fits`, and bounds such as {max_step_seconds: 30}, {deadline: 7d} or {budget: 5000}.

    given : names, mappings of a bound to its value and constraints of one's own, or one mapping of them all. [-]
    known : metrics, those of one step if left out. [-]
    Raises VramsimError for unknown names and bounds that are no numbers.
    """
    known = known or Known()
    items = [given] if isinstance(given, Mapping | str) else list(given)
    found: list[Constraint] = []
    for item in items:
        if isinstance(item, Constraint):
            found.append(item)
        elif isinstance(item, Mapping):
            found += [each for name, bound in item.items() for each in _constraint(name, bound, known)]
        else:
            found += _constraint(item, True, known)
    return tuple(found)


def _constraint(name: Any, bound: Any, known: Known) -> tuple[Constraint, ...]:
    if name == "fits":
        return FITS if bound is True else ()
    side, _, metric = BOUNDS.get(name, str(name)).partition("_")
    if side not in ("max", "min"):
        raise VramsimError(
            f"unknown constraint {shown(name)}: use fits, {', '.join(BOUNDS)}, or max_ or min_ before one of "
            f"{_listed(known)}"
        )
    if name in BOUNDS and metric in known.absent:
        raise VramsimError(f"constraint {shown(name)} needs {known.absent[metric]}")
    metric = _metric(metric, f"metric in the constraint {name}:", known)
    if isinstance(bound, str) and metric.endswith("_seconds") and not bound[-1:].isdigit():
        bound = duration(bound, f"the constraint {name}")
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        example = "7d" if metric.endswith("_seconds") else "10"
        raise VramsimError(
            f"constraint {name} must be bounded by a number, got {shown(bound)}; write {name}: {example}"
        )
    measure, limit = known.measures[metric], float(bound)
    if side == "max":
        return (Constraint(name, lambda e: measure(e) - limit),)
    return (Constraint(name, lambda e: limit - measure(e)),)


def _listed(known: Known) -> str:
    return ", ".join([*known.measures, *known.absent])
