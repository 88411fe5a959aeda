"""Optimizers: what their records say about states, gradients and blocks adds up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramsim import Case, VramsimError, assemble, catalog, simulate, testing
from vramsim.parts import sharding, stepping
from vramsim.spec import Category, Optimizer, OptimizerState, Setup, Tier
from vramsim.testing import placed

STATES = [Category.OPTIMIZER_STATE]
FEW = settings(max_examples=max(8, settings.default.max_examples // 8))


def with_optimizer(setup: Setup, rule: Optimizer) -> Setup:
    return replace(setup, training=replace(setup.training, optimizer=rule))


def used(setup: Setup) -> float:
    return float(np.max(simulate(setup).memory.hbm.used_bytes))


@FEW
@given(setup=testing.setups(optimizer="adamw"))
def test_scopes_cover_the_whole(setup: Setup) -> None:
    """A state of matrices and one of the rest are one state of all weights."""
    halves = tuple(OptimizerState("moments", scope=scope) for scope in ("matrices", "rest"))
    one, two = (OptimizerState("moments"),), setup.training.optimizer
    entries = sharding.trained(setup)
    whole = stepping.state_bytes(with_optimizer(setup, replace(two, states=one)), entries)
    assert stepping.state_bytes(with_optimizer(setup, replace(two, states=halves)), entries) == whole


@FEW
@given(setup=testing.setups(framework="torch", method="full", optimizer="galore_adamw"), rank=st.integers(1, 64))
def test_subspaces(setup: Setup, rank: int) -> None:
    """States grow with the rank, up to those of the whole space and the projector."""
    low = with_optimizer(setup, replace(setup.training.optimizer, rank=rank))
    high = with_optimizer(setup, replace(setup.training.optimizer, rank=rank + 1))
    full = with_optimizer(setup, replace(setup.training.optimizer, rank=10**9))
    entries = sharding.trained(setup)
    some, more, most = (stepping.state_bytes(each, entries) for each in (low, high, full))
    assert some <= more <= most
    adam = with_optimizer(setup, catalog.optimizer("adamw_single"))
    squares = sum(
        float(entry.count * low_side**2 * (sharding.sizes(setup)[entry.index] / (low_side * high_side)))
        for entry in stepping.matrices(setup)
        for low_side, high_side in [stepping.sides(setup, entry)]
    )
    moments = stepping.state_bytes(
        with_optimizer(setup, replace(setup.training.optimizer, states=(OptimizerState("moments"),))), entries
    )
    element = moments / sharding.whole(setup, entries)
    assert most == pytest.approx(stepping.state_bytes(adam, entries) + element * squares)


@FEW
@given(setup=testing.setups(method="full", optimizer="adamw_fused"))
def test_gradients_in_backward_never_cost_memory(setup: Setup) -> None:
    """One gradient at a time is no more than all, on any framework that can."""
    if setup.framework.engine not in ("torch", "fsdp1", "fsdp2"):
        return
    setup = testing.changed(setup, gradient_accumulation_steps=1.0)
    one = with_optimizer(setup, replace(setup.training.optimizer, gradients="one"))
    assert used(one) <= used(setup)


@FEW
@given(setup=testing.setups(framework="torch", method="full", optimizer="adamw"), blocks=st.integers(1, 4))
def test_blocks_in_turn(setup: Setup, blocks: int) -> None:
    """More blocks at a time need no less; all of them, with the ends, are the plain optimizer."""
    rule = setup.training.optimizer
    kind = max(block.count for block in setup.model.blocks)
    few, more = (with_optimizer(setup, replace(rule, blocks=n)) for n in (blocks, blocks + 1))
    assert used(few) <= used(more) <= used(setup)
    if len(setup.model.blocks) == 1:
        assert used(with_optimizer(setup, replace(rule, blocks=kind))) == used(setup)


@FEW
@given(setup=testing.setups(framework="megatron", method="full", optimizer="muon"))
def test_matrices_are_handed_out(setup: Setup) -> None:
    """The products of all ranks that share states are those of one rank that shares with nobody, up to padding."""
    alone, shared = (testing.changed(setup, zero_stage=stage) for stage in (0.0, 1.0))
    work = stepping.matrix_flops(shared) * sharding.ranks(shared)
    assert work >= stepping.matrix_flops(alone) * (1 - 1e-9)


def test_paged_states_give_way() -> None:
    """They fill the device, live on the host beyond it, and do not decide whether a run fits."""
    given_ = {"seq_len": 2048, "precision": "bf16_pure", "optimizer": "adamw_fused"}
    case = Case(
        model="llama-3-8b",
        cluster={"device": "rtx-4090-24gb", "num_devices": 1},
        framework="torch",
        training={**given_, "optimizer": {"name": "paged_adamw", "gradients": "one"}},
        strategy={"recompute": "full"},
    )
    paged, plain = (
        simulate(case),
        simulate(case.with_values({"training.optimizer": {"name": "paged_adamw", "gradients": "one", "paged": False}})),
    )
    assert paged.fits
    assert not plain.fits
    assert paged.memory.hbm.used_bytes == paged.memory.hbm.capacity_bytes
    states = plain.memory.hbm.allocated_bytes - paged.memory.hbm.allocated_bytes
    beyond = paged.memory.host.used_bytes_per_node
    assert 0 < beyond < states
    assert sum(paged.by_category().values()) <= paged.memory.hbm.capacity_bytes


@pytest.mark.parametrize(
    ("framework", "optimizer", "sentence"),
    [
        ("megatron", "galore_adamw", "does not run the optimizer galore_adamw: use one on torch or ddp"),
        ("deepspeed", {"name": "adamw", "gradients": "one"}, "steps in backward"),
        ("torch", {"name": "adamw", "gradients": "some"}, "optimizer.gradients must be one of all, one"),
        ("torch", {"name": "adamw", "ranks": 4}, "no knob 'ranks': did you mean rank"),
        ("torch", {"name": 3}, "optimizer.name must be a text"),
    ],
)
def test_refusals(framework: str, optimizer: object, sentence: str) -> None:
    case = {"model": "llama-3-8b", "cluster": {"device": "h100-sxm-80gb", "num_devices": 1}, "framework": framework}
    with pytest.raises(VramsimError, match=sentence):
        simulate(Case(**case, training={"seq_len": 1024, "optimizer": optimizer}))


def test_tensor_parallel_ranks_repeat_the_work() -> None:
    """Each works on whole matrices, and gathers them to do so (Megatron-Core's muon_tp_mode duplicated)."""
    case = Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 8},
        framework="megatron",
        training={"seq_len": 1024, "optimizer": "muon"},
        strategy={"zero_stage": 0},
    )
    alone, cut = (case.with_values({"strategy.tp": tp}).resolve() for tp in (1, 4))
    assert stepping.matrix_flops(cut) == stepping.matrix_flops(alone)
    moved = [flow for flow in assemble(cut).flows if flow.name.startswith("whole matrices")]
    # Of 4 B gradients of 6,979,321,856 elements a rank has a quarter.
    assert sum(float(flow.nbytes) for flow in moved) == pytest.approx(4 * 6_979_321_856 * 3 / 4, rel=1e-3)
    assert not [flow for flow in assemble(alone).flows if flow.name.startswith("whole matrices")]


