"""Rows of published tables as setups: who shares states, what is recomputed, which kernels a table names."""

from __future__ import annotations

import pytest

from vramsim.spec import Setup
from vramsim.validate.architecture import Inexpressible
from vramsim.validate.express import express
from vramsim.validate.rows import Row

LLAMA = {
    "model": "llama2-7b",
    "n_layers": "32",
    "hidden": "4096",
    "n_heads": "32",
    "ffn": "11008",
    "vocab": "32000",
    "seq_len": "4096",
    "micro_batch": "2",
    "n_gpus": "128",
    "gpu_type": "A100-80GB",
}


def setup(**columns: str) -> Setup:
    """The setup of a row with some columns."""
    return express(Row({"id": "r", "source": "s", **LLAMA, **columns})).setup


def test_hybrid_sharding_shares_states_within_a_node() -> None:
    assert float(setup(framework="fms-fsdp", sharding="hsdp", gpus_per_node="8").strategy.shard_size) == 8.0
    assert float(setup(framework="fms-fsdp", sharding="fsdp", gpus_per_node="8").strategy.shard_size) == 0.0


@pytest.mark.parametrize(("text", "share"), [("none", 0.0), ("0.4", 0.4), (".5", 0.5), ("full", 1.0)])
def test_a_share_of_blocks_may_be_recomputed(text: str, share: float) -> None:
    assert float(setup(framework="fms-fsdp", sharding="fsdp", act_ckpt=text).strategy.recompute) == share


@pytest.mark.parametrize("text", ["other", "1.5", "40 %"])
def test_what_is_no_share_is_not_expressed(text: str) -> None:
    with pytest.raises(Inexpressible, match="recomputation"):
        setup(framework="fms-fsdp", sharding="fsdp", act_ckpt=text)


@pytest.mark.parametrize(
    ("stated", "kernel"),
    [("flash-attn 2", "flash"), ("FusedSDPA", "flash"), ("fused softmax, no flash", "unfused"), ("", "unfused")],
)
def test_flash_attention_that_a_row_states_replaces_the_stacks(stated: str, kernel: str) -> None:
    assert setup(framework="Megatron-DeepSpeed", sharding="zero1", attention=stated).framework.attention == kernel


def test_torchs_wrapper_overlaps_what_megatrons_own_does_not() -> None:
    # NVIDIA/Megatron-LM examples/sc21/run_table_1.sh: --DDP-impl torch up to 18B, local beyond.
    assert setup(framework="Megatron-LM (torch DDP)", sharding="ddp").framework.overlap_comm
    assert not setup(framework="Megatron-LM", sharding="ddp").framework.overlap_comm


def test_who_cuts_experts() -> None:
    assert setup(framework="Megatron-LM (Pai-Megatron-Patch)").strategy.etp == 1.0
    assert setup(framework="Megatron-LM").strategy.etp == 0.0
    assert setup(framework="NeMo / Megatron-Core", model="qwen3-30b-a3b").strategy.etp == 1.0
    assert setup(framework="NeMo / Megatron-Core", model="grok1-314b").strategy.etp == 0.0


def test_a_note_of_deepep_names_the_dispatcher() -> None:
    assert setup(framework="Megatron-LM", note="tp2, ep32, deepep, pp8").framework.dispatcher == "flex"
