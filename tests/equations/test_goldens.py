"""Equations against numbers worked out elsewhere, each with where the number comes from.

Tags: `published` in a paper, a manual or source code; `measured` on a real run; `hand` calculated here on paper;
`regression` what this code gave when it was last believed right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

from vramsim.equations import activations, comm, compute, memory, optimizer, pipeline, quantization, schedule

KINDS = ("published", "measured", "hand", "regression")


class Golden(NamedTuple):
    """A number that an equation must give, to a relative tolerance."""

    equation: str
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    expected: float
    kind: str
    source: str
    tolerance: float = 1e-12


HOPS, NO_HOPS = (4e-6, 14e-6), (0.0, 0.0)
"""Latency of a hop inside a node and between nodes. [s]"""
LLAMA_70B, HIDDEN_70B, VOCAB_70B = 70_553_706_496.0, 8192.0, 128_256.0
"""meta-llama/Meta-Llama-3-70B config.json: 80 layers, hidden 8192, FFN 28672, 64 and 8 heads of 128."""

GOLDENS = (
    # Memory ----------------------------------------------------------------------------------------------------------
    Golden("M1", memory.flat_shard, (1001.0, 4.0), 252.0, "hand", "1001 -> 1008 = 126 * 8; / 4"),
    Golden("M1", memory.flat_shard, (8.0, 2.0), 4.0, "hand", "already a multiple of 2N"),
    Golden("M1", memory.flat_shard, (1001.0, 1.0), 1001.0, "hand", "one rank keeps all"),
    Golden("M2", memory.parameter_shard, (10.0, 4.0), 3.0, "hand", "ceil 2.5"),
    Golden("M2", memory.parameter_shard, (LLAMA_70B, 16.0), 4_409_606_656.0, "hand", "divides evenly"),
    Golden("M3", memory.row_shard, (40_960.0, 10.0, 4.0), 12_288.0, "hand", "3 of 10 rows of 4096"),
    Golden("M3", memory.row_shard, (12.0, 3.0, 8.0), 4.0, "hand", "fewer rows than ranks: one row each"),
    Golden(
        "M4", memory.sub_group, (4.41e9, 1e9, 1.46e7), 1.0146e9, "hand", "70B on 16 ranks: 1e9 and one matrix's slice"
    ),
    Golden("M4", memory.sub_group, (4e8, 1e9, 1e7), 4e8, "hand", "one group of everything"),
    Golden("M5", memory.turn_around, (80.0, 8.56e8, 1.05e9, 1e9), 1.05e9, "hand", "the head alone exceeds r / 2"),
    Golden("M5", memory.turn_around, (4.0, 1e6, 1e6, 1e9), 5e6, "measured", "DeepSpeed 0.19.8: below r all stays"),
    Golden(
        "M6", memory.step_scratch, (2.0, 4.0), 8.0, "published", "DeepSpeed stage3.py step: 4 fp32 gradient + 4 sqrt"
    ),
    Golden("M6", memory.step_scratch, (2.0, 0.0), 6.0, "published", "DeepSpeed stage3.py step, FusedAdam: 2 + 4"),
    Golden("M6", memory.step_scratch, (2.0, 0.0, 2.0), 6.0, "measured", "DeepSpeed 0.19.8 stages 1, 2: 4N/w + 2N/w"),
    Golden("M7", memory.reserved, (100.0, 60.0, 0.25, 5.0), 115.0, "hand", "a quarter of 40, and 5"),
    Golden("M7", memory.reserved, (60.0, 60.0, 0.25, 5.0), 65.0, "hand", "nothing comes and goes"),
    Golden("M9", memory.squeezed, (80.0, 100.0, 90.0, 0.25), 90.0, "hand", "gaps shrink to the capacity"),
    Golden("M9", memory.squeezed, (80.0, 100.0, 82.0, 0.25), 85.0, "hand", "but not below a quarter of 20"),
    Golden("M8", memory.pinned, (5.0,), 8.0, "published", "CachingHostAllocator: power of two (vllm issue 56410)"),
    Golden("M8", memory.pinned, (2.0**30,), 2.0**30, "hand", "a power of two already"),
    Golden("M8", memory.pinned, (2.0**30 + 1,), 2.0**31, "hand", "one byte more doubles it"),
    Golden("M14", memory.left_behind, (10.0, 1.2), 12.0, "hand", "1.2 times 10"),
    # Activations -----------------------------------------------------------------------------------------------------
    Golden("A7", activations.checkpointed, (100.0, 4.0, 0.5), 52.0, "hand", "half of each"),
    Golden("A9", activations.loss_forward, (1.0, 2.0), 10.0, "measured", "PyTorch 2.13: 2 + 4 + 4 B per logit"),
    Golden("A9", activations.loss_forward, (1.0, 4.0), 8.0, "hand", "fp32 logits need no copy"),
    Golden("A10", activations.loss_backward, (1.0,), 12.0, "measured", "PyTorch 2.13: three fp32 copies, 128 traces"),
    Golden(
        "A10",
        activations.loss_backward,
        (8192.0 * VOCAB_70B,),
        12.608e9,
        "hand",
        "12 B * 8192 tokens * 128256 of Llama-3's vocabulary",
        1e-4,
    ),
    Golden("A11", activations.head_backward, (10.0, 2.0, 5.0, 1.0), 27.0, "hand", "20 + 5 + 2"),
    Golden(
        "A12",
        activations.liger_chunk,
        (8192.0, VOCAB_70B, HIDDEN_70B),
        512.0,
        "published",
        "Liger-Kernel ops/fused_linear_cross_entropy.py: next_power_of_2(cdiv(8192, cdiv(128256, 8192)))",
    ),
    Golden("A12", activations.liger_chunk, (1.0, 32_000.0, 4096.0), 1.0, "hand", "never less than a token"),
    # Optimizer and quantization --------------------------------------------------------------------------------------
    Golden(
        "O1", optimizer.state_bytes, (1.0, 1.0, 256.0), 1.015625, "measured", "bitsandbytes AdamW8bit: half of 2.03125"
    ),
    Golden("O1", optimizer.state_bytes, (1.0, 0.5, 128.0), 0.53125, "measured", "torchao AdamW4bit: half of 1.0625"),
    Golden("O1", optimizer.state_bytes, (8.03e9, 4.0, 0.0), 3.212e10, "hand", "no blocks, no scales"),
    Golden("O2", optimizer.factored_elements, (512.0, 512.0), 1024.0, "measured", "torch.optim.Adafactor, 512 x 512"),
    Golden(
        "O3",
        optimizer.cpu_step_seconds,
        (1e10, 28.0, 1.1e11),
        2.57,
        "published",
        "ZeRO-Offload, arXiv 2101.06840: CPU-Adam on 10 B parameters, 2.57 s; W of two sockets follows from it",
        0.02,
    ),
    Golden("Q1", quantization.scales, (64.0, 2.0, 4.0 / 64, 4.0), 12.0, "hand", "one absmax and two row scales"),
    Golden(
        "Q1",
        quantization.scales,
        (68_451_041_280.0, 0.0, 1 / 64 + 4 / (64 * 256), 0.0),
        1.0863e9,
        "hand",
        "70B in NF4 with double quantization: 1.09 GB whole on every rank",
        1e-3,
    ),
    # Compute and communication ---------------------------------------------------------------------------------------
    Golden("C1", compute.linear_flops, (10.0, 3.0), 60.0, "hand", "a multiply and an add"),
    Golden("C2", compute.attention_flops, (128.0, 1.0, 1024.0, 1.0), 524_288.0, "published", "PaLM appendix B: 4 w s"),
    Golden("C2", compute.attention_flops, (128.0, 1.0, 1024.0, 0.5), 262_144.0, "published", "Megatron: half, causal"),
    Golden("C3", compute.saturation, (128.0, 128.0), 0.5, "hand", "half the rate at x0"),
    Golden("C4", compute.roofline_seconds, (2e12, 1e12, 1e9, 1e12), 2.0, "hand", "bound by arithmetic"),
    Golden("C4", compute.roofline_seconds, (1.0, 1e12, 3e12, 1e12), 3.0, "hand", "bound by memory"),
    Golden("N1", comm.ring_bandwidth, (8.0, 8.0, 2.4e11, 1e11), 2.4e11, "hand", "inside a node"),
    Golden("N1", comm.ring_bandwidth, (16.0, 8.0, 2.4e11, 1e11), 1e11, "hand", "through the NICs of a node"),
    Golden("N2", comm.ring_seconds, (8e9, 8.0, 8.0, 1e9, NO_HOPS), 7.0, "hand", "7/8 of 8 GB at 1 GB/s", 1e-4),
    Golden(
        "N2",
        comm.ring_seconds,
        (1.0, 8.0, 8.0, 1e12, HOPS),
        6.6e-6 + 7 * 0.72e-6,
        "published",
        "NCCL src/graph/tuning.cc: LL, base 6.6 us, a hop over NVLink 0.6 us; 0.18 * 4 us here",
        1e-3,
    ),
    Golden("N3", comm.gather_seconds, (8e9, 8.0, 8.0, 1e9, NO_HOPS), 7.0, "hand", "7/8 of 8 GB at 1 GB/s", 1e-4),
    Golden(
        "N3",
        comm.gather_seconds,
        (2 * LLAMA_70B, 32.0, 8.0, 1e11, NO_HOPS),
        1.367,
        "hand",
        "70B in bf16 over 32 ranks at 100 GB/s: 141 GB * 31/32",
        1e-3,
    ),
    Golden("N4", comm.all_reduce_seconds, (8e9, 8.0, 8.0, 1e9, NO_HOPS), 14.0, "hand", "twice a gather", 1e-4),
    Golden("N5", comm.all_to_all_seconds, (8e9, 8.0, 8.0, 1e9, 1e9, 0.0), 7.0, "hand", "7/8 leaves, over NVLink"),
    Golden(
        "N5",
        comm.all_to_all_seconds,
        (16.0, 16.0, 8.0, 1e9, 1.0, 0.0),
        64.0,
        "hand",
        "8 ranks of a node each send half of 16 B through NICs of 1 B/s",
    ),
    Golden("N6", comm.transfer_seconds, (1e9, 1e9, 1e-3, 2.0), 1.002, "hand", "a second and two latencies"),
    Golden("N9", comm.staged_bandwidth, (25e9, 1e11, 8.0), 6.25e9, "hand", "a sixteenth of the host's memory each"),
    Golden("N9", comm.staged_bandwidth, (25e9, 1e11, 2.0), 25e9, "hand", "as fast as the lanes"),
    Golden(
        "C5",
        compute.padded_outputs,
        (4096.0, 4096.0, (128.0, 256.0), 108.0),
        1.0546875 * 4096**2,
        "published",
        "NVIDIA, Matrix multiplication background: 32 * 16 tiles on 108 multiprocessors are 4.74 waves, so 5",
    ),
    Golden("C5", compute.padded_outputs, (1.0, 1.0, (128.0, 256.0), 108.0), 108 * 128 * 256.0, "hand", "a whole wave"),
    Golden("C6", compute.product_seconds, (2e6, 1e6, 900.0, 1e12, 100.0, 1.05), 2.1e-3, "hand", "2 * 1000 * 1.05e6"),
    Golden("C7", compute.product_bytes, (2.0, 3.0, 4.0, 2.0, 2.0), 52.0, "hand", "2 * 4 * 5 + 2 * 6"),
    Golden("C8", compute.score_bytes, (1024.0, 1024.0, 16.0, 7.0), 117_440_512.0, "hand", "7 * 16 * 2^20"),
    Golden("C9", compute.waiting_seconds, (3.0, 2.0), 1.0, "hand", "the host is a second behind"),
    Golden("C9", compute.waiting_seconds, (2.0, 3.0), 0.0, "hand", "the device is busy all the time"),
    Golden("M10", memory.main_gradients, (8.03e9, 4.0), 3.212e10, "published", "Megatron dist_optimizer.md: 4 of 6 B"),
    Golden("M11", memory.dispatched, (100.0, 1.5), 150.0, "hand", "half as much again on the busiest rank"),
    Golden("P1", pipeline.layers_of_largest_stage, (80.0, 12.0), 7.0, "hand", "8 stages of 7, 4 of 6"),
    Golden("P2", pipeline.in_flight, ("1f1b", 4.0, 0.0, 8.0, 1.0), 4.0, "published", "Megatron schedules.py: p - i"),
    Golden(
        "P2", pipeline.in_flight, ("1f1b", 4.0, 3.0, 8.0, 1.0), 1.0, "published", "Megatron schedules.py: last stage"
    ),
    Golden("P2", pipeline.in_flight, ("1f1b", 4.0, 0.0, 2.0, 1.0), 2.0, "hand", "no more than there are"),
    Golden(
        "P2",
        pipeline.in_flight,
        ("1f1b", 8.0, 0.0, 64.0, 2.0),
        8 * (1 + 7 / 16),
        "published",
        "Korthikanti et al. 2022: interleaving multiplies by 1 + (p - 1) / (p v)",
    ),
    Golden("P2", pipeline.in_flight, ("gpipe", 4.0, 0.0, 8.0, 1.0), 8.0, "published", "GPipe: all"),
    Golden("P3", pipeline.bubble, ("1f1b", 5.0, 8.0, 1.0), 0.5, "published", "Narayanan et al. 2021: (p - 1) / m"),
    Golden("P3", pipeline.bubble, ("1f1b", 5.0, 8.0, 2.0), 0.25, "published", "Narayanan et al. 2021: over v"),
    Golden("P3", pipeline.bubble, ("zb-h1", 4.0, 8.0, 1.0), 0.125, "published", "arXiv 2401.10241: a third of 1F1B's"),
    Golden(
        "P4",
        partial(pipeline.in_transit, freed=True),
        (1.0, 4.0),
        2.0,
        "published",
        "Megatron frees outputs once they are sent",
    ),
    Golden("P5", pipeline.virtual_layers, (70.0, True), 72.0, "hand", "embedding and head"),
    Golden("S2", schedule.pipelined_share, (4.0,), 0.75, "hand", "three of four"),
    Golden("S3", schedule.hiding_bandwidth, (5e10, 2.0), 2.5e10, "hand", "50 GB behind two seconds"),
    Golden("S1", schedule.overlapped_seconds, (2.0, 3.0, 1.0), 3.0, "hand", "the network takes longest"),
    Golden("S1", schedule.overlapped_seconds, (2.0, 1.0, 5.0), 5.0, "hand", "the link to the host takes longest"),
    Golden(
        "S1", schedule.overlapped_seconds, (2.0, 1.0, 0.0, 0.25), 2.2, "hand", "2 + 0.25 / 1.25: computation slowed"
    ),
)

STRUCTURE = {(optimizer.state_bytes, 2), (compute.product_seconds, 5), (compute.product_bytes, 3)}
"""Arguments that are never arrays: the size of a block, a fitted constant, the bytes of a dtype."""

ids = [f"{golden.equation}-{index}" for index, golden in enumerate(GOLDENS)]


@pytest.mark.parametrize("golden", GOLDENS, ids=ids)
def test_number(golden: Golden) -> None:
    assert golden.kind in KINDS
    assert golden.source
    assert golden.function(*golden.arguments) == pytest.approx(golden.expected, rel=golden.tolerance)


@pytest.mark.parametrize("golden", GOLDENS, ids=ids)
def test_array_equals_numbers(golden: Golden) -> None:
    """Each argument as an array, one after the other: the same number, bit for bit."""
    alone = golden.function(*golden.arguments)
    for position, value in enumerate(golden.arguments):
        if not isinstance(value, float) or (golden.function, position) in STRUCTURE:
            continue
        arguments: list[object] = list(golden.arguments)
        arguments[position] = np.array([value, value])
        together = np.broadcast_to(golden.function(*arguments), (2,))  # type: ignore[arg-type]
        assert together[0] == alone
        assert together[1] == alone


FUNCTIONS = {golden.function: golden for golden in GOLDENS}
EXTENSIVE = [
    memory.parameter_shard,
    memory.main_gradients,
    activations.loss_backward,
    optimizer.cpu_step_seconds,
    quantization.scales,
    compute.linear_flops,
    compute.attention_flops,
]
"""Equations that are proportional to their first argument."""


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: getattr(function, "__name__", "partial"))
def test_numbers_stay_python_floats(function: Callable[..., object]) -> None:
    """Plain in, plain out: the fast path of one case (NumPy's power function returns its own float)."""
    value = function(*FUNCTIONS[function].arguments)
    assert isinstance(value, float)


@pytest.mark.parametrize("function", EXTENSIVE, ids=lambda function: function.__name__)
def test_nothing_of_nothing(function: Callable[..., float]) -> None:
    """Zero elements, tokens or bytes give zero."""
    assert function(0.0, *FUNCTIONS[function].arguments[1:]) == 0.0


def test_zero_elsewhere() -> None:
    assert memory.flat_shard(0.0, 8.0) == 0.0
    assert memory.pinned(0.0) == 0.0
    assert schedule.overlapped_seconds(0.0, 0.0, 0.0) == 0.0
    assert memory.step_scratch(0.0, 0.0) == 4.0


@pytest.mark.parametrize("function", [comm.gather_seconds, comm.all_reduce_seconds])
def test_one_rank_takes_no_time(function: Callable[..., float]) -> None:
    assert function(8e9, 1.0, 8.0, 1e9, HOPS, 100.0) == 0.0


@pytest.mark.parametrize("function", [comm.gather_seconds, comm.all_reduce_seconds])
def test_nothing_moved_takes_no_time(function: Callable[..., float]) -> None:
    """Stages of ZeRO switch collectives off by their bytes: without bytes there are no calls to wait for either."""
    assert function(0.0, 16.0, 8.0, 1e9, HOPS, 720.0) == 0.0


def test_one_rank_sends_nothing_to_all() -> None:
    assert comm.all_to_all_seconds(8e9, 1.0, 8.0, 1e9, 1e9, 1e-5) == 0.0


@pytest.mark.parametrize("schedule_name", pipeline.SCHEDULES)
def test_one_stage_is_no_pipeline(schedule_name: str) -> None:
    assert pipeline.in_flight(schedule_name, 1.0, 0.0, 8.0, 1.0) == 1.0
    assert pipeline.bubble(schedule_name, 1.0, 8.0, 1.0) == 0.0


def test_huge_numbers_are_exact() -> None:
    """Whole numbers up to 2^53 are exact in float64: shards of a thousand trillion elements still cover the whole."""
    numel = float(10**15 + 1)
    assert memory.parameter_shard(numel, 1000.0) == 10**12 + 1
    assert memory.flat_shard(numel, 500.0) * 500 == 10**15 + 1000
    assert compute.linear_flops(1e13, 1e9) == 2e22
