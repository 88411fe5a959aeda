"""Software stacks that tables name: which knobs each sets. Facts about software, never about a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vramsim.units import GiB, MiB
from vramsim.validate.rows import Row


@dataclass(frozen=True, slots=True)
class Stack:
    """A software stack: its knobs (fields of spec.Framework), and what it does when a table does not say.

    `copies_master` says that its optimizer keeps fp32 copies of 16-bit FSDP shards, which are else fp32 themselves.
    `preset` is the catalog's framework that the knobs are set on; its engine holds whatever the sharding is called.
    `grad_dtype` and `param_dtype` are those of accumulated gradients and of parameters, where they are not the
    engine's own and not the compute dtype; `lora_targets` are the modules that it adapts.
    `overrules` has `sharding` hold whatever the table says: ZeRO on one device is no sharding to its author.
    `chunk_tokens` is how many tokens of a sequence one chunk of a chunked loss takes (0: a table says how many chunks).
    `reads` is the kind of memory that its tables give without saying so, in `memory_unit` [B]; `plain_loss` is the loss
    of a row that says none. `own_models` are written anew: no head is tied, and activations are single kernels.
    `freezes_first` is that layers freeze before an optimizer is made, which then keeps states of no others.
    `expert_degree` is how many ranks it cuts an expert over (0: as the engine does).
    """

    name: str
    knobs: Mapping[str, object] = field(default_factory=dict)
    sharding: str = "none"
    adapter_dtype: str = "fp32"
    lora_dropout: float = 0.0
    preset: str = ""
    recompute: str = "none"
    copies_master: bool = False
    chunk_tokens: float = 0.0
    overrules: bool = False
    reads: str = "unknown"
    lora_targets: str = "all-linear"
    lora_rank: float = 8.0
    grad_dtype: str = ""
    param_dtype: str = ""
    plain_loss: str = ""
    memory_unit: float = GiB
    own_models: bool = False
    freezes_first: bool = False
    expert_degree: float = 0.0

    def sharded(self, text: str) -> str:
        """What a table's sharding amounts to: it calls one device unsharded, where DeepSpeed runs its stage's code.

        text : the sharding as the table has it. [-]
        """
        return self.sharding if self.overrules or (text == "none" and self.preset == "deepspeed") else text

    def prepares_kbit(self, framework: str) -> bool:
        """Whether the stack calls prepare_model_for_kbit_training; the accelerated-peft plug-ins do not.

        framework : name of the stack as the table has it. [-]
        """
        return self.name.startswith("hf") and "accelerated-peft" not in framework


HF_2024 = {"reentrant_checkpoint": True, "grouped_experts": False, "sync_accumulation": False}
"""Transformers before 4.46 with its Trainer: reentrant checkpoints, experts as linear layers, and accelerate's no_sync
in all but the last micro-step (accelerate/accelerator.py, no_sync; sync_each_batch is off by default)."""

FSDP_QLORA = HF_2024 | {
    "loss": "hf_legacy",
    "keep_outputs": "fp32",
    "sync_accumulation": True,
    "checkpoint_inside": True,
    "max_grad_norm": 0.0,
}
"""AnswerDotAI's train.py (e877dda): --no_sync and --apply_gradient_clipping are off by default, and checkpoints are
applied to a model that is already FSDP."""
ANSWER = Stack(
    "fsdp-qlora",
    FSDP_QLORA,
    adapter_dtype="bf16",
    lora_dropout=0.1,
    lora_rank=64.0,
    lora_targets="q_proj;k_proj;v_proj;gate_proj;up_proj;down_proj",
)
"""Its defaults: --lora_rank 64, --lora_dropout 0.1, and what --lora_target_modules all stands for."""
LITGPT = {
    "fused_qkv": True,
    "expand_kv": True,
    "loss": "chunked_outputs",
    "keep_outputs": "fp32",
    "flat_units": True,
    "sync_accumulation": False,
    "checkpoint_inside": True,
    "dequantize": "operator_with_input",
    "packs_head": True,
    "unpacks_to": "fp16",
    "keeps_graph": True,
}
"""lit_gpt's own model (model.py, lora.py): one projection to queries, keys and values, keys and values expanded for
flash attention, the head and the loss in chunks of 128 tokens (utils.py, chunked_cross_entropy), whose logits Fabric
casts to fp32 (plugins/precision/half.py, convert_output). finetune/lora.py: FSDP of whole blocks, no_backward_sync; its
loop holds the logits until the next are made. Fabric's plug-in packs every linear layer, the head too, from fp16
(plugins/precision/bitsandbytes.py, quantize), with bitsandbytes 0.42, which setup() asks for."""
FOUNDRY = {
    "norm": "fused",
    "loss": "hf",
    "gpu_optimizer": "fused",
    "attention": "triton",
    "checkpoint_inside": True,
}
"""llm-foundry's benchmarks: attn_impl triton is their default (scripts/train/benchmarking/submit_benchmarks.py)."""
TRANSFORMER_ENGINE = {
    "attention": "cudnn",
    "norm": "fused",
    "activation": "fused",
    "loss": "vocab_parallel",
    "gpu_optimizer": "fused",
    "overlap_tp": True,
}
"""NeMo's performance recipes: Transformer Engine, and tensor-parallel overlap (tp_comm_overlap)."""
NEMO = Stack(
    "nemo",
    TRANSFORMER_ENGINE,
    "distopt",
    preset="megatron",
    adapter_dtype="bf16",
    lora_targets="q_proj;k_proj;v_proj",
    grad_dtype="bf16",
)
"""Their recipes (Megatron-Bridge perf_recipes/llama): target_modules linear_qkv, grad_reduce_in_fp32 off; what they
recompute the tables do not say, attention least of all."""
INTERNEVO = {
    "loss": "vocab_parallel",
    "gpu_optimizer": "foreach_2.0",
    "norm_copies": True,
    "balanced_ends": False,
    "pipeline_engine": False,
    "checkpoint_inside": True,
    "attention": "flash1",
}
"""InternEvo in 2023: FlashAttention 1 (its submodule until January 2024; the rates are of July 2023), plain
torch.optim.AdamW (train/training_internlm.py), fused only from March 2024 on; FSDP with use_orig_params, which came
with PyTorch 2.0, and fp32 copies in the optimizer (solver/optimizer/fsdp_optimizer.py).
The norm is that of fp32 copies of all gradients (solver/optimizer/utils.py, reduce_grads); stages share out the blocks
alone, the rest to the last ones (solver/pipeline_utils.py, partition_uniform)."""
TORCHTITAN = {
    "wrap": "blocks+embedding+head",
    "gpu_optimizer": "fused",
    "stops_early": True,
    "rotary": "eager",
    "parallel_loss": True,
    "reshards_stages": False,
}
"""torchtitan/config: parameters stay fp32 and are gathered in mixed_precision_param, reduced in fp32. Its Llama rotates
complex numbers (models/llama3/model.py, apply_rotary_emb), which Inductor generates no code for."""
UNFUSED = {"attention": "unfused", "dummy_gradients": False}
"""Megatron before flash attention and before Transformer Engine."""
MEGATRON_2021 = UNFUSED | {"fused_accumulation": False, "overlap_comm": False}
"""Megatron before products added gradients up (May 2022) and before --overlap-grad-reduce (2023)."""
VTRAIN = MEGATRON_2021 | {"vocab_multiple": 1.0}
"""vTrain's model after Megatron's, which cuts a vocabulary of 50257 as it is (src/model/gpt_modeling.py)."""
MEGATRON_DEEPSPEED = UNFUSED | {"overlap_comm": False}
"""DeepSpeed's pipelines reduce gradients after all micro-batches (runtime/pipe/engine.py, _exec_reduce_grads)."""
MEGATRON_CI = {"fused_accumulation": False, "attention": "flash"}
"""Megatron's regression tests (gpt3_7b_*_memory_speed/model_config.yaml) are deterministic, for which Transformer
Engine gives up cuDNN's backward (attention/dot_product_attention/utils.py) and takes FlashAttention-2's."""

