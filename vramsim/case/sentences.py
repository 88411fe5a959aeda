"""Turns pydantic's findings into the one sentence that a user reads: what, the value given, what would be right."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from vramsim.case.fields import ClusterFields, LoraFields, StrategyFields, TrainingFields
from vramsim.catalog.tables import nearest, shown
from vramsim.errors import VramsimError

SECTIONS: dict[str, type[BaseModel]] = {
    "cluster": ClusterFields,
    "training": TrainingFields,
    "training.lora": LoraFields,
    "strategy": StrategyFields,
}
"""Path of a section -> its fields."""

TOP = ("model", "cluster", "framework", "training", "strategy")
"""Keys of a case."""


def sentence(error: ValidationError) -> VramsimError:
    """The finding that explains the others best, as the error to raise.

    error : what pydantic found. [-]
    """
    findings = error.errors(include_url=False)
    # A mistyped key also shows as a missing one: name the typing error.
    first = min(findings, key=lambda finding: finding["type"] != "extra_forbidden")
    path, given = [str(part) for part in first["loc"]], first.get("input")
    name = ".".join(path)
    kind = first["type"]
    if kind == "extra_forbidden":
        return VramsimError(f"unknown key {shown(name)}: {_offer(path)}")
    if kind == "missing":
        return VramsimError(f"{name} is missing: every case needs it")
    if kind == "literal_error":
        return VramsimError(f"{name} must be one of {first['ctx']['expected']}, got {shown(given)}")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return VramsimError(f"{name} must be a mapping of keys to values, got {shown(given)}")
    if kind == "invalid_key":
        return VramsimError(f"{'.'.join(path[:-1]) or 'a case'} must have texts as keys, got {shown(path[-1])}")
    return VramsimError(
        f"{name} {first['ctx']['error'] if kind == 'value_error' else first['msg'] + f', got {shown(given)}'}"
    )


def known_paths() -> list[str]:
    """Dotted paths of all fields of a case, sections excluded.

    >>> "training.seq_len" in known_paths()
    True
    """
    paths = [f"{section}.{field}" for section, fields in SECTIONS.items() for field in fields.model_fields]
    return ["model", "framework", *(path for path in paths if path != "training.lora")]


def _offer(path: list[str]) -> str:
    section, key = ".".join(path[:-1]), path[-1]
    known = list(SECTIONS[section].model_fields) if section in SECTIONS else list(TOP)
    elsewhere = [each for each in known_paths() if each.rpartition(".")[2] == key]
    return f"it belongs in {elsewhere[0]}" if elsewhere else nearest(key, known)
