"""Lower bound <= estimate <= upper bound; 0 < MFU <= HFU <= 1; time follows work."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import Case, catalog, simulate, testing
from vramsim.spec import MICRO_STEP, Link, Phase, Setup
from vramsim.testing import changed


@given(setup=testing.setups())
def test_time_is_bracketed(setup: Setup) -> None:
    testing.time_is_bracketed(setup)


@given(setup=testing.setups())
def test_activities_add_up_to_the_step(setup: Setup) -> None:
    """The best estimate is the sum of exposed activities, unless one engine alone takes longer."""
    time = simulate(setup).time
    together = sum(time.by_activity.values())
    assert time.step_seconds == pytest.approx(max(together, time.lower_seconds), rel=1e-12)
    assert all(seconds >= 0 for seconds in time.by_activity.values())


@given(setup=testing.setups())
def test_recomputation_costs_time_and_no_model_flops(setup: Setup) -> None:
    """Computation takes longer, and neither bound of the step falls, where activations stay on the device.

    The best estimate may fall a little: what two links expose behind the same computation is added, though they run at
    once, so that more computation hides more than it adds. (And offloading fewer activations may save more time than
    recomputing them costs.)
    """
    setup = changed(setup, offload_activations=0.0)
    none, full = (
        simulate(changed(setup, recompute=r, recompute_selective=0.0, recompute_op=0.0)).time for r in (0.0, 1.0)
    )
    assert full.by_activity["compute"] > none.by_activity["compute"]
    assert full.lower_seconds >= none.lower_seconds
    assert full.upper_seconds > none.upper_seconds
    ratio = none.hfu / none.mfu
    assert full.hfu / full.mfu > ratio
    # One more forward pass of the blocks: at most half as much again as forward and backward of adapters cost.
    assert full.hfu / full.mfu <= ratio + 0.5 + 1e-9


@given(setup=testing.setups(), steps=st.sampled_from([1.0, 3.0]))
def test_computation_hides_a_link_once(setup: Setup, steps: float) -> None:
    """What is hidden of the traffic over PCIe never exceeds the computation, and the network's traffic, beside it."""
    setup = changed(setup, gradient_accumulation_steps=steps)
    estimate = simulate(setup)
    graph = estimate.graph
    moved = sum(_times(flow.phase, steps) * flow.seconds for flow in graph.flows if flow.link is Link.PCIE)
    hiding = {flow.behind for flow in graph.flows if flow.link is Link.PCIE}
    cover = sum(steps * work.seconds for work in graph.work if work.phase in hiding)
    cover += estimate.time.by_activity.get("communication", 0.0)
    hidden = moved - estimate.time.by_activity.get("offload", 0.0)
    assert hidden <= cover * (1 + 1e-9) + 1e-12 * moved


def _times(phase: Phase, steps: float) -> float:
    return steps if phase in MICRO_STEP else 1.0


@given(setup=testing.setups())
def test_throughput_is_tokens_over_time(setup: Setup) -> None:
    time = simulate(setup).time
    tokens = setup.global_batch_size * setup.training.seq_len
    rate = time.tokens_per_second_per_device * setup.cluster.num_devices
    assert rate * time.step_seconds == pytest.approx(tokens)


@given(setup=testing.setups(), recompute=st.sampled_from([0.25, 1.0]))
def test_a_checkpoint_that_stops_early_saves_the_last_product(setup: Setup, recompute: float) -> None:
    """What is left out is the forward of one weight a block, and nothing else changes."""
    setup = changed(setup, recompute=recompute)

    def again(stops: bool) -> float:
        run = replace(setup, framework=replace(setup.framework, stops_early=stops))
        return sum(w.flops for w in simulate(run).graph.work if w.name == "matrix products, recomputed")

    assert 0.0 < again(True) <= again(False)


def test_the_optimizer_hides_no_launches() -> None:
    """A step that waits for its host takes the host's time, and the optimizer's and the reduction's after it."""
    setup = Case(
        model="llama-3.2-1b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 1},
        framework="torch",
        training={"seq_len": 128, "precision": "bf16"},
    ).resolve()
    estimate = simulate(setup)
    host = sum(w.seconds for w in estimate.graph.work if w.activity == "host")
    optimizer = estimate.time.by_activity["optimizer"]
    assert estimate.time.by_activity["host"] > 0.0
    assert estimate.time.step_seconds == pytest.approx(host + optimizer)


@given(
    setup=testing.setups(),
    limits=st.tuples(st.floats(0.3, 1.2), st.floats(0.3, 1.2)).map(sorted),
    name=st.sampled_from(["h100-sxm-80gb", "b200-sxm-180gb", "mi300x-192gb"]),
)
def test_less_power_is_never_faster(setup: Setup, limits: list[float], name: str) -> None:
    """A limit slows computation, not memory; one above the rated power changes nothing."""
    free = catalog.device(name)
    lower, higher = (
        simulate(replace(setup, cluster=replace(setup.cluster, device=catalog.powered(free, limit * free.power))))
        for limit in limits
    )
    rated = simulate(replace(setup, cluster=replace(setup.cluster, device=free)))
    assert lower.time.by_activity["compute"] >= higher.time.by_activity["compute"]
    assert higher.time.by_activity["compute"] >= rated.time.by_activity["compute"]
    assert (limits[1] < 1.0) or higher.time.step_seconds == rated.time.step_seconds
    assert lower.memory.hbm.used_bytes == rated.memory.hbm.used_bytes


def test_a_lower_power_in_a_case_slows_its_device() -> None:
    """Efficiencies that are stated beside it stay as stated."""
    base = {"model": "llama-3-8b", "framework": "fsdp2", "training": {"seq_len": 8192, "micro_batch_size": 1}}
    rated, held, stated = (
        Case(**base, cluster={"device": {"base": "h100-sxm-80gb", **more}, "num_devices": 8}).resolve().cluster.device
        for more in ({}, {"power": 500}, {"power": 500, "gemm_efficiency": 0.66})
    )
    assert held.gemm_efficiency == pytest.approx(rated.gemm_efficiency * (500 / 700) ** 0.45)
    assert (stated.gemm_efficiency, stated.power) == (rated.gemm_efficiency, 500.0)
