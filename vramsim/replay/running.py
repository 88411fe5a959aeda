"""Unroll a case, run it, and say what was alive when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from vramsim.equations.schedule import CONTENTION
from vramsim.errors import VramsimError
from vramsim.graph import Graph, Resolvable, assemble
from vramsim.parts import DEFAULT, Part, pipeline
from vramsim.replay import passes
from vramsim.replay.engine import run
from vramsim.replay.memory import Contents, State, standing
from vramsim.replay.timeline import Moment, Span, Timeline
from vramsim.replay.unroll import Program, unroll
from vramsim.residency import by_phase, residency
from vramsim.spec import Category, Phase, Setup

PHASES = {phase.label: phase for phase in Phase}
MOST_PASSES = 200_000
"""Layers times micro-batches that a replay unrolls at most, in one step of all devices together. [-]"""


def replay(case: Resolvable | Setup, parts: Sequence[Part] = DEFAULT, *, steps: int = 2) -> Timeline:
    """Run one case event by event: every layer of every micro-batch, on every device of one pipeline.

    case : a Case, or a Setup, of single numbers. [-]   parts : generators that make up the graph. [-]
    steps : optimizer steps; the first has no optimizer states yet, the last is the steady one. [-]
    Returns the Timeline. Raises VramsimError for a case that breaks a rule, a grid, or more events than are useful.
    """
    setup = case if isinstance(case, Setup) else case.resolve()
    if steps < 1:
        raise VramsimError(f"a replay runs one optimizer step or more, got {steps}")
    _one_case(setup)
    strategy, batches = setup.strategy, int(setup.training.gradient_accumulation_steps)
    stages, chunks = int(strategy.pp), int(strategy.vpp)
    graphs = [assemble(_stage(setup, index, stages), parts) for index in range(stages)]
    layers = setup.model.num_layers
    unrolled = batches * float(layers)
    if unrolled > MOST_PASSES:
        raise VramsimError(
            f"a replay follows every layer of every micro-batch, at most {MOST_PASSES:,} of them in a step, and this "
            f"case has {unrolled:,.0f}: set gradient_accumulation_steps to {MOST_PASSES // layers} or less"
        )
    orders = passes.orders(strategy.schedule, stages, batches, chunks)
    program = unroll(graphs, orders, passes.routes(strategy.schedule, stages, batches, chunks), steps)
    times = run(program.tasks, CONTENTION)
    return _timeline(graphs, program, times)


def _one_case(setup: Setup) -> None:
    for record in (setup.training, setup.strategy, setup.cluster):
        for item in fields(record):
            if np.ndim(getattr(record, item.name)):
                raise VramsimError(f"a replay follows one case, but {item.name} has several values: give it one")


def _stage(setup: Setup, index: int, stages: int) -> Setup:
    if stages == 1:
        return setup
    name = "first" if not index else "last" if index == stages - 1 else "middle"
    return pipeline.stage_at(setup, name, float(index))


def _timeline(graphs: list[Graph], program: Program, times: list[tuple[float, float]]) -> Timeline:
    spans = tuple(
        Span(t.device, t.stream, t.name, label.phase.label, start, end, label.step, label.batch, label.nbytes)
        for t, label, (start, end) in zip(program.tasks, program.labels, times, strict=True)
        if end > start
    )
    finish = [max(times[index][1] for index in ends) for ends in program.ends]
    memory: list[Moment] = []
    reserved = used = 0.0
    for device, graph in enumerate(graphs):
        found = _memory(device, graph, program, times, finish[-1])
        holding = residency(graph.setup, by_phase(graph.components))
        # A state comes back again and again; what the allocator makes of it need be asked once.
        states = {(m.allocated_bytes, m.by_category.get(Category.OVERHEAD, 0.0), m.doing) for m in found}
        for inside, beyond, doing in states:
            cached = holding.cached[PHASES.get(doing, Phase.FORWARD)]
            held, seen, _ = holding.held(inside, beyond, cached)
            reserved, used = max(reserved, float(held)), max(used, float(seen))
        memory += found
    steady = [
        (times[last][1] - times[first][1]) / max(len(finish) - 1, 1)
        for first, last in zip(program.ends[0], program.ends[-1], strict=True)
    ]
    return Timeline(
        graphs=tuple(graphs),
        spans=spans,
        memory=tuple(memory),
        peak=max(memory, key=lambda moment: moment.allocated_bytes),
        reserved_bytes=reserved,
        used_bytes=used,
        step_seconds=max(steady) if len(finish) > 1 else finish[0],
        first_step_seconds=finish[0],
    )


def _memory(device: int, graph: Graph, program: Program, times: list[tuple[float, float]], end: float) -> list[Moment]:
    """Everything that changes on one device, in order: ends before starts where they coincide."""
    changes = []
    for starts, found in ((1, program.opens), (0, program.closes)):
        for index, change in found.items():
            if program.tasks[index].device == device:
                changes.append((times[index][1 - starts], index, starts, change))
    # Tasks of one chain have rising numbers, and one of no duration starts before it ends.
    changes.sort(key=lambda each: (each[0], each[1], -each[2]))
    setup = graph.setup
    contents = Contents(graph, max(round(float(setup.model.num_layers * setup.stage.blocks)), 1))
    moments = [Moment(device, 0.0, Phase.INIT.label, standing(graph, Phase.INIT))]
    state = State()
    for time, _, _, change in changes:
        state = state.after(change)
        moments.append(Moment(device, time, state.moment.label or "waiting", contents.by_category(state)))
    moments.append(Moment(device, end, Phase.SAVE.label, standing(graph, Phase.SAVE)))
    return moments
