"""Folding a graph into an estimate: per phase, sum what lives in each tier; per step, add what takes time.

The peak is the maximum over phases. Time is a bracket: all overlapped below, nothing overlapped above, and a best
estimate between them from what each framework overlaps with what. Everything broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np

from vramsim.equations import memory, schedule
from vramsim.estimate import Estimate, Hbm, Memory, Store, Time
from vramsim.graph import Graph, Resolvable, assemble, plain
from vramsim.parts import DEFAULT, Part
from vramsim.spec import MICRO_STEP, Category, Component, Flow, Link, Phase, Setup, Tier, Work
from vramsim.units import TFLOP, Num

BEFORE_STEP = (Phase.FORWARD, Phase.HEAD, Phase.BACKWARD, Phase.REDUCE)
FIRST_STEP = "first_step"


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
    by_shape: dict[tuple[int, ...], Num] = {}
    for value in values:
        shape = np.shape(value)
        by_shape[shape] = by_shape[shape] + value if shape in by_shape else value
    ordered = sorted(by_shape.values(), key=lambda value: np.size(value))
    return reduce(lambda left, right: left + right, ordered, 0.0)


def alive(components: Iterable[Component], phase: Phase, tier: Tier, *, lazy: bool = True) -> list[Component]:
    """Components alive in a phase and tier.

    components : all of them. [-]   phase : one phase. [-]   tier : where. [-]
    lazy : whether those that the first step creates exist yet. [-]
    """
    return [c for c in components if c.tier is tier and phase in c.live and (lazy or not c.lazy)]


def _used(graph: Graph, phase: Phase, *, lazy: bool = True) -> tuple[Num, Num]:
    """Allocated bytes and bytes outside the allocator, in one phase."""
    found = alive(graph.components, phase, Tier.HBM, lazy=lazy)
    outside = total(c.nbytes for c in found if c.category is Category.OVERHEAD)
    return total(c.nbytes for c in found if c.category is not Category.OVERHEAD), outside


def _memory(graph: Graph) -> Memory:
    setup = graph.setup
    fragmentation = setup.framework.fragmentation
    by_phase: dict[str, Num] = {}
    allocated: dict[str, Num] = {}
    for phase in Phase:
        inside, outside = _used(graph, phase)
        allocated[phase.label] = inside
        by_phase[phase.label] = memory.reserved(inside, fragmentation) + outside
    first: Num = 0.0
    for phase in BEFORE_STEP:
        inside, outside = _used(graph, phase, lazy=False)
        first = np.maximum(first, memory.reserved(inside, fragmentation) + outside)
    by_phase[FIRST_STEP] = plain(first)
    peak_allocated = plain(reduce(np.maximum, allocated.values()))
    used = plain(reduce(np.maximum, by_phase.values()))
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
    ranks = np.minimum(cluster.devices_per_node, cluster.num_devices)
    stores = {
        tier: plain(reduce(np.maximum, (total(c.nbytes for c in alive(graph.components, p, tier)) for p in Phase)) * ranks)
        for tier in (Tier.HOST, Tier.NVME)
    }
    host = Store(plain(cluster.host_memory), stores[Tier.HOST])
    return Memory(hbm, host, Store(plain(cluster.nvme_capacity), stores[Tier.NVME]))


def _seconds(work: Iterable[Work | Flow]) -> Num:
    return total(item.seconds for item in work)


def _time(graph: Graph) -> Time:
    setup = graph.setup
    repeats = setup.training.gradient_accumulation_steps
    activities: dict[str, Num] = {}
    occupied: dict[str, Num] = {}
    upper: Num = 0.0
    for phase in Phase:
        times: Num = repeats if phase in MICRO_STEP else 1.0
        for activity in ("compute", "optimizer", "cpu_optimizer"):
            done = [w for w in graph.work if w.phase is phase and w.activity == activity]
            if done:
                _add(activities, activity, times * _seconds(done))
                _add(occupied, "engine", times * _seconds(done))
        for link in Link:
            moved = [f for f in graph.flows if f.phase is phase and f.link is link]
            if moved:
                activity = "offload" if link in (Link.PCIE, Link.HOST_MEMORY, Link.NVME) else "communication"
                _add(activities, activity, times * _exposed(graph, moved))
                _add(occupied, link.value, times * _seconds(moved))
    upper = reduce(lambda left, right: left + right, occupied.values(), 0.0)
    lower = plain(reduce(np.maximum, occupied.values()))
    best = np.maximum(reduce(lambda left, right: left + right, activities.values(), 0.0), lower)
    return _rates(graph, plain(best), lower, plain(upper), activities)


def _add(sums: dict[str, Num], key: str, value: Num) -> None:
    sums[key] = sums[key] + value if key in sums else value


def _exposed(graph: Graph, flows: list[Flow]) -> Num:
    """Time of one link's flows in one phase that computation does not hide."""
    exposed: Num = 0.0
    for behind in {flow.behind for flow in flows}:
        group = [flow for flow in flows if flow.behind is behind]
        seconds = _seconds(group)
        hidden = total(flow.hidden * flow.seconds for flow in group)
        cover = _seconds(w for w in graph.work if w.phase is behind) if behind else 0.0
        exposed = exposed + schedule.exposed_seconds(seconds, hidden / np.maximum(seconds, 1e-30), cover)
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
