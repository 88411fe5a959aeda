"""Pipeline parallelism: which stages can be the worst, what crosses between them, and how long they wait.

A stage is a Setup whose `stage` says which shares of the model it holds and how many micro-batches are in flight; every
part reads it. `simulate` takes the elementwise maximum over `stages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vramsim.equations import pipeline as equations
from vramsim.parts import activations
from vramsim.spec import Category, Component, Phase, Setup, Stage
from vramsim.units import Num, where

FOLDED = ("zb-v", "dualpipe")
"""Schedules that fold the pipeline: the device of the first layers holds the last ones, too."""


def stages(setup: Setup) -> tuple[Setup, ...]:
    """The pipeline stages of which one is the worst: the first (most micro-batches in flight, the embedding) and the
    last (the head); a middle one where the ends have fewer layers; the setup itself where there is no pipeline.

    setup : resolved run, or a grid. [-]
    """
    stages = setup.strategy.pp
    if np.all(np.equal(stages, 1)):
        return (setup,)
    if setup.strategy.schedule in FOLDED:
        return (_stage(setup, "first", 0.0),)
    found = [_stage(setup, "first", 0.0), _stage(setup, "last", stages - 1.0)]
    if setup.framework.balanced_ends and np.any(np.greater(stages, 2)):
        found.append(_stage(setup, "middle", where(stages > 2, 1.0, 0.0)))
    return tuple(found)


def _stage(setup: Setup, name: str, index: Num) -> Setup:
    """One stage: its share of the layers, its ends, its micro-batches in flight."""
    strategy, framework = setup.strategy, setup.framework
    pp, layers = strategy.pp, float(setup.model.num_layers)
    folded = strategy.schedule in FOLDED
    chunks = strategy.vpp * (2.0 if folded else 1.0)
    pieces = equations.virtual_layers(layers, framework.balanced_ends)
    held = equations.layers_of_largest_stage(pieces, pp * (1.0 if strategy.schedule == "dualpipe" else chunks)) * chunks
    first, last = where(index <= 0, 1.0, 0.0), where(index >= pp - 1.0, 1.0, 0.0)
    if folded:
        first, last = 1.0, 1.0
    if framework.balanced_ends:
        held = held - first - last
    batches = setup.training.gradient_accumulation_steps
    flight = equations.in_flight(strategy.schedule, pp, index, batches, strategy.vpp)
    stage = Stage(blocks=where(pp > 1, held / layers, 1.0), embedding=first, head=last, in_flight=flight)
    note = "numbers are those of the fullest pipeline stages, the first or the last"
    if np.ndim(stage.blocks) == 0 and np.ndim(flight) == 0:
        note = (
            f"numbers are those of the {name} pipeline stage, the fullest: {float(held):g} of {layers:g} layers, "
            f"{float(flight):g} micro-batches in flight"
        )
    return replace(setup, stage=stage, notes=(*setup.notes, note))


def boundaries(setup: Setup) -> Iterator[Component]:
    """Inputs and outputs of a stage on their way (equation P4).

    setup : resolved run. [-]
    """
    freed = setup.framework.free_stage_outputs
    nbytes = equations.in_transit(activations.stream_bytes(setup), setup.stage.in_flight, freed=freed)
    live = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD
    yield Component("stage inputs and outputs", Category.TEMPORARY, where(setup.strategy.pp > 1, nbytes, 0.0), live)


def bubble(setup: Setup) -> Num:
    """Idle time of the pipeline as a share of its micro-batches' time (equation P3). [-]

    setup : resolved run. [-]
    """
    strategy, batches = setup.strategy, setup.training.gradient_accumulation_steps
    return equations.bubble(strategy.schedule, strategy.pp, batches, strategy.vpp)
