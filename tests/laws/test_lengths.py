"""Batches that differ in length: what the allocator holds grows, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given

from vramsim import simulate, testing
from vramsim.spec import Setup
from vramsim.testing import changed


@given(setup=testing.setups())
def test_uneven_lengths_hold_more_of_the_same(setup: Setup) -> None:
    even, uneven = (simulate(changed(setup, uneven_lengths=flag)).memory.hbm for flag in (False, True))
    assert uneven.allocated_bytes == even.allocated_bytes
    assert uneven.reserved_bytes >= even.reserved_bytes * (1.0 - 1e-12)
    # Nothing lives in those blocks, and a full device returns all of them.
    assert uneven.needed_bytes == pytest.approx(even.needed_bytes)


@given(setup=testing.setups())
def test_what_is_left_behind_grows_with_the_batch(setup: Setup) -> None:
    held = []
    for factor in (1.0, 2.0):
        longer = changed(setup, uneven_lengths=True, micro_batch_size=setup.training.micro_batch_size * factor)
        left = [each for each in simulate(longer).graph.components if each.name == "blocks of shorter batches"]
        held.append(sum(float(each.nbytes) for each in left))
    assert 0.0 < held[0] < held[1]
