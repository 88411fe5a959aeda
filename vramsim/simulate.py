"""Folding a graph into an estimate: per phase, sum what lives in each tier; per step, add what takes time.

The peak is the maximum over phases, and over the stages of a pipeline. Time is a bracket: all overlapped below, nothing
overlapped above, and a best estimate between them from what each framework overlaps with what. Everything broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
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
    return Estimate(worst, memory, _time(setup, [_step(graph) for graph in graphs]))


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


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One step of one stage by itself: exposed seconds by activity, seconds of every engine, those in micro-steps, and
    the shares of a micro-step without the head that forward and the gradients of weights take."""

    graph: Graph
    activities: dict[str, Num]
    occupied: dict[str, Num]
    micro_steps: Num
    micro_steps_serial: Num
    forward_share: Num
    weights_share: Num

    @property
    def seconds(self) -> Num:
        """Best estimate of the step, without waiting for other stages. [s]"""
        return maximum(_by_name(self.activities), reduce(maximum, self.occupied.values()))


def _time(setup: Setup, steps: Sequence[_Step]) -> Time:
    """The step of the slowest stage: every micro-batch waits for it, and it waits while the others fill and drain."""
    bubble = pipeline.bubble(setup, steps[0].forward_share, steps[0].weights_share)
    slowest: Num = 0.0
    everyone: Num = 0.0
    if any_of(bubble):
        slowest = reduce(maximum, (step.micro_steps for step in steps))
        alike = zip(pipeline.numbers(setup), steps, strict=True)
        everyone = in_order(number * step.micro_steps for number, step in alike)
    others = maximum(everyone - slowest, 0.0) / maximum(setup.strategy.pp - 1.0, 1.0)
    return reduce(_slower, (_stage_time(step, bubble, others) for step in steps))


def _slower(left: Time, right: Time) -> Time:
    """The times of the slower of two pipeline stages, elementwise."""
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


def _stage_time(step: _Step, bubble: Num, others: Num) -> Time:
    activities = dict(step.activities)
    lower = reduce(maximum, step.occupied.values())
    upper = _by_name(step.occupied)
    # The ends of a pipeline wait while it fills and drains; the lower bound leaves that out.
    if any_of(bubble):
        activities["bubble"] = bubble * others
        upper = upper + bubble * maximum(step.micro_steps_serial, others)
    best = maximum(_by_name(activities), lower)
    return _rates(step.graph, plain(best), lower, plain(maximum(upper, best)), activities)


def _step(graph: Graph) -> _Step:
    """What one stage does in a step: what is done once a micro-step, what once, and what waits for what."""
    repeats = pipeline.passes(graph.setup)
    activities: dict[str, Num] = {}
    occupied: dict[str, Num] = {}
    micro_steps: Num = 0.0
    serial: Num = 0.0
    device: dict[Phase, Num] = {}
    later: dict[Phase, Num] = {}
    for phase in PHASES:
        times: Num = repeats if phase in MICRO_STEP else 1.0
        done = [work for work in graph.work if work.phase is phase]
        moved = [flow for flow in graph.flows if flow.phase is phase]
        together: Num = 0.0
        for activity in ENGINES:
            found = [work.seconds for work in done if work.activity == activity]
            if found:
                seconds = in_order(found)
                _add(activities, activity, times * seconds)
                _add(occupied, "engine", times * seconds)
                together = together + seconds
        for link in Link:
            flows = [flow for flow in moved if flow.link is link]
            if flows:
                seconds = _seconds(flows)
                _add(occupied, link.value, times * seconds)
                bare = in_order((1.0 - flow.hidden) * flow.seconds for flow in flows)
                _add(activities, _activity(link), times * bare)
                together = together + bare
                if phase in MICRO_STEP:
                    serial = serial + times * seconds
        beside, others = _beside(graph, phase)
        if beside or others:
            computing = _seconds(work for work in done if work.activity == "compute")
            every = _exposed(computing, beside)
            once = _exposed(computing, _joined(beside, others)) if others else every
            for activity, each, last in zip(("communication", "offload"), every, once, strict=True):
                if any_of(each) or any_of(last):
                    _add(activities, activity, (times - 1.0) * each + last)
            together = together + in_order(every)
            later[phase] = in_order(once) - in_order(every)
            micro_steps = micro_steps + later[phase]
        device[phase] = together
        if phase in MICRO_STEP:
            micro_steps = micro_steps + times * together
            serial = serial + times * _seconds(work for work in done if work.activity in ENGINES)
    waiting = _waiting(graph, repeats, device, later, occupied)
    if any_of(waiting):
        activities["host"] = waiting
    layers = maximum(device[Phase.FORWARD] + device[Phase.BACKWARD], 1e-30)
    weights = _seconds(work for work in graph.work if work.deferrable)
    shares = device[Phase.FORWARD] / layers, weights / layers
    return _Step(graph, activities, occupied, micro_steps + waiting, serial + waiting, *shares)


