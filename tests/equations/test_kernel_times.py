"""Times of kernels and collectives: what must hold whatever the constants are."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import Case, assemble, simulate
from vramsim.equations import comm, compute, schedule
from vramsim.parts import products
from vramsim.spec import Setup

sizes = st.integers(1, 65_536).map(float)
hops = (4e-6, 14e-6)


@given(rows=sizes, cols=sizes, processors=st.sampled_from([1.0, 78.0, 108.0, 132.0]), count=st.integers(1, 64))
def test_tiles_cover_the_product(rows: float, cols: float, processors: float, count: int) -> None:
    occupied = compute.padded_outputs(rows, cols, products.LARGE_TILE, processors, float(count))
    assert occupied >= count * rows * cols
    assert occupied % (processors * products.LARGE_TILE[0] * products.LARGE_TILE[1]) == 0


@given(rows=sizes, cols=sizes, whole=st.floats(0.0, 1.0))
def test_splitting_tiles_shares_out_the_last_wave(rows: float, cols: float, whole: float) -> None:
    """Between the tiles' own outputs and those of full waves, and the more of these the less is split."""
    tile, processors = products.LARGE_TILE, 108.0
    tiles = np.ceil(rows / tile[0]) * np.ceil(cols / tile[1]) * tile[0] * tile[1]
    full = compute.padded_outputs(rows, cols, tile, processors)
    occupied = compute.padded_outputs(rows, cols, tile, processors, 1.0, whole)
    assert occupied == pytest.approx(tiles + whole * (full - tiles))


@given(nbytes=st.floats(1.0, 1e10), ranks=st.sampled_from([2.0, 8.0, 16.0, 512.0]), calls=st.integers(1, 100))
def test_collectives_are_bounded_by_their_wires_and_their_hops(nbytes: float, ranks: float, calls: int) -> None:
    seconds = comm.gather_seconds(nbytes, ranks, 8.0, 1e11, hops, float(calls))
    assert seconds >= nbytes * (ranks - 1.0) / ranks / 1e11
    assert seconds >= calls * 6.6e-6
    assert comm.all_reduce_seconds(nbytes, ranks, 8.0, 1e11, hops, float(calls)) >= seconds


def test_one_rank_sends_nothing() -> None:
    assert comm.ring_seconds(1e9, 1.0, 8.0, 1e11, hops) == 0.0


@given(computing=st.floats(0, 1e3), network=st.floats(0, 1e3), offload=st.floats(0, 1e3), slowdown=st.floats(0, 1))
def test_hiding_never_costs_more_than_waiting(
    computing: float, network: float, offload: float, slowdown: float
) -> None:
    together = schedule.overlapped_seconds(computing, network, offload, slowdown)
    assert max(computing, network, offload) <= together * (1 + 1e-12)
    assert together <= (computing + network + offload) * (1.0 + 1e-12)


def _setup(**strategy: object) -> Setup:
    return Case(
        model="llama-3-8b",
        cluster={"device": "a100-sxm-80gb", "num_devices": 8},
        framework="deepspeed",
        training={"seq_len": 4096},
        strategy={"zero_stage": 3, **strategy},
    ).resolve()


def test_a_large_product_runs_at_the_devices_sustained_rate() -> None:
    setup = _setup()
    rate = 2.0 * 16384.0**3 / products.product(setup, 16384.0, 16384.0, 16384.0)
    assert rate == pytest.approx(products.rate(setup), rel=0.05)


def test_small_and_thin_products_are_slower() -> None:
    setup = _setup()

    def share(rows: float, cols: float, depth: float) -> float:
        return float(2.0 * rows * cols * depth / products.product(setup, rows, cols, depth) / products.rate(setup))

    assert share(128.0, 4096.0, 4096.0) < share(1024.0, 4096.0, 4096.0) < share(8192.0, 4096.0, 4096.0) < 1.0
    assert share(8192.0, 8192.0, 64.0) < 0.5


def test_slower_attention_kernels_take_longer() -> None:
    setup, seconds = _setup(), {}
    for kernel in ("flash", "triton", "flash1", "eager"):
        changed = replace(setup, framework=replace(setup.framework, attention=kernel))
        seconds[kernel] = sum(w.seconds for w in assemble(changed).work if w.name.startswith("attention"))
    assert seconds["flash"] < seconds["triton"] < seconds["flash1"] < seconds["eager"]


def test_tiny_runs_wait_for_the_host() -> None:
    def activities(seq_len: int) -> dict[str, float]:
        training = {"seq_len": seq_len, "method": "lora", "lora": {"rank": 8, "targets": ["all-linear"]}}
        cluster = {"device": "h100-sxm-80gb", "num_devices": 1}
        case = Case(model="llama-3.2-1b", cluster=cluster, framework="torch", training=training)
        return dict(simulate(case).time.by_activity)

    assert activities(64)["host"] > 0
    assert "host" not in activities(8192)


def test_throughput_rises_with_the_micro_batch() -> None:
    setup = _setup(recompute="full")
    grown = replace(setup, training=replace(setup.training, micro_batch_size=np.array([1.0, 2.0, 4.0, 8.0])))
    rates = simulate(grown).time.tokens_per_second_per_device
    assert np.all(np.diff(rates) > 0)


def test_calibration_study_reports_held_out_errors() -> None:
    study = Path(__file__).parents[2] / "studies/calibrate_hardware.py"
    run = subprocess.run([sys.executable, str(study)], capture_output=True, text=True, check=True)
    errors = {line.partition(",")[0]: line for line in run.stdout.splitlines()}
    assert {"products", "attention fwd", "attention bwd", "all-reduces", "sustained products"} <= errors.keys()
    assert "held-out error" in run.stdout
