"""The micro-batch of a measured run that states its global batch alone: the fastest that fits, as if it was tuned."""

from __future__ import annotations

from dataclasses import replace

from vramsim.simulate import simulate
from vramsim.spec import Setup
from vramsim.validate.rows import Reader

MICRO_BATCHES = (1.0, 2.0, 4.0, 8.0)
"""Micro-batches that a benchmark would try. [sequences]"""


def tuned(read: Reader, setup: Setup) -> Setup:
    """The run with the fastest micro-batch that fits; as it was where none does or the row says how it accumulates.

    read : row, which notes what is assumed. [-]   setup : with any micro-batch. [-]
    """
    sequences = read.row.number("global_batch_seqs", 0.0)
    best, rate = setup, 0.0
    for size in MICRO_BATCHES:
        steps = sequences / (size * float(setup.data_parallel))
        if steps < 1.0 or steps != int(steps) or read.row.text("grad_accum"):
            continue
        training = replace(setup.training, micro_batch_size=size, gradient_accumulation_steps=steps)
        candidate = replace(setup, training=training)
        estimate = simulate(candidate)
        reached = float(estimate.time.tokens_per_second_per_device)
        if estimate.fits and reached > rate:
            best, rate = candidate, reached
    if best is not setup:
        read.assumed.append(("micro_batch", "the fastest that fits"))
    return best
