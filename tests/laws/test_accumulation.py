"""Accumulation at a fixed global batch never raises the peak beyond the gradients that it accumulates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import assemble, catalog, simulate, testing
from vramsim.spec import Setup, Tier
from vramsim.testing import changed


def accumulated(setup: Setup) -> float:
    """Bytes of the components that accumulation adds: sets of gradients kept between micro-steps, by their names."""
    found = [c for c in assemble(setup).components if c.name.startswith("accumulated") and c.tier is Tier.HBM]
    return sum(float(component.nbytes) for component in found)


@pytest.mark.parametrize("framework", catalog.names("framework"))
@given(data=st.data(), micro=st.integers(1, 8), factor=st.integers(2, 8))
def test_peak_at_a_fixed_global_batch(framework: str, data: st.DataObject, micro: int, factor: int) -> None:
    setup = data.draw(testing.setups(framework=framework))
    once = changed(setup, micro_batch_size=float(micro * factor), gradient_accumulation_steps=1.0)
    split = changed(setup, micro_batch_size=float(micro), gradient_accumulation_steps=float(factor))
    assert once.global_batch_size == split.global_batch_size
    before, after = (simulate(each).memory.hbm.allocated_bytes for each in (once, split))
    assert after <= before + accumulated(split)


@given(setup=testing.setups(), micro=st.integers(1, 8), factor=st.integers(2, 8))
def test_more_steps_of_smaller_batches_never_cost_more(setup: Setup, micro: int, factor: int) -> None:
    """Once gradients accumulate at all, splitting further only shrinks activations."""
    few = changed(setup, micro_batch_size=float(micro * factor), gradient_accumulation_steps=2.0)
    many = changed(setup, micro_batch_size=float(micro), gradient_accumulation_steps=2.0 * factor)
    before, after = (simulate(each).memory.hbm.allocated_bytes for each in (few, many))
    assert after <= before


@given(setup=testing.setups())
def test_no_accumulation_keeps_no_accumulated_gradients(setup: Setup) -> None:
    assert accumulated(changed(setup, gradient_accumulation_steps=1.0)) == 0.0
