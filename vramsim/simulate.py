"""Folding a graph into an estimate: per phase, sum what lives in each tier; per step, add what takes time.

The peak is the maximum over phases, and over the stages of a pipeline. Time is a bracket: all overlapped below, nothing
overlapped above, and a best estimate between them from what each framework overlaps with what. Everything broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import reduce
from typing import Any

import numpy as np

from vramsim.estimate import Estimate, Hbm, Memory, Store
from vramsim.graph import Graph, Resolvable, any_of, assemble, plain
from vramsim.parts import DEFAULT, Part, pipeline
from vramsim.residency import PHASES, by_phase, residency, total
from vramsim.spec import MICRO_STEP, Flow, Link, Phase, Setup, Work
from vramsim.timing import Spent, Time, in_step
from vramsim.units import Num, in_order, maximum, minimum

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
    memory, fullest = _memory(graphs)
    return Estimate(graphs[fullest], memory, reduce(_slower, map(_time, graphs)))


def _memory(graphs: Sequence[Graph]) -> tuple[Memory, int]:
    """The largest need of any phase and of any pipeline stage, tier by tier; and which stage needs most somewhere."""
    cluster = graphs[0].setup.cluster
    ranks = minimum(cluster.devices_per_node, cluster.num_devices)
    living = [by_phase(graph.components) for graph in graphs]
    stages = tuple(residency(graph.setup, each) for graph, each in zip(graphs, living, strict=True))
    peaks = [stage.peak() for stage in stages]
    fullest = int(np.argmax([np.max(peak[2]) for peak in peaks])) if len(peaks) > 1 else 0
    allocated, reserved, used, needed = (reduce(maximum, values) for values in zip(*peaks, strict=True))
    rows = [row for each in living for row in each.values()]
    host, nvme = _most([row.host for row in rows]) * ranks, _most([row.nvme for row in rows]) * ranks
    hbm = Hbm(cluster.device.usable_memory, allocated, reserved, used, needed, stages)
    stores = Store(plain(cluster.host_memory), plain(host)), Store(plain(cluster.nvme_capacity), plain(nvme))
    return Memory(hbm, *stores), fullest


def _most(rows: Sequence[Sequence[Num]]) -> Num:
    """The largest of some sums; phases in which the same is alive are summed once."""
    different = {tuple(map(id, row)): row for row in rows}
    return reduce(maximum, map(total, different.values()))


def _slower(left: Time, right: Time) -> Time:
    """The times of the slower of two pipeline stages: every micro-batch waits for it."""
    slower = np.greater_equal(left.step_seconds, right.step_seconds)

    def chosen(one: Any, other: Any) -> Any:
        if isinstance(one, dict):
            return {name: chosen(one.get(name, 0.0), other.get(name, 0.0)) for name in dict.fromkeys((*one, *other))}
        if isinstance(one, Spent):
            engines = chosen(one.by_engine(), other.by_engine())
            lists = {name: [seconds] for name, seconds in engines.items()}
            return Spent(chosen(one.busy, other.busy), chosen(one.covered, other.covered), lists)
        if isinstance(one, Time):
            return type(one)(*(chosen(getattr(one, item.name), getattr(other, item.name)) for item in fields(one)))
        return plain(np.where(slower, one, other))

    time: Time = chosen(left, right)
    return time


def _seconds(work: Iterable[Work | Flow]) -> Num:
    return in_order(item.seconds for item in work)


def _time(graph: Graph) -> Time:
    """Sums of one micro-step and of what comes once, each at its own shape; the two meet in the last operations."""
    setup = graph.setup
    repeats = setup.training.gradient_accumulation_steps
    micro, once = Spent({}, {}, {}), Spent({}, {}, {})
    cover = _Cover(graph.work)
    for phase in PHASES:
        spent = micro if phase in MICRO_STEP else once
        done = [work for work in graph.work if work.phase is phase]
        moved = [flow for flow in graph.flows if flow.phase is phase]
        for activity in ENGINES:
            found = [work.seconds for work in done if work.activity == activity]
            if found:
                seconds = in_order(found)
                _add(spent.busy, activity, seconds)
                spent.engines.setdefault("engine", []).append(seconds)
        for link in Link:
            flows = [flow for flow in moved if flow.link is link]
            if flows:
                seconds = _seconds(flows)
                activity = "offload" if link in OFFLOAD else "communication"
                _add(spent.busy, activity, seconds)
                spent.engines.setdefault(link.value, []).append(seconds)
                for covered in cover.taken_by(link, flows):
                    _add(spent.covered, activity, covered)
    # The host launches a micro-step's kernels while the device runs them; a step takes the longer of the two. The
    # norm of the gradients stops the host before the optimizer, whose time hides no launches.
    host = _seconds(work for work in graph.work if work.activity == "host")
    micro.engines["host"] = [host]
    longer = maximum(micro.exposed(), host)
    best = in_step(repeats, longer, once.exposed())
    # The ends of a pipeline wait while it fills and drains; the lower bound leaves that out.
    bubble = pipeline.bubble(setup)
    waiting: Num = 0.0
    if any_of(bubble):
        waiting = bubble * (repeats * longer)
        best = best + waiting
    return _rates(graph, plain(best), micro, once, waiting)


def _add(sums: dict[str, Num], key: str, value: Num) -> None:
    sums[key] = sums[key] + value if key in sums else value


class _Cover:
    """Computation that transfers can hide behind: each phase's, once for every link."""

    def __init__(self, work: Sequence[Work]) -> None:
        self.work = work
        self.seconds: dict[Phase, Num] = {}
        self.asked: dict[tuple[Link, Phase], Num] = {}
        self.taken: dict[tuple[Link, Phase], Num] = {}

    def taken_by(self, link: Link, flows: Sequence[Flow]) -> Iterator[Num]:
        """Seconds of computation that a link's flows in one phase hide behind, u of S1.

        Of all that asks to hide behind a phase, the phase's computation hides as much as it lasts; what an earlier
        phase's flows have taken of it is gone.
        """
        for behind in sorted({flow.behind for flow in flows if flow.behind}, key=lambda phase: phase.value):
            if behind not in self.seconds:
                self.seconds[behind] = _seconds(w for w in self.work if w.phase is behind and w.activity != "host")
            at = link, behind
            own = in_order(flow.hidden * flow.seconds for flow in flows if flow.behind is behind)
            asked = self.asked[at] = self.asked[at] + own if at in self.asked else own
            covered = minimum(asked, self.seconds[behind])
            before, self.taken[at] = self.taken.get(at), covered
            yield covered if before is None else covered - before


def _rates(graph: Graph, best: Num, micro: Spent, once: Spent, waiting: Num) -> Time:
    setup = graph.setup
    repeats = setup.training.gradient_accumulation_steps
    model: Num = 0.0
    hardware: Num = 0.0
    for work in graph.work:
        times: Num = repeats if work.phase in MICRO_STEP else 1.0
        model, hardware = model + times * work.model_flops, hardware + times * work.flops
    cluster, training = setup.cluster, setup.training
    return Time(
        step_seconds=best,
        tokens=plain(training.seq_len * setup.global_batch_size / cluster.num_devices),
        model_flops=plain(model),
        hardware_flops=plain(hardware),
        peak_flops=cluster.device.peak(training.precision.compute),
        repeats=repeats,
        micro=micro,
        once=once,
        bubble=plain(waiting),
    )
