"""Folding a graph into an estimate: per phase, sum what lives in each tier; per step, add what takes time.

The peak is the maximum over phases, and over the stages of a pipeline. Time is a bracket: all overlapped below, nothing
overlapped above, and a best estimate between them from what each framework overlaps with what. Everything broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import numpy as np

from vramsim.estimate import Estimate, Hbm, Memory, Store
from vramsim.graph import Graph, Resolvable, any_of, assemble, plain
from vramsim.parts import DEFAULT, Part, pipeline
from vramsim.residency import PHASES, by_phase, residency, total
from vramsim.spec import MICRO_STEP, Link, Phase, Setup, Work
from vramsim.timing import Beside, Pass, StageTime, Time
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
    return Estimate(graphs[fullest], memory, _time(setup, [_step(graph) for graph in graphs]))


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
    evicted = reduce(maximum, (stage.evicted() for stage in stages))
    host = (_most([row.host for row in rows]) + evicted) * ranks
    nvme = _most([row.nvme for row in rows]) * ranks
    hbm = Hbm(cluster.device.usable_memory, allocated, reserved, used, needed, stages)
    stores = Store(plain(cluster.host_memory), plain(host)), Store(plain(cluster.nvme_capacity), plain(nvme))
    return Memory(hbm, *stores), fullest


def _most(rows: Sequence[Sequence[Num]]) -> Num:
    """The largest of some sums; phases in which the same is alive are summed once."""
    different = {tuple(map(id, row)): row for row in rows}
    return reduce(maximum, map(total, different.values()))


def _time(setup: Setup, stages: Sequence[StageTime]) -> Time:
    """The step of the slowest stage: every micro-batch waits for it, and it waits while the others fill and drain."""
    cluster, training = setup.cluster, setup.training
    best = reduce(maximum, (stage.seconds for stage in stages))
    bubble: Num = 0.0
    others: Num = 0.0
    if np.any(np.greater(setup.strategy.pp, 1)):
        bubble = pipeline.bubble(setup, *stages[0].shares)
        slowest = reduce(maximum, (stage.micro_steps for stage in stages))
        alike = zip(pipeline.numbers(setup), stages, strict=True)
        everyone = in_order(number * stage.micro_steps for number, stage in alike)
        others = maximum(everyone - slowest, 0.0) / maximum(setup.strategy.pp - 1.0, 1.0)
        best = best + bubble * others
    tokens = plain(training.seq_len * setup.global_batch_size / cluster.num_devices)
    peak = cluster.device.peak(training.precision.linear)
    return Time(plain(best), tokens, peak, tuple(stages), bubble, others)


def _step(graph: Graph) -> StageTime:
    """What one stage does in a step: what is done once a micro-step, what once, and what waits for what.

    A micro-step's seconds have a smaller shape than the step's; they meet in the last operations.
    """
    repeats = pipeline.passes(graph.setup)
    passes = {phase: _pass(graph, phase) for phase in PHASES}
    micro = [passes[phase] for phase in MICRO_STEP]
    running = in_order(each.device for each in micro)
    # Of gradients that are reduced once: their transfers lengthen the last pass.
    later = in_order(each.later for each in micro)
    once = in_order(each.device for phase, each in passes.items() if phase not in MICRO_STEP)
    waiting = _waiting(repeats, passes, running)
    seconds = repeats * running + later + (once + waiting)
    return StageTime(graph, repeats, passes, running, later, once, waiting, plain(seconds))


def _pass(graph: Graph, phase: Phase) -> Pass:
    """One pass of a phase. Links run beside its computation as far as a framework starts them early enough."""
    serial: dict[str, Num] = {}
    links: dict[str, list[Num]] = {}
    done = [work for work in graph.work if work.phase is phase]
    for activity in ENGINES:
        found = [work.seconds for work in done if work.activity == activity]
        if found:
            serial[activity] = in_order(found)
            links.setdefault("engine", []).append(serial[activity])
    for flow in graph.flows:
        if flow.phase is phase:
            links.setdefault(flow.link.value, []).append(flow.seconds)
            name = "offload" if flow.link in OFFLOAD else "communication"
            serial[name] = serial.get(name, 0.0) + (1.0 - flow.hidden) * flow.seconds
    computing = serial.get("compute", 0.0)
    own, last = _beside(graph, phase)
    launches = _seconds(work for work in done if work.activity == "host")
    device = in_order(serial.values())
    later: Num = 0.0
    if own or last:
        every = own.lengthened(computing) if own else computing
        device = (device - computing) + every
        later = last.lengthened(computing) - every if last else 0.0
    return Pass(serial, links, launches, computing, own, last, device, later)


def _beside(graph: Graph, phase: Phase) -> tuple[Beside | None, Beside | None]:
    """What moves behind the computation of a phase: its own flows; in a step's last pass, those of others, too."""
    own: dict[Link, Num] = {}
    others: dict[Link, Num] = {}
    for flow in graph.flows:
        if flow.behind is phase and any_of(flow.hidden):
            found = own if flow.phase is phase else others
            seconds = flow.hidden * flow.seconds
            found[flow.link] = found[flow.link] + seconds if flow.link in found else seconds
    joined = {link: in_order(each[link] for each in (own, others) if link in each) for link in {**own, **others}}
    return _busiest(own) if own else None, _busiest(joined) if others else None


def _busiest(links: dict[Link, Num]) -> Beside:
    network = [seconds for link, seconds in links.items() if link not in OFFLOAD]
    offload = [seconds for link, seconds in links.items() if link in OFFLOAD]
    nothing: Num = 0.0
    return Beside(*(reduce(maximum, each) if each else nothing for each in (network, offload)))


def _waiting(repeats: Num, passes: Mapping[Phase, Pass], running: Num) -> Num:
    """Time that the device waits for its host: at the end of the first forward, of the last, or of all micro-steps.

    The norm of the gradients stops the host before the optimizer, whose time hides no launches.
    """
    forward, backward = passes[Phase.FORWARD], passes[Phase.BACKWARD]
    ahead = forward.launches - (forward.device + forward.later)
    behind = in_order(passes[phase].launches for phase in MICRO_STEP) - running
    if not np.any(np.greater(ahead, 0.0)) and not np.any(np.greater(behind, 0.0)):
        return 0.0
    points = (ahead, (repeats - 1.0) * behind + ahead, repeats * behind - (forward.later + backward.later))
    return plain(maximum(reduce(maximum, points), 0.0))


def _seconds(work: Iterable[Work]) -> Num:
    return in_order(item.seconds for item in work)
