"""The space of configurations that a search looks through: a case, what may change in it, and what counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from vramsim.case import Case
from vramsim.catalog.tables import nearest, shown
from vramsim.errors import VramsimError
from vramsim.space import grid, metrics
from vramsim.space.choices import Choice, choices, devices
from vramsim.space.grid import Axis, Block, Positions
from vramsim.space.metrics import METRICS, Constraint, Objective
from vramsim.space.run import Run, known_of, run_of

__all__ = ["METRICS", "Axis", "Block", "Choice", "Constraint", "Objective", "Run", "Space", "Structure"]

MOST_POINTS = 1_000_000
"""Points of a block: some hundred megabytes while it is evaluated."""

MOST_OF_A_GRID = 10_000_000
"""Points of a grid whose rules are checked at once; longer axes of a larger one are looped over."""


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """One choice of everything that is no array: the grid of the others, and what rules removed from it."""

    base: Case
    made: Mapping[str, int]
    values: Mapping[str, Any]
    axes: tuple[Axis, ...]
    removed: Mapping[str, int]

    @property
    def size(self) -> int:
        """Number of configurations that keep all rules."""
        return prod(len(axis) for axis in self.axes) if self.axes or not self.removed else 0

    def blocks(self, most: int = MOST_POINTS) -> Iterator[Block]:
        """The grid in blocks of bounded size.

        most : largest number of points of a block. [-]
        """
        for axes in grid.parts(self.axes, most) if self.size else ():
            yield grid.block(self.base, self.made, self.values, axes)


class Space:
    """A base case, the values that some of its keys may take, constraints, and objectives.

    base : case, or a mapping or file that one is loaded from. [-]
    search : dotted or unambiguous short key -> list of values, {min, max, step}, {powers_of_two: [least, most]}, or one
        value. [as the field]
    constraints : `fits` (the default), bounds such as {max_step_seconds: 30}, {deadline: 7d}. [as the metric]
    objectives : names of metrics; headroom_bytes, tokens_per_second (both as large as possible) and num_devices (as
        small as possible) if left out. [-]
    tokens : to train on, which makes time_to_train, cost, energy, carbon and goodput metrics, too. [-]
    prices : CSV file of one's own prices, or device -> rent; the catalog's if left out. [USD/device/hour]
    acquire : on-demand (if left out) | reserved-1y | spot | buy. [-]
    terms : of reliability, power and ownership: Terms, or a file or mapping of what differs from the usual ones,
        such as {power: {pue: 1.1}}. [-]

    Where the base states a global_batch_size, accumulation follows from it.

    >>> space = Space(
    ...     base={
    ...         "model": "llama-3-8b",
    ...         "cluster": {"device": "h100-sxm-80gb", "num_devices": 8},
    ...         "framework": "deepspeed",
    ...         "training": {"seq_len": 8192, "global_batch_size": 32},
    ...     },
    ...     search={"zero_stage": [1, 2, 3], "micro_batch_size": {"powers_of_two": [1, 4]}, "recompute": [0, 0.5, 1]},
    ... )
    >>> space.size
    27
    """

    def __init__(
        self,
        base: Case | str | Path | Mapping[str, Any],
        search: Mapping[str, Any],
        constraints: Iterable[Any] | Mapping[str, Any] = metrics.DEFAULT_CONSTRAINTS,
        objectives: Iterable[str | Objective] = metrics.DEFAULT_OBJECTIVES,
        tokens: float | None = None,
        prices: Any = None,
        acquire: str | None = None,
        terms: Any = None,
    ) -> None:
        self.base = base if isinstance(base, Case) else Case.load(base)
        self.choices = choices(self.base, search)
        given: dict[str, Any] = {"constraints": _listed(constraints), "objectives": _listed(objectives)}
        run = {"tokens": tokens, "prices": prices, "acquire": acquire, "terms": terms}
        self._given = {"base": self.base, "search": search, **given, **run}
        found = devices(self.base, self.choices)
        if tokens is None and (unused := [name for name, value in run.items() if value is not None]):
            raise VramsimError(f"{unused[0]} say nothing without the tokens to train on: state tokens: 1.0e+9, say")
        self.run = None if tokens is None else run_of(found, **run)
        self.metrics = known_of(self.run, found)
        self.constraints = metrics.constraints(given["constraints"], self.metrics)
        self.objectives = metrics.objectives(given["objectives"], self.metrics)

    def with_values(self, **changes: Any) -> Space:
        """The same space with something said otherwise.

        changes : arguments of a Space: tokens, prices, acquire, terms, objectives, constraints ... [-]
        """
        return Space(**{**self._given, **changes})

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], **changes: Any) -> Space:
        """Space from a YAML, TOML or JSON file, or from a mapping with the same keys.

        source : path or mapping with base, search, and perhaps constraints, objectives, tokens, prices,
            acquire, terms. [-]
        changes : keys that are to be otherwise than there. [-]
        Raises VramsimError for a file that cannot be read and for anything in it that is wrong.
        """
        from vramsim.case.reading import read_mapping

        said = {key: value for key, value in changes.items() if value is not None}
        content = dict(source) if isinstance(source, Mapping) else read_mapping(Path(source))
        known = ("base", "search", "constraints", "objectives", "tokens", "prices", "acquire", "terms")
        if "model" in content and "search" not in content:
            which = "this" if isinstance(source, Mapping) else shown(str(source))
            raise VramsimError(
                f"{which} is one case, not a space of them: "
                "write a file with base: (that case, or its path) and search: (what may change), such as "
                "search: {zero_stage: [1, 2, 3], recompute: [none, full]}; for the one case use `vramsim estimate`"
            )
        for key in content:
            if key not in known:
                raise VramsimError(f"unknown key {shown(key)} in a search space: {nearest(str(key), known)}")
        if missing := [key for key in known[:2] if key not in content]:
            raise VramsimError(f"a search space must have {' and '.join(missing)}, got {', '.join(map(str, content))}")
        for key in ("base", "prices", "terms"):
            if isinstance(content.get(key), str) and not isinstance(source, Mapping):
                content[key] = Path(source).parent / content[key]
        return cls(**{key: value for key, value in {**content, **said}.items() if value is not None})

    def __repr__(self) -> str:
        keys = ", ".join(f"{choice.key} ({len(choice)})" for choice in self.choices)
        return f"Space of {self.size:,} configurations: {keys}"

    @property
    def size(self) -> int:
        """Number of configurations, those that break a rule included."""
        return prod(len(choice) for choice in self.choices)

    @cached_property
    def by_key(self) -> dict[str, Choice]:
        """Key -> its choice."""
        return {choice.key: choice for choice in self.choices}

    @cached_property
    def labels(self) -> dict[str, str]:
        """Key -> its last word where that is unambiguous among the keys, as columns of a table are called."""
        last = Counter(choice.key.rpartition(".")[2] for choice in self.choices)
        return {key: short if last[short := key.rpartition(".")[2]] == 1 else key for key in self.by_key}

    def structures(self) -> Iterator[Structure]:
        """Every choice of what is no array, with the grid of the rest.

        A structure that is impossible as a whole is there, too: empty, its points removed under the reason.
        """
        arrays = [choice for choice in self.choices if choice.numbers is not None]
        arrays.sort(key=len)
        while prod(len(choice) for choice in arrays) > MOST_OF_A_GRID:
            arrays.pop()
        looped = [choice for choice in self.choices if choice not in arrays]
        axes = grid.own_axes([choice for choice in self.choices if choice in arrays])
        for positions in product(*(range(len(choice)) for choice in looped)):
            made = {choice.key: position for choice, position in zip(looped, positions, strict=True)}
            yield self.structure(made, axes)

    def structure(self, made: Mapping[str, int], axes: list[Axis]) -> Structure:
        """The grid of some choices, or of some of their values, where the others are made; empty if it is impossible.

        made : key -> position of the choices that are made. [-]   axes : of all others. [-]
        """
        values = {key: self.by_key[key].values[position] for key, position in made.items()}
        try:
            whole = grid.block(self.base, made, values, axes)
            valid, removed = grid.valid_axes(whole)
        except VramsimError as error:
            size = prod(len(axis) for axis in axes)
            return Structure(self.base, made, values, (), {relation(error): size})
        return Structure(self.base, made, values, tuple(valid), removed)

    def blocks(self, most: int = MOST_POINTS) -> Iterator[Block]:
        """All configurations that keep the rules, in blocks of bounded size.

        most : largest number of points of a block. [-]
        """
        for structure in self.structures():
            yield from structure.blocks(most)

    def listed(self, positions: Mapping[str, Positions]) -> Block:
        """Configurations that differ in numbers only, along one axis.

        positions : key -> position of each configuration in its list of values. [-]
        """
        numeric = [choice for choice in self.choices if choice.numbers is not None]
        made = {choice.key: int(positions[choice.key][0]) for choice in self.choices if choice.numbers is None}
        values = {key: self.by_key[key].values[position] for key, position in made.items()}
        table = [positions[choice.key] for choice in numeric]
        axes = [Axis(tuple(numeric), np.column_stack(table))] if numeric else []
        return grid.block(self.base, made, values, axes)

    def case_at(self, index: int) -> Case:
        """One configuration as a case.

        index : number of the configuration, the last key varying fastest, from 0 to size - 1. [-]
        Raises VramsimError for an index outside and for a configuration that cannot be written as a case.
        """
        if not 0 <= index < self.size:
            raise VramsimError(f"a configuration's index must be from 0 to {self.size - 1}, got {index}")
        positions = {}
        for choice in reversed(self.choices):
            index, positions[choice.key] = divmod(index, len(choice))
        return self.case_of(positions)

    def case_of(self, positions: Mapping[str, int]) -> Case:
        """One configuration as a case.

        positions : key -> position in its list of values. [-]
        """
        return self.base.with_values({key: self.by_key[key].values[position] for key, position in positions.items()})


def _listed(given: Any) -> Any:
    """What may be read but once, in a list that may be read again."""
    return given if isinstance(given, str | Mapping) else list(given)


def relation(error: VramsimError) -> str:
    """What must hold and does not, without values and remedy: the name of a reason.

    error : why a structure is impossible. [-]
    """
    return str(error).partition(";")[0].partition(":")[0]
