"""Conformance laws for extensions: what must hold for every model, framework, optimizer and part, built in or yours.

A law is a plain function of a Setup (and the parts to run) that raises AssertionError with the numbers that break it;
`LAWS` lists those that any valid setup keeps, and `conforms` runs them all. The Hypothesis strategies `models`,
`cases`, `setups` and `grids` draw valid input; Hypothesis is imported when one of them is called
(`pip install vramsim[test]`).

    @given(setup=vramsim.testing.setups(framework="fsdp2"))
    def test_my_part(setup):
        vramsim.testing.conforms(setup, (*DEFAULT, my_part))
"""

from __future__ import annotations

from vramsim.testing.laws import (
    LAWS,
    STAGES,
    broadcast_is_map,
    changed,
    conforms,
    degree_one_changes_nothing,
    living,
    numbers,
    offload_conserves_bytes,
    one_device_is_silent,
    placed,
    states_never_grow,
    states_shrink_as_shares,
    time_is_bracketed,
)
from vramsim.testing.strategies import cases, grids, models, setups

__all__ = [
    "LAWS",
    "STAGES",
    "broadcast_is_map",
    "cases",
    "changed",
    "conforms",
    "degree_one_changes_nothing",
    "grids",
    "living",
    "models",
    "numbers",
    "offload_conserves_bytes",
    "one_device_is_silent",
    "placed",
    "setups",
    "states_never_grow",
    "states_shrink_as_shares",
    "time_is_bracketed",
]
