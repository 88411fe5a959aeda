"""Lengths of samples that are not packed: what sets memory is the longest one of a run, what sets time the mean.

Lengths of texts are near to log-normal. What a table calls the mean tokens of a sample counts the padding up to the
longest sample of its batch, unless nothing is padded.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr, ndtri

from vramsim.parts import sharding
from vramsim.spec import Setup
from vramsim.validate.rows import Reader

DEFAULT_SEQ_LEN = 1024.0
"""Tokens of a sequence when a row does not say: TRL's own max_length. [-]"""

SPREAD = 0.55
"""Standard deviation of the logarithm of a sample's length: least squares over the batch maxima and longest samples of
one published data set of 8,000 (tests/validation/test_lengths.py). [-]"""

SAMPLES = 8000.0
"""Samples of a run, all ranks together, where a row does not say: a short benchmark's. Half as many make the longest
a tenth longer. [-]"""


def largest(count: float, spread: float = SPREAD) -> float:
    """Expected length of the longest of `count` samples, over the mean length. [-]

    count : samples. [-]   spread : standard deviation of the logarithm of a length. [-]
    Source: order statistics of the log-normal distribution, integrated over the normal variable.

    >>> round(largest(1.0), 6)
    1.0
    """
    z = np.linspace(-9.0, 9.0, 4001)
    density = count * ndtr(z) ** (count - 1.0) * np.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    return float(np.sum(density * np.exp(spread * z - spread**2 / 2.0)) * (z[1] - z[0]))


def padded(mean: float, micro_batch: float, ranks: float) -> float:
    """Longest padded batch that one rank meets, as tokens of each sample: the longest sample that it meets. [tokens]

    mean : mean length of batches as they are padded. [tokens]   micro_batch : samples of a batch. [-]
    ranks : data-parallel ranks. [-]
    """
    return mean * largest(max(SAMPLES / ranks, micro_batch)) / largest(micro_batch)


def joined(mean: float, micro_batch: float, ranks: float) -> float:
    """Longest batch of samples joined without padding that one rank meets, as tokens of each sample. [tokens]

    One sample is the longest of the run, or all of a batch are long together, whichever comes to more.

    mean : mean length of samples. [tokens]   micro_batch : samples of a batch. [-]   ranks : data-parallel ranks. [-]
    """
    samples = max(SAMPLES / ranks, micro_batch)
    batches = samples / micro_batch
    together = math.sqrt(math.expm1(SPREAD**2) / micro_batch) * float(ndtri((batches - 0.375) / (batches + 0.25)))
    alone = (largest(samples) - 1.0) / micro_batch
    return mean * (1.0 + max(together, alone, 0.0))


def slowest(read: Reader, setup: Setup) -> float:
    """Tokens of the rank that the others wait for, over those of a mean rank. [-]

    Ranks meet in every micro-step where weights are gathered, else when gradients are reduced. The sum of a batch of
    log-normal lengths is near to log-normal itself.

    read : row. [-]   setup : the run. [-]
    Source: order statistics; Fenton 1960 for the sum.
    """
    ranks, batch = float(setup.data_parallel), float(setup.training.micro_batch_size)
    if "multipack" in read.row.text("framework"):
        return 1.0
    gathers = setup.framework.engine in sharding.FSDP or float(setup.strategy.zero_stage) >= 3.0
    batches = 1.0 if gathers else float(setup.training.gradient_accumulation_steps)
    if "padding-free" in read.row.text("framework"):
        return largest(ranks, math.sqrt(math.log1p(math.expm1(SPREAD**2) / (batch * batches))))
    # The longest of all ranks' samples is the longest padded batch; of several in a row only the excess adds up.
    return 1.0 + (largest(batch * ranks) / largest(batch) - 1.0) / math.sqrt(batches)


def seq_len(read: Reader) -> float:
    """Tokens of a sequence as memory needs them: the longest of a run where a row gives the mean of unpacked data.

    read : row, which notes what is assumed. [-]
    """
    row = read.row
    if not row.mean_tokens or row.text("seq_len"):
        return read.number("seq_len", DEFAULT_SEQ_LEN)
    batch, ranks, name = row.number("micro_batch", 1.0), row.number("n_gpus", 1.0), row.text("framework")
    if "multipack" in name:
        read.assumed.append(("seq_len", "mean tokens of a sample, as batches are packed alike"))
        return row.mean_tokens
    if "padding-free" in name:
        read.assumed.append(("seq_len", "longest batch of log-normal lengths, joined"))
        return float(round(joined(row.mean_tokens, batch, ranks)))
    read.assumed.append(("seq_len", "longest sample of log-normal lengths, padded to"))
    return float(round(padded(row.mean_tokens, batch, ranks)))
