"""Folding a graph into an estimate: per phase, sum what lives in each tier; per step, add what takes time.

The peak is the maximum over phases. Time is a bracket: all overlapped below, nothing overlapped above, and a best
estimate between them from what each framework overlaps with what. Everything broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from vramsim.equations import memory, schedule
from vramsim.estimate import Estimate, Hbm, Memory, Store, Time
from vramsim.graph import Graph, Resolvable, assemble, plain
from vramsim.parts import DEFAULT, Part
from vramsim.spec import MICRO_STEP, Category, Component, Flow, Link, Phase, Setup, Tier, Work
from vramsim.units import TFLOP, Num, maximum, minimum

BEFORE_STEP = (Phase.FORWARD, Phase.HEAD, Phase.BACKWARD, Phase.REDUCE)
FIRST_STEP = "first_step"
PHASES = tuple(Phase)
LABELS = {phase: phase.label for phase in PHASES}
ENGINES = ("compute", "optimizer", "cpu_optimizer")
OFFLOAD = (Link.PCIE, Link.HOST_MEMORY, Link.NVME)


def simulate(case: Resolvable | Setup, parts: Sequence[Part] = DEFAULT) -> Estimate:
    """Memory and time of one optimizer step.

    case : a Case, or a Setup whose fields may be arrays of broadcastable shapes. [-]
    parts : generators that make up the graph. [-]
    Returns the Estimate; its numbers have the broadcast shape. Raises VramsimError for a case that breaks a rule.
    """
    graph = assemble(case, parts)
    return Estimate(graph, _memory(graph), _time(graph))


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


def in_order(values: Iterable[Num]) -> Num:
    """Sum of numbers and arrays in the order given: seconds are not whole, and the order shows in the last bit.

    values : amounts. [-]
    """
    result: Num = 0.0
    for value in values:
        result = result + value
    return result


@dataclass(slots=True)
class _Living:
    """Bytes alive in one phase, gathered before they are summed."""

    allocated: list[Num] = field(default_factory=list)
    outside: list[Num] = field(default_factory=list)
    lazy: list[Num] = field(default_factory=list)
    host: list[Num] = field(default_factory=list)
    nvme: list[Num] = field(default_factory=list)


def _by_phase(components: Iterable[Component]) -> dict[Phase, _Living]:
    living = {phase: _Living() for phase in PHASES}
    rows = [(phase.value, row) for phase, row in living.items()]
    for component in components:
        live, tier, nbytes = component.live.value, component.tier, component.nbytes
        for bit, row in rows:
            if not live & bit:
                continue
            if tier is not Tier.HBM:
                (row.host if tier is Tier.HOST else row.nvme).append(nbytes)
                continue
            (row.outside if component.category is Category.OVERHEAD else row.allocated).append(nbytes)
            if component.lazy:
                row.lazy.append(nbytes)
    return living


def _memory(graph: Graph) -> Memory:
    setup = graph.setup
    fragmentation = setup.framework.fragmentation
    living = _by_phase(graph.components)
    by_phase: dict[str, Num] = {}
    peak_allocated: Num = 0.0
    first: Num = 0.0
    for phase, row in living.items():
        inside, outside = total(row.allocated), total(row.outside)
        peak_allocated = maximum(peak_allocated, inside)
        by_phase[LABELS[phase]] = memory.reserved(inside, fragmentation) + outside
        if phase in BEFORE_STEP:
            first = maximum(first, memory.reserved(inside - total(row.lazy), fragmentation) + outside)
    by_phase[FIRST_STEP] = first
    used = reduce(maximum, by_phase.values())
    capacity = setup.cluster.device.usable_memory
    hbm = Hbm(
        capacity_bytes=capacity,
        allocated_bytes=peak_allocated,
        reserved_bytes=memory.reserved(peak_allocated, fragmentation),
        used_bytes=used,
        headroom_bytes=capacity - used,
        by_phase=by_phase,
    )
    cluster = setup.cluster
    ranks = minimum(cluster.devices_per_node, cluster.num_devices)
    host_bytes = reduce(maximum, (total(row.host) for row in living.values())) * ranks
    nvme_bytes = reduce(maximum, (total(row.nvme) for row in living.values())) * ranks
    host = Store(plain(cluster.host_memory), plain(host_bytes))
    return Memory(hbm, host, Store(plain(cluster.nvme_capacity), plain(nvme_bytes)))


def _seconds(work: Iterable[Work | Flow]) -> Num:
    return in_order(item.seconds for item in work)


def _time(graph: Graph) -> Time:
    setup = graph.setup
    repeats = setup.training.gradient_accumulation_steps
    activities: dict[str, Num] = {}
    occupied: dict[str, Num] = {}
    for phase in PHASES:
        times: Num = repeats if phase in MICRO_STEP else 1.0
        done = [work for work in graph.work if work.phase is phase]
        moved = [flow for flow in graph.flows if flow.phase is phase]
        for activity in ENGINES:
            found = [work.seconds for work in done if work.activity == activity]
            if found:
                _add(activities, activity, times * in_order(found))
                _add(occupied, "engine", times * in_order(found))
        for link in Link:
            flows = [flow for flow in moved if flow.link is link]
            if flows:
                _add(activities, "offload" if link in OFFLOAD else "communication", times * _exposed(graph, flows))
                _add(occupied, link.value, times * _seconds(flows))
    upper = in_order(occupied.values())
    lower = reduce(maximum, occupied.values())
    best = maximum(in_order(activities.values()), lower)
    return _rates(graph, plain(best), lower, plain(upper), activities)


def _add(sums: dict[str, Num], key: str, value: Num) -> None:
    sums[key] = sums[key] + value if key in sums else value


def _exposed(graph: Graph, flows: list[Flow]) -> Num:
    """Time of one link's flows in one phase that computation does not hide."""
    exposed: Num = 0.0
    for behind in dict.fromkeys(flow.behind for flow in flows):
        group = [flow for flow in flows if flow.behind is behind]
        seconds = _seconds(group)
        hidden = in_order(flow.hidden * flow.seconds for flow in group)
        cover = _seconds(w for w in graph.work if w.phase is behind) if behind else 0.0
        exposed = exposed + schedule.exposed_seconds(seconds, hidden / maximum(seconds, 1e-30), cover)
    return exposed


def _rates(graph: Graph, best: Num, lower: Num, upper: Num, activities: dict[str, Num]) -> Time:
    setup = graph.setup
    repeats = setup.training.gradient_accumulation_steps
    model: Num = 0.0
    hardware: Num = 0.0
    for work in graph.work:
        times: Num = repeats if work.phase in MICRO_STEP else 1.0
        model, hardware = model + times * work.model_flops, hardware + times * work.flops
    cluster, training = setup.cluster, setup.training
    tokens = training.seq_len * setup.global_batch_size / cluster.num_devices
    peak = cluster.device.peak(training.precision.compute)
    return Time(
        step_seconds=best,
        lower_seconds=lower,
        upper_seconds=upper,
        tokens_per_second_per_device=plain(tokens / best),
        model_tflops_per_device=plain(model / best / TFLOP),
        mfu=plain(model / best / peak),
        hfu=plain(hardware / best / peak),
        by_activity={name: plain(seconds) for name, seconds in activities.items()},
    )
