"""A breakdown by category sums up to what it breaks down, and no category is less than nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import catalog, simulate, testing
from vramsim.spec import Category, Component, Phase, Setup, beside, most, without

ROUNDING = 64.0
"""Components are whole bytes, moments are not: a category is off by a byte for each of them. [B]"""

amounts = st.dictionaries(st.sampled_from(list(Category)), st.floats(-1e9, 1e9), max_size=4)


@pytest.mark.parametrize("framework", catalog.names("framework"))
@given(data=st.data())
def test_categories_sum_up_to_what_is_alive(framework: str, data: st.DataObject) -> None:
    setup = data.draw(testing.setups(framework=framework))
    estimate = simulate(setup)
    hbm = estimate.memory.hbm
    alive = float(hbm.alive_by_phase[hbm.peak_phase])
    paged = sum(float(component.nbytes) for component in estimate.components() if component.paged)
    beside_it = min(paged, max(hbm.capacity_bytes - alive, 0.0))
    assert sum(estimate.by_category().values()) == alive + beside_it


@given(setup=testing.setups())
def test_no_category_is_less_than_nothing(setup: Setup) -> None:
    assert min(simulate(setup).by_category().values()) >= -ROUNDING


@given(setup=testing.setups())
def test_a_component_is_its_fullest_moment(setup: Setup) -> None:
    for component in simulate(setup).graph.components:
        if component.moments:
            assert float(component.nbytes) == pytest.approx(float(most(component.moments)), abs=1.0)
        assert sum(component.by_category().values()) == float(component.nbytes)


@given(one=amounts, other=amounts)
def test_moments_add_up(one: dict[Category, float], other: dict[Category, float]) -> None:
    assert most([beside(one, other)]) == pytest.approx(most([one]) + most([other]), abs=1.0)
    assert most([beside(one, without(one))]) == 0.0


@given(moments=st.lists(amounts, min_size=1, max_size=3), share=st.floats(0.0, 1.0))
def test_a_share_of_a_component(moments: list[dict[Category, float]], share: float) -> None:
    whole = Component.worst("any", Category.TEMPORARY, Phase.HEAD, {}, *moments)
    part = whole.times(share)
    assert part.nbytes == pytest.approx(share * whole.nbytes, abs=1.0)
    assert sum(part.by_category().values()) == pytest.approx(share * whole.nbytes, abs=4.0)


def test_the_first_of_equal_moments_counts() -> None:
    early, late = {Category.ACTIVATION: 4.0}, {Category.TEMPORARY: 4.0}
    assert Component.worst("any", Category.TEMPORARY, Phase.HEAD, early, late).by_category()[Category.ACTIVATION] == 4.0
