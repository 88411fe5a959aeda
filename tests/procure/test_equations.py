"""Goodput, energy and cost: against a simulation, against what was published, and against each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import Case, simulate
from vramsim.catalog.prices import Price, Prices
from vramsim.equations import cost, energy, goodput
from vramsim.outcome import Terms, capital, checkpoint_bytes, device_hour, electricity, owned_year
from vramsim.spec import Cluster, Power, Reliability
from vramsim.units import HOUR

seconds = st.floats(10.0, 1e4)
mtbfs = st.floats(1e4, 1e8)


def simulated_goodput(checkpoint: float, mtbf: float, restart: float, interval: float, segments: int) -> float:
    """Share of progress of a run that is played event by event."""
    rng = np.random.default_rng(0)
    clock = 0.0
    for _ in range(segments):
        while True:
            failure = rng.exponential(mtbf)
            if failure >= interval + checkpoint:
                clock += interval + checkpoint
                break
            clock += failure
            while (again := rng.exponential(mtbf)) < restart:
                clock += again
            clock += restart
    return segments * interval / clock


@pytest.mark.parametrize(("checkpoint", "mtbf", "restart"), [(60.0, 3600.0, 300.0), (30.0, 20000.0, 900.0)])
def test_goodput_equals_a_played_run(checkpoint: float, mtbf: float, restart: float) -> None:
    interval = float(goodput.checkpoint_interval(checkpoint, mtbf))
    played = simulated_goodput(checkpoint, mtbf, restart, interval, 20_000)
    assert goodput.goodput(checkpoint, mtbf, restart) == pytest.approx(played, rel=0.01)


@given(checkpoint=seconds, mtbf=mtbfs, restart=seconds)
def test_goodput_is_a_share_and_falls_with_what_is_bad(checkpoint: float, mtbf: float, restart: float) -> None:
    share = float(goodput.goodput(checkpoint, mtbf, restart))
    assert 0.0 <= share < 1.0
    assert float(goodput.goodput(checkpoint, 2.0 * mtbf, restart)) >= share
    assert float(goodput.goodput(checkpoint, mtbf, 2.0 * restart)) <= share


@given(checkpoint=seconds, mtbf=st.floats(1e5, 1e8))
def test_the_interval_is_about_the_best(checkpoint: float, mtbf: float) -> None:
    best = float(goodput.checkpoint_interval(checkpoint, mtbf))
    shares = goodput.goodput(checkpoint, mtbf, 600.0, best * np.array([0.5, 0.8, 1.0, 1.25, 2.0]))
    assert shares[2] >= shares.max() * (1.0 - 1e-3)


def test_llama_3_kept_over_90_percent() -> None:
    mtbf = goodput.job_mtbf(Reliability().device_mtbf, 16384.0)
    assert mtbf == pytest.approx(54 * 24 * HOUR / 419)
    assert 0.89 < float(goodput.goodput(15.0, mtbf, 300.0)) < 0.93


def test_broadcast() -> None:
    checkpoints, mtbf = np.array([10.0, 60.0]), np.array([[1e4], [1e6]])
    together = goodput.goodput(checkpoints, mtbf, 600.0)
    assert together.shape == (2, 2)
    assert together[1, 0] == goodput.goodput(10.0, 1e6, 600.0)


@pytest.mark.parametrize(
    ("framework", "changes", "expected"),
    [
        ("deepspeed", {"zero_stage": 3}, 14.0),
        ("deepspeed", {"zero_stage": 1}, 14.0),
        ("deepspeed", {"zero_stage": 0}, 14.0),
        ("fsdp2", {}, 12.0),
        ("ddp", {}, 12.0),
    ],
)
def test_checkpoint_counts_each_state_once(framework: str, changes: dict[str, Any], expected: float) -> None:
    case = Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 16},
        framework=framework,
        training={"seq_len": 4096},
    ).with_values({"micro_batch_size": 1, **changes})
    held = float(checkpoint_bytes(simulate(case)))
    assert held == pytest.approx(expected * 8.03e9, rel=0.02)


def test_node_power_is_near_what_was_measured() -> None:
    power = Power()
    node = 8.0 * float(energy.drawn_power(700.0, power.server_factor, power.load))
    assert 7000.0 < node < 8400.0


TERMS = Terms()
H100 = Case(
    model="llama-3-8b",
    cluster={"device": "h100-sxm-80gb", "num_devices": 8},
    framework="fsdp2",
    training={"seq_len": 4096},
).resolve()


def bought(usd: float) -> Price:
    price = TERMS.prices.buy("h100-sxm-80gb")
    assert price is not None
    return replace(price, usd=usd, unit="accelerator")


def drawing(watts: float) -> Cluster:
    return replace(H100.cluster, device=replace(H100.cluster.device, power=watts))


@given(usd=st.floats(1e3, 1e5), watts=st.floats(100.0, 1500.0), use=st.floats(0.05, 1.0))
def test_owning_costs_less_an_hour_the_busier_it_is(usd: float, watts: float, use: float) -> None:
    terms = [replace(TERMS, ownership=replace(TERMS.ownership, utilization=each)) for each in (use / 2.0, use)]
    hours = [device_hour(bought(usd), drawing(watts), each) for each in terms]
    assert hours[0] > hours[1]


@given(usd=st.floats(1e3, 1e5), watts=st.floats(100.0, 1500.0), rent=st.floats(0.6, 20.0))
def test_at_break_even_owning_costs_the_rent(usd: float, watts: float, rent: float) -> None:
    price, cluster = bought(usd), drawing(watts)
    fixed, busy = owned_year(price, cluster, TERMS), electricity(cluster, TERMS)
    even = float(cost.break_even_utilization(fixed, rent, TERMS.ownership.idle_load, busy))
    if 0.0 < even < 1.0:
        used = replace(TERMS, ownership=replace(TERMS.ownership, utilization=even))
        assert device_hour(price, cluster, used) == pytest.approx(rent, rel=1e-9)


def test_accelerators_and_nodes_come_to_similar_capital() -> None:
    prices = Prices.load()
    node, accelerator = prices.buy("h100-sxm-80gb"), prices.buy("h200-sxm-141gb")
    assert node is not None
    assert accelerator is not None
    assert node.unit == "node"
    assert accelerator.unit == "accelerator"
    each = [float(capital(price, H100.cluster, TERMS)) for price in (node, accelerator)]
    assert each[0] == pytest.approx(each[1], rel=0.2)
