"""Packed frozen weights: what an operator unpacks, and what it holds for too long."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from vramsim import catalog, testing
from vramsim.parts import model_states, packed
from vramsim.spec import Category, Lora, Setup, Strategy
from vramsim.validate.express import express
from vramsim.validate.rows import Row

NF4 = catalog.quantization("nf4")


def adapted(setup: Setup, **knobs: object) -> Setup:
    """The same run with adapters on an nf4 base, and other knobs of its framework."""
    lora = Lora(8, ("q_proj", "v_proj"))
    return replace(
        setup,
        training=replace(setup.training, method="qlora", lora=lora),
        strategy=replace(setup.strategy, quantization=NF4),
        framework=replace(setup.framework, **knobs),  # type: ignore[arg-type]
    )


def states(setup: Setup) -> float:
    """Bytes of all weights. [B]"""
    return float(sum(c.nbytes for c in model_states.parameters(setup) if c.category is Category.PARAMETER))


@given(setup=testing.setups())
def test_a_packed_head_takes_no_more(setup: Setup) -> None:
    """A head of its own shrinks, unless ranks share it and not its scales; a tied one is the embedding, and stays."""
    plain, smaller = (states(adapted(setup, packs_head=packs)) for packs in (False, True))
    assert smaller <= plain or setup.shard_degree > 1
    if setup.model.tied_embeddings or setup.model.labels:
        assert smaller == plain
        assert packed.head_copy(adapted(setup, packs_head=True)) == 0.0


@given(setup=testing.setups())
def test_unpacking_to_the_compute_dtype_is_one_copy(setup: Setup) -> None:
    """A dtype on the way is a second copy, unless it is where the way ends."""
    compute = setup.training.precision.compute
    direct = packed.unpacked_bytes(adapted(setup))
    assert packed.unpacked_bytes(adapted(setup, unpacks_to=compute)) == direct
    assert packed.unpacked_bytes(adapted(setup, unpacks_to="fp32" if compute != "fp32" else "bf16")) > direct


@given(setup=testing.setups())
def test_only_an_operator_that_keeps_inputs_in_a_graph_that_stays_holds_them(setup: Setup) -> None:
    """Nothing is held by a newer operator, by a loop that lets go, or by recomputed layers; else as many as tokens."""
    old = {"dequantize": "operator_with_input", "keeps_graph": True}
    for changed in ({"dequantize": "operator"}, {"keeps_graph": False}):
        assert packed.held_inputs(adapted(setup, **(old | changed))) == 0.0  # type: ignore[arg-type]
    held = adapted(replace(setup, strategy=replace(setup.strategy, recompute=0.0)), **old)
    whole = replace(held, strategy=replace(held.strategy, recompute=1.0))
    twice = replace(held, training=replace(held.training, seq_len=2.0 * held.training.seq_len))
    assert packed.held_inputs(whole) == 0.0
    assert packed.held_inputs(twice) == pytest.approx(2.0 * packed.held_inputs(held), rel=1e-12)


def test_held_inputs_of_llama_2_7b() -> None:
    """Worked out by hand: inputs of both norms' readers, of the output projection and of the product, in bf16."""
    columns = {
        "id": "x",
        "source": "x",
        "model": "llama-2-7b",
        "framework": "litgpt",
        "method": "qlora",
        "base_quant": "nf4",
        "seq_len": "512",
        "micro_batch": "2",
        "lora_rank": "32",
        "lora_targets": "q_proj;v_proj",
        "param_dtype": "bf16",
    }
    setup = express(Row(columns)).setup
    assert isinstance(setup.strategy, Strategy)
    assert float(packed.held_inputs(setup)) == 1024 * 32 * (3 * 4096 + 11008) * 2
    assert float(packed.head_copy(setup)) == 32000 * 4096 * (2 + 2)


def test_experts_in_one_parameter_are_packed_where_all_are() -> None:
    """Nearly all of a mixture's weights, which else stay as they are; one parameter of them unpacks whole."""
    columns = {
        "id": "x",
        "source": "x",
        "model": "glm-4.5-air",
        "framework": "axolotl",
        "method": "qlora",
        "base_quant": "nf4_dq",
        "seq_len": "2048",
    }
    plain = express(Row(columns)).setup
    all_packed = express(Row(columns | {"note": "quantize_moe_experts"})).setup
    assert states(all_packed) < 0.35 * states(plain)
    scratch = [float(sum(c.nbytes for c in packed.dequantized(setup))) for setup in (plain, all_packed)]
    assert scratch[1] == 128 * 2 * 1408 * 4096 * 2 > scratch[0]
