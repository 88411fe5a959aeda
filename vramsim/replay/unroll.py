"""From graphs to tasks: what each device runs, after what, and what that changes in its memory.

A graph says what a stage does in each phase of a micro-step; unrolled, each of its layers does an equal share. A flow
that computation hides travels beside a layer, and the next layer waits for it. Of what it cannot hide, the first layer
of a forward pass waits for a layer's share, and so does what follows the last layer of a backward pass; the rest lies
between layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vramsim.graph import Graph
from vramsim.replay.engine import Task
from vramsim.replay.passes import Pass, Place
from vramsim.spec import Flow, Link, Phase, Work

NETWORK = (Link.SCALE_UP, Link.SCALE_OUT)
PHASES = {"F": Phase.FORWARD, "B": Phase.BACKWARD, "I": Phase.BACKWARD, "W": Phase.BACKWARD}
IDLE = Phase(0)

Key = tuple[int, str, int, int]
"""A pass, as others wait for it: step, F or B, micro-batch, place on the micro-batch's way."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the start or the end of a task changes in the memory of its device.

    `moment` is the phase whose passing bytes are alive from now on (IDLE: none), and `first` whether its first layer is
    at work. `kept`, `made` and `accumulated` count layers whose activations, whose gradients, and whose gradients of
    earlier micro-batches have come, or gone if negative.
    """

    moment: Phase
    first: bool = False
    kept: int = 0
    made: int = 0
    accumulated: int = 0


@dataclass(frozen=True, slots=True)
class Label:
    """What a task is about: step, phase, and for those of a pass its micro-batch and its chunk of layers."""

    step: int
    phase: Phase
    batch: int | None = None
    chunk: int | None = None
    nbytes: float = 0.0


@dataclass(slots=True)
class Program:
    """Tasks of all devices, what each is about, and what it changes when it starts and when it ends.

    `ends` are the last tasks of each step, one a device.
    """

    tasks: list[Task] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    opens: dict[int, Change] = field(default_factory=dict)
    closes: dict[int, Change] = field(default_factory=dict)
    ends: list[list[int]] = field(default_factory=list)


def unroll(
    graphs: Sequence[Graph], orders: Sequence[Sequence[Pass]], routes: Sequence[Sequence[Place]], steps: int
) -> Program:
    """Tasks of some optimizer steps on every device of a pipeline.

    graphs : of each device. [-]   orders : passes of each device. [-]
    routes : chunks that each micro-batch visits. [-]   steps : optimizer steps. [-]
    """
    program = Program()
    done: dict[Key, int] = {}
    waits: list[tuple[int, Key]] = []
    places = [{place: at for at, place in enumerate(route)} for route in routes]
    writers = [_Writer(program, device, *each) for device, each in enumerate(zip(graphs, orders, strict=True))]
    for step in range(steps):
        for writer, order in zip(writers, orders, strict=True):
            writer.begin(step)
            for each in order:
                route, at = routes[each.batch], places[each.batch][writer.device, each.chunk]
                kind, before = ("F", at - 1) if each.kind == "F" else ("B", at + 1)
                first = len(program.tasks)
                if each.kind == "W":
                    writer.weights(each)
                else:
                    done[step, kind, each.batch, at] = writer.layers(each, head=at + 1 == len(route))
                    if 0 <= before < len(route):
                        waits.append((first, (step, kind, each.batch, before)))
        program.ends.append([writer.finish() for writer in writers])
    for index, key in waits:
        program.tasks[index].after.append(done[key])
    return program


class _Writer:
    """Writes down what one device does: passes through its layers, and the ends of steps.

    `after` are the tasks that the next one of the device's own chain waits for.
    """

    def __init__(self, program: Program, device: int, graph: Graph, order: Sequence[Pass]) -> None:
        self.program, self.device, self.graph = program, device, graph
        setup = graph.setup
        self.count = max(round(float(setup.model.num_layers * setup.stage.blocks)), 1)
        chunks = len({each.chunk for each in order})
        self.units = [self.count // chunks + (chunk < self.count % chunks) for chunk in range(chunks)]
        batches = [sorted({each.batch for each in order if each.chunk == chunk}) for chunk in range(chunks)]
        self.first = [found[0] for found in batches]
        self.last = [found[-1] for found in batches]
        self.releases = sum(each.kind in "BW" for each in order)
        self.split = any(each.kind == "W" for each in order)
        self.after: list[int] = []
        self.step = self.left = 0

    def begin(self, step: int) -> None:
        """A new optimizer step: the host has waited for the last one."""
        self.step, self.left = step, self.releases
        self.launched = list(self.after)

    def layers(self, each: Pass, *, head: bool) -> int:
        """A pass through all layers of a chunk, and through the head behind them; the task that others wait for."""
        phase, forward = PHASES[each.kind], each.kind == "F"
        units = self.units[each.chunk]
        label = Label(self.step, phase, each.batch, each.chunk)
        spread, lump = self._exposed(phase, units)
        beside = self._hidden(each)
        # Nothing but a place to wait for other devices.
        self._compute("arrives", 0.0, label)
        if forward:
            self._wait(lump, label)
        seconds = self._seconds(each.kind) / self.count
        host = self._sum(phase, "host") / self.count
        for unit in range(units):
            self._wait(spread, label)
            launches = self._run("host", "launches", host, self.launched, label)
            self.launched = []
            moving = [self._move(flow, share, self.after, label) for flow, share in beside if share]
            index = self._compute(self._layer(each, unit), seconds, label)
            self.program.opens[index] = Change(phase, first=unit == 0, kept=int(forward))
            self.program.closes[index] = self._released(each, unit) if each.kind == "B" else Change(IDLE)
            self.after = [index, *moving, *launches]
        if not forward:
            self._wait(lump, label)
        for flow in self._flows(phase):
            if not flow.spread:
                self._wait([(flow, float(flow.seconds) * units / self.count)], label)
        if forward and head:
            self._head(label)
        return self.after[0]

    def weights(self, each: Pass) -> None:
        """Gradients of the weights of a chunk, put off until now."""
        label = Label(self.step, Phase.BACKWARD, each.batch, each.chunk)
        beside = self._hidden(each)
        for unit in range(self.units[each.chunk]):
            moving = [self._move(flow, share, self.after, label) for flow, share in beside if share]
            index = self._compute(self._layer(each, unit), self._seconds("W") / self.count, label)
            self.program.opens[index] = Change(Phase.BACKWARD)
            self.program.closes[index] = self._released(each, unit)
            self.after = [index, *moving]

    def finish(self) -> int:
        """The end of a step: what is left to reduce, and the optimizer; the last task."""
        label = Label(self.step, Phase.REDUCE)
        self._wait([(flow, float((1.0 - flow.hidden) * flow.seconds)) for flow in self._flows(Phase.REDUCE)], label)
        label = Label(self.step, Phase.STEP)
        index = self._compute("optimizer", self._sum(Phase.STEP, "optimizer"), label)
        self.program.opens[index] = Change(Phase.STEP)
        self.after = [index]
        if seconds := self._sum(Phase.STEP, "cpu_optimizer"):
            self.after = self._run("cpu", "optimizer on the CPU", seconds, self.after, label)
        self._wait([(flow, float((1.0 - flow.hidden) * flow.seconds)) for flow in self._flows(Phase.STEP)], label)
        index = self._compute("step done", 0.0, label)
        self.program.closes[index] = Change(IDLE, made=-self.count)
        self.after = [index]
        return index

    def _head(self, label: Label) -> None:
        label = Label(label.step, Phase.HEAD, label.batch, label.chunk)
        launches = self._run("host", "launches", self._sum(Phase.HEAD, "host"), [], label)
        index = self._compute("head and loss", self._sum(Phase.HEAD, "compute"), label)
        self.program.opens[index] = Change(Phase.HEAD)
        self.program.closes[index] = Change(IDLE)
        self.after = [index, *launches]

    def _released(self, each: Pass, unit: int) -> Change:
        """A layer's backward is over: its activations go, its gradients are there."""
        alone = self.first[each.chunk] == self.last[each.chunk]
        made = int(each.batch == self.last[each.chunk])
        earlier = 0 if alone else int(each.batch == self.first[each.chunk]) - made
        over = unit + 1 == self.units[each.chunk]
        self.left -= int(over)
        moment = Phase.REDUCE if over and not self.left else IDLE
        return Change(moment, kept=-1, made=made, accumulated=earlier)

    def _layer(self, each: Pass, unit: int) -> str:
        below = sum(self.units[: each.chunk])
        place = unit if each.kind == "F" else self.units[each.chunk] - 1 - unit
        return f"layer {below + place + 1}"

    def _flows(self, phase: Phase) -> list[Flow]:
        return [flow for flow in self.graph.flows if flow.phase is phase]

    def _sum(self, phase: Phase, activity: str) -> float:
        return _seconds(work for work in self.graph.work if work.phase is phase and work.activity == activity)

    def _seconds(self, kind: str) -> float:
        """Computation of one pass of a kind through all layers of the device."""
        phase = PHASES[kind]
        found = [work for work in self.graph.work if work.phase is phase and work.activity == "compute"]
        if kind in "IW":
            found = [work for work in found if work.deferrable is (kind == "W")]
        return _seconds(found)

    def _exposed(self, phase: Phase, units: int) -> tuple[list[tuple[Flow, float]], list[tuple[Flow, float]]]:
        """What computation does not hide: each layer's share, and the share of the pass as a whole."""
        spread, lump = [], []
        for flow in self._flows(phase):
            if not flow.spread:
                continue
            seconds = float(flow.seconds) * units / self.count
            bare = (1.0 - float(flow.hidden)) * seconds if flow.behind else seconds
            whole = min(bare, seconds / units) if flow.behind else 0.0
            lump.append((flow, whole))
            spread.append((flow, (bare - whole) / units))
        return spread, lump

    def _hidden(self, each: Pass) -> list[tuple[Flow, float]]:
        """What travels beside each layer of a pass; once a step, what the end of a step may hide there, too."""
        phase = PHASES[each.kind]
        own = [flow for flow in self._flows(phase) if each.kind != "W"]
        later: list[Flow] = []
        share = 1.0
        if each.kind == "F" and each.batch == self.first[each.chunk] and self.step:
            later = self._flows(Phase.STEP)
        elif phase is Phase.BACKWARD and each.batch == self.last[each.chunk]:
            later = self._flows(Phase.REDUCE)
            if self.split:
                share = self._seconds(each.kind) / max(self._seconds("B"), 1e-30)
        found = [(flow, 1.0) for flow in own] + [(flow, share) for flow in later]
        return [(flow, s * float(flow.hidden * flow.seconds) / self.count) for flow, s in found if flow.behind is phase]

    def _wait(self, flows: Iterable[tuple[Flow, float]], label: Label) -> None:
        """Flows that the device's chain waits for, one after the other."""
        for flow, seconds in flows:
            if seconds:
                self.after = [self._move(flow, seconds, self.after, label, slows=False)]

    def _move(self, flow: Flow, seconds: float, after: list[int], label: Label, *, slows: bool = True) -> int:
        nbytes = float(flow.nbytes) * seconds / float(flow.seconds)
        about = Label(label.step, flow.phase, label.batch, label.chunk, nbytes)
        slows = slows and flow.link in NETWORK
        return self._task(Task(self.device, flow.link.value, flow.name, seconds, list(after), slows=slows), about)

    def _compute(self, name: str, seconds: float, label: Label) -> int:
        index = self._task(Task(self.device, "compute", name, seconds, list(self.after), slowed=True), label)
        self.after = [index]
        return index

    def _run(self, stream: str, name: str, seconds: float, after: list[int], label: Label) -> list[int]:
        return [self._task(Task(self.device, stream, name, seconds, list(after)), label)] if seconds else []

    def _task(self, task: Task, label: Label) -> int:
        self.program.tasks.append(task)
        self.program.labels.append(label)
        return len(self.program.tasks) - 1


def _seconds(work: Iterable[Work]) -> float:
    return float(sum(float(each.seconds) for each in work))
