"""What an estimate is: records whose names are those of the JSON that `vramsim estimate --json` prints.

Numbers have the broadcast shape of the case. Breakdowns and text are worked out when asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from statistics import NormalDist
from typing import Any

import numpy as np

from vramsim.bands import LEVELS, Band, band
from vramsim.graph import Graph, plain
from vramsim.residency import Residency
from vramsim.spec import Category, Component, Measured, Phase, Tier
from vramsim.timing import Time, largest
from vramsim.units import GiB, Num, maximum

NORMAL = tuple(NormalDist().inv_cdf(level) / NormalDist().inv_cdf(0.95) for level in LEVELS)
"""Quantiles of a normal distribution of which nine of ten lie within 1. [-]"""


@dataclass(frozen=True, slots=True, eq=False)
class Hbm:
    """Device memory of one device, in bytes: tensors alive, held by the allocator, and seen by the driver.

    `needed_bytes` are what is left of the used bytes when the allocator returns all the blocks that it can. `by_phase`
    has one entry more than there are phases: `first_step`, the first iteration before optimizer moments exist.
    """

    capacity_bytes: float
    allocated_bytes: Num
    reserved_bytes: Num
    used_bytes: Num
    needed_bytes: Num
    stages: tuple[Residency, ...]

    @property
    def headroom_bytes(self) -> Num:
        """Capacity less used bytes. [B]"""
        return self.capacity_bytes - self.used_bytes

    @property
    def by_phase(self) -> dict[str, Num]:
        """Used bytes of each phase, in the pipeline stage that uses most. [B]"""
        return _larger(stage.used_by_phase() for stage in self.stages)

    @property
    def alive_by_phase(self) -> dict[str, Num]:
        """Bytes of each phase that hold something, in the pipeline stage that holds most. [B]"""
        return _larger(stage.alive_by_phase() for stage in self.stages)

    @property
    def peak_phase(self) -> Any:
        """Name of the phase in which most is alive (an array of names for an array of cases)."""
        return largest(self.alive_by_phase)


def _larger(found: Iterable[dict[str, Num]]) -> dict[str, Num]:
    return reduce(lambda one, other: {name: maximum(value, other[name]) for name, value in one.items()}, found)


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """Host memory or NVMe of one node, in bytes."""

    capacity_bytes_per_node: Num
    used_bytes_per_node: Num


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """Memory by tier."""

    hbm: Hbm
    host: Store
    nvme: Store


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """Memory and time of a case, and the graph they were folded from."""

    graph: Graph
    memory: Memory
    time: Time

    def __repr__(self) -> str:
        hbm, time = self.memory.hbm, self.time
        if shape := np.shape(hbm.used_bytes) or np.shape(time.step_seconds):
            return f"Estimate of {' x '.join(map(str, shape))} cases, of which {np.mean(self.fits):.0%} fit"
        return (
            f"Estimate: {'fits' if self.fits else 'does not fit'}, {hbm.used_bytes / GiB:.1f} GiB used of "
            f"{hbm.capacity_bytes / GiB:.1f} at the peak ({hbm.peak_phase}), {time.step_seconds:.3g} s a step, "
            f"{time.tokens_per_second_per_device:,.0f} tokens/s per device"
        )

    @property
    def fits(self) -> Any:
        """Whether used bytes stay within what the device exposes, and host and NVMe within the node's."""
        memory = self.memory
        fits = memory.hbm.used_bytes <= memory.hbm.capacity_bytes
        for store in (memory.host, memory.nvme):
            fits = fits & (store.used_bytes_per_node <= store.capacity_bytes_per_node)
        return bool(fits) if np.ndim(fits) == 0 else fits

    @cached_property
    def fit_probability(self) -> Num:
        """Probability that the run fits, from the errors of published runs' used bytes. [-]"""
        memory = self.memory
        errors = band("nvidia_smi", self.graph.setup.framework.engine)
        margin = np.log(memory.hbm.capacity_bytes / memory.hbm.needed_bytes)
        host = memory.host.used_bytes_per_node <= memory.host.capacity_bytes_per_node
        return plain(errors.probability(margin) * host)

    def memory_band(self, kind: str = "nvidia_smi", row_id: str | None = None) -> tuple[float, float]:
        """Interval that should hold nine of ten measurements of a kind of memory. One case only. [B]

        kind : torch_allocated | torch_reserved | nvidia_smi | unknown. [-]
        row_id : a validation row, to be judged by a band that it had no part in. [-]
        """
        hbm = self.memory.hbm
        chosen = {"torch_allocated": hbm.allocated_bytes, "nvidia_smi": hbm.used_bytes}
        return self._interval(float(chosen.get(kind, hbm.reserved_bytes)), kind, row_id)

    def throughput_band(self, row_id: str | None = None) -> tuple[float, float]:
        """Interval that should hold nine of ten measured rates. One case only. [tokens/s/device]

        On a machine whose owner's runs were measured, their band; wider, up to that of published runs, where a step
        is made of other things than theirs.

        row_id : a validation row, to be judged by a band that it had no part in. [-]
        """
        rate, errors = float(self.time.tokens_per_second_per_device), self.rate_errors(row_id)
        return rate * math.exp(errors.quantile(0.05)), rate * math.exp(errors.quantile(0.95))

    def rate_errors(self, row_id: str | None = None) -> Band:
        """Quantiles of log(measured / estimated) of such a rate: published runs', or as their owner's runs have it.

        The owner's scatter is taken for normal; what their runs hardly did adds the published errors, by its share of
        the step. One case only.

        row_id : a validation row, to be judged by a band that it had no part in. [-]
        """
        setup = self.graph.setup
        published, own = band("throughput", setup.framework.engine, row_id), setup.cluster.device.measured
        if own is None:
            return published
        beyond = own.beyond(self._shares())
        pairs = zip(NORMAL, published.quantiles, strict=True)
        quantiles = (math.copysign(math.hypot(z * own.band, beyond * q), z) if z else 0.0 for z, q in pairs)
        return Band(int(own.runs), 1, tuple(quantiles))

    def _shares(self) -> dict[str, float]:
        """Activity -> share of the step. One case only."""
        return {name: float(each / self.time.step_seconds) for name, each in self.time.by_activity.items()}

    def _interval(self, centre: float, quantity: str, row_id: str | None) -> tuple[float, float]:
        errors = band(quantity, self.graph.setup.framework.engine, row_id)
        return centre * math.exp(errors.quantile(0.05)), centre * math.exp(errors.quantile(0.95))

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions and warnings."""
        setup = self.graph.setup
        found = list(setup.notes)
        device = setup.cluster.device
        if device.measured is not None:
            found.append(self._measured_note(device.measured))
        elif device.calibration != "measured":
            found.append(f"the efficiency of {device.name} is assumed, not measured")
        if np.any(np.asarray(setup.strategy.offload_optimizer) > 0):
            found.append(
                "host bytes are those asked for; PyTorch's pinned allocator may round a request up to a power of two"
            )
        return tuple(found)

    def _measured_note(self, own: Measured) -> str:
        runs = "one run" if own.runs == 1 else f"{own.runs:g} runs"
        note = f"efficiencies are measured by the user: {runs} ({own.origin}), off by {own.error:.0%} where left out"
        if np.ndim(self.time.step_seconds):
            return note
        low, high = self.throughput_band()
        note += f"; nine of ten runs should reach {low:,.0f} to {high:,.0f} tokens/s per GPU"
        beyond = own.beyond(self._shares())
        return note + (f", wider as {beyond:.0%} of the step is spent on what they did not do" if beyond > 0.05 else "")

    def components(self, phase: Phase | None = None) -> list[Component]:
        """Components in device memory during a phase (at the peak if none is given), largest first. One case only.

        phase : which phase. [-]
        """
        name = phase.label if phase else str(self.memory.hbm.peak_phase)
        found = [c for c in self.graph.components if c.tier is Tier.HBM and _alive(c, name, self)]
        return sorted(found, key=lambda component: -float(component.nbytes))

    def by_category(self) -> dict[str, float]:
        """Bytes at the peak by category: allocated ones, overhead, and paged ones that have room. One case only."""
        sums = {category.value: 0.0 for category in Category}
        room = self.memory.hbm.capacity_bytes
        for component in sorted(self.components(), key=lambda each: each.paged):
            nbytes = float(component.nbytes)
            if component.paged:
                nbytes = min(nbytes, max(room, 0.0))
                sums[component.category.value] += nbytes
            else:
                for category, each in component.by_category().items():
                    sums[category.value] += each
            room -= nbytes
        return sums

    def to_dict(self) -> dict[str, Any]:
        """The object that `vramsim estimate --json` prints, without the case. One case only."""
        memory, time = self.memory, self.time
        hbm = memory.hbm
        return {
            "fits": self.fits,
            "fit_probability": self.fit_probability,
            "memory": {
                "hbm": {
                    "capacity_bytes": hbm.capacity_bytes,
                    "allocated_bytes": hbm.allocated_bytes,
                    "reserved_bytes": hbm.reserved_bytes,
                    "used_bytes": hbm.used_bytes,
                    "needed_bytes": hbm.needed_bytes,
                    "headroom_bytes": hbm.headroom_bytes,
                    "peak_phase": hbm.peak_phase,
                    "by_category": self.by_category(),
                    "by_phase": dict(hbm.by_phase),
                },
                "host": _store(memory.host),
                "nvme": _store(memory.nvme),
            },
            "time": {
                "step_seconds": time.step_seconds,
                "lower_seconds": time.lower_seconds,
                "upper_seconds": time.upper_seconds,
                "tokens_per_second_per_device": time.tokens_per_second_per_device,
                "model_tflops_per_device": time.model_tflops_per_device,
                "mfu": time.mfu,
                "hfu": time.hfu,
                "by_activity": dict(time.by_activity),
                "bottleneck": time.bottleneck,
            },
            "notes": list(self.notes),
        }


def _store(store: Store) -> dict[str, Num]:
    return {
        "capacity_bytes_per_node": store.capacity_bytes_per_node,
        "used_bytes_per_node": store.used_bytes_per_node,
    }


def _alive(component: Component, name: str, estimate: Estimate) -> bool:
    if name != "first_step":
        return any(phase.label == name for phase in component.live)
    return not component.lazy and bool(component.live & (Phase.FORWARD | Phase.HEAD | Phase.BACKWARD | Phase.REDUCE))
