"""Pipelines: layers of a stage, micro-batches in flight, bubbles. Equations P1-P5 of docs/equations/pipeline.md.

Stages count from 0; a schedule is one of `SCHEDULES`. Times assume that forward, the backward of inputs (B) and that of
weights (W) take a third of a micro-batch each.
"""

from __future__ import annotations

from vramsim.units import Num, ceil_div, maximum, minimum, where

SCHEDULES = ("1f1b", "interleaved", "gpipe", "zb-h1", "zb-h2", "zb-v", "dualpipe")
"""Schedules of a pipeline; 1f1b with more than one chunk a device is interleaved, too."""


def layers_of_largest_stage(layers: Num, stages: Num) -> Num:
    """Layers on the fullest stage of a uniform split.

    l = ceil(L / p)                                                                          (P1)

    layers : layers to split, L. [-]   stages : pipeline stages, p. [-]
    Returns layers. [-]
    Source: DeepSpeed runtime/utils.py, partition_uniform; Megatron-LM's pipeline layout if p does not divide L.

    >>> float(layers_of_largest_stage(80.0, 12.0))
    7.0
    """
    return ceil_div(layers, stages)


def in_flight(schedule: str, stages: Num, index: Num, batches: Num, chunks: Num) -> Num:
    """Micro-batches whose activations one stage holds at its worst moment.

    GPipe: f = m.   1F1B: f = min(m, p - i).   ZB-H1: f = min(m, p).   ZB-H2: f = min(m, 2p - 1).
    ZB-V, two chunks a device: f = (min(m, 2p - i - 1) + min(m, i + 1)) / 2.
    DualPipe, whose devices hold two stages each: f = (p + 1) / 2.
    Interleaved, v chunks of 1/v of the stage: f = min(m v, 2 (p - i - 1) + (v - 1) p + 1) / v     (P2)

    schedule : one of SCHEDULES. [-]   stages : p. [-]   index : the stage, i. [-]
    batches : micro-batches of a step, m. [-]   chunks : virtual stages a device, v. [-]
    Returns micro-batches, each of all that the device holds. [-]
    Source: Megatron-LM core/pipeline_parallel/schedules.py; arXiv 2401.10241 (zero bubble), sail-sg/zero-bubble README;
    deepseek-ai/DualPipe README.

    >>> float(in_flight("1f1b", 4.0, 0.0, 8.0, 1.0)), float(in_flight("1f1b", 4.0, 0.0, 8.0, 2.0))
    (4.0, 5.5)
    """
    warm_up = 2.0 * (stages - index - 1.0) + (chunks - 1.0) * stages
    one_by_one = where(chunks > 1, (warm_up + 1.0) / chunks, stages - index)
    held = {
        "gpipe": batches,
        "1f1b": one_by_one,
        "interleaved": one_by_one,
        "zb-h1": stages,
        "zb-h2": 2.0 * stages - 1.0,
        "zb-v": (minimum(batches, 2.0 * stages - index - 1.0) + minimum(batches, index + 1.0)) / 2.0,
        "dualpipe": (stages + 1.0) / 2.0,
    }[schedule]
    return where(stages > 1, minimum(batches, held), 1.0)


def bubble(
    schedule: str, stages: Num, batches: Num, chunks: Num, forward: Num = 1.0 / 3.0, weights: Num = 1.0 / 3.0
) -> Num:
    """Idle time of a pipeline, as a share of the time in which its micro-batches would run back to back.

    GPipe, 1F1B: (p - 1) / m.   Interleaved: (p - 1) / (m v).   The others divide by m, with i = 1 - f - w:
    ZB-H1: (p - 1) i + (p - m)+ f + (min(m, p) - 1) (f - w)+.   ZB-H2: that less min((m - p)+, p - 1) w, 0 at least.
    ZB-V: (p - 1) i + (p - m)+ f - min((m - p)+, p - 1) w, 0 at least.   DualPipe: (p / 2 - 1) max(f + i - w, i)   (P3)

    schedule : one of SCHEDULES. [-]   stages : p. [-]   batches : micro-batches of a step, m. [-]
    chunks : virtual stages a device, v. [-]   forward : share of a micro-batch's time, f. [-]
    weights : share of a micro-batch's time that gradients of weights take, w. [-]
    Returns a ratio. [-]
    Source: as P2; steps follow each other without a barrier. The papers' figures are these for 2p - 1 micro-batches or
    more and w = f; the rest is what their orders come to when they are replayed (tests/replay). DualPipe's README
    counts an overlapped pair as one pass that nothing can follow halfway: (p/2 - 1)(F&B + B - 3W).

    >>> float(bubble("1f1b", 5.0, 8.0, 1.0)), float(bubble("1f1b", 5.0, 8.0, 2.0))
    (0.5, 0.25)
    >>> float(bubble("zb-h2", 5.0, 9.0, 1.0))
    0.0
    """
    inputs = 1.0 - forward - weights
    fill = (stages - 1.0) * inputs + maximum(stages - batches, 0.0) * forward
    late = (minimum(batches, stages) - 1.0) * maximum(forward - weights, 0.0)
    filled = minimum(maximum(batches - stages, 0.0), stages - 1.0) * weights
    idle = {
        "gpipe": stages - 1.0,
        "1f1b": (stages - 1.0) / chunks,
        "interleaved": (stages - 1.0) / chunks,
        "zb-h1": fill + late,
        # Thirds do not cancel to the last bit.
        "zb-h2": maximum(fill + late - filled - 1e-12, 0.0),
        "zb-v": maximum(fill - filled - 1e-12, 0.0),
        "dualpipe": (stages / 2.0 - 1.0) * maximum(1.0 - 2.0 * weights, inputs),
    }[schedule]
    return where(stages > 1, idle / batches, 0.0)


def in_transit(output: Num, held: Num, *, freed: bool) -> Num:
    """Bytes of stage outputs: one received while one is sent; in flight too where the engine does not free them.

    b = 2 o   or   (2 + f) o                                                                 (P4)

    output : bytes of one stage's output, o. [B]   held : micro-batches in flight, f. [-]
    freed : whether an output's storage is freed once it is sent. [-]
    Returns bytes. [B]
    Source: Megatron-LM schedules.py, deallocate_output_tensor; DeepSpeed runtime/pipe/engine.py keeps pipe_buffers.

    >>> float(in_transit(1.0, 4.0, freed=False))
    6.0
    """
    return output * (2.0 if freed else 2.0 + held)


def virtual_layers(layers: Num, ends: bool) -> Num:
    """Layers that a split counts: the embedding and the head one each where the split accounts for them.

    L' = L   or   L + 2                                                                      (P5)

    layers : layers of the model, L. [-]   ends : whether the ends count. [-]
    Returns layers. [-]
    Source: Megatron-LM --account-for-embedding-in-pipeline-split; Megatron-DeepSpeed's type:transformer|embedding.

    >>> float(virtual_layers(70.0, True))
    72.0
    """
    return layers + 2.0 if ends else layers