def test_experts_are_matrices_of_their_own() -> None:
    """Mixtral's 8 experts of 32 layers: 28672 x 4096 and 4096 x 14336, where they are linear layers of their own."""
    case = Case(
        model="mixtral-8x7b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 1},
        framework={"name": "torch", "grouped_experts": False},
        training={"seq_len": 1024, "optimizer": "muon"},
    )
    apart = case.resolve()
    fused = case.with_values({"framework": "torch"}).resolve()

    def flops(small: float, large: float) -> float:
        return 5 * (4 * small**2 * large + 2 * small**3)

    experts = 32 * 8 * (flops(4096, 28672) + flops(4096, 14336))
    assert stepping.matrix_flops(apart) - stepping.matrix_flops(fused) == pytest.approx(experts)


@FEW
@given(setup=testing.setups(framework="torch", method="lora", quantization="none"))
def test_adapters_have_no_states_of_the_base(setup: Setup) -> None:
    """An optimizer of a few blocks at a time keeps no states of blocks below adapters: it never trains them."""
    rule = setup.training.optimizer
    keeps, drops = (
        placed(assemble(with_optimizer(setup, replace(rule, blocks=2, forgets=f))), STATES, Tier.HBM)
        for f in (False, True)
    )
    assert keeps == drops


@FEW
@given(setup=testing.setups(framework="torch", method="lora", quantization="none", optimizer="adamw_single"))
def test_a_copy_is_stepped_on_in_its_own_dtype(setup: Setup) -> None:
    """In backward, the largest gradient with its scratch is that of the copied head, in the dtype of the base."""
    lora = setup.training.lora
    assert lora is not None
    lora = replace(lora, modules_to_save=("lm_head",), adapter_dtype="fp32")
    precision = replace(setup.training.precision, frozen="bf16", master=False)
    rule = replace(setup.training.optimizer, gradients="one")
    run = replace(setup, training=replace(setup.training, lora=lora, precision=precision, optimizer=rule))
    elements = {
        (2.0 if entry in sharding.copies(run) else 4.0) * sharding.sizes(run)[entry.index]
        for entry in sharding.trained(run)
    }
    assert stepping.in_backward(run) == (1.0 + rule.temporary_factor) * max(elements)


@FEW
@given(setup=testing.setups(framework="torch", method="full", quantization="none", optimizer="adamw_fused"))
def test_a_step_in_16_bits_moves_half_of_what_one_in_32_does(setup: Setup) -> None:
    """Where everything is of one dtype; an fp32 state among 16-bit ones leaves the traffic as the record has it."""

    def step(**dtypes: str) -> float:
        precision = replace(setup.training.precision, master=False, **dtypes)
        run = replace(setup, training=replace(setup.training, precision=precision))
        return sum(float(work.nbytes) for work in simulate(run).graph.work if work.name == "optimizer step")

    wide = step(param="fp32", grad="fp32", moments="fp32")
    assert step(param="bf16", grad="bf16", moments="bf16") == pytest.approx(wide / 2.0)
    assert step(param="bf16", grad="bf16", moments="fp32") == pytest.approx(wide)
