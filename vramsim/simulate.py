"""Folding a graph into an estimate: per phase, sum what lives in each tier; per step, add what takes time.

The peak is the maximum over phases, and over the stages of a pipeline. Time is a bracket: all overlapped below, nothing
overlapped above, and a best estimate between them from what each framework overlaps with what. Everything broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce

import numpy as np

from vramsim.equations import compute, memory, schedule
from vramsim.estimate import Estimate, Hbm, Memory, Store, Time
from vramsim.graph import Graph, Resolvable, any_of, assemble, plain
from vramsim.parts import DEFAULT, Part, pipeline
from vramsim.spec import MICRO_STEP, TRAINING, Category, Component, Flow, Link, Phase, Setup, Tier, Work
from vramsim.units import TFLOP, Num, maximum, minimum

BEFORE_STEP = (Phase.FORWARD, Phase.HEAD, Phase.BACKWARD, Phase.REDUCE)
FIRST_STEP = "first_step"
PHASES = tuple(Phase)
LABELS = {phase: phase.label for phase in PHASES}
ENGINES = ("compute", "optimizer", "cpu_optimizer")
CONTENTION = 0.1256
"""Slowdown of computation beside communication (PKU-DAIR/Hetu-Galvatron overlap_coefficient.json). [-]"""
OFFLOAD = (Link.PCIE, Link.HOST_MEMORY, Link.NVME)


def simulate(case: Resolvable | Setup, parts: Sequence[Part] = DEFAULT) -> Estimate:
    """Memory and time of one optimizer step.

    case : a Case, or a Setup whose fields may be arrays of broadcastable shapes. [-]
    parts : generators that make up the graph. [-]
    Returns the Estimate; its numbers have the broadcast shape. Raises VramsimError for a case that breaks a rule.
    """
    setup = case if isinstance(case, Setup) else case.resolve()
    graphs = [assemble(stage, parts) for stage in pipeline.stages(setup)]
    memories = [_memory(graph) for graph in graphs]
    if len(graphs) == 1:
        return Estimate(graphs[0], memories[0], _time(graphs[0]))
    used = [np.max(memory.hbm.used_bytes) for memory in memories]
    worst = graphs[int(np.argmax(used))]
    return Estimate(worst, reduce(_fuller, memories), reduce(_slower, map(_time, graphs)))


def _fuller(left: Memory, right: Memory) -> Memory:
    """The larger need of two pipeline stages, phase by phase and tier by tier."""
    one, other = left.hbm, right.hbm
    used = maximum(one.used_bytes, other.used_bytes)
    hbm = Hbm(
        capacity_bytes=one.capacity_bytes,
        allocated_bytes=maximum(one.allocated_bytes, other.allocated_bytes),
        reserved_bytes=maximum(one.reserved_bytes, other.reserved_bytes),
        used_bytes=used,
        needed_bytes=maximum(one.needed_bytes, other.needed_bytes),
        headroom_bytes=one.capacity_bytes - used,
        by_phase={name: maximum(value, other.by_phase[name]) for name, value in one.by_phase.items()},
        alive_by_phase={name: maximum(value, other.alive_by_phase[name]) for name, value in one.alive_by_phase.items()},
    )
    stores = [
        Store(a.capacity_bytes_per_node, maximum(a.used_bytes_per_node, b.used_bytes_per_node))
        for a, b in ((left.host, right.host), (left.nvme, right.nvme))
    ]
    return Memory(hbm, *stores)


def _slower(left: Time, right: Time) -> Time:
    """The times of the slower of two pipeline stages: every micro-batch waits for it."""
    slower = np.greater_equal(left.step_seconds, right.step_seconds)
    names = dict.fromkeys((*left.by_activity, *right.by_activity))
    numbers = {
        item.name: plain(np.where(slower, getattr(left, item.name), getattr(right, item.name)))
        for item in fields(Time)
        if item.name != "by_activity"
    }
    activities = {
        name: plain(np.where(slower, left.by_activity.get(name, 0.0), right.by_activity.get(name, 0.0)))
        for name in names
    }
    return Time(**numbers, by_activity=activities)


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
    """Bytes alive in one phase, gathered before they are summed; `resident` ones stay through the whole step."""

    resident: list[Num] = field(default_factory=list)
    allocated: list[Num] = field(default_factory=list)
    outside: list[Num] = field(default_factory=list)
    lazy: list[Num] = field(default_factory=list)
    host: list[Num] = field(default_factory=list)
    nvme: list[Num] = field(default_factory=list)


def _by_phase(components: Iterable[Component]) -> dict[Phase, _Living]:
    living = {phase: _Living() for phase in PHASES}
    rows = [(phase.value, row) for phase, row in living.items()]
    whole_step = TRAINING.value
    for component in components:
        live, tier, nbytes = component.live.value, component.tier, component.nbytes
        for bit, row in rows:
            if not live & bit:
                continue
            if tier is not Tier.HBM:
                (row.host if tier is Tier.HOST else row.nvme).append(nbytes)
                continue
            (row.outside if component.category is Category.OVERHEAD else row.allocated).append(nbytes)
            if live & whole_step == whole_step and component.category is not Category.OVERHEAD:
                row.resident.append(nbytes)
            if component.lazy:
                row.lazy.append(nbytes)
    return living


def _memory(graph: Graph) -> Memory:
    setup = graph.setup
    framework, capacity = setup.framework, setup.cluster.device.usable_memory
    living = _by_phase(graph.components)
    by_phase: dict[str, Num] = {}
    alive: dict[str, Num] = {}
    peak: dict[str, Num] = {"allocated": 0.0, "reserved": 0.0, "needed": 0.0}

    def use(name: str, inside: Num, resident: Num, outside: Num) -> None:
        room = capacity - outside
        roomy = memory.reserved(inside, resident, framework.fragmentation, framework.allocator_slack)
        held = memory.squeezed(inside, roomy, room, framework.rigid_gaps)
        needed = memory.squeezed(inside, roomy, 0.0, framework.rigid_gaps) + outside
        by_phase[name] = maximum(by_phase.get(name, 0.0), held + outside)
        alive[name] = maximum(alive.get(name, 0.0), inside + outside)
        for key, value in (("allocated", inside), ("reserved", held), ("needed", needed)):
            peak[key] = maximum(peak[key], value)

    for phase, row in living.items():
        inside, outside, resident = total(row.allocated), total(row.outside), total(row.resident)
        use(LABELS[phase], inside, resident, outside)
        if phase in BEFORE_STEP:
            lazy = total(row.lazy)
            use(FIRST_STEP, inside - lazy, resident - lazy, outside)
    used = reduce(maximum, by_phase.values())
    hbm = Hbm(
        capacity_bytes=capacity,
        allocated_bytes=peak["allocated"],
        reserved_bytes=peak["reserved"],
        used_bytes=used,
        needed_bytes=peak["needed"],
        headroom_bytes=capacity - used,
        by_phase=by_phase,
        alive_by_phase=alive,
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
    bubble = pipeline.bubble(setup)
    activities: dict[str, Num] = {}
    waited: dict[str, Num] = {}
    occupied: dict[str, Num] = {}
    used: dict[tuple[Link, Phase], Num] = {}
    for phase in PHASES:
        times: Num = repeats if phase in MICRO_STEP else 1.0
        done = [work for work in graph.work if work.phase is phase]
        moved = [flow for flow in graph.flows if flow.phase is phase]
        for activity in ENGINES:
            found = [work.seconds for work in done if work.activity == activity]
            if found:
                _add(activities, activity, times * in_order(found))
                _add(occupied, "engine", times * in_order(found))
                if phase in MICRO_STEP:
                    _add(waited, "bubble", bubble * times * in_order(found))
        for link in Link:
            flows = [flow for flow in moved if flow.link is link]
            if flows:
                exposed = times * _exposed(graph, link, flows, used)
                _add(activities, "offload" if link in OFFLOAD else "communication", exposed)
                _add(occupied, link.value, times * _seconds(flows))
                if phase in MICRO_STEP:
                    _add(waited, "bubble", bubble * exposed)
    # The host launches a micro-step's kernels while the device runs them; a step takes the longer of the two.
    host = repeats * _seconds(work for work in graph.work if work.activity == "host")
    waiting = compute.waiting_seconds(host, _by_name(activities))
    if any_of(waiting):
        activities["host"] = waiting
        _add(waited, "bubble", bubble * waiting)
    _add(occupied, "host", host)
    # The ends of a pipeline wait while it fills and drains; the bound below leaves that out.
    if any_of(waited.get("bubble", 0.0)):
        activities |= waited
    upper = _by_name(occupied | waited)
    lower = reduce(maximum, occupied.values())
    best = maximum(_by_name(activities), lower)
    return _rates(graph, plain(best), lower, plain(upper), activities)


def _by_name(sums: dict[str, Num]) -> Num:
    """Sum in the order of names: the order in which a grid and one of its cases meet them may differ."""
    return in_order(sums[name] for name in sorted(sums))


def _add(sums: dict[str, Num], key: str, value: Num) -> None:
    sums[key] = sums[key] + value if key in sums else value


def _exposed(graph: Graph, link: Link, flows: list[Flow], used: dict[tuple[Link, Phase], Num]) -> Num:
    """Time of one link's flows in one phase that computation does not hide.

    `used` is what each link has hidden behind each phase so far: computation hides a link once.
    """
    exposed: Num = 0.0
    slowdown = 0.0 if link in OFFLOAD else CONTENTION
    for behind in dict.fromkeys(flow.behind for flow in flows):
        group = [flow for flow in flows if flow.behind is behind]
        seconds = _seconds(group)
        if behind is None:
            exposed = exposed + seconds
            continue
        share = in_order(flow.hidden * flow.seconds for flow in group) / maximum(seconds, 1e-30)
        before = used.get((link, behind), 0.0)
        cover = maximum(_seconds(w for w in graph.work if w.phase is behind and w.activity != "host") - before, 0.0)
        exposed = exposed + schedule.exposed_seconds(seconds, share, cover, slowdown)
        used[link, behind] = before + minimum(share * seconds, cover)
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
