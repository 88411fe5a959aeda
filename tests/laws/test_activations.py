"""Activations: linear in the micro-batch and (flash) in tokens; they fall with recomputation and with parallelism."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import assemble, blocks, catalog, testing
from vramsim.graph import Graph
from vramsim.layout import bytes_per_token, kernels_of, largest_block
from vramsim.parts import activations
from vramsim.spec import Category, Phase, Setup
from vramsim.testing import changed, living

factors = st.integers(2, 9).map(float)

NEEDS = "backward of one block"


def kept(graph: Graph, phase: Phase) -> float:
    """Activation bytes that depend on tokens: all but the rotary tables, which a sequence needs once."""
    found = living(graph, [Category.ACTIVATION], phase)
    return sum(float(component.nbytes) for component in found if component.name != "rotary tables")


def with_attention(setup: Setup, kind: str) -> Setup:
    return replace(setup, framework=replace(setup.framework, attention=kind))


@pytest.mark.parametrize("framework", catalog.names("framework"))
@given(data=st.data(), factor=factors)
def test_linear_in_the_micro_batch(framework: str, data: st.DataObject, factor: float) -> None:
    setup = data.draw(testing.setups(framework=framework))
    for phase in (Phase.FORWARD, Phase.HEAD, Phase.BACKWARD):
        once = kept(assemble(setup), phase)
        more = kept(assemble(changed(setup, micro_batch_size=factor * setup.training.micro_batch_size)), phase)
        assert more == pytest.approx(factor * once, abs=5 * factor)


@pytest.mark.parametrize("framework", catalog.names("framework"))
@given(data=st.data(), factor=factors)
def test_linear_in_tokens_with_flash_attention(framework: str, data: st.DataObject, factor: float) -> None:
    drawn = with_attention(data.draw(testing.setups(framework=framework)), "flash")
    # No fused kernel takes fewer key/value heads in fp32.
    setup = replace(drawn, framework=replace(drawn.framework, expand_kv=True))
    once = kept(assemble(setup), Phase.BACKWARD)
    more = kept(assemble(changed(setup, seq_len=factor * setup.training.seq_len)), Phase.BACKWARD)
    assert more == pytest.approx(factor * once, abs=5 * factor)


@given(setup=testing.setups(), factor=factors)
def test_faster_than_linear_in_tokens_with_eager_attention(setup: Setup, factor: float) -> None:
    """An attention matrix grows with the square of the length, wherever one is kept."""
    setup = changed(with_attention(setup, "eager"), recompute=0.0, recompute_selective=0.0, recompute_op=0.0)
    once = kept(assemble(setup), Phase.BACKWARD)
    more = kept(assemble(changed(setup, seq_len=factor * setup.training.seq_len)), Phase.BACKWARD)
    assert more > factor * once


@given(setup=testing.setups())
def test_fall_with_recomputation(setup: Setup) -> None:
    setup = changed(setup, recompute_selective=0.0, recompute_op=0.0)
    none, half, full = (kept(assemble(changed(setup, recompute=r)), Phase.BACKWARD) for r in (0.0, 0.5, 1.0))
    assert full < half < none
    selective = kept(assemble(changed(setup, recompute=0.0, recompute_selective=1.0)), Phase.BACKWARD)
    assert full < selective < none


@given(setup=testing.setups())
def test_full_recomputation_keeps_the_blocks_inputs_only(setup: Setup) -> None:
    graph = assemble(changed(setup, recompute=1.0, offload_activations=0.0))
    names = {component.name for component in living(graph, [Category.ACTIVATION], Phase.BACKWARD)}
    assert names <= {"checkpointed block inputs", "rotary tables", "outputs kept by the caller"}


@given(setup=testing.setups())
def test_fall_with_tensor_and_megatron_sequence_parallelism(setup: Setup) -> None:
    """Megatron shards what tensor parallelism alone leaves whole."""
    sizes = []
    for degree in (1.0, 2.0, 4.0):
        both = kept(assemble(changed(setup, tp=degree, megatron_sp=1.0)), Phase.BACKWARD)
        alone = kept(assemble(changed(setup, tp=degree, megatron_sp=0.0)), Phase.BACKWARD)
        assert both <= alone
        sizes.append(both)
    assert sizes == sorted(sizes, reverse=True)


@given(setup=testing.setups())
def test_fall_with_sequence_parallelism(setup: Setup) -> None:
    """Though not as 1/sp at once: from sp 2 on the attention output is kept twice, before and after the all-to-all."""
    one, two, four = (kept(assemble(changed(setup, sp=degree)), Phase.BACKWARD) for degree in (1.0, 2.0, 4.0))
    assert two < one + 4
    assert four == pytest.approx(two / 2.0, abs=8)


@given(setup=testing.setups())
def test_nothing_is_needed_twice(setup: Setup) -> None:
    """Without recomputation the block that goes backward needs its gradients: all else is kept already."""
    setup = changed(setup, offload_activations=0.0, recompute=0.0, recompute_selective=0.0, recompute_op=0.0)
    block = largest_block(setup.model)
    working = bytes_per_token(blocks.layer(block, kernels_of(setup)).working, setup) * setup.tokens
    (found,) = (c for c in assemble(setup).components if c.name == NEEDS and c.live is Phase.BACKWARD)
    assert found.nbytes == pytest.approx(working, rel=1e-9, abs=2)


@given(setup=testing.setups(), share=st.sampled_from([0.25, 1.0]))
def test_offloaded_tensors_come_back(setup: Setup, share: float) -> None:
    """The block that goes backward has all its tensors on the device, offloaded ones fetched: no less than it needs."""
    setup = changed(setup, recompute=0.0, recompute_selective=0.0, recompute_op=0.0)
    here, away = (assemble(changed(setup, offload_activations=value)) for value in (0.0, share))
    first, fetched = (
        sum(float(c.nbytes) for c in graph.components if c.name == NEEDS and c.live is Phase.BACKWARD)
        for graph in (here, away)
    )
    whole = activations.block_saved(setup, largest_block(setup.model))
    assert fetched >= first + share * whole - 2


@given(setup=testing.setups(), degree=st.sampled_from([2.0, 4.0, 8.0]))
def test_a_rank_keeps_at_least_one_key_value_head(setup: Setup, degree: float) -> None:
    """Where tensor parallelism exceeds the key/value heads they are repeated: as in the weights, no head is split."""
    attention = largest_block(setup.model).attention
    heads = max(attention.kv_heads, degree)
    if attention.heads % degree or (attention.kv_heads % degree and degree % attention.kv_heads):
        return
    table = tuple(t for t in blocks.layer(largest_block(setup.model), kernels_of(setup)).saved if t.dim == "kv_heads")
    whole = bytes_per_token(table, changed(setup, tp=1.0))
    share = bytes_per_token(table, changed(setup, tp=degree))
    assert degree * share == pytest.approx(whole * heads / attention.kv_heads)
