"""Broadcast = map: a grid of cases equals the cases one by one, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramsim import Case, catalog, rules, simulate, testing
from vramsim.spec import Setup


@pytest.mark.parametrize("framework", catalog.names("framework"))
@given(data=st.data())
def test_broadcast_is_map(framework: str, data: st.DataObject) -> None:
    testing.broadcast_is_map(data.draw(testing.grids(framework=framework)))


@settings(max_examples=settings.default.max_examples // 2)
@given(setup=testing.setups(), size=st.integers(1, 5))
def test_rows_equal_an_open_grid(setup: Setup, size: int) -> None:
    """The same cases as rows (every field an array of one shape) and as an open grid."""
    lengths = float(setup.training.seq_len) * np.arange(1.0, size + 1.0)
    batches = np.array([1.0, 3.0])
    opened = testing.changed(setup, seq_len=lengths[:, None], micro_batch_size=batches[None, :])
    rows = testing.changed(
        setup, seq_len=np.repeat(lengths, batches.size), micro_batch_size=np.tile(batches, lengths.size)
    )
    in_grid, in_rows = testing.numbers(simulate(opened)), testing.numbers(simulate(rows))
    assert in_grid.keys() == in_rows.keys()
    for name, values in in_grid.items():
        spread = np.broadcast_to(values, (lengths.size, batches.size)).ravel()
        assert np.array_equal(spread, np.broadcast_to(in_rows[name], spread.shape)), name


def test_probability_of_fitting_broadcasts() -> None:
    """Within one unit in the last place: math.erf and scipy.special.erf round differently."""
    case = Case(
        model="llama-3-8b",
        cluster={"device": "a100-sxm-80gb", "num_devices": 8},
        framework="deepspeed",
        training={"seq_len": np.array([1024.0, 8192.0, 32768.0, 65536.0])},
        strategy={"zero_stage": 3},
    )
    setup = case.resolve()
    together = simulate(setup).fit_probability
    alone = [simulate(rules.element(setup, index)).fit_probability for index in range(4)]
    np.testing.assert_allclose(together, alone, rtol=1e-14, atol=1e-300)


def test_a_link_is_chosen_element_by_element() -> None:
    """A ring inside a node shares its link with tensor parallelism, one across nodes does not: the time bound shows it.

    The grid holds both, so a flow must take its link for each element by itself.
    """
    case = Case(
        model="llama-3-8b",
        cluster={
            "device": "a100-sxm-80gb",
            "num_devices": 8,
            "devices_per_node": 8,
            "scale_up_bandwidth": 1e9,
            "scale_out_bandwidth": 1e9,
        },
        framework="deepspeed",
        training={"seq_len": 4096},
        strategy={"zero_stage": 3, "tp": 2, "recompute": "full"},
    )
    testing.broadcast_is_map(testing.changed(case.resolve(), num_devices=np.array([8.0, 16.0])))
