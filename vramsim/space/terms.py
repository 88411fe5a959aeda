"""Terms of a run as a person states them: what differs from the usual reliability, power and ownership."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from vramsim.case.numbers import duration, number
from vramsim.case.reading import read_mapping
from vramsim.catalog.tables import nearest, shown
from vramsim.errors import VramsimError
from vramsim.outcome import Terms
from vramsim.spec import Ownership, Power, Reliability

SECTIONS = {
    "reliability": tuple(item.name for item in fields(Reliability)),
    "power": tuple(item.name for item in fields(Power)),
    "ownership": tuple(item.name for item in fields(Ownership)),
}
"""Part of the terms -> its fields."""

SHARE = (0.0, 1.0)
LIMITS = {
    "residual": SHARE,
    "utilization": (0.01, 1.0),
    "load": SHARE,
    "idle_load": SHARE,
    "pue": (1.0, 10.0),
    "server_factor": (1.0, 10.0),
    "carbon": (0.0, 10.0),
    "horizon_years": (0.1, 50.0),
    "server_share": (0.0, 10.0),
    "network_share": (0.0, 10.0),
    "device_mtbf": (1.0, 1e12),
    "node_preemption": (1.0, 1e12),
    "storage_bandwidth": (1.0, 1e15),
}
"""Field -> smallest and largest value that makes sense of it; of the others, none below zero. [as the field]"""

USUAL = (0.0, 1e9)

TIMES = frozenset({"device_mtbf", "startup_seconds", "restart_seconds", "node_preemption"})
"""Fields that may be a duration, such as 5000d."""


def terms_of(given: Any, terms: Terms | None = None) -> Terms:
    """Terms with what a person said otherwise.

    given : Terms, path of a YAML, TOML or JSON file, or section -> field -> value: {power: {pue: 1.1}}. [-]
    terms : from which it differs; the usual ones if left out. [-]
    Raises VramsimError for a file that cannot be read, unknown keys, and values that make no sense.
    """
    if isinstance(given, Terms):
        return given
    terms = terms or Terms()
    if given is None:
        return terms
    content = given
    if isinstance(given, str | Path):
        content = read_mapping(Path(given), "terms", f"some of {', '.join(SECTIONS)}")
    changes = _sections(content)
    return replace(terms, **{name: replace(getattr(terms, name), **said) for name, said in changes.items()})


def _sections(content: Any) -> dict[str, dict[str, float]]:
    if not isinstance(content, Mapping):
        raise VramsimError(
            f"terms must be a file or a mapping with some of {', '.join(SECTIONS)}, got {shown(content)}"
        )
    found = {}
    for name, said in content.items():
        if name not in SECTIONS:
            raise VramsimError(f"unknown key {shown(name)} in terms: {nearest(str(name), tuple(SECTIONS))}")
        if not isinstance(said, Mapping):
            known = ", ".join(SECTIONS[name])
            raise VramsimError(f"terms: {name} must be a mapping with some of {known}, got {shown(said)}")
        for key in said:
            if key not in SECTIONS[name]:
                raise VramsimError(f"unknown key {shown(key)} in terms: {name}: {nearest(str(key), SECTIONS[name])}")
        found[name] = {key: _value(f"{name}.{key}", key, value) for key, value in said.items()}
    return found


def _value(path: str, key: str, value: Any) -> float:
    if key in TIMES and isinstance(value, str):
        value = duration(value, path)
    try:
        checked = number(*LIMITS.get(key, USUAL))(value)
    except ValueError as error:
        raise VramsimError(f"terms: {path} {error}") from None
    if not isinstance(checked, float):
        raise VramsimError(f"terms: {path} must be one number, got {shown(value)}")
    return checked
