"""Pipelines and expert parallelism: stages cover the model, schedules order their memory, experts are spread."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import Case, assemble, catalog, rules, simulate, testing
from vramsim.equations import pipeline as equations
from vramsim.layout import ledger_of
from vramsim.parts import pipeline, sharding
from vramsim.spec import Category, Phase, Setup
from vramsim.testing import changed, placed

STATES = (Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER_STATE)
schedules = st.sampled_from(equations.SCHEDULES)
degrees, batches = st.sampled_from([2.0, 4.0, 8.0, 16.0]), st.integers(1, 64).map(float)


def megatron(model: str = "llama-3-70b", **strategy: object) -> Setup:
    case = Case(
        model=model,
        cluster={"device": "h100-sxm-80gb", "num_devices": 64},
        framework="megatron",
        training={"seq_len": 4096, "gradient_accumulation_steps": 16},
        strategy=strategy,
    )
    return case.resolve()


# Equations ------------------------------------------------------------------------------------------------------------


@given(schedule=schedules, stages=degrees, m=batches, chunks=st.sampled_from([1.0, 2.0, 4.0]))
def test_schedules_are_ordered(schedule: str, stages: float, m: float, chunks: float) -> None:
    """No schedule holds more than all micro-batches, nor idles longer than GPipe; the first stage holds the most."""
    flights = [float(equations.in_flight(schedule, stages, i, m, chunks)) for i in (0.0, stages - 1.0)]
    assert 0 < flights[1] <= flights[0] <= m
    idle = equations.bubble(schedule, stages, m, chunks)
    assert 0 <= idle <= equations.bubble("gpipe", stages, m, 1.0)


@given(schedule=schedules, m=batches, chunks=st.sampled_from([1.0, 2.0]))
def test_one_stage_is_no_pipeline(schedule: str, m: float, chunks: float) -> None:
    assert equations.in_flight(schedule, 1.0, 0.0, m, chunks) == 1.0
    assert equations.bubble(schedule, 1.0, m, chunks) == 0.0


def test_interleaving_costs_memory_and_saves_time() -> None:
    """Narayanan et al. 2021: 1 + (p - 1) / (p v) times the activations, the bubble over v."""
    one, two = (equations.in_flight("1f1b", 8.0, 0.0, 64.0, v) for v in (1.0, 2.0))
    assert two / one == pytest.approx(1.0 + 7.0 / 16.0)
    assert equations.bubble("1f1b", 8.0, 64.0, 2.0) == equations.bubble("1f1b", 8.0, 64.0, 1.0) / 2.0


# Stages ---------------------------------------------------------------------------------------------------------------


@given(setup=testing.setups())
def test_without_a_pipeline_a_setup_is_its_only_stage(setup: Setup) -> None:
    assert pipeline.stages(setup) == (setup,)


@given(setup=testing.setups(), pp=degrees)
def test_stages_cover_the_model(setup: Setup, pp: float) -> None:
    """Ends once each; blocks so that all stages together have at least the model's, and less than one each to spare."""
    setup = replace(changed(setup, pp=pp, vpp=1.0), framework=replace(setup.framework, balanced_ends=False))
    first, last = (each.stage for each in pipeline.stages(setup))
    assert (first.embedding, first.head) == (1.0, 0.0)
    assert (last.embedding, last.head) == (0.0, 1.0)
    layers = setup.model.num_layers
    assert layers <= pp * first.blocks * layers + 1e-9 <= layers + pp


@given(setup=testing.setups())
def test_stages_hold_all_parameters(setup: Setup) -> None:
    """Of a model that splits evenly: two stages have what the model has, and a tied embedding twice."""
    if setup.model.num_layers % 2:
        return
    setup = replace(changed(setup, pp=2.0), framework=replace(setup.framework, balanced_ends=False))
    first, last = pipeline.stages(setup)
    twice = 0.0
    if setup.model.tied_embeddings:
        twice = sharding.embedding_elements(setup)
    held = sum(float(sharding.whole(each, ledger_of(each))) for each in (first, last))
    assert held == pytest.approx(float(sharding.whole(setup, ledger_of(setup))) + twice, rel=1e-12)


