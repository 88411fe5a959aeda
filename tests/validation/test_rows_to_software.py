"""Rows of published tables as software: what versions, notes and optimizers say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vramsim.spec import Setup
from vramsim.validate import compare, measured_memory, memory_kind, predicted_memory, read
from vramsim.validate.express import express
from vramsim.validate.rows import Row

TABLE = Path(__file__).parents[2] / "studies/validation/finetuning.csv"


def setup(**columns: str) -> Setup:
    """The setup of a row with some columns."""
    base = {"id": "r", "source": "s", "model": "llama-3-8b", "framework": "HF Trainer", "seq_len": "1024"}
    return express(Row(base | columns)).setup


def test_transformers_casts_logits_in_the_loss_from_4_46_on() -> None:
    assert setup(version="2024-09 (transformers 4.45.2)").framework.loss == "hf_legacy"
    assert setup(version="2025 (transformers 4.57)").framework.loss == "hf"
    assert setup(version="2026 (transformers 5.1)").framework.loss == "hf"


@pytest.mark.parametrize(("version", "synced"), [("2025-08", True), ("2025-10", False)])
def test_accelerates_no_sync_reaches_fsdp2_from_september_2025_on(version: str, synced: bool) -> None:
    found = setup(framework="axolotl + FSDP2", sharding="fsdp", n_gpus="8", version=version)
    assert found.framework.engine == "fsdp2"
    assert found.framework.sync_accumulation is synced


def test_a_rank_beside_an_optimizer_is_its_own() -> None:
    assert setup(optimizer="galore_adamw rank 64").training.optimizer.rank == 64
    assert setup(optimizer="galore_adamw").training.optimizer.rank == 128


def test_layers_that_freeze_before_the_optimizer_leave_no_states() -> None:
    assert setup(framework="ms-swift 2.x HF Trainer", optimizer="lisa").training.optimizer.forgets
    assert not setup(optimizer="lisa").training.optimizer.forgets


def test_models_written_anew_tie_no_head_and_write_no_activation_out() -> None:
    own, theirs = (setup(model="phi-2", framework=name).model for name in ("litgpt", "HF Trainer"))
    assert {block.mlp.activation for block in own.blocks} == {"gelu"}
    assert {block.mlp.activation for block in theirs.blocks} == {"gelu_new"}
    assert not setup(model="gemma-2b", framework="litgpt").model.tied_embeddings


def test_litgpts_configurations_to_the_percent() -> None:
    """Peaks of Lightning-AI/litgpt config_hub/finetune/README.md, none of which a constant has seen."""
    errors = {"lora": [], "qlora": []}  # type: dict[str, list[float]]
    for found in compare(row for row in read(TABLE) if row.source == "Lightning-AI/litgpt"):
        measured = measured_memory(found.row)
        if found.estimate is None or measured is None or found.row.text("method") not in errors:
            continue
        predicted = predicted_memory(found.estimate, memory_kind(found.row))
        errors[found.row.text("method")].append(abs(predicted / measured - 1.0))
    assert {name: len(each) for name, each in errors.items()} == {"lora": 14, "qlora": 16}
    assert sum(errors["lora"]) / 14 < 0.01
    assert sum(errors["qlora"]) / 16 < 0.025
