"""Model states never grow with the ZeRO stage or the number of GPUs, and shrink as 1/N where they are sharded."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import assemble, testing
from vramsim.equations import memory
from vramsim.layout import ledger_of
from vramsim.parts import sharding
from vramsim.spec import Category, Phase, Setup, Tier
from vramsim.testing import changed, placed

WHOLE = ("embed_tokens", "lm_head")
STATES = [Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER_STATE]


@given(setup=testing.setups())
def test_states_never_grow(setup: Setup) -> None:
    """With the stage, beyond padding and the whole copies of weights below ZeRO-3's persistence threshold.

    Stage 3 pads every weight by itself where stages 1 and 2 pad their sum, and keeps small weights twice: a model of
    small weights only would grow from stage 2 to stage 3, as it does in DeepSpeed.
    """
    testing.states_never_grow(setup)


@given(setup=testing.setups(method="lora", quantization="none"), modules=st.sets(st.sampled_from(WHOLE), min_size=1))
def test_modules_that_train_whole_stand_beside_the_frozen_ones(setup: Setup, modules: set[str]) -> None:
    """Nothing of the base goes away, and what comes trains: a copy of each module, of a tied head's, too."""
    assert setup.training.lora is not None
    none, some = (
        replace(setup, training=replace(setup.training, lora=replace(setup.training.lora, modules_to_save=names)))
        for names in ((), tuple(sorted(modules)))
    )
    base, more = ledger_of(none), ledger_of(some)
    assert more[: len(base)] == base
    copies = more[len(base) :]
    assert all(entry.trains and not entry.weight.adapter for entry in copies)
    matrices = {entry.weight.module for entry in copies if entry.weight.role in ("embedding", "head")}
    assert matrices == modules
    assert sharding.trains_head(some) == ("lm_head" in modules)
    frozen = [sharding.parameters(each, sharding.select(each, lambda entry: not entry.trains)) for each in (none, some)]
    assert frozen[0] == frozen[1]


@given(setup=testing.setups())
def test_states_shrink_as_shares(setup: Setup) -> None:
    testing.states_shrink_as_shares(setup)


@given(setup=testing.setups(framework="deepspeed", method="full", quantization="none"))
def test_persistent_copies_are_what_stage_3_adds(setup: Setup) -> None:
    plain = changed(setup, offload_optimizer=0.0, offload_parameters=0.0)
    two, three = (placed(assemble(changed(plain, zero_stage=stage)), STATES, Tier.HBM) for stage in (2.0, 3.0))
    graph = assemble(changed(plain, zero_stage=3.0))
    copies = sum(c.nbytes for c in graph.components if c.name == "persistent parameters")
    padding = 24.0 * sum(entry.count for entry in ledger_of(setup))
    assert three <= two + copies + padding


@pytest.mark.parametrize(("stage", "per_parameter"), [(0, (16, 0)), (1, (4, 12)), (2, (2, 14)), (3, (0, 16))])
@given(setup=testing.setups(framework="deepspeed", method="full", precision="bf16", optimizer="adamw"))
def test_zero_paper(stage: int, per_parameter: tuple[int, int], setup: Setup) -> None:
    """Bytes per parameter of the ZeRO paper, (replicated, over N), with stage 1's gradients reduced to a partition.

    DeepSpeed reduces stage 1's gradients into a partition during the last backward, as stage 2 does: 2 + 14/N in the
    step, where the paper has 4 + 12/N. The paper's figure is what is held between micro-steps.
    """
    setup = changed(setup, zero_stage=float(stage), offload_optimizer=0.0, offload_parameters=0.0)
    setup = replace(setup, framework=replace(setup.framework, param_persistence_threshold=0.0))
    elements = sharding.whole(setup, ledger_of(setup))
    replicated, shared = (2, 14) if stage == 1 else per_parameter
    expected = elements * replicated + elements * shared / setup.shard_degree
    padding = 24.0 * (2.0 + sum(entry.count for entry in ledger_of(setup)))
    states = placed(assemble(setup), STATES, phase=Phase.STEP)
    assert expected - 1e-9 * expected <= states <= expected + padding


# Shards cover the whole -----------------------------------------------------------------------------------------------

sizes, ranks = st.integers(1, 10**12), st.integers(1, 100_000)


@given(numel=sizes, ranks=ranks)
def test_flat_shards_cover(numel: int, ranks: int) -> None:
    """n <= N n' < n + 2N, and n' is even, so that fp16 slices stay aligned to 4 bytes."""
    each = memory.flat_shard(float(numel), float(ranks))
    assert numel <= ranks * each < numel + 2 * ranks
    assert ranks == 1 or each % 2 == 0


@given(numel=sizes, ranks=ranks)
def test_parameter_shards_cover(numel: int, ranks: int) -> None:
    """n <= N n' < n + N."""
    each = memory.parameter_shard(float(numel), float(ranks))
    assert numel <= ranks * each < numel + ranks
    assert each == math.ceil(numel / ranks)


@given(rows=st.integers(1, 10**6), cols=st.integers(1, 10**5), ranks=ranks)
def test_row_shards_cover(rows: int, cols: int, ranks: int) -> None:
    """n <= N n' < n + N cols: dimension 0 is padded by less than N rows."""
    each = memory.row_shard(float(rows * cols), float(rows), float(ranks))
    assert rows * cols <= ranks * each < (rows + ranks) * cols


@given(setup=testing.setups())
def test_every_weight_is_covered(setup: Setup) -> None:
    """For each weight of the ledger: tensor-parallel slices cover the weight, data-parallel slices those.

    Megatron's padding of the vocabulary is left out.
    """
    setup = replace(setup, framework=replace(setup.framework, vocab_multiple=1.0))
    for entry, local, each in zip(ledger_of(setup), sharding.sizes(setup), sharding.slices(setup), strict=True):
        weight = entry.weight
        assert weight.numel <= local * setup.strategy.tp ** len(weight.rows + weight.cols)
        assert local <= weight.numel
        assert local <= each * setup.shard_degree
        row = local / weight.first_dim if setup.framework.engine == "fsdp2" else 1.0
        assert each * setup.shard_degree < local + setup.shard_degree * row
