"""The time of a step: seconds of each phase at the shapes of what they depend on, and what is made of them.

A step's own time is summed at once, with few operations at the full shape of a grid; bounds, rates and breakdowns are
worked out when asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from vramsim.equations import schedule
from vramsim.graph import Graph, any_of, plain
from vramsim.spec import MICRO_STEP, Phase
from vramsim.units import TFLOP, Num, in_order, maximum, minimum


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """Seconds that the busiest network link, and the busiest link to the host, move beside a computation."""

    network: Num = 0.0
    offload: Num = 0.0

    def lengthened(self, computing: Num) -> Num:
        """Seconds of a computation and of what runs beside it (equation S1). [s]

        computing : seconds of the computation alone. [s]
        """
        return schedule.overlapped_seconds(computing, self.network, self.offload)

    def exposed(self, computing: Num) -> tuple[Num, Num]:
        """Seconds by which the network, and then offload, lengthen a computation. [s]

        computing : seconds of the computation alone. [s]
        """
        with_network = schedule.overlapped_seconds(computing, self.network, 0.0)
        return with_network - computing, self.lengthened(computing) - with_network


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One pass of one phase on one device, in seconds.

    `serial` are computation and transfers that are waited for, by activity; `links` are all transfers, and `launches`
    what the host takes to launch. Beside `computing` run the phase's `own` flows; in the last pass of a step, where
    it is another, those of `last`. `device` is the whole pass, `later` what the last one takes more.
    """

    serial: dict[str, Num]
    links: dict[str, list[Num]]
    launches: Num
    computing: Num
    own: Beside | None
    last: Beside | None
    device: Num
    later: Num


@dataclass(frozen=True, slots=True, eq=False)
class StageTime:
    """A step of one pipeline stage by itself: `repeats` passes of every phase of a micro-step, one of the others.

    `running` is a micro-step's time, `later` what comes once behind micro-steps, `once` the other phases' time, and
    `waiting` what the device waits for its host.
    """

    graph: Graph
    repeats: Num
    passes: dict[Phase, Pass]
    running: Num
    later: Num
    once: Num
    waiting: Num
    seconds: Num

    @property
    def micro_steps(self) -> Num:
        """Time of all micro-steps. [s]"""
        return self.repeats * self.running + self.later + self.waiting

    @property
    def shares(self) -> tuple[Num, Num]:
        """Shares of a micro-step without the head that forward and the gradients of weights take. [-]"""
        forward, backward = (self.passes[phase].device for phase in (Phase.FORWARD, Phase.BACKWARD))
        layers = maximum(forward + backward, 1e-30)
        return forward / layers, in_order(work.seconds for work in self.graph.work if work.deferrable) / layers

    def occupied(self) -> dict[str, Num]:
        """Seconds for which the device, each link and the host are busy. [s]"""
        found: dict[str, Num] = {"host": self.repeats * self._launches()}
        for times, each in self._repeated():
            for name, seconds in each.links.items():
                found[name] = found.get(name, 0.0) + times * in_order(seconds)
        return found

    def serial(self) -> Num:
        """Time of all micro-steps were nothing overlapped. [s]"""
        micro = (self.passes[phase] for phase in MICRO_STEP)
        return self.repeats * in_order(in_order(s) for each in micro for s in each.links.values()) + self.waiting

    def by_activity(self) -> dict[str, Num]:
        """Seconds by which each activity lengthens the step. [s]"""
        found: dict[str, Num] = {}
        for times, each in self._repeated():
            for name, seconds in each.serial.items():
                found[name] = found.get(name, 0.0) + times * seconds
            own = each.own.exposed(each.computing) if each.own else (0.0, 0.0)
            last = each.last.exposed(each.computing) if each.last else own
            for name, every, once in zip(("communication", "offload"), own, last, strict=True):
                if any_of(every) or any_of(once):
                    found[name] = found.get(name, 0.0) + ((times - 1.0) * every + once)
        return found | ({"host": self.waiting} if any_of(self.waiting) else {})

    def flops(self) -> tuple[Num, Num]:
        """FLOPs that a run without recomputation needs, and all of them. [-]"""
        model: Num = 0.0
        hardware: Num = 0.0
        for work in self.graph.work:
            times: Num = self.repeats if work.phase in MICRO_STEP else 1.0
            model, hardware = model + times * work.model_flops, hardware + times * work.flops
        return model, hardware

    def _launches(self) -> Num:
        return in_order(self.passes[phase].launches for phase in MICRO_STEP)

    def _repeated(self) -> Iterator[tuple[Num, Pass]]:
        return ((self.repeats if phase in MICRO_STEP else 1.0, each) for phase, each in self.passes.items())


