"""Tokens on their way to experts: dispatchers beside each other, and what overlapping them can save."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import Case, simulate
from vramsim.equations import comm
from vramsim.parts import compute, launches, model_parallel
from vramsim.spec import Flow, Phase, Setup

ranks, copies = st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0, 64.0]), st.integers(1, 16).map(float)
rates = st.floats(1e9, 1e12)


@given(places=ranks, k=copies)
def test_a_token_goes_to_no_more_places_than_there_are(places: float, k: float) -> None:
    found = float(comm.destinations(places, k))
    assert 1.0 - 1e-12 <= found <= min(places, k) + 1e-12
    assert comm.destinations(places, 1.0) == pytest.approx(1.0)


@given(n=ranks, k=copies, up=rates, out=rates)
def test_inside_of_a_node_sending_once_is_never_slower(n: float, k: float, up: float, out: float) -> None:
    once = comm.dispatch_seconds(1e9, k, n, n, up, out, 0.0)
    each = comm.all_to_all_seconds(1e9 * k, n, n, up, out, 0.0)
    assert once <= each * (1 + 1e-12)
    assert comm.dispatch_seconds(1e9, 1.0, n, n, up, out, 0.0) == pytest.approx(float(each / k))


def mixture(**knobs: object) -> Setup:
    setup = Case(
        model="qwen3-30b-a3b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 16},
        framework="megatron",
        training={"seq_len": 4096, "gradient_accumulation_steps": 8},
        strategy={"ep": 16, "zero_stage": 1},
    ).resolve()
    return replace(setup, framework=replace(setup.framework, **knobs))  # type: ignore[arg-type]


def test_each_knob_of_experts_saves_time() -> None:
    plain = float(simulate(mixture()).time.step_seconds)
    for knob in ({"dispatcher": "flex"}, {"overlap_experts": True}, {"attention_dtype": "fp8"}):
        assert float(simulate(mixture(**knob)).time.step_seconds) < plain
    # Without 8-bit products there are no casts to fuse, but there is an activation.
    assert float(simulate(mixture(fused_experts=True)).time.step_seconds) < plain


def test_overlap_hides_all_but_the_first_and_the_last_micro_batch() -> None:
    """Provenance: by hand: 1 - 1 / 8 of the tokens' way is beside another micro-batch's computation."""
    hidden = {flow.hidden for flow in _flows(mixture(overlap_experts=True))}
    assert hidden == {1.0 - 1.0 / 8.0}
    assert {flow.hidden for flow in _flows(mixture())} == {0.0}


def test_routing_is_launched_kernel_by_kernel() -> None:
    """Provenance: by hand: 33 kernels of routing without a backward in each of 48 layers, of 25 us each, and four
    collectives of 50 us where tokens are exchanged by all-to-all."""
    assert launches._routing(mixture()) == (33.0 * 48.0, 48.0)
    assert launches._routing(mixture(dispatcher="flex")) == (33.0 * 48.0, 0.0)
    assert launches._routing(mixture(engine="fsdp2")) == (0.0, 0.0)

    def forward(setup: Setup) -> float:
        return next(float(work.seconds) for work in launches.host(setup) if work.name == "launches, forward")

    assert forward(mixture()) - forward(mixture(dispatcher="flex")) == pytest.approx(48 * 4 * 50e-6)


def _flows(setup: Setup) -> list[Flow]:
    return list(model_parallel.expert_parallel(setup))


@given(experts=st.sampled_from([8.0, 16.0, 32.0, 64.0]), tokens=st.sampled_from([1024.0, 4096.0, 65536.0]))
def test_a_device_waits_for_calls_of_experts_unless_they_have_enough_to_do(experts: float, tokens: float) -> None:
    """Never longer than the calls themselves take, not at all behind long products, and not for one grouped kernel."""

    def between(setup: Setup) -> float:
        found = {work.name: float(work.seconds) for work in simulate(setup).graph.work}
        return found["between kernels, forward"]

    strategy = replace(mixture().strategy, ep=128.0 / experts)
    setup = replace(mixture(), strategy=strategy, cluster=replace(mixture().cluster, num_devices=128.0 / experts))
    setup = replace(setup, training=replace(setup.training, seq_len=tokens))
    grouped = replace(setup, framework=replace(setup.framework, fused_experts=True))
    lost = between(setup) - between(grouped)
    calls = 48 * 2 * experts * 33e-6
    assert 0.0 <= lost <= calls * (1 + 1e-12)
    assert lost < 0.5 * calls or tokens < 65536.0


def test_what_sorting_and_biases_of_experts_move() -> None:
    """Provenance: by hand from Megatron's dispatcher: 6 bytes an element of 8 copies, and of biases 28 of 4 copies."""

    def moved(setup: Setup) -> float:
        return sum(float(work.nbytes) for work in simulate(setup).graph.work if work.name == "elementwise, forward")

    sorting = moved(mixture()) - moved(mixture(dispatcher="flex"))
    assert sorting == pytest.approx(48 * 6.0 * 8 * 2048 * 4096)
    biased = Case(
        model="gpt-oss-120b",
        cluster={"device": "b200-sxm-180gb", "num_devices": 64},
        framework="megatron",
        training={"seq_len": 4096},
        strategy={"ep": 8, "zero_stage": 1},
    ).resolve()
    block = biased.model.blocks[0]
    assert (block.mlp.bias, block.mlp.top_k, block.hidden) == (True, 4, 2880)
    plain = tuple(replace(each, mlp=replace(each.mlp, bias=False)) for each in biased.model.blocks)
    without = replace(biased, model=replace(biased.model, blocks=plain))
    assert moved(biased) - moved(without) == pytest.approx(36 * 28.0 * 4 * 2880 * 4096)


def test_a_mask_over_experts_drops_results_not_work() -> None:
    """transformers' Llama 4 runs each expert on each token: as many times the products of experts as it has of them
    for each one chosen, none of which the model asks for; Megatron's runs what is chosen."""

    def products(framework: str, *, masked: bool) -> tuple[float, float]:
        cluster = {"device": "h100-sxm-80gb", "num_devices": 1}
        setup = Case(model="llama-4-scout", cluster=cluster, framework=framework, training={"seq_len": 4096}).resolve()
        blocks = tuple(replace(b, mlp=replace(b.mlp, masked=masked)) for b in setup.model.blocks)
        setup = replace(setup, model=replace(setup.model, blocks=blocks))
        works = [work for work in compute.blocks(setup) if work.phase is Phase.FORWARD]
        return float(sum(w.flops for w in works)), float(sum(w.model_flops for w in works))

    (all_run, asked), (chosen, needed) = (products("torch", masked=each) for each in (True, False))
    experts = 48 * 2 * 4096 * 3 * 5120 * 8192
    assert asked == pytest.approx(needed) == pytest.approx(chosen)
    assert all_run - chosen == pytest.approx(15 * experts)
    assert products("megatron", masked=True) == products("megatron", masked=False)
