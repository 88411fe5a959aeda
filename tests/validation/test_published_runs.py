"""Published runs whose peak a mechanism explains: without the mechanism each would be far off."""

from __future__ import annotations

from pathlib import Path

import pytest

from vramsim.units import GiB
from vramsim.validate import compare, read

TABLE = Path(__file__).parents[2] / "studies/validation/measurements.csv"
ROWS = {row.id: row for row in read(TABLE)}


def predicted(row_id: str) -> float:
    """Allocated bytes of a row's estimate. [B]"""
    (comparison,) = compare([ROWS[row_id]])
    assert comparison.estimate is not None
    return float(comparison.estimate.memory.hbm.allocated_bytes)


@pytest.mark.parametrize(
    ("row_id", "gib"),
    [
        # Mistral-7B in fp16, two micro-steps under FSDP, fms-acceleration's refs_orca/a100_80gb_mp.csv: accelerate's
        # no_sync keeps 13.5 GiB of whole gradients on each of 2 and of 8 GPUs.
        ("mem-fms-acceleration-0717", 38.53),
        ("mem-fms-acceleration-0715", 20.95),
        # Llama-2-7B, LoRA, AnswerDotAI's benchmarks_03_2024.md: checkpoints lie inside of FSDP units, whose hooks then
        # hold nothing (0.5 GiB else).
        ("mem-fsdp-qlora-0010", 9.16),
        # litgpt of October 2023, tutorials/resource-tables.md: its own model and chunked loss, of which every chunk
        # stays; 9.9 GiB would be 7.6 without them. Over two GPUs flat parameters make gradients of frozen weights.
        ("mem-litgpt-0005", 9.947),
        ("mem-litgpt-0014", 27.074),
        ("mem-litgpt-0044", 21.784),
        # Llama-3-405B cut to 4 layers, Megatron-Core, MooreThreads/SimuMax docs/b200: dummy gradients of every shape,
        # 6 GiB over tp, and 3.9 GiB of the head's.
        ("mem-simumax-0041", 139.22),
        ("mem-simumax-0033", 38.57),
        # Llama-3.1-70B with everything offloaded, torchtune's README: embedding and head are units of their own
        # (configs/llama3_1/70B_full.yaml, custom_sharded_layers); 17.6 GiB in one root unit.
        ("mem-torchtune-0006", 13.9),
        # Llama-2-7B, ColossalChat's SFT: no flat copies in the step, gradients on the device even when the optimizer is
        # not, and the loop's logits in fp32 until the next ones.
        ("mem-colossalai-0001", 21.932),
        ("mem-colossalai-0002", 70.694),
        ("mem-colossalai-0005", 56.721),
    ],
)
def test_allocated_peaks(row_id: str, gib: float) -> None:
    assert ROWS[row_id].number("mem_gib") == pytest.approx(gib, rel=1e-3)
    # The longest batch of unpacked samples is itself an estimate.
    assert predicted(row_id) / GiB == pytest.approx(gib, rel=0.03)


@pytest.mark.parametrize(
    ("row_id", "gib"),
    [
        # InternLM-7B, one stage a GPU: fp32 copies of all gradients for their norm, and gradients that the foreach
        # step's scratch does not take the place of; without both 46 and 40 GiB.
        ("mem-internevo-0005", 69.0),
        ("mem-internevo-0008", 62.0),
        # Llama-3-8B in a plain loop, eight sequences: whole logits do not fit where shifted ones were; 44 GiB else.
        ("mem-liger-kernel-0021", 59.515),
    ],
)
def test_held_by_the_allocator(row_id: str, gib: float) -> None:
    assert ROWS[row_id].number("mem_gib") == pytest.approx(gib, rel=1e-3)
    (comparison,) = compare([ROWS[row_id]])
    assert comparison.estimate is not None
    assert comparison.estimate.memory.hbm.reserved_bytes / GiB == pytest.approx(gib, rel=0.08)


def test_qwen_trains_a_copy_of_embedding_and_head() -> None:
    """LoRA (emb) of QwenLM/Qwen: 12 bytes for each of 1.24e9 elements more, as PyTorch 2.0's foreach AdamW steps."""
    (plain, whole) = compare([ROWS["qwen-0025"], ROWS["qwen-0031"]])
    assert plain.estimate is not None
    assert whole.estimate is not None
    more = float(whole.estimate.memory.hbm.allocated_bytes - plain.estimate.memory.hbm.allocated_bytes)
    assert more == pytest.approx(12 * 2 * 151936 * 4096, rel=1e-6)
    assert more / GiB == pytest.approx(33.7 - 20.1, rel=0.03)


def test_autocast_of_frozen_fp32_weights_dies() -> None:
    """litgpt's finetune_lora.md: Llama-2-7B in bf16-mixed dies on 40 GB: each product keeps its cast of the weight."""
    (comparison,) = compare([ROWS["mem-litgpt-0049"]])
    assert ROWS["mem-litgpt-0049"].text("oom") == "true"
    assert comparison.estimate is not None
    assert not comparison.estimate.fits


def test_internevo_steps_on_copies() -> None:
    """28 bytes a parameter in the step: 7.3e9 of them on 6 GPUs (solver/optimizer/fsdp_optimizer.py)."""
    (comparison,) = compare([ROWS["mem-internevo-0009"]])
    assert comparison.estimate is not None
    assert comparison.expressed is not None
    training = comparison.expressed.setup.training
    assert training.precision.master
    assert training.optimizer.temporary_factor == 2.0
    parts = {c.name: float(c.nbytes) for c in comparison.estimate.graph.components}
    names = ("trained parameters", "gradient shards", "fp32 master weights", "optimizer moments")
    stays = sum(parts[name] for name in names)
    comes = parts["gradients cast to fp32"] + parts["step scratch"]
    assert stays / comes == pytest.approx(16 / 12, rel=1e-6)
