"""What NVIDIA's performance recipes set in which container, where the published tables do not say.

Read in NVIDIA-NeMo/Megatron-Bridge, scripts/performance: configs/*/*_workload_base_configs.py of the release branches
r0.1.0 (container 25.09), r0.2.0 (25.11), r0.3.0 (26.02), r0.4.0 (26.04), r0.5.0 (26.06), and src/megatron/bridge/
perf_recipes from 26.08 on. Facts about software, the same for every row of a container.
"""

from __future__ import annotations

import re

from vramsim.validate.rows import Row

BLACKWELL = r"^G?B[23]00"
LATEST = "99"

FLEX: tuple[tuple[str, str, str, str], ...] = (
    ("25.11", "26.02", "deepseek", ""),
    ("25.11", LATEST, "deepseek|qwen3|kimi", r"^GB"),
    ("26.02", "26.04", "qwen3", ""),
    ("26.02", LATEST, "deepseek", ""),
    ("26.04", LATEST, "qwen3", r"^B300"),
    ("26.04", LATEST, "qwen3-30b", ""),
    ("26.04", LATEST, "gpt-oss", r"^B300"),
)
"""First container, first one that no longer does, model and device of recipes whose dispatcher is flex (DeepEP on H100
and B200 at first, HybridEP)."""

OVERLAPPED: tuple[tuple[str, str, str, str, str], ...] = (
    ("25.09", "26.02", "deepseek|qwen3-30b", "^H100", ""),
    ("25.11", LATEST, "qwen3-235b", "^H100", ""),
    ("25.11", "26.02", "qwen3-235b", "^B200", ""),
    ("26.04", LATEST, "deepseek", "^B200", "mxfp8|nvfp4"),
    ("26.04", LATEST, "gpt-oss-120b", "^GB200", ""),
    ("26.06", LATEST, "deepseek|qwen3", BLACKWELL, "mxfp8"),
    ("26.06", LATEST, "gpt-oss-120b", "^GB", "mxfp8"),
)
"""The same, and dtype, of recipes with moe_a2a_overlap."""

FUSED = ("26.06", LATEST, "deepseek|qwen3|gpt-oss", BLACKWELL, "mxfp8")
"""The same of recipes with one kernel for grouped products and their activation, and attention in 8 bits
(cutedsl_fused_grouped_mlp, fp8_dot_product_attention)."""


WHOLE_EXPERTS = "deepseek|qwen3|gpt-oss"
"""Models whose recipes set expert_tensor_parallel_size to 1; it is the tensor-parallel degree else (NVIDIA/NeMo
nemo/collections/llm/recipes; of Grok and Llama 4 NVIDIA/dgxc-benchmarking's tables say so)."""


def expert_degree(row: Row) -> float:
    """Ranks that the recipe of a row's model cuts an expert over, 0 where that is the tensor-parallel degree. [-]

    row : measured run. [-]
    """
    return 1.0 if re.search(WHOLE_EXPERTS, row.text("model").lower()) else 0.0


def container(row: Row) -> str:
    """The NeMo container that a row's version names, "" if none.

    row : measured run. [-]
    """
    found = re.match(r"\d\d\.\d\d", row.text("version"))
    return found[0] if found else ""


def knobs(row: Row) -> dict[str, object]:
    """Knobs of experts and attention that the recipe of a row's container sets.

    row : measured run. [-]
    """
    found: dict[str, object] = {}
    if any(_holds(row, *each) for each in FLEX):
        found["dispatcher"] = "flex"
    if any(_holds(row, *each) for each in OVERLAPPED):
        found["overlap_experts"] = True
    if _holds(row, *FUSED):
        found |= {"fused_experts": True, "attention_dtype": "fp8"}
    return found


def _holds(row: Row, first: str, ended: str, model: str, device: str, dtype: str = "") -> bool:
    texts = (row.text("model").lower(), model), (row.text("gpu_type"), device), (row.text("compute_dtype"), dtype)
    return first <= container(row) < ended and all(re.search(pattern, text) for text, pattern in texts)