@pytest.mark.parametrize("schedule", equations.SCHEDULES)
def test_broadcast_is_map(schedule: str) -> None:
    setup = megatron(tp=2, schedule=schedule)
    grid = changed(
        setup,
        pp=np.array([1.0, 2.0, 4.0, 8.0])[:, None],
        gradient_accumulation_steps=np.array([1.0, 8.0, 16.0])[None, :],
        vpp=1.0 if schedule != "interleaved" else np.array([1.0, 2.0])[:, None, None],
    )
    testing.broadcast_is_map(grid)


@pytest.mark.parametrize("framework", ["deepspeed", "megatron-deepspeed", "fsdp2", "ddp", "megatron"])
def test_every_engine_broadcasts_over_stages(framework: str) -> None:
    stage = {"fsdp2": 3, "ddp": 0}.get(framework, 1)
    setup = replace(megatron(), framework=catalog.make_framework(framework))
    testing.broadcast_is_map(changed(setup, zero_stage=float(stage), pp=np.array([1.0, 2.0, 3.0, 16.0])))


def test_more_stages_need_less_of_the_states() -> None:
    before = np.inf
    for pp in (1.0, 2.0, 4.0, 8.0):
        now = max(placed(assemble(stage), STATES) for stage in pipeline.stages(megatron(pp=pp)))
        assert now < before
        before = now


def test_schedules_trade_memory_for_time() -> None:
    """ZB-H1 as much as 1F1B on every stage, ZB-H2 twice, GPipe all; DualPipe keeps two copies of the states."""
    found = {name: simulate(megatron(tp=8, pp=8, schedule=name)) for name in equations.SCHEDULES}
    used = {name: estimate.memory.hbm.used_bytes for name, estimate in found.items()}
    assert used["1f1b"] == used["interleaved"] <= used["zb-h1"] < used["zb-h2"] < used["gpipe"]
    states = {n: placed(assemble(pipeline.stages(megatron(tp=8, pp=8, schedule=n))[0]), STATES) for n in found}
    assert states["dualpipe"] > 1.9 * states["1f1b"]


def test_the_note_names_the_stage() -> None:
    estimate = simulate(megatron(tp=8, pp=8))
    assert any("first pipeline stage" in note and "8 micro-batches" in note for note in estimate.notes)


# Megatron -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "stage", "per_element"),
    [
        ("bf16", 0, (18, 0)),
        ("bf16", 1, (6, 12)),
        ("fp16", 0, (20, 0)),
        ("fp16", 1, (4, 16)),
        ("fp32", 0, (16, 0)),
        ("fp32", 1, (8, 8)),
    ],
)
def test_distributed_optimizer(precision: str, stage: int, per_element: tuple[int, int]) -> None:
    """Bytes for each parameter of Megatron-LM's docs dist_optimizer.md: (whole, over d)."""
    case = Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 16},
        framework="megatron",
        training={"seq_len": 4096, "precision": precision},
        strategy={"zero_stage": stage, "tp": 2, "cp": 2},
    )
    setup = case.resolve()
    elements = float(sharding.whole(setup, ledger_of(setup)))
    whole, shared = per_element
    expected = elements * (whole + shared / 8)
    assert placed(assemble(setup), STATES, phase=Phase.STEP) == pytest.approx(expected, rel=1e-6)