TORCHTUNE = Stack(
    "torchtune",
    {"loss": "chunked", "gpu_optimizer": "fused", "stops_early": True},
    adapter_dtype="bf16",
    reads="torch_allocated",
    plain_loss="hf_legacy",
)
"""torchtune's README (30b8519) calls one table's peak active memory, and does not say of the other's. Its loss came
in chunks in August 2024 (4fba6cd); before, logits were cast up whole and shifted."""

COLOSSAL = {
    "norm": "fused",
    "loss": "hf_legacy",
    "gpu_optimizer": "fused",
    "reduce_bucket_size": 12.0 * 2**20,
    "stops_early": True,
    "flat_states": False,
    "keep_outputs": "fp32",
}
"""ColossalAI's LowLevelZeroPlugin (f8b9e88, zero/low_level/low_level_optim.py): buckets of 12 Mi, slices weight by
weight. ColossalChat's benchmark_sft.py prints max_memory_allocated in MiB; its checkpoints are not reentrant, and its
loop holds the outputs through backward (coati/trainer/sft.py)."""
FOAK = {"norm": "fused", "rotary": "fused"}
"""fms-acceleration's plug-in patches RMSNorm, rotary embeddings and the loss (framework_plugin_fast_kernels.py)."""
FMS_FSDP = {"loss": "no_upcast", "stops_early": True, "checkpoint_inside": True, "keep_outputs": "compute"}
"""fms-fsdp (ed74fd5): checkpoints that are not reentrant (policies/ac_handler.py) and are applied
to what FSDP has wrapped (main_training.py); logits meet the loss in bf16 and live on (utils/train_utils.py)."""
TINY_LLAMA = {
    "norm": "fused",
    "activation": "fused",
    "rotary": "fused",
    "fused_qkv": True,
    "gpu_optimizer": "single",
    "sync_accumulation": False,
}
"""jzhang38/TinyLlama: kernels of flash-attn and xformers (lit_gpt/model.py, rmsnorm.py), AdamW with foreach=False and
no_backward_sync (pretrain/tinyllama.py)."""
NANOTRON = {"norm": "fused", "rotary": "fused", "fused_qkv": True, "loss": "vocab_parallel", "gpu_optimizer": "fused"}
"""huggingface/nanotron (67c5ebb): TritonRMSNorm, flash-attn's rotary embeddings and sharded_cross_entropy
(models/llama.py), torch_adam_is_fused in its benchmark's configuration."""

