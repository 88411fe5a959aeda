"""Folding a graph into an estimate: per phase, sum what lives in each tier; per step, add what takes time.

The peak is the maximum over phases, and over the stages of a pipeline. Time is a bracket: all overlapped below, nothing
overlapped above, and a best estimate between them from what each framework overlaps with what. Everything broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import reduce

import numpy as np

from vramsim.equations import compute, schedule
from vramsim.estimate import Estimate, Hbm, Memory, Store, Time
from vramsim.graph import Graph, Resolvable, any_of, assemble, plain
from vramsim.parts import DEFAULT, Part, pipeline
from vramsim.residency import PHASES, by_phase, residency, total
from vramsim.spec import MICRO_STEP, Flow, Link, Phase, Setup, Work
from vramsim.units import TFLOP, Num, in_order, maximum, minimum

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
    memory = _memory(graphs)
    worst = graphs[_fullest(memory)] if len(graphs) > 1 else graphs[0]
    return Estimate(worst, memory, reduce(_slower, map(_time, graphs)))


def _memory(graphs: Sequence[Graph]) -> Memory:
    """The largest need of any phase and of any pipeline stage, tier by tier."""
    cluster = graphs[0].setup.cluster
    ranks = minimum(cluster.devices_per_node, cluster.num_devices)
    living = [by_phase(graph.components) for graph in graphs]
    stages = tuple(residency(graph.setup, each) for graph, each in zip(graphs, living, strict=True))
    peaks = zip(*(stage.peak() for stage in stages), strict=True)
    allocated, reserved, used, needed = (reduce(maximum, values) for values in peaks)
    rows = [row for each in living for row in each.values()]
    evicted = reduce(maximum, (stage.evicted() for stage in stages))
    host = (reduce(maximum, (total(row.host) for row in rows)) + evicted) * ranks
    nvme = reduce(maximum, (total(row.nvme) for row in rows)) * ranks
    return Memory(
        Hbm(cluster.device.usable_memory, allocated, reserved, used, needed, stages),
        Store(plain(cluster.host_memory), plain(host)),
        Store(plain(cluster.nvme_capacity), plain(nvme)),
    )


def _fullest(memory: Memory) -> int:
    """Which of the pipeline stages needs most somewhere."""
    return int(np.argmax([np.max(stage.peak()[2]) for stage in memory.hbm.stages]))


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
    busy: dict[str, Num] = {}
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
                    _add(busy, activity, times * in_order(found))
                    _add(waited, "bubble", bubble * times * in_order(found))
        for link in Link:
            flows = [flow for flow in moved if flow.link is link]
            if flows:
                exposed = times * _exposed(graph, link, flows, used)
                _add(activities, "offload" if link in OFFLOAD else "communication", exposed)
                _add(occupied, link.value, times * _seconds(flows))
                if phase in MICRO_STEP:
                    _add(busy, link.value, exposed)
                    _add(waited, "bubble", bubble * exposed)
    # The host launches a micro-step's kernels while the device runs them; a step takes the longer of the two. The
    # norm of the gradients stops the host before the optimizer, whose time hides no launches.
    host = repeats * _seconds(work for work in graph.work if work.activity == "host")
    waiting = compute.waiting_seconds(host, _by_name(busy))
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
    for behind in sorted({flow.behind for flow in flows}, key=lambda phase: phase.value if phase else 0):
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
    peak = cluster.device.peak(training.precision.linear)
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
