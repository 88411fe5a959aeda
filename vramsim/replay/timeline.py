"""What a replay found: what every stream did when, and what was alive on every device all along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vramsim.graph import Graph
from vramsim.spec import Category


@dataclass(frozen=True, slots=True)
class Span:
    """One task of one stream of one device, from `start` to `end`. [s]"""

    device: int
    stream: str
    name: str
    phase: str
    start: float
    end: float
    step: int
    batch: int | None
    nbytes: float


@dataclass(frozen=True, slots=True)
class Moment:
    """Bytes alive on one device from `time` until its next moment, by category; `doing` says what it is at. [s, B]"""

    device: int
    time: float
    doing: str
    by_category: Mapping[Category, float]

    @property
    def allocated_bytes(self) -> float:
        """Bytes inside the caching allocator. [B]"""
        return sum(nbytes for category, nbytes in self.by_category.items() if category is not Category.OVERHEAD)


@dataclass(frozen=True, eq=False)
class Timeline:
    """One case, event by event.

    `graphs` are those of the devices of one pipeline, one each; all other ranks do the same. `memory` is in order of
    time for each device, and starts before the first step (building the model) and ends after the last (saving it).
    `peak` is the moment at which most is alive anywhere.
    """

    graphs: tuple[Graph, ...]
    spans: tuple[Span, ...]
    memory: tuple[Moment, ...]
    peak: Moment
    reserved_bytes: float
    used_bytes: float
    step_seconds: float
    first_step_seconds: float

    @property
    def allocated_bytes(self) -> float:
        """Bytes alive at the peak, inside the caching allocator. [B]"""
        return self.peak.allocated_bytes

    def busy_seconds(self) -> dict[str, float]:
        """Seconds of the last step in which each stream of the busiest device was at work. [s]"""
        last = max((span.step for span in self.spans), default=0)
        sums: dict[tuple[int, str], float] = {}
        for span in self.spans:
            if span.step == last:
                key = span.device, span.stream
                sums[key] = sums.get(key, 0.0) + span.end - span.start
        busiest: dict[str, float] = {}
        for (_, stream), seconds in sums.items():
            busiest[stream] = max(busiest.get(stream, 0.0), seconds)
        return busiest

    def to_dict(self) -> dict[str, Any]:
        """The object that `vramsim replay --json` prints."""
        return {
            "devices": len(self.graphs),
            "events": len(self.spans),
            "memory": {
                "allocated_bytes": self.allocated_bytes,
                "reserved_bytes": self.reserved_bytes,
                "used_bytes": self.used_bytes,
                "peak": {
                    "device": self.peak.device,
                    "seconds": self.peak.time,
                    "doing": self.peak.doing,
                    "by_category": {category.value: nbytes for category, nbytes in self.peak.by_category.items()},
                },
            },
            "time": {
                "step_seconds": self.step_seconds,
                "first_step_seconds": self.first_step_seconds,
                "busy_seconds": self.busy_seconds(),
            },
        }
