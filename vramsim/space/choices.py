"""What a search may choose: for each key, its values; and whether they are numbers that can share an array axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vramsim.case import Case, path_of
from vramsim.case.fields import ClusterFields, StrategyFields
from vramsim.case.machine import device_of
from vramsim.catalog import tables
from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.spec import Device

MOST_VALUES = 60_000
"""Most values of one key: their positions are kept in 16 bits."""

NUMERIC = {
    *(f"cluster.{name}" for name in ClusterFields.model_fields if name != "device"),
    *(f"strategy.{name}" for name in StrategyFields.model_fields if name not in ("quantization", "vpp")),
    *(f"training.{name}" for name in ("seq_len", "micro_batch_size")),
    *(f"training.{name}" for name in ("gradient_accumulation_steps", "global_batch_size")),
}
"""Fields that may hold an array; all others change which parts a run has, and are looped over."""

WORDS = {
    "strategy.recompute": {"none": 0.0, "full": 1.0},
    "strategy.offload_optimizer": {"none": 0.0, "cpu": 1.0},
    "strategy.offload_parameters": {"none": 0.0, "cpu": 1.0},
    "strategy.offload_activations": {"none": 0.0, "cpu": 1.0},
}
"""Words that stand for a number."""

NAMES = {
    "framework": "framework",
    "training.precision": "precision",
    "training.optimizer": "optimizer",
    "strategy.quantization": "quantization",
}
"""Fields that name a row of the catalog -> its kind; devices are looked up as a whole."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The values that one key may take. `numbers` holds them as numbers where they can share an array axis."""

    key: str
    values: tuple[Any, ...]
    numbers: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.values)


def choices(base: Case, search: Mapping[str, Any]) -> tuple[Choice, ...]:
    """Choices of a search, each value checked against the case that it will be put into.

    base : case that says what is not searched. [-]
    search : key -> list of values, {min, max, step}, {powers_of_two: [least, most]} or one value. [as the field]
    Raises VramsimError for unknown keys and for values that the field cannot hold.
    """
    if not isinstance(search, Mapping) or not search:
        raise VramsimError(f"search must map keys to values, such as zero_stage: [1, 2, 3], got {shown(search)}")
    listed: dict[str, tuple[Any, ...]] = {}
    for key, given in search.items():
        path = path_of(key)
        if path in listed:
            raise VramsimError(f"the key {path} is searched twice, once as {shown(key)}; list all its values in one")
        listed[path] = _values(path, given)
    rivals = {"training.gradient_accumulation_steps", "training.global_batch_size"}
    if rivals <= listed.keys():
        raise VramsimError(
            "search gradient_accumulation_steps or global_batch_size, not both: each follows from the other; "
            "leave one out"
        )
    on_nvme = any("nvme" in values for values in listed.values()) or "nvme" in (
        base.strategy.offload_optimizer,
        base.strategy.offload_parameters,
    )
    found = []
    for path, values in listed.items():
        offload = path.startswith("strategy.offload_")
        numbers = None if offload and on_nvme else _numbers(path, values)
        found.append(Choice(path, values, numbers))
        _check(base, found[-1])
    return tuple(found)


def devices(base: Case, choices: Sequence[Choice]) -> list[Device]:
    """The devices that a search may choose: that of the base, or all that it lists.

    base : case that says what is not searched. [-]   choices : of the search. [-]
    """
    listed = [choice for choice in choices if choice.key.partition("cluster.device")[1]]
    cases = [base.with_values({choice.key: value}) for choice in listed for value in choice.values]
    return [device_of(case.cluster.device) for case in cases or [base]]


def _values(path: str, given: Any) -> tuple[Any, ...]:
    values = tuple(_range(path, given) if isinstance(given, Mapping) else given if _is_list(given) else [given])
    if not values or len(values) > MOST_VALUES:
        raise VramsimError(f"{path} must have from 1 to {MOST_VALUES} values to search, got {len(values)}")
    seen = [repr(value) for value in values]
    if len(set(seen)) < len(seen):
        twice = next(value for value in seen if seen.count(value) > 1)
        raise VramsimError(f"{path} lists the value {twice} twice; list each once")
    return values


def _is_list(given: Any) -> bool:
    return isinstance(given, list | tuple | np.ndarray)


def _range(path: str, given: Mapping[str, Any]) -> list[Any]:
    """Values of a range; a mapping that describes none is one value (a framework with knobs, say)."""
    if set(given) == {"powers_of_two"}:
        least, most = _bounds(path, given["powers_of_two"])
        exponents = range(64)
        return [2**exponent for exponent in exponents if least <= 2**exponent <= most]
    if {"min", "max"} <= set(given) <= {"min", "max", "step"}:
        least, most = _bounds(path, [given["min"], given["max"]])
        step = given.get("step", 1)
        if isinstance(step, bool) or not isinstance(step, int | float) or step <= 0:
            raise VramsimError(f"the step of {path} must be a number above 0, got {shown(step)}")
        count = int((most - least) / step * (1 + 1e-12)) + 1
        if count > MOST_VALUES:
            raise VramsimError(f"{path} must have at most {MOST_VALUES} values, got {count}; use a larger step")
        return [least + step * index for index in range(count)]
    if given and set(given) <= {"min", "max", "step", "powers_of_two"}:
        raise VramsimError(
            f"a range of {path} must be written as {{min: 1, max: 8}}, with a step or not, or as "
            f"{{powers_of_two: [1, 8]}}, got {shown(dict(given))}"
        )
    return [dict(given)]


def _bounds(path: str, given: Any) -> tuple[Any, Any]:
    right = _is_list(given) and len(given) == 2
    if not right or any(isinstance(each, bool) or not isinstance(each, int | float) for each in given):
        raise VramsimError(f"the range of {path} must have two numbers, least and most, got {shown(given)}")
    if given[0] > given[1]:
        raise VramsimError(f"the range of {path} must not start above its end: {given[0]} > {given[1]}; swap them")
    return given[0], given[1]


def _numbers(path: str, values: tuple[Any, ...]) -> NDArray[np.float64] | None:
    """Values as numbers, if all of them are or stand for one."""
    if path not in NUMERIC:
        return None
    words = WORDS.get(path, {})
    found = [words.get(value) if isinstance(value, str) else value for value in values]
    if not all(isinstance(value, int | float | np.number) for value in found):
        return None
    return np.array(found, np.float64)


def _check(base: Case, choice: Choice) -> None:
    """Refuse values that the field cannot hold, and names that the catalog does not have."""
    if choice.numbers is not None:
        base.with_values({choice.key: choice.numbers})
    for value in choice.values if choice.numbers is None else ():
        base.with_values({choice.key: value})
        named = value.get("name") if isinstance(value, Mapping) else value
        if choice.key in NAMES and isinstance(named, str):
            tables.canonical(NAMES[choice.key], named)
