"""Goodput: the share of its time that a run makes progress, when devices fail and checkpoints take time.

Equations G1, G2, G4 to G6 and G15 of docs/equations/procure.md; G3 reads an estimate (vramsim/outcome.py).
"""

from __future__ import annotations

import numpy as np

from vramsim.units import Num


def job_mtbf(device_mtbf: Num, num_devices: Num) -> Num:
    """Mean time between interruptions of a job that any of its devices interrupts.

    M = m / N                                                                               (G1)

    device_mtbf : of one device, m. [s]   num_devices : devices in the job, N. [-]
    Returns seconds. [s]
    Source: independent, exponential interruptions.

    >>> round(job_mtbf(54 * 86400.0 * 16384 / 419, 16384.0) / 3600, 1)
    3.1
    """
    return device_mtbf / num_devices


def spot_mtbf(device_mtbf: Num, node_preemption: Num, devices_per_node: Num) -> Num:
    """Mean time between interruptions by one device of a spot node, preemptions included.

    1 / m' = 1 / m + 1 / (n p)                                                              (G2)

    device_mtbf : of one device, m. [s]   node_preemption : mean time until a node is taken back, p. [s]
    devices_per_node : devices that a preemption takes, n. [-]
    Returns seconds. [s]
    Source: rates of independent causes add.

    >>> spot_mtbf(8e6, 1e6, 8.0)
    4000000.0
    """
    return 1.0 / (1.0 / device_mtbf + 1.0 / (node_preemption * devices_per_node))


def checkpoint_seconds(nbytes: Num, num_nodes: Num, storage_bandwidth: Num) -> Num:
    """Time for which a checkpoint stops the run: every node writes its share.

    C = B / (n b)                                                                           (G4)

    nbytes : of the whole checkpoint, B. [B]   num_nodes : nodes that write, n. [-]
    storage_bandwidth : of a node, b. [B/s]
    Returns seconds. [s]
    Source: definition.

    >>> checkpoint_seconds(988e9, 2.0, 2e9)
    247.0
    """
    return nbytes / (num_nodes * storage_bandwidth)


def checkpoint_interval(checkpoint: Num, mtbf: Num) -> Num:
    """Work between two checkpoints that loses least time: Young's sqrt(2 C M) with Daly's next terms.

    t = sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18M) - C, M where C >= 2M                   (G5)

    checkpoint : time that writing one takes, C. [s]   mtbf : mean time between interruptions of the job, M. [s]
    Returns seconds. [s]
    Source: Daly (2006), equation 37.

    >>> round(checkpoint_interval(60.0, 86400.0))
    3180
    """
    ratio = checkpoint / (2.0 * mtbf)
    daly = np.sqrt(2.0 * checkpoint * mtbf) * (1.0 + np.sqrt(ratio) / 3.0 + ratio / 9.0) - checkpoint
    # Where a checkpoint takes longer than twice the time between interruptions, nothing helps; Daly takes M.
    return np.where(ratio < 1.0, daly, mtbf)[()]


def goodput(checkpoint: Num, mtbf: Num, restart: Num, interval: Num | None = None) -> Num:
    """Share of wall-clock time that ends up in the result, with exponential interruptions.

    g = t / (M exp(R / M) (exp((t + C) / M) - 1))                                           (G6)

    checkpoint : time that writing one takes, C. [s]   mtbf : mean time between interruptions of the job, M. [s]
    restart : time from an interruption to the first step after it, R. [s]
    interval : work between checkpoints, t; the best one if left out. [s]
    Returns a share. [-]
    Source: Daly (2006), equation 13.

    >>> round(float(goodput(60.0, 3.1 * 3600, 300.0)), 2)
    0.88
    """
    work = checkpoint_interval(checkpoint, mtbf) if interval is None else interval
    with np.errstate(over="ignore"):
        share = work / (mtbf * np.exp(restart / mtbf) * np.expm1((work + checkpoint) / mtbf))
    return np.asarray(share)[()]


def time_to_train(tokens: Num, num_devices: Num, tokens_per_second: Num, share: Num, startup: Num) -> Num:
    """Wall-clock time of a run: start-up once, and its steps stretched by what is lost.

    T = S + D / (N r g)                                                                     (G15)

    tokens : to train on, D. [-]   num_devices : devices, N. [-]
    tokens_per_second : of one device, r. [1/s]   share : goodput, g. [-]   startup : before the first step, S. [s]
    Returns seconds. [s]
    Source: definition.

    >>> time_to_train(1e9, 10.0, 1e4, 0.5, 1800.0)
    21800.0
    """
    return startup + tokens / (num_devices * share) / tokens_per_second
