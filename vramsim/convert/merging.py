"""One value for every field that files give: which of them is believed, and what is said where they differ.

A value that a file states comes before a program's default, whatever file either is of, and a value before `auto`.
Among those, the file of the higher rank is believed: a case of vramsim (9), then the training program's configuration
(5), PEFT's (4), accelerate's (3), DeepSpeed's (2), the model's (1); among equals the one that was given last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vramsim.catalog.tables import shown
from vramsim.formats.facts import Fact
from vramsim.formats.words import AUTO

QUIET = ("launcher", "deepspeed_file", "accelerate_file")
"""Facts that several files may give differently without contradicting each other."""


def merge(facts: Iterable[Fact]) -> tuple[dict[str, Fact], list[str]]:
    """Field -> the fact that is believed; and a note for each field of which two files say different things.

    facts : of all files, in the order in which these were given. [-]
    """
    by_field: dict[str, list[Fact]] = {}
    for fact in facts:
        by_field.setdefault(fact.field, []).append(fact)
    merged: dict[str, Fact] = {}
    notes: list[str] = []
    for field, said in by_field.items():
        best = max(enumerate(said), key=lambda pair: _weight(*pair))[1]
        merged[field] = best
        rivals = {fact.file: fact for fact in said if fact.stated and fact.value != AUTO and fact.file != best.file}
        for other in rivals.values():
            if best.stated and best.value != other.value and field not in QUIET:
                notes.append(f"{field} is {_told(best)}, not {_told(other)}")
    return merged, notes


def _weight(place: int, fact: Fact) -> tuple[bool, bool, int, int, str]:
    # Two programs' defaults contradict nobody: their order must not matter.
    stated = fact.stated and fact.value != AUTO
    return stated, fact.value != AUTO, fact.rank, place if stated else 0, fact.file


def _told(fact: Fact) -> str:
    return f"{shown(fact.value)} as {fact.file} has it" + (f" ({fact.key})" if fact.key else "")


def value_of(merged: Mapping[str, Fact], field: str, default: Any = None) -> Any:
    """The value of a field that a file or a program's default gives; `auto` is none.

    merged : field -> fact. [-]   field : its name. [-]   default : what else it is. [-]
    """
    fact = merged.get(field)
    return default if fact is None or fact.value == AUTO else fact.value
