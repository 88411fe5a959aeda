"""Merged facts as the functions that give them a meaning ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vramsim.convert.merging import value_of
from vramsim.formats.facts import Fact
from vramsim.formats.words import AUTO


@dataclass(frozen=True, slots=True)
class Known:
    """Merged facts, and notes on what was made of them."""

    facts: Mapping[str, Fact]
    notes: list[str] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        """Value of a field; `auto` is none."""
        return value_of(self.facts, name, default)

    def stated(self, name: str) -> Any:
        """Value of a field if a file states it."""
        fact = self.facts.get(name)
        return fact.value if fact is not None and fact.stated and fact.value != AUTO else None

    def auto(self, name: str) -> bool:
        """Whether a file leaves a field to another, and none gives it."""
        return name in self.facts and self.facts[name].value == AUTO

    def within(self, section: str) -> dict[str, Any]:
        """What files state of a section, by the last words of its fields."""
        start = f"{section}."
        names = [name for name in self.facts if name.startswith(start) and "." not in name.removeprefix(start)]
        return {name.removeprefix(start): value for name in names if (value := self.stated(name)) is not None}