def test_vocabulary_is_padded() -> None:
    setup = megatron(tp=8)
    numel = sharding.head_elements(setup)
    assert numel == (-(-128256 // 1024) * 1024) / 8 * 8192


# Experts --------------------------------------------------------------------------------------------------------------


def test_experts_are_spread_and_their_states_are_not_spread_twice() -> None:
    """A rank holds 1/ep of the experts, and shares their states with N/ep ranks: the same slice of the states."""
    one, eight = (megatron("mixtral-8x7b", ep=degree) for degree in (1, 8))
    assert sharding.optimizer_elements(one) == pytest.approx(sharding.optimizer_elements(eight), rel=1e-6)
    experts = sharding.select(one, lambda entry: entry.weight.role == "experts")
    assert sharding.whole(eight, experts) == sharding.whole(one, experts) / 8


@given(load=st.floats(1.0, 8.0))
def test_a_busy_rank_needs_more(load: float) -> None:
    even, busy = (simulate(megatron("mixtral-8x7b", ep=8, expert_load=value)) for value in (1.0, load))
    assert busy.memory.hbm.used_bytes >= even.memory.hbm.used_bytes


def test_experts_broadcast() -> None:
    for framework, stage in (("megatron", 1.0), ("fsdp2", 3.0), ("deepspeed", 3.0)):
        setup = replace(megatron("mixtral-8x7b"), framework=catalog.make_framework(framework))
        grid = changed(setup, zero_stage=stage, ep=np.array([1.0, 2.0, 8.0]), expert_load=np.array([[1.0], [1.7]]))
        testing.broadcast_is_map(grid)


# Groups that share states ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["fsdp2", "deepspeed"])
def test_states_are_shared_in_groups(framework: str) -> None:
    """HSDP and MiCS over 8 of 64 ranks: eight times the states of 64; 0 and 64 are the same."""
    setup = replace(megatron(), framework=catalog.make_framework(framework, {"param_persistence_threshold": 0.0}))
    setup = changed(setup, zero_stage=3.0)
    whole, eight, everyone = (
        placed(assemble(changed(setup, shard_size=size)), STATES, phase=Phase.STEP) for size in (0.0, 8.0, 64.0)
    )
    assert everyone == whole
    assert eight == pytest.approx(8 * whole, rel=1e-3)


def test_a_second_copy_costs_its_share() -> None:
    setup = changed(replace(megatron(), framework=catalog.make_framework("deepspeed")), zero_stage=3.0)
    graph = assemble(changed(setup, secondary_shard_size=8.0))
    (copy,) = (c for c in graph.components if c.name == "secondary parameter shards")
    assert copy.nbytes == pytest.approx(2.0 * sharding.whole(setup, ledger_of(setup)) / 8, abs=1)
    assert not rules.violations(changed(setup, secondary_shard_size=8.0))


# Kinds of layers ------------------------------------------------------------------------------------------------------


def deepseek(**strategy: object) -> Setup:
    """Three dense layers below 58 with experts, on 16 stages of four."""
    case = Case(
        model={"base": "deepseek-v3", "num_hidden_layers": 64},
        cluster={"device": "h100-sxm-80gb", "num_devices": 128},
        framework="megatron",
        training={"seq_len": 4096, "gradient_accumulation_steps": 32},
        strategy=strategy,
    )
    return case.resolve()


def test_dense_layers_are_at_the_bottom() -> None:
    """The first stage has all three dense layers and one with experts; the others have four with experts."""
    stages = {each.stage.name: each.stage for each in pipeline.stages(deepseek(pp=16, ep=8))}
    assert {name: len(stage.kinds) for name, stage in stages.items()} == {"first": 2, "last": 2, "middle": 2}
    dense, experts = stages["first"].kinds
    assert (dense * 3, experts * 61) == pytest.approx((3, 1))
    for name in ("middle", "last"):
        assert (stages[name].kinds[0], stages[name].kinds[1] * 61) == pytest.approx((0, 4))


@pytest.mark.parametrize(("schedule", "vpp"), [("interleaved", 2), ("zb-v", 1), ("dualpipe", 1)])
def test_chunks_are_spread(schedule: str, vpp: int) -> None:
    """Two chunks a device: of two layers each, from the bottom; DualPipe holds two stages."""
    first = pipeline.stages(deepseek(pp=16, ep=8, schedule=schedule, vpp=vpp))[0]
    dense, experts = first.stage.kinds
    expected = (3, 5) if schedule == "dualpipe" else (2, 2)
    assert (dense * 3, experts * 61) == pytest.approx(expected)


def test_a_folded_pipeline_is_fullest_where_experts_are() -> None:
    """The first device holds the dense layers; the second eight layers with experts, and neither end."""
    first, second = (each.stage for each in pipeline.stages(deepseek(pp=16, ep=8, schedule="dualpipe")))
    assert (second.embedding, second.head) == (0.0, 0.0)
    assert second.kinds[1] * 61 == pytest.approx(8)
    assert first.kinds[1] < second.kinds[1]


@pytest.mark.parametrize("schedule", ["zb-v", "dualpipe", "1f1b"])
def test_kinds_broadcast(schedule: str) -> None:
    setup = deepseek(ep=8, tp=2, schedule=schedule)
    testing.broadcast_is_map(changed(setup, pp=np.array([1.0, 2.0, 4.0, 8.0])))
    if schedule != "1f1b":
        return
    chunks = changed(setup, pp=np.array([2.0, 8.0])[:, None], vpp=np.array([1.0, 2.0, 4.0]))
    testing.broadcast_is_map(chunks)


def test_a_stage_by_itself() -> None:
    """`simulate` of one stage is that stage's estimate; of the run, the fullest of all."""
    setup = deepseek(pp=16, ep=8)
    each = [simulate(stage).memory.hbm.used_bytes for stage in pipeline.stages(setup)]
    assert simulate(setup).memory.hbm.used_bytes == max(each) > min(each)


# FSDP under a pipeline ------------------------------------------------------------------------------------------------


def torchtitan(**strategy: object) -> Setup:
    return Case(
        model="llama-3-405b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 512},
        framework="torchtitan",
        training={"seq_len": 8192, "gradient_accumulation_steps": 32},
        strategy={"zero_stage": 3, "tp": 8, "recompute": "full", **strategy},
    ).resolve()


def test_torchtitans_stages_stay_whole_until_their_last_backward() -> None:
    """Provenance: by hand: of 126 layers one of eight stages holds 16, cut over tp 8: weights in bf16 and their
    gradients in fp32 stay whole between micro-steps (torchtitan apply_fsdp; PyTorch pipelining/stage.py)."""
    first = pipeline.stages(torchtitan(pp=8))[0]
    graph = assemble(first)
    blocks = float(sharding.whole(first, sharding.select(first, lambda e: e.part == "block")))
    everything = float(sharding.whole(first, sharding.trained(first)))
    named = {c.name: float(c.nbytes) for c in graph.components if Phase.FORWARD in c.live}
    assert named["unsharded parameters"] == pytest.approx(2.0 * blocks)
    assert named["accumulated unsharded gradients"] == pytest.approx(4.0 * everything)
    flows = {flow.name: flow for flow in graph.flows if flow.seconds}
    assert {"gather parameters, first forward", "scatter gradients, last backward"} <= set(flows)
    assert not {"gather parameters, forward", "gather parameters, backward", "scatter gradients"} & set(flows)


def test_pytorchs_pipelines_hold_something_of_every_micro_batch() -> None:
    """Provenance: by hand: 32 micro-batches of 8192 tokens, 16384 wide and cut over tp 8 in bf16, received; and their
    logits on the last stage, 128256 wide and cut as well."""
    first, last = pipeline.stages(torchtitan(pp=8, megatron_sp=1))[:2]
    held = [{c.name: float(c.nbytes) for c in assemble(stage).components} for stage in (first, last)]
    assert held[0]["receive buffers"] == held[1]["receive buffers"] == 32 * 8192 * 16384 * 2 / 8
    assert "outputs of all micro-batches" not in held[0]
    assert held[1]["outputs of all micro-batches"] == 32 * 8192 * 128256 * 2 / 8


def test_without_a_pipeline_torchtitan_reshards() -> None:
    names = {flow.name for flow in assemble(torchtitan()).flows if flow.seconds}
    assert {"gather parameters, forward", "gather parameters, backward", "scatter gradients"} <= names
