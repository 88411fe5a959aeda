"""Software stacks that tables name: which knobs each sets. Facts about software, never about a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vramsim.validate.rows import Row


@dataclass(frozen=True, slots=True)
class Stack:
    """A software stack: its knobs (fields of spec.Framework), and what it does when a table does not say.

    `copies_master` says that its optimizer keeps fp32 copies of 16-bit FSDP shards, which are else fp32 themselves.
    `gradient` is the dtype in which it accumulates and reduces gradients, where that is not its engine's usual one.
    `preset` is the catalog's framework that the knobs are set on; its engine holds whatever the sharding is called.
    """

    name: str
    knobs: Mapping[str, object] = field(default_factory=dict)
    sharding: str = "none"
    adapter_dtype: str = "fp32"
    lora_dropout: float = 0.0
    preset: str = ""
    recompute: str = "none"
    copies_master: bool = False
    gradient: str = ""

    def prepares_kbit(self, framework: str) -> bool:
        """Whether the stack calls prepare_model_for_kbit_training; the accelerated-peft plug-ins do not.

        framework : name of the stack as the table has it. [-]
        """
        return self.name.startswith("hf") and "accelerated-peft" not in framework


HF_2024 = {"reentrant_checkpoint": True, "grouped_experts": False, "sync_accumulation": False}
"""Transformers before 4.46 with its Trainer: reentrant checkpoints, experts as linear layers, and accelerate's no_sync
in all but the last micro-step (accelerate/accelerator.py, no_sync; sync_each_batch is off by default)."""

FSDP_QLORA = {"loss": "hf_legacy", "keep_outputs": "fp32", "sync_accumulation": True, "checkpoint_inside": True}
"""AnswerDotAI's train.py: --no_sync is off by default, and checkpoints are applied to a model that is already FSDP."""
FOUNDRY = {"norm": "fused", "loss": "hf", "gpu_optimizer": "fused", "attention": "triton"}
"""llm-foundry's benchmarks: attn_impl triton is their default (scripts/train/benchmarking/submit_benchmarks.py)."""
TRANSFORMER_ENGINE = {
    "attention": "cudnn",
    "norm": "fused",
    "activation": "fused",
    "loss": "vocab_parallel",
    "gpu_optimizer": "fused",
    "overlap_tp": True,
}
"""NeMo's performance recipes: Transformer Engine, and tensor-parallel overlap (tp_comm_overlap). Their gradients are in
bf16: grad_reduce_in_fp32 is off (NeMo scripts/performance/helpers.py, Megatron-Bridge perf_recipes/_common.py)."""
NEMO = Stack("nemo", TRANSFORMER_ENGINE, "distopt", preset="megatron", recompute="selective", gradient="bf16")
INTERNEVO = {"loss": "vocab_parallel", "gpu_optimizer": "foreach_2.0"}
"""InternEvo in 2023: plain torch.optim.AdamW (train/training_internlm.py), fused only from March 2024 on; FSDP with
use_orig_params, which came with PyTorch 2.0, and fp32 copies in the optimizer (solver/optimizer/fsdp_optimizer.py)."""
UNFUSED = {"attention": "unfused"}
"""Megatron before flash attention."""

STACKS: tuple[tuple[str, Stack], ...] = (
    ("^(torch|ddp|fsdp2)$", Stack("pytorch-trace", {"activation_backward": "decomposed", "sync_accumulation": False})),
    ("foak.*liger|fast-kernels-liger", Stack("hf-foak-liger", HF_2024 | {"norm": "fused", "loss": "liger"})),
    ("foak", Stack("hf-foak", HF_2024 | {"norm": "fused", "loss": "fused_legacy"})),
    ("^HF|swift 2|^transformers", Stack("hf-trainer", HF_2024 | {"loss": "hf_legacy"})),
    ("fsdp_qlora", Stack("fsdp-qlora", HF_2024 | FSDP_QLORA, adapter_dtype="bf16")),
    ("litgpt|lit-gpt", Stack("litgpt", {"loss": "chunked", "reshards_frozen": False}, "none", "bf16", 0.05)),
    (
        "torchtune",
        Stack("torchtune", {"loss": "chunked", "norm": "eager", "gpu_optimizer": "fused"}, adapter_dtype="bf16"),
    ),
    ("torchtitan", Stack("torchtitan", {"wrap": "blocks+embedding+head", "gpu_optimizer": "fused"}, "fsdp")),
    ("automodel", Stack("nemo-automodel", {"loss": "hf", "gpu_optimizer": "fused"}, "fsdp")),
    ("megatron-deepspeed/megatron-lm", Stack("megatron-2021", UNFUSED, "ddp", preset="megatron")),
    ("megatron-deepspeed", Stack("megatron-deepspeed", UNFUSED, "zero1", preset="megatron-deepspeed")),
    ("nemo|megatron-bridge", NEMO),
    ("megatron|mcore", Stack("megatron", {}, "distopt", preset="megatron", recompute="selective")),
    ("internevo", Stack("internevo", INTERNEVO, "zero1", preset="megatron-deepspeed", copies_master=True)),
    ("xtuner", Stack("xtuner-v0.1", {"expand_kv": True, "loss": "hf_legacy", "cpu_optimizer": "torch_adamw"}, "zero3")),
    ("colossal", Stack("colossalai", {"norm": "fused", "loss": "hf_legacy", "gpu_optimizer": "fused"}, "zero2")),
    ("composer|foundry", Stack("llm-foundry", FOUNDRY, "fsdp")),
    ("deepspeed|factory|openrlhf", Stack("deepspeed", {"loss": "hf_legacy", "gpu_optimizer": "fused"}, "zero3")),
)


def stack_of(row: Row) -> Stack:
    """The stack that a row's framework names; a plain Hugging Face one when none is known.

    row : measured run. [-]
    """
    name = row.text("framework").lower()
    for pattern, stack in STACKS:
        if re.search(pattern, name, re.IGNORECASE):
            return stack
    return Stack("unknown")