AXOLOTL = Stack("axolotl", {"loss": "hf", "sync_accumulation": False})
"""axolotl in 2025, over transformers from 4.46 on. It casts norms back to 16 bits after prepare_model_for_kbit_training
(loaders/model.py, _configure_embedding_dtypes), and checkpoints are not reentrant (core/builders/base.py)."""
MEGATRON = Stack("megatron", {"overlap_comm": False}, "distopt", preset="megatron", recompute="selective")

STACKS: tuple[tuple[str, Stack], ...] = (
    ("^(torch|ddp|fsdp2)$", Stack("pytorch-trace", {"activation_backward": "decomposed", "sync_accumulation": False})),
    ("foak.*liger|fast-kernels-liger", Stack("hf-foak-liger", HF_2024 | FOAK | {"loss": "liger"})),
    ("foak", Stack("hf-foak", HF_2024 | FOAK | {"loss": "fused_legacy"})),
    ("swift 2", Stack("hf-trainer", HF_2024 | {"loss": "hf_legacy"}, freezes_first=True)),
    ("^HF|^transformers", Stack("hf-trainer", HF_2024 | {"loss": "hf_legacy"})),
    ("fsdp_qlora", ANSWER),
    ("litgpt|lit-gpt", Stack("litgpt", LITGPT, "none", "bf16", 0.05, chunk_tokens=128.0, own_models=True)),
    ("torchtune", TORCHTUNE),
    ("axolotl", AXOLOTL),
    ("torchtitan", Stack("torchtitan", TORCHTITAN, "fsdp", param_dtype="fp32")),
    ("automodel", Stack("nemo-automodel", {"loss": "hf", "gpu_optimizer": "fused"}, "fsdp")),
    ("megatron-deepspeed/megatron-lm", Stack("megatron-2021", VTRAIN, "ddp", preset="megatron")),
    ("megatron-deepspeed", Stack("megatron-deepspeed", MEGATRON_DEEPSPEED, "zero1", preset="megatron-deepspeed")),
    ("nemo|megatron-bridge", NEMO),
    ("fms-fsdp", Stack("fms-fsdp", FMS_FSDP, "fsdp")),
    ("tinyllama", Stack("tinyllama", TINY_LLAMA, "fsdp")),
    ("nanotron", Stack("nanotron", NANOTRON, "ddp")),
    ("paddle.*fused rms", Stack("paddlenlp", {"norm": "fused"}, "zero2")),
    ("torch ddp", replace(MEGATRON, knobs={"overlap_comm": True}, sharding="ddp")),
    (r"megatron-core \(ci\)", Stack("megatron-ci", MEGATRON_CI, "distopt", preset="megatron", recompute="selective")),
    ("megatron-core$", replace(MEGATRON, name="megatron-core", knobs={"overlap_tp": True})),
    # Its commands for Qwen3 give 1 as the thirteenth argument, ETP (2b201af, examples/qwen3/README.md).
    ("pai-megatron", replace(MEGATRON, expert_degree=1.0)),
    ("megatron|mcore", MEGATRON),
    ("internevo", Stack("internevo", INTERNEVO, "zero1", preset="megatron-deepspeed", copies_master=True)),
    ("xtuner", Stack("xtuner-v0.1", {"expand_kv": True, "loss": "hf_legacy", "cpu_optimizer": "torch_adamw"}, "zero3")),
    ("colossal", Stack("colossalai", COLOSSAL, "zero2", reads="torch_allocated")),
    ("composer|foundry", Stack("llm-foundry", FOUNDRY, "fsdp")),
    ("deepspeed|factory|openrlhf", Stack("deepspeed", {"loss": "hf_legacy", "gpu_optimizer": "fused"}, "zero3")),
)


