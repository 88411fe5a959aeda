"""Advice: what it says comes true, and it does not say what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vramsim
from vramsim.case import Case
from vramsim.errors import VramsimError
from vramsim.search.advice import Change, advise

CASES = Path(__file__).parents[2] / "studies" / "cases"


def case(device: str, devices: int, framework: str, *, model: str = "llama-3-8b", **values: Any) -> Case:
    made = Case(
        model=model,
        cluster={"device": device, "num_devices": devices},
        framework=framework,
        training={"seq_len": 4096},
    )
    return made.with_values(values)


TOO_LARGE = [
    case("a100-sxm-80gb", 16, "xtuner-v0.1", model="llama-3-70b", zero_stage=3, recompute="full", seq_len=8192),
    case("a100-sxm-40gb", 8, "deepspeed", zero_stage=1, micro_batch_size=4, gradient_accumulation_steps=2),
    case("rtx-4090-24gb", 1, "hf-trainer", method="lora", micro_batch_size=4, seq_len=2048),
    case("rtx-4090-24gb", 1, "torch"),
]
FITTING = [
    case("h100-sxm-80gb", 16, "deepspeed", zero_stage=3, recompute="full", offload_optimizer="cpu"),
    case("h100-sxm-80gb", 16, "fsdp2", recompute="full"),
]


def holds(change: Change, of: Case) -> None:
    """A change is what simulating it says."""
    before, after = vramsim.simulate(of), vramsim.simulate(of.with_values(change.values))
    assert change.fits == after.fits
    assert change.headroom_bytes == after.memory.hbm.headroom_bytes
    assert change.saved_bytes == before.memory.hbm.used_bytes - after.memory.hbm.used_bytes
    assert change.step_seconds == after.time.step_seconds
    rate = after.time.tokens_per_second_per_device / before.time.tokens_per_second_per_device
    assert change.throughput_ratio == rate
    assert change.why


@pytest.mark.parametrize("large", TOO_LARGE)
def test_case_that_does_not_fit(large: Case) -> None:
    changes = advise(large)
    assert changes
    for change in changes:
        holds(change, large)
        assert change.saved_bytes > 0.0
    ranks = [(not change.same_training, -change.throughput_ratio) for change in changes]
    saved = [-change.saved_bytes for change in changes]
    fits = {change.fits for change in changes}
    assert len(fits) == 1, "what fits is never listed beside what does not"
    assert (ranks == sorted(ranks)) if True in fits else (saved == sorted(saved))


@pytest.mark.parametrize("small", FITTING)
def test_case_that_fits_is_made_faster(small: Case) -> None:
    changes = advise(small)
    assert changes
    for change in changes:
        holds(change, small)
        assert change.fits
        assert change.same_training
        assert change.throughput_ratio > 1.0


def test_pairs_only_where_singles_do_not_suffice() -> None:
    assert not any(" + " in change.name for change in advise(TOO_LARGE[0]))
    assert all(" + " in change.name for change in advise(TOO_LARGE[2]))


def test_nothing_suffices() -> None:
    hopeless = case("rtx-4090-24gb", 1, "torch", model="llama-3-70b", seq_len=32768, micro_batch_size=8)
    changes = advise(hopeless, limit=5)
    assert len(changes) == 5
    assert not any(change.fits for change in changes)
    assert [change.saved_bytes for change in changes] == sorted((c.saved_bytes for c in changes), reverse=True)


def test_batch_stays_the_same() -> None:
    large = TOO_LARGE[1]
    batch = large.resolve().global_batch_size
    for change in advise(large, limit=30):
        if "micro_batch_size" in change.values or "sp" in change.values:
            assert large.with_values(change.values).resolve().global_batch_size == batch


def test_why_names_what_shrinks() -> None:
    by_name = {change.name: change for change in advise(TOO_LARGE[0], limit=30)}
    assert by_name["offload_optimizer cpu"].why.startswith("optimizer moments: ")
    assert "only adapters train" in by_name["lora"].why


def test_rules_are_kept() -> None:
    odd = case("a100-sxm-80gb", 12, "deepspeed", model="llama-3-70b", zero_stage=3, devices_per_node=4)
    assert not any("sp" in change.values and change.values["sp"] == 8 for change in advise(odd, limit=30))


def test_one_case_only() -> None:
    with pytest.raises(VramsimError, match="advice is about one case"):
        advise(TOO_LARGE[0].with_values({"sp": [1, 2]}))
