"""Pipeline parallelism: which stages can be the worst, what crosses between them, and how long they wait.

A stage is a Setup whose `stage` says which shares of the model it holds and how many micro-batches are in flight; every
part reads it. `simulate` takes the elementwise maximum over `stages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vramsim.equations import pipeline as equations
from vramsim.layout import kernels_of, kinds
from vramsim.parts import activations, head_loss
from vramsim.spec import TRAINING, Category, Component, Phase, Setup, Stage
from vramsim.units import Num, ceil_div, maximum, minimum, where

FOLDED = ("zb-v", "dualpipe")
"""Schedules that fold the pipeline: the device of the first layers holds the last ones, too."""


def stages(setup: Setup) -> tuple[Setup, ...]:
    """The pipeline stages of which one is the worst: the first (most micro-batches in flight, the embedding) and the
    last (the head; DualPipe's is like the first); a middle one where it is like neither; the setup itself where there
    is no pipeline, or where it is a stage already.

    setup : resolved run, or a grid. [-]
    """
    stages = setup.strategy.pp
    if setup.stage.name or np.all(np.equal(stages, 1)):
        return (setup,)
    found = [stage_at(setup, "first", 0.0)]
    if setup.strategy.schedule != "dualpipe":
        found.append(stage_at(setup, "last", stages - 1.0))
    if _has_middle(setup):
        found.append(stage_at(setup, "middle", where(stages > 2, minimum(_second(setup), stages - 2.0), 0.0)))
    return tuple(found)


def _has_middle(setup: Setup) -> bool:
    """Whether stages between the ends hold other layers, or not what both of DualPipe's ends hold."""
    unlike = setup.framework.balanced_ends or setup.strategy.schedule == "dualpipe" or len(_runs(setup)) > 1
    return unlike and bool(np.any(np.greater(setup.strategy.pp, 2)))


def numbers(setup: Setup) -> tuple[Num, ...]:
    """How many devices of the pipeline are like each of its `stages`. [-]

    setup : resolved run. [-]
    """
    pp, schedule = setup.strategy.pp, setup.strategy.schedule
    if setup.stage.name or np.all(np.equal(pp, 1)):
        return (pp,)
    if schedule == "dualpipe":
        return (2.0, pp - 2.0) if _has_middle(setup) else (pp,)
    if _has_middle(setup):
        return (1.0, 1.0, pp - 2.0)
    # What is neither is like the stage that has no head.
    return (1.0, pp - 1.0) if schedule == "zb-v" else (pp - 1.0, 1.0)


def stage_at(setup: Setup, name: str, index: Num) -> Setup:
    """One stage: its share of the layers, its ends, its micro-batches in flight.

    setup : resolved run. [-]   name : first | middle | last. [-]   index : place in the pipeline, from 0. [-]
    """
    strategy, framework = setup.strategy, setup.framework
    pp, layers = strategy.pp, float(setup.model.num_layers)
    folded = strategy.schedule in FOLDED
    chunks, held = _chunks(setup), _held(setup)
    first, last = where(index <= 0, 1.0, 0.0), where(index >= pp - 1.0, 1.0, 0.0)
    if folded:
        # DualPipe's last device mirrors the first.
        first = last = where(last > 0, 1.0, first) if strategy.schedule == "dualpipe" else first
    if framework.balanced_ends:
        held = held - first - last
    batches = setup.training.gradient_accumulation_steps
    flight = equations.in_flight(strategy.schedule, pp, index, batches, strategy.vpp)
    # Chunks start `pp` chunks apart: the first stage's at the bottom, the last's at the top of the model.
    width = held / chunks
    start = where(index > 0, index * width - (1.0 if framework.balanced_ends else 0.0), 0.0)
    if folded:
        stride = layers - width - 2.0 * start
    else:
        start = where(index >= pp - 1.0, layers - width, start)
        stride = pp * width * where(index >= pp - 1.0, -1.0, 1.0)
    stage = Stage(
        blocks=where(pp > 1, held / layers, 1.0),
        embedding=first,
        head=last,
        in_flight=flight,
        kinds=_kinds(setup, start, stride, width, chunks),
        name=name,
    )
    note = "numbers are those of the fullest pipeline stages, the first or the last"
    if np.ndim(stage.blocks) == 0 and np.ndim(flight) == 0:
        note = (
            f"numbers are those of the {name} pipeline stage, the fullest: {float(held):g} of {layers:g} layers, "
            f"{float(flight):g} micro-batches in flight"
        )
    return replace(setup, stage=stage, notes=(*setup.notes, note))


def passes(setup: Setup) -> Num:
    """How often a device runs all layers that it holds in one optimizer step. [-]

    setup : resolved run. [-]
    """
    # Under DualPipe a micro-batch visits one of a device's two stages.
    both_ways = setup.strategy.schedule == "dualpipe"
    halves = where(setup.strategy.pp > 1, 0.5, 1.0) if both_ways else 1.0
    return setup.training.gradient_accumulation_steps * halves


def _chunks(setup: Setup) -> Num:
    """Runs of consecutive layers that a device holds. [-]"""
    return setup.strategy.vpp * (2.0 if setup.strategy.schedule in FOLDED else 1.0)


def _held(setup: Setup) -> Num:
    """Layers of the fullest device, the ends included where they count. [-]"""
    chunks = _chunks(setup)
    pieces = equations.virtual_layers(float(setup.model.num_layers), setup.framework.balanced_ends)
    cuts = setup.strategy.pp * (1.0 if setup.strategy.schedule == "dualpipe" else chunks)
    return equations.layers_of_largest_stage(pieces, cuts) * chunks


def _runs(setup: Setup) -> set[int]:
    return set(kinds(setup.model, kernels_of(setup)))


def _second(setup: Setup) -> Num:
    """The first stage that holds none of the run of layers at the bottom; the second where all layers are alike. [-]"""
    bottom = float(setup.model.blocks[0].count) if len(_runs(setup)) > 1 else 0.0
    return maximum(ceil_div(bottom, _held(setup) / _chunks(setup)), 1.0)


def _kinds(setup: Setup, start: Num, stride: Num, width: Num, chunks: Num) -> tuple[Num, ...]:
    """Share of each kind of blocks that a stage holds: `chunks` runs of `width` layers; () if all blocks are alike."""
    runs = kinds(setup.model, kernels_of(setup))
    if len(set(runs)) == 1:
        return ()
    held: dict[int, Num] = dict.fromkeys(runs, 0.0)
    whole: dict[int, float] = dict.fromkeys(runs, 0.0)
    bottom = 0.0
    for kind, block in zip(runs, setup.model.blocks, strict=True):
        top = bottom + block.count
        whole[kind] += block.count
        for chunk in range(int(np.max(chunks))):
            lowest = start + chunk * stride
            common = maximum(minimum(top, lowest + width) - maximum(bottom, lowest), 0.0)
            held[kind] = held[kind] + where(chunks > chunk, common, 0.0)
        bottom = top
    return tuple(where(setup.strategy.pp > 1, held[kind] / whole[kind], 1.0) for kind in sorted(whole))


def boundaries(setup: Setup) -> Iterator[Component]:
    """Inputs and outputs of a stage on their way (equation P4).

    setup : resolved run. [-]
    """
    freed = setup.framework.free_stage_outputs
    nbytes = equations.in_transit(activations.stream_bytes(setup), setup.stage.in_flight, freed=freed)
    live = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD
    yield Component("stage inputs and outputs", Category.TEMPORARY, where(setup.strategy.pp > 1, nbytes, 0.0), live)
    if setup.framework.engine == "fsdp2":
        yield from _of_every_micro_batch(setup)


def _of_every_micro_batch(setup: Setup) -> Iterator[Component]:
    """What PyTorch's pipelines hold of all micro-batches of a step: buffers that inputs and gradients are received in,
    made once for all, and the outputs of the last stage, merged at the end.

    Source: PyTorch torch/distributed/pipelining/stage.py (args_recv_info, grad_recv_info, output_chunks).
    """
    stage, batches = setup.stage, setup.training.gradient_accumulation_steps
    piped = where(setup.strategy.pp > 1, batches * setup.strategy.vpp, 0.0)
    # Chunks in the middle receive both ways.
    ends = (stage.embedding + stage.head) / setup.strategy.vpp
    received = piped * (2.0 - ends) * activations.stream_bytes(setup)
    yield Component("receive buffers", Category.TEMPORARY, received, TRAINING)
    outputs = where(setup.strategy.pp > 1, batches, 0.0) * head_loss.logit_bytes(setup) * stage.head
    live = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD | Phase.REDUCE
    yield Component("outputs of all micro-batches", Category.TEMPORARY, outputs, live)


def bubble(setup: Setup, forward: Num, weights: Num) -> Num:
    """Idle time of the pipeline as a share of its micro-batches' time (equation P3). [-]

    setup : resolved run. [-]   forward, weights : shares of a micro-batch's time. [-]
    """
    strategy, batches = setup.strategy, setup.training.gradient_accumulation_steps
    return equations.bubble(strategy.schedule, strategy.pp, batches, strategy.vpp, forward, weights)
