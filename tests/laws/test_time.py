"""Lower bound <= estimate <= upper bound; 0 < MFU <= HFU <= 1; time follows work."""

from __future__ import annotations

import pytest
from hypothesis import given

from vramsim import simulate, testing
from vramsim.spec import Setup
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
    """Where activations stay on the device: offloading fewer of them may save more time than recomputing costs."""
    setup = changed(setup, offload_activations=0.0)
    none, full = (simulate(changed(setup, recompute=r, recompute_selective=0.0)).time for r in (0.0, 1.0))
    assert full.step_seconds >= none.step_seconds
    assert full.mfu <= none.mfu
    ratio = none.hfu / none.mfu
    assert full.hfu / full.mfu > ratio
    # One more forward pass of the blocks: at most half as much again as forward and backward of adapters cost.
    assert full.hfu / full.mfu <= ratio + 0.5 + 1e-9


@given(setup=testing.setups())
def test_throughput_is_tokens_over_time(setup: Setup) -> None:
    time = simulate(setup).time
    tokens = setup.global_batch_size * setup.training.seq_len
    rate = time.tokens_per_second_per_device * setup.cluster.num_devices
    assert rate * time.step_seconds == pytest.approx(tokens)