def _waiting(
    graph: Graph, repeats: Num, device: dict[Phase, Num], later: dict[Phase, Num], occupied: dict[str, Num]
) -> Num:
    """Time that the device waits for its host: at the end of the first forward, of the last, or of all micro-steps.

    `device` is busy for so long in each phase, and once a step for what comes `later`. The norm of the gradients stops
    the host before the optimizer, whose time hides no launches.
    """
    host = {
        phase: _seconds(work for work in graph.work if work.activity == "host" and work.phase is phase)
        for phase in MICRO_STEP
    }
    launching, running = (in_order(each[phase] for phase in MICRO_STEP) for each in (host, device))
    _add(occupied, "host", repeats * launching)
    once, last = later.get(Phase.FORWARD, 0.0), later.get(Phase.BACKWARD, 0.0)
    ahead, forward = host[Phase.FORWARD], device[Phase.FORWARD] + once
    points = (
        (ahead, forward),
        ((repeats - 1.0) * launching + ahead, (repeats - 1.0) * running + forward),
        (repeats * launching, repeats * running + once + last),
    )
    return reduce(maximum, (compute.waiting_seconds(here, busy) for here, busy in points))


def _activity(link: Link) -> str:
    return "offload" if link in OFFLOAD else "communication"


def _beside(graph: Graph, phase: Phase) -> tuple[dict[Link, Num], dict[Link, Num]]:
    """Seconds that each link moves behind the computation of a phase: its own flows; once a step, those of others."""
    own: dict[Link, Num] = {}
    others: dict[Link, Num] = {}
    for flow in graph.flows:
        if flow.behind is phase and any_of(flow.hidden):
            found = own if flow.phase is phase else others
            found[flow.link] = found.get(flow.link, 0.0) + flow.hidden * flow.seconds
    return own, others


def _joined(left: dict[Link, Num], right: dict[Link, Num]) -> dict[Link, Num]:
    return {link: left.get(link, 0.0) + right.get(link, 0.0) for link in Link if link in left or link in right}


def _exposed(computing: Num, beside: dict[Link, Num]) -> tuple[Num, Num]:
    """Time by which the network, and then offload, lengthen a computation that they run beside (equation S1)."""
    network: Num = 0.0
    offload: Num = 0.0
    for link, seconds in beside.items():
        if link in OFFLOAD:
            offload = maximum(offload, seconds)
        else:
            network = maximum(network, seconds)
    with_network = schedule.overlapped_seconds(computing, network, 0.0)
    return with_network - computing, schedule.overlapped_seconds(computing, network, offload) - with_network


def _seconds(work: Iterable[Work | Flow]) -> Num:
    return in_order(item.seconds for item in work)


def _by_name(sums: dict[str, Num]) -> Num:
    """Sum in the order of names: the order in which a grid and one of its cases meet them may differ."""
    return in_order(sums[name] for name in sorted(sums))


def _add(sums: dict[str, Num], key: str, value: Num) -> None:
    sums[key] = sums[key] + value if key in sums else value


def _rates(graph: Graph, best: Num, lower: Num, upper: Num, activities: dict[str, Num]) -> Time:
    setup = graph.setup
    repeats = pipeline.passes(setup)
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
