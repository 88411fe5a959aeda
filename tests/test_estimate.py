"""What an estimate shows of itself in a notebook."""

from __future__ import annotations

import re
from pathlib import Path

import vramsim

SEED = Path(__file__).parents[1] / "studies" / "cases" / "llama3_70b_16xa100.yaml"


def test_an_estimate_is_one_line() -> None:
    case = vramsim.Case.load(SEED)
    one = vramsim.simulate(case)
    memory = r"does not fit, [\d.]+ GiB used of 79.3 at the peak \(head\)"
    assert re.fullmatch(rf"Estimate: {memory}, [\d.]+ s a step, \d+ tokens/s per device", repr(one))
    grid = vramsim.simulate(case.with_values({"seq_len": [[1024], [8192]], "num_devices": [16, 64]}))
    assert repr(grid) == "Estimate of 2 x 2 cases, of which 75% fit"
