"""Experts cut over tensor-parallel ranks: how many, which tokens they meet, and what follows for every rank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import Case, VramsimError, simulate
from vramsim.blocks import Saved
from vramsim.layout import bytes_per_token, ledger_of, local_numel
from vramsim.parts import compute, model_parallel, sharding
from vramsim.spec import Setup
from vramsim.testing.laws import changed, numbers

powers = st.sampled_from([1.0, 2.0, 4.0, 8.0])


def mixture(**strategy: float) -> Setup:
    degrees = {"tp": 8.0, "megatron_sp": True, "zero_stage": 1} | strategy
    return Case(
        model="qwen3-30b-a3b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 64},
        framework="megatron",
        training={"seq_len": 4096},
        strategy=degrees,
    ).resolve()


@given(tp=powers, ep=powers)
def test_experts_are_cut_as_the_rest_unless_said_otherwise(tp: float, ep: float) -> None:
    plain = mixture(tp=tp, ep=ep)
    assert numbers(simulate(plain)) == numbers(simulate(changed(plain, etp=tp)))


@given(etp=powers, ep=powers)
def test_parts_of_experts_cover_them_once(etp: float, ep: float) -> None:
    setup = mixture(etp=etp, ep=ep)
    for entry in ledger_of(setup):
        if entry.weight.role == "experts":
            local = local_numel(entry.weight, setup)
            assert local * etp * ep == entry.weight.numel
            # 64 ranks hold so many copies of each part, and share the states of one.
            assert sharding.ranks_of(setup, entry) * etp * ep == 64.0


@given(etp=powers, ep=powers)
def test_how_experts_are_cut_changes_no_work(etp: float, ep: float) -> None:
    def flops(setup: Setup) -> float:
        return sum(float(work.flops) for work in compute.blocks(setup))

    assert flops(mixture(etp=etp, ep=ep)) == pytest.approx(flops(mixture(ep=ep)))


@given(etp=powers)
def test_a_rank_keeps_the_tokens_that_its_parts_meet(etp: float) -> None:
    """Provenance: by hand: each of eight ranks routes an eighth of the tokens and gathers those of `etp` of them."""
    kept = (Saved("routed tokens in", "", 2048 * 8, 2.0),)
    assert bytes_per_token(kept, mixture(etp=etp)) == 2048 * 8 * 2.0 * etp / 8.0


def test_only_experts_in_parts_gather_tokens() -> None:
    """Provenance: by hand: of 4,096 tokens, 8 copies in bf16 of 2,048 elements in 48 layers, gathered and summed up."""
    flows = [flow for flow in model_parallel.expert_parallel(mixture()) if "parts, forward" in flow.name]
    assert [float(flow.nbytes) for flow in flows] == [2.0 * 7.0 / 8.0 * 4096 * 8 * 2048 * 2 * 48]
    whole = model_parallel.expert_parallel(mixture(etp=1.0))
    assert all(float(flow.nbytes) == 0.0 for flow in whole if "parts" in flow.name)


def test_groups_of_whole_experts_reach_across_tensor_parallel_ranks() -> None:
    with pytest.raises(VramsimError, match=r"num_devices/\(etp\*pp\).*8 % 64 = 8; set ep to a divisor of 8"):
        simulate(mixture(ep=64.0))
    assert float(simulate(mixture(ep=64.0, etp=1.0)).time.step_seconds) > 0.0


def test_parts_divide_tensor_parallel_ranks() -> None:
    with pytest.raises(VramsimError, match=r"etp must divide tp.*8 % 3 = 2"):
        simulate(mixture(etp=3.0))
