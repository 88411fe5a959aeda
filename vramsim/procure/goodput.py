"""Goodput: the share of its time that a run makes progress, when devices fail and checkpoints take time.

These are equations G1 to G6 of docs/equations/procure.md. Everything broadcasts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vramsim.estimate import Estimate
from vramsim.spec import Category, Phase, Setup
from vramsim.units import Num

HOUR = 3600.0
DAY = 24.0 * HOUR

DEVICE_MTBF = 54.0 * DAY * 16384.0 / 419.0
"""Mean time between interruptions of a job by one device: 419 in 54 days on 16,384 H100 (arXiv 2407.21783). [s]"""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often a job stops and what that costs. Seconds and bytes per second; all but the first are assumed.

    `device_mtbf` is per device and of any cause. `startup_seconds` is paid for once, before the first step: machines,
    weights, data, compilation. `storage_bandwidth` is what one node writes of a checkpoint.
    `node_preemption` is how long a provider leaves a spot node to its renter, on average.
    """

    device_mtbf: float = DEVICE_MTBF
    startup_seconds: float = 1800.0
    restart_seconds: float = 600.0
    storage_bandwidth: float = 2e9
    node_preemption: float = 7.0 * DAY


def job_mtbf(device_mtbf: Num, num_devices: Num) -> Num:
    """Mean time between interruptions of a job that any of its devices interrupts (G1). [s]

    device_mtbf : of one device. [s]   num_devices : devices in the job. [-]

    >>> round(job_mtbf(DEVICE_MTBF, 16384.0) / HOUR, 1)
    3.1
    """
    return device_mtbf / num_devices


def spot_mtbf(device_mtbf: Num, node_preemption: Num, devices_per_node: Num) -> Num:
    """Mean time between interruptions by one device of a spot node, preemptions included (G2). [s]

    device_mtbf : of one device. [s]   node_preemption : mean time until a node is taken back. [s]
    devices_per_node : devices that a preemption takes. [-]
    """
    return 1.0 / (1.0 / device_mtbf + 1.0 / (node_preemption * devices_per_node))


def checkpoint_bytes(estimate: Estimate) -> Num:
    """Bytes of a checkpoint that a run can go on from: trained weights, master weights, optimizer states (G3). [B]

    Replicas count once. A pipeline's fullest stage stands for all of its stages.

    estimate : of the run. [-]
    """
    setup = estimate.graph.setup
    kept: Num = 0.0
    for component in estimate.graph.components:
        if component.live & Phase.SAVE and component.name not in FROZEN and component.category in SHARDED_FROM:
            kept = kept + component.nbytes / _replicas(setup, SHARDED_FROM[component.category])
    return kept * setup.cluster.num_devices


FROZEN = ("frozen parameters", "quantized parameters", "quantization scales")
"""Components that a checkpoint leaves out: they are those of the base model."""

SHARDED_FROM = {Category.OPTIMIZER_STATE: 1.0, Category.PARAMETER: 3.0}
"""What a checkpoint keeps -> the ZeRO stage from which every rank holds another part of it."""


def _replicas(setup: Setup, stage: float) -> Num:
    """Ranks that hold the same states: all that hold the same slice of the model, or one where they are sharded. [-]"""
    if setup.framework.engine.startswith("fsdp"):
        return 1.0
    return np.where(np.greater_equal(setup.strategy.zero_stage, stage), 1.0, setup.shard_degree)[()]


def checkpoint_seconds(nbytes: Num, num_nodes: Num, storage_bandwidth: Num) -> Num:
    """Time for which a checkpoint stops the run: every node writes its share (G4). [s]

    nbytes : of the whole checkpoint. [B]   num_nodes : nodes that write. [-]   storage_bandwidth : of a node. [B/s]
    """
    return nbytes / (num_nodes * storage_bandwidth)


def checkpoint_interval(checkpoint: Num, mtbf: Num) -> Num:
    """Work between two checkpoints that loses least time: Young's sqrt(2 C M) with Daly's next terms (G5). [s]

    checkpoint : time that writing one takes. [s]   mtbf : mean time between interruptions of the job. [s]

    >>> round(checkpoint_interval(60.0, 86400.0))
    3180
    """
    ratio = checkpoint / (2.0 * mtbf)
    daly = np.sqrt(2.0 * checkpoint * mtbf) * (1.0 + np.sqrt(ratio) / 3.0 + ratio / 9.0) - checkpoint
    # Where a checkpoint takes longer than twice the time between interruptions, nothing helps; Daly takes M.
    return np.where(ratio < 1.0, daly, mtbf)[()]


def goodput(checkpoint: Num, mtbf: Num, restart: Num, interval: Num | None = None) -> Num:
    """Share of wall-clock time that ends up in the result, with exponential interruptions (G6). [-]

    checkpoint : time that writing one takes. [s]   mtbf : mean time between interruptions of the job. [s]
    restart : time from an interruption to the first step after it. [s]
    interval : work between checkpoints, the best one if left out. [s]

    >>> round(float(goodput(60.0, 3.1 * HOUR, 300.0)), 2)
    0.88
    """
    work = checkpoint_interval(checkpoint, mtbf) if interval is None else interval
    with np.errstate(over="ignore"):
        share = work / (mtbf * np.exp(restart / mtbf) * np.expm1((work + checkpoint) / mtbf))
    return np.asarray(share)[()]