@dataclass(frozen=True, slots=True, eq=False)
class Time:
    """Time of one optimizer step: best estimate in [lower, upper], rates, and exposed seconds by activity.

    `tokens` are those of one device and step. Of pipeline stages the slowest decides, and waits for `others` while the
    pipeline fills and drains: `bubble` of their micro-steps.
    """

    step_seconds: Num
    tokens: Num
    peak_flops: Num
    stages: tuple[StageTime, ...]
    bubble: Num = 0.0
    others: Num = 0.0

    @property
    def lower_seconds(self) -> Num:
        """Time of a step in which all overlaps: of the engine or link that is busy longest. [s]"""
        busiest = self._of_slowest([reduce(maximum, stage.occupied().values()) for stage in self.stages])
        # Sums in another order differ in the last bit.
        return plain(minimum(busiest, self.step_seconds))

    @property
    def upper_seconds(self) -> Num:
        """Time of a step in which nothing overlaps. [s]"""
        found = [total(stage.occupied()) for stage in self.stages]
        if any_of(self.bubble):
            idle = [self.bubble * maximum(stage.serial(), self.others) for stage in self.stages]
            found = [busy + empty for busy, empty in zip(found, idle, strict=True)]
        return plain(maximum(self._of_slowest(found), self.step_seconds))

    @property
    def tokens_per_second_per_device(self) -> Num:
        """Rate of one device. [tokens/s]"""
        return plain(self.tokens / self.step_seconds)

    @property
    def model_tflops_per_device(self) -> Num:
        """Rate of the FLOPs that a run without recomputation needs. [TFLOP/s]"""
        return plain(self._flops(0) / self.step_seconds / TFLOP)

    @property
    def mfu(self) -> Num:
        """Share of the peak that those reach. [-]"""
        return plain(self._flops(0) / self.step_seconds / self.peak_flops)

    @property
    def hfu(self) -> Num:
        """Share of the peak that all FLOPs reach, recomputed ones included. [-]"""
        return plain(self._flops(1) / self.step_seconds / self.peak_flops)

    @property
    def by_activity(self) -> dict[str, Num]:
        """Seconds by which each activity lengthens the step; `host` is what the device waits for launches. [s]"""
        found = [stage.by_activity() for stage in self.stages]
        if any_of(self.bubble):
            found = [{**each, "bubble": self.bubble * self.others} for each in found]
        names = dict.fromkeys(name for each in found for name in each)
        return {name: plain(self._of_slowest([each.get(name, 0.0) for each in found])) for name in names}

    @property
    def bottleneck(self) -> Any:
        """Activity that takes most of the step (an array of names for an array of cases)."""
        return largest(self.by_activity)

    def _flops(self, kind: int) -> Num:
        return self._of_slowest([stage.flops()[kind] for stage in self.stages])

    def _of_slowest(self, values: Sequence[Num]) -> Num:
        """The value of the slowest stage, elementwise; of the first of equals."""
        found, slowest = values[0], self.stages[0].seconds
        for value, stage in zip(values[1:], self.stages[1:], strict=True):
            found = np.where(np.greater_equal(slowest, stage.seconds), found, value)
            slowest = maximum(slowest, stage.seconds)
        return found


def total(sums: dict[str, Num]) -> Num:
    """Sum in the order of names: the order in which a grid and one of its cases meet them may differ.

    sums : name -> amount. [any]
    """
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