QWEN_ZERO = {
    "loss": "hf_legacy",
    "gpu_optimizer": "fused",
    "reduce_bucket_size": 2e8,
    "reentrant_checkpoint": True,
    "rotary": "fused",
}
"""Qwen's finetune/ds_config_zero2.json (an AdamW of DeepSpeed's own)."""

QWEN = Stack(
    "hf-trainer",
    HF_2024 | {"loss": "hf_legacy", "rotary": "fused"},
    "none",
    "bf16",
    lora_dropout=0.05,
    reads="nvidia_smi",
    memory_unit=1000.0 * MiB,
)
"""Its README's 162.0 G on two cards of 80 GiB can be no GiB of tensors: it is the driver's MiB, by a thousand. Before
PEFT 0.11 adapters took the dtype of the layers that they adapt. Its models rotate with flash-attn's kernel
(modeling_qwen.py, apply_rotary_pos_emb)."""

LIGER = Stack("fsdp-bf16", HF_2024 | {"loss": "hf_legacy"}, "fsdp")
LIGER_README = replace(LIGER, knobs={**LIGER.knobs, "keep_outputs": "fp32"})
"""Liger-Kernel's charts in which weights stay bf16, as they were loaded. The README's (e85611c) says bf16 and names no
trainer; it came before the example for the Trainer, so that a plain loop is assumed, which holds the model's outputs
through backward. The example's chart of Gemma (1129508) shows less than the 31.8 GiB of 16 bytes a parameter:
no accelerate from 0.30 on (pull request 2674) has cast these weights up, as it did when the same script ran a fortnight
later and held 39.8 GiB (38411af, examples/huggingface/results)."""

SCRIPTS: tuple[tuple[str, Mapping[str, str], Stack], ...] = (
    (
        "QwenLM/Qwen",
        {"method": "qlora"},
        replace(
            QWEN,
            name="qwen",
            knobs=QWEN_ZERO,
            sharding="zero2",
            adapter_dtype="fp16",
            preset="deepspeed",
            overrules=True,
        ),
    ),
    ("QwenLM/Qwen", {"method": "lora"}, QWEN),
    (
        "QwenLM/Qwen",
        {"method": "full"},
        replace(QWEN, name="qwen-full", knobs=QWEN_ZERO, sharding="zero3", preset="deepspeed"),
    ),
    (
        "pytorch/torchtune",
        {"method": "full", "sharding": "fsdp"},
        replace(TORCHTUNE, knobs={**TORCHTUNE.knobs, "wrap": "blocks+embedding+head"}),
    ),
    ("linkedin/Liger-Kernel", {"location": "README.*"}, LIGER_README),
    ("linkedin/Liger-Kernel", {"model": "gemma-7b"}, LIGER),
)
"""Repositories whose rows ran the repository's own scripts, and what the columns of such rows say: QwenLM/Qwen's
finetune/finetune_{lora,qlora}_single_gpu.sh, of which the second runs DeepSpeed on one device, and finetune_ds.sh;
torchtune's recipes for several devices (configs/llama3_1/70B_full.yaml), with custom_sharded_layers."""


def stack_of(row: Row) -> Stack:
    """The stack that a row's framework names; a plain Hugging Face one when none is known.

    row : measured run. [-]
    """
    for source, columns, stack in SCRIPTS:
        if row.source == source and all(re.fullmatch(found, row.text(name)) for name, found in columns.items()):
            return stack
    name = row.text("framework").lower()
    for pattern, stack in STACKS:
        if re.search(pattern, name, re.IGNORECASE):
            return stack
    return Stack("unknown")
