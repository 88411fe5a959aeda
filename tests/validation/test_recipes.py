"""What NVIDIA's recipes set, container by container. Provenance: NVIDIA-NeMo/Megatron-Bridge scripts/performance."""

from __future__ import annotations

import pytest

from vramsim.validate import recipes
from vramsim.validate.rows import Row


def row(version: str, model: str, gpu: str, dtype: str = "mxfp8") -> Row:
    return Row({"id": "x", "version": version, "model": model, "gpu_type": gpu, "compute_dtype": dtype})


@pytest.mark.parametrize(
    ("version", "model", "gpu", "dtype", "expected"),
    [
        ("25.09 NeMo", "qwen3-30b-a3b", "GB200-192GB", "mxfp8", set()),
        ("25.11 NeMo", "qwen3-30b-a3b", "GB200-192GB", "mxfp8", {"dispatcher"}),
        ("26.06.01 NeMo", "qwen3-30b-a3b", "GB200-192GB", "mxfp8", {"dispatcher", "overlap", "fused", "attention"}),
        ("26.06 NeMo", "qwen3-30b-a3b", "GB200-192GB", "bf16", {"dispatcher"}),
        ("26.04 NeMo", "qwen3-235b-a22b", "B200-180GB-SXM", "mxfp8", set()),
        ("26.04.01 NeMo", "deepseek-v3", "B200-180GB-SXM", "mxfp8", {"dispatcher", "overlap"}),
        ("25.11 NeMo", "deepseek-v3", "H100-80GB-SXM", "fp8", {"dispatcher", "overlap"}),
        ("26.06 NeMo", "llama3-70b", "GB300-288GB", "mxfp8", set()),
        ("2024-09-09 (NeMo 24.09-era)", "mixtral-8x7b", "H100-80GB-SXM", "fp8", set()),
        ("", "deepseek-v3", "GB200-192GB", "mxfp8", set()),
    ],
)
def test_recipes(version: str, model: str, gpu: str, dtype: str, expected: set[str]) -> None:
    found = {name.split("_")[0] for name in recipes.knobs(row(version, model, gpu, dtype))}
    assert found == expected
