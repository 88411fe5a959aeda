"""The time of a step as a record: seconds by activity and engine at the shapes of what they depend on.

What is made of them (bounds, rates, breakdowns) is worked out when asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from vramsim.equations import compute, schedule
from vramsim.graph import any_of, plain
from vramsim.units import TFLOP, Num, in_order, maximum, minimum

CONTENTION = 0.1256
"""Slowdown of computation beside communication (PKU-DAIR/Hetu-Galvatron overlap_coefficient.json). [-]"""


@dataclass(frozen=True, slots=True, eq=False)
class Spent:
    """Seconds of one occurrence of some phases: of each activity, what it hides behind (u of S1), of each engine.

    Kept apart, they have the small shapes of what they depend on; few operations run at the full shape of a grid.
    Engines, which only bounds are made of, are summed when asked for.
    """

    busy: dict[str, Num]
    covered: dict[str, Num]
    engines: dict[str, list[Num]]

    def exposed(self) -> Num:
        """Seconds that lengthen a step. [s]"""
        saved = _total({name: self._saved(name) for name in self.covered})
        busy = _total(self.busy)
        return busy - saved if self.covered else busy

    def by_activity(self) -> dict[str, Num]:
        """Seconds by which each activity lengthens a step. [s]"""
        return {name: busy - self._saved(name) if name in self.covered else busy for name, busy in self.busy.items()}

    def by_engine(self) -> dict[str, Num]:
        """Seconds for which each engine and link is busy. [s]"""
        return {name: in_order(seconds) for name, seconds in self.engines.items()}

    def _saved(self, activity: str) -> Num:
        return schedule.relief(self.covered[activity], CONTENTION if activity == "communication" else 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Time:
    """Time of one optimizer step: best estimate in [lower, upper], rates, and exposed seconds by activity.

    `tokens` and FLOPs are those of one device and step; a step has `repeats` micro-steps like `micro`, and `once` what
    does not recur; `bubble` is what the ends of a pipeline wait. Everything else is worked out when asked for.
    """

    step_seconds: Num
    tokens: Num
    model_flops: Num
    hardware_flops: Num
    peak_flops: Num
    repeats: Num
    micro: Spent
    once: Spent
    bubble: Num

    @property
    def lower_seconds(self) -> Num:
        """Time of a step in which all overlaps: of the engine or link that is busy longest. [s]"""
        busiest = reduce(maximum, self._engines().values())
        # Sums in another order differ in the last bit.
        return plain(minimum(busiest, self.step_seconds))

    @property
    def upper_seconds(self) -> Num:
        """Time of a step in which nothing overlaps. [s]"""
        return plain(maximum(_total(self._engines()) + self.bubble, self.step_seconds))

    @property
    def tokens_per_second_per_device(self) -> Num:
        """Rate of one device. [tokens/s]"""
        return plain(self.tokens / self.step_seconds)

    @property
    def model_tflops_per_device(self) -> Num:
        """Rate of the FLOPs that a run without recomputation needs. [TFLOP/s]"""
        return plain(self.model_flops / self.step_seconds / TFLOP)

    @property
    def mfu(self) -> Num:
        """Share of the peak that those reach. [-]"""
        return plain(self.model_flops / self.step_seconds / self.peak_flops)

    @property
    def hfu(self) -> Num:
        """Share of the peak that all FLOPs reach, recomputed ones included. [-]"""
        return plain(self.hardware_flops / self.step_seconds / self.peak_flops)

    @property
    def by_activity(self) -> dict[str, Num]:
        """Seconds by which each activity lengthens the step; `host` is what the device waits for launches. [s]"""
        exposed = _in_step(self.repeats, self.micro.by_activity(), self.once.by_activity())
        launches = in_order(self.micro.engines.get("host", ()))
        host = self.repeats * compute.waiting_seconds(launches, self.micro.exposed())
        waited = {"host": host, "bubble": self.bubble}
        return exposed | {name: plain(seconds) for name, seconds in waited.items() if any_of(seconds)}

    def _engines(self) -> dict[str, Num]:
        return _in_step(self.repeats, self.micro.by_engine(), self.once.by_engine())

    @property
    def bottleneck(self) -> Any:
        """Activity that takes most of the step (an array of names for an array of cases)."""
        return largest(self.by_activity)


def in_step(repeats: Num, micro: Num, once: Num) -> Num:
    """Seconds of a step.

    repeats : number of micro-steps. [-]   micro : seconds of one. [s]   once : seconds of what does not recur. [s]
    """
    seconds = repeats * micro
    return seconds if type(once) is float and once == 0.0 else seconds + once


def _in_step(repeats: Num, micro: dict[str, Num], once: dict[str, Num]) -> dict[str, Num]:
    names = dict.fromkeys((*micro, *once))
    return {name: plain(in_step(repeats, micro.get(name, 0.0), once.get(name, 0.0))) for name in names}


def _total(sums: dict[str, Num]) -> Num:
    """Sum in the order of names: the order in which a grid and one of its cases meet them may differ."""
    return in_order(sums[name] for name in sorted(sums))


def largest(amounts: dict[str, Num]) -> Any:
    """Name of the largest amount, elementwise.

    amounts : name -> amount. [any]
    """
    names = list(amounts)
    if all(isinstance(value, float) for value in amounts.values()):
        return max(names, key=lambda name: amounts[name])
    stacked = np.stack(np.broadcast_arrays(*amounts.values()))
    return np.asarray(names)[np.argmax(stacked, axis=0)]
