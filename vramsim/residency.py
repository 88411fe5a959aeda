"""What is alive in each phase, and what the caching allocator makes of it.

Bytes are whole, so that sums of them are exact in any order, and few operations run at the full shape of a grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np

from vramsim.equations import memory
from vramsim.spec import TRAINING, Category, Component, Phase, Setup, Tier
from vramsim.units import Num, in_order, maximum, minimum

BEFORE_STEP = (Phase.FORWARD, Phase.HEAD, Phase.BACKWARD, Phase.REDUCE)
FIRST_STEP = "first_step"
PHASES = tuple(Phase)
LABELS = {phase: phase.label for phase in PHASES}


def total(values: Iterable[Num]) -> Num:
    """Sum of numbers and arrays, small shapes first: few operations run at the full shape.

    values : whole bytes, so that the order does not matter. [B]
    """
    scalar = 0.0
    by_shape: dict[tuple[int, ...], Num] = {}
    for value in values:
        if type(value) is float:
            scalar += value
        else:
            shape = np.shape(value)
            by_shape[shape] = by_shape[shape] + value if shape in by_shape else value
    return in_order([scalar, *sorted(by_shape.values(), key=np.size)])


@dataclass(slots=True)
class Living:
    """Bytes alive in one phase, gathered before they are summed; `resident` ones stay through the whole step, `paged`
    ones lie in managed memory."""

    resident: list[Num] = field(default_factory=list)
    allocated: list[Num] = field(default_factory=list)
    outside: list[Num] = field(default_factory=list)
    lazy: list[Num] = field(default_factory=list)
    cached: list[Num] = field(default_factory=list)
    host: list[Num] = field(default_factory=list)
    nvme: list[Num] = field(default_factory=list)
    paged: list[Num] = field(default_factory=list)


def by_phase(components: Iterable[Component]) -> dict[Phase, Living]:
    """Components sorted into phases and tiers, in one pass.

    components : of a graph. [-]
    """
    living = {phase: Living() for phase in PHASES}
    rows = [(phase.value, row) for phase, row in living.items()]
    whole_step = TRAINING.value
    for component in components:
        live, tier, nbytes = component.live.value, component.tier, component.nbytes
        for bit, row in rows:
            if not live & bit:
                continue
            if tier is not Tier.HBM:
                {Tier.HOST: row.host, Tier.NVME: row.nvme, Tier.CACHE: row.cached}[tier].append(nbytes)
                continue
            if component.paged:
                row.paged.append(nbytes)
                continue
            if component.category is Category.OVERHEAD:
                row.outside.append(nbytes)
                continue
            row.allocated.append(nbytes)
            if live & whole_step == whole_step:
                row.resident.append(nbytes)
            if component.lazy:
                row.lazy.append(nbytes)
    return living


@dataclass(frozen=True, slots=True, eq=False)
class Residency:
    """What is alive in device memory, phase by phase, and the constants of the allocator that holds it.

    `resident` bytes stay through the whole step; `lazy` ones of a phase exist only after the first step; `cached` ones
    are free again. `paged` ones take what the others leave, and are on the host otherwise.
    """

    capacity: float
    resident: Num
    allocated: Mapping[Phase, Num]
    outside: Mapping[Phase, Num]
    lazy: Mapping[Phase, Num]
    cached: Mapping[Phase, Num]
    fragmentation: float
    slack: float
    rigid: float
    unfit: float
    paged: Num = 0.0

    def held(self, inside: Num, beyond: Num, cached: Num) -> tuple[Num, Num, Num]:
        """Reserved, used and needed bytes when `inside` are alive and `beyond` lie outside the allocator. [B]

        inside : bytes alive. [B]   beyond : bytes outside the allocator. [B]   cached : large free buffers. [B]
        """
        roomy = memory.reserved(inside, self.resident, self.fragmentation, self.slack, cached, self.unfit)
        # M9 twice, for the device's capacity and for none: what they share is computed once.
        least = memory.least_held(inside, roomy, self.rigid, self.unfit * cached)
        reserved = maximum(least, minimum(roomy, self.capacity - beyond))
        return reserved, reserved + beyond, least + beyond

    def peak(self) -> tuple[Num, Num, Num, Num]:
        """Allocated, reserved, used and needed bytes, each in its worst phase. [B]

        What lies outside or is free again is the same in most phases, and what is held grows with what is alive: of the
        phases with equal ones the largest decides.
        """
        worst: dict[tuple[int, int], tuple[Num, Num, Num]] = {}
        for phase, inside in self.allocated.items():
            beyond, cached = self.outside[phase], self.cached[phase]
            key = (id(beyond), id(cached))
            worst[key] = (maximum(worst[key][0], inside) if key in worst else inside, beyond, cached)
        found = [(inside, *self.held(inside, beyond, cached)) for inside, beyond, cached in worst.values()]
        allocated, reserved, used, needed = (reduce(maximum, values) for values in zip(*found, strict=True))
        return allocated, reserved, self.with_paged(used), needed

    def evicted(self) -> Num:
        """Paged bytes for which the device has no room in the worst phase: they are on the host then. [B]"""
        if type(self.paged) is float and not self.paged:
            return 0.0
        _, _, used, _ = replace(self, paged=0.0).peak()
        return maximum(self.paged - maximum(self.capacity - used, 0.0), 0.0)

    def used_by_phase(self) -> dict[str, Num]:
        """Used bytes of each phase, and of the first iteration before lazily made tensors exist. [B]"""
        alive, outside = self.allocated, self.outside
        used = {phase: self.held(alive[phase], outside[phase], self.cached[phase])[1] for phase in alive}
        # Before the first step nothing of it can be free again.
        early = {phase: self.held(alive[phase], outside[phase], 0.0)[1] for phase in BEFORE_STEP}
        first = reduce(maximum, (early[phase] - self.lazy[phase] for phase in BEFORE_STEP))
        return {LABELS[phase]: self.with_paged(value) for phase, value in used.items()} | {FIRST_STEP: first}

    def with_paged(self, used: Num) -> Num:
        """Used bytes with the paged ones that have room beside them. [B]

        used : bytes of everything else. [B]
        """
        return used + minimum(self.paged, maximum(self.capacity - used, 0.0))

    def alive_by_phase(self) -> dict[str, Num]:
        """Bytes of each phase that hold something, inside the allocator and outside. [B]"""
        return {LABELS[phase]: inside + self.outside[phase] for phase, inside in self.allocated.items()}


def residency(setup: Setup, living: Mapping[Phase, Living]) -> Residency:
    """Sums of what lives in device memory.

    setup : resolved run. [-]   living : components sorted into phases. [-]
    """
    framework = setup.framework
    sums: dict[tuple[int, ...], Num] = {}
    outside, cached = {}, {}
    for phase, row in living.items():
        # Phases with the same components outside or free again share one sum, and `peak` sees that they do.
        outside[phase] = sums.setdefault(tuple(map(id, row.outside)), total(row.outside))
        cached[phase] = sums.setdefault(tuple(map(id, row.cached)), total(row.cached))
    return Residency(
        capacity=setup.cluster.device.usable_memory,
        resident=total(living[Phase.STEP].resident),
        allocated={phase: total(row.allocated) for phase, row in living.items()},
        outside=outside,
        lazy={phase: total(living[phase].lazy) for phase in BEFORE_STEP},
        cached=cached,
        fragmentation=0.0 if framework.expandable_segments else framework.fragmentation,
        slack=framework.allocator_slack,
        rigid=framework.rigid_gaps,
        unfit=0.0 if framework.expandable_segments else framework.unfit_buffers,
        paged=total(living[Phase.STEP].paged),
    )
