"""What a study file declares: base cases, what varies, what is compared, and what was measured.

title: Llama 3 70B on 16 A100s: the ways out
about: Text above the report.
base: case.yaml                     # a case, or files of other programs that are one together: [config.py, ds.json]
set: {seq_len: 8192}                # fields of every base set otherwise
cases: {name: case, ...}            # several bases, in place of one or beside it
vary: {num_devices: [16, 32]}       # a grid: every combination is estimated, whether it fits or not
changes: {CPU offload: {offload_optimizer: cpu}}    # single changes by name, each beside the base
space: {search: {...}, constraints: [fits], objectives: [...]}      # a search: what is feasible, and its front
questions: [seq-len, devices]       # solved for each base
compare: [tokens_per_second, num_devices]           # metrics in which the best is named
measured: [{where: {num_devices: 32}, used_gib: 70.2, source: our run of May}]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

from vramsim.case import Case, path_of
from vramsim.case.reading import parsed, read_text
from vramsim.catalog.tables import nearest, shown
from vramsim.convert.conversion import load
from vramsim.errors import VramsimError
from vramsim.procure.commands import Question
from vramsim.space import Objective, Space
from vramsim.space.choices import choices
from vramsim.space.metrics import DEFAULT_CONSTRAINTS, DEFAULT_OBJECTIVES, objectives

KEYS = ("title", "about", "base", "set", "cases", "vary", "changes", "space", "questions", "compare", "measured")

MOST_ROWS = 2000
"""Configurations that a report shows one by one; a search looks through more."""

COMPARED = ("tokens_per_second", "tokens_per_second_per_device", "headroom_bytes", "num_devices")
"""Metrics in which the best is named where a study does not say."""

MEASURES = {
    "used_gib": "used",
    "reserved_gib": "reserved",
    "allocated_gib": "allocated",
    "tokens_per_second_per_device": "tokens/s per GPU",
    "step_seconds": "seconds per step",
}
"""Key of a measured row -> what was measured."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One configuration: which base, what differs from it by key, and what it is called."""

    base: str
    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run showed: its base (any, if left out), values by which it is found, measurements by key, its source."""

    base: str
    where: Mapping[str, Any]
    values: Mapping[str, float]
    source: str


@dataclass(frozen=True, slots=True)
class Study:
    """A study, checked: base cases by name, configurations, spaces by base, questions, metrics, measurements.

    `notes` say how bases were read from other programs' files, by base; `text` is the file as it was.
    `grid_only` says that all configurations differ in the same keys.
    """

    title: str
    about: str
    bases: Mapping[str, Case]
    asked: tuple[Asked, ...]
    spaces: Mapping[str, Space]
    questions: tuple[str, ...]
    compare: tuple[Objective, ...]
    measured: tuple[Measured, ...]
    notes: Mapping[str, tuple[str, ...]]
    path: Path
    text: str
    grid_only: bool


def load_study(path: Path, values: Mapping[str, Any] | None = None) -> Study:
    """A study from its file.

    path : YAML, TOML or JSON. [-]   values : key -> value to set in every base. [as the field]
    Raises VramsimError for a file that cannot be read and for anything in it that is wrong.
    """
    text = read_text(path, "study")
    content = parsed(text, path, "study")
    if not isinstance(content, dict):
        raise VramsimError(
            f"the study file {shown(str(path))} must be a mapping with base: (a case) and vary:, changes: "
            f"or space: (what to compare), got {'nothing' if content is None else type(content).__name__}"
        )
    for key in content:
        if key not in KEYS:
            raise VramsimError(
                f"unknown key {shown(key)} in a study: {nearest(str(key), KEYS)}; known are {', '.join(KEYS)}"
            )
    bases, notes = _bases(content, path, {**_mapping(content, "set"), **(values or {})})
    first = next(iter(bases.values()))
    compare = objectives(_list(content, "compare") or COMPARED)
    return Study(
        title=str(content.get("title") or path.stem),
        about=str(content.get("about") or "").strip(),
        bases=bases,
        asked=tuple(_asked(content, bases)),
        spaces=_spaces(content, bases) if content.get("space") else {},
        questions=tuple(_questions(content)),
        compare=compare,
        measured=tuple(_measured(content, bases, first)),
        notes=notes,
        path=path,
        text=text,
        grid_only=not content.get("changes"),
    )


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    given = content.get(key)
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(each, str) for each in given):
        raise VramsimError(f"{key} of a study must be a mapping with texts as keys, got {shown(given)}")
    return given


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    given = content.get(key)
    if given is None:
        return []
    if not isinstance(given, list):
        raise VramsimError(f"{key} of a study must be a list, got {shown(given)}")
    return given


# Bases ----------------------------------------------------------------------------------------------------------------


def _bases(
    content: Mapping[str, Any], path: Path, values: Mapping[str, Any]
) -> tuple[dict[str, Case], dict[str, tuple[str, ...]]]:
    given = {"base": content["base"]} if content.get("base") is not None else {}
    given |= _mapping(content, "cases")
    if not given:
        raise VramsimError(
            "a study must have a base: a case, its path, or a list of other programs' files; or cases: of them"
        )
    bases: dict[str, Case] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for name, each in given.items():
        bases[name], notes[name] = _base(each, path.parent, values, given.get("base"))
    return bases, notes


def _base(given: Any, folder: Path, values: Mapping[str, Any], base: Any) -> tuple[Case, tuple[str, ...]]:
    if isinstance(given, dict) and not {"model", "cluster", "training", "framework"} & set(given):
        # A case of `cases` may be what differs from the base.
        own = given.get("set", given) if set(given) <= {"base", "set"} else given
        if not isinstance(own, dict):
            raise VramsimError(f"set of a case in a study must be a mapping, got {shown(own)}")
        inner = given.get("base", base) if set(given) <= {"base", "set"} else base
        if inner is None:
            raise VramsimError(f"a case of a study that says only what differs needs a base, got {shown(given)}")
        return _base(inner, folder, {**own, **values}, None)
    if isinstance(given, dict):
        return Case.load(given, values), ()
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not paths or not all(isinstance(each, str) for each in paths):
        raise VramsimError(f"a base of a study must be a case, its path or a list of paths, got {shown(given)}")
    return load([folder / each for each in paths], values)


# What is compared -----------------------------------------------------------------------------------------------------


def _asked(content: Mapping[str, Any], bases: Mapping[str, Case]) -> Iterator[Asked]:
    grid, changes = _mapping(content, "vary"), _mapping(content, "changes")
    several = len(bases) > 1
    for base, case in bases.items():
        varied = choices(case, grid) if grid else ()
        count = len(bases) * (len(changes) + _size(len(choice) for choice in varied))
        if count > MOST_ROWS:
            raise VramsimError(
                f"a study shows at most {MOST_ROWS} configurations one by one, got {count}; use space: to "
                "search more of them"
            )
        if not varied:
            yield Asked(base, base if several else "as it is", {})
        for point in product(*(choice.values for choice in varied)) if varied else ():
            values = {choice.key: value for choice, value in zip(varied, point, strict=True)}
            words = ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in values.items())
            yield Asked(base, f"{base}: {words}" if several else words, values)
        for name, values in changes.items():
            if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
                raise VramsimError(f"the change {shown(name)} of a study must map keys to values, got {shown(values)}")
            yield Asked(
                base, f"{base}: {name}" if several else name, {path_of(key): each for key, each in values.items()}
            )


def _short(value: Any) -> str:
    return str(value.get("name", value)) if isinstance(value, dict) else f"{value}"


def _size(lengths: Iterator[int]) -> int:
    found = 1
    for length in lengths:
        found *= length
    return found


def _spaces(content: Mapping[str, Any], bases: Mapping[str, Case]) -> dict[str, Space]:
    given = _mapping(content, "space")
    known = ("search", "constraints", "objectives")
    for key in given:
        if key not in known:
            raise VramsimError(
                f"unknown key {shown(key)} in space of a study: {nearest(key, known)}; its base is the study's"
            )
    if "search" not in given:
        raise VramsimError("space of a study must have search: (keys and their values)")
    constraints = given.get("constraints", DEFAULT_CONSTRAINTS)
    goals = given.get("objectives", DEFAULT_OBJECTIVES)
    return {name: Space(case, given["search"], constraints, goals) for name, case in bases.items()}


def _questions(content: Mapping[str, Any]) -> Iterator[str]:
    known = get_args(Question)
    for each in _list(content, "questions"):
        if each not in known:
            raise VramsimError(f"questions of a study must be among {', '.join(known)}, got {shown(each)}")
        yield each


# Measurements ---------------------------------------------------------------------------------------------------------


def _measured(content: Mapping[str, Any], bases: Mapping[str, Case], first: Case) -> Iterator[Measured]:
    for row in _list(content, "measured"):
        if not isinstance(row, dict):
            raise VramsimError(f"measured of a study must be a list of mappings, got {shown(row)}")
        known = ("case", "where", "source", *MEASURES)
        for key in row:
            if key not in known:
                raise VramsimError(f"unknown key {shown(key)} in measured of a study: {nearest(str(key), known)}")
        where = _mapping(row, "where")
        first.with_values(where)
        values = {key: row[key] for key in MEASURES if row.get(key) is not None}
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise VramsimError(f"measured of a study: {key} must be a number above 0, got {shown(value)}")
        if not values:
            raise VramsimError(f"measured of a study must give one of {', '.join(MEASURES)}, got {shown(row)}")
        base = row.get("case", "")
        if base and base not in bases:
            raise VramsimError(f"measured of a study names the case {shown(base)}: {nearest(str(base), bases)}")
        yield Measured(
            str(base), {path_of(key): value for key, value in where.items()}, values, str(row.get("source", ""))
        )
