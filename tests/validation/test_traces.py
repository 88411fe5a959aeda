"""What autograd saves per decoder layer: closed forms of traced steps, equal to the tables of `vramsim.blocks`.

The forms were fitted to every storage that real steps allocate (torch 2.13, transformers 5.23, peft 0.21, on fake CUDA
tensors): bytes per token and layer, exact. They and the tables come from different people; here they meet to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from vramsim import Case, assemble, blocks, catalog, simulate
from vramsim.blocks import Kernels, Saved
from vramsim.equations import activations as equations
from vramsim.layout import bytes_per_token
from vramsim.parts import activations
from vramsim.spec import Category, Model, Phase, Tier

LLAMAS = ("llama-3-8b", "llama-3-70b", "llama-2-7b", "qwen2.5-7b", "qwen2.5-0.5b", "mistral-7b-v0.3")
SEQ_LEN, RANK = 4096, 16
BF16 = Kernels(compute=2.0, residual=2.0)
AUTOCAST = Kernels(compute=2.0, residual=4.0, autocast=True)
FP32 = Kernels(compute=4.0, residual=4.0)
LORA = replace(BF16, trains_base=False, targets=("all-linear",), rank=RANK)
LORA_BF16 = replace(LORA, adapter=2.0)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a layer by the letters that the closed forms use."""

    h: int
    i: int
    q: int
    k: int
    d: int

    @property
    def qd(self) -> int:
        return self.q * self.d

    @property
    def kd(self) -> int:
        return self.k * self.d


def sizes(name: str) -> Sizes:
    block = catalog.model(name).blocks[0]
    attention = block.attention
    return Sizes(block.hidden, block.mlp.ffn, attention.heads, attention.kv_heads, attention.head_dim)


def flash(z: Sizes) -> int:
    """bf16 compute, flash attention: 50 of 50 traces."""
    return 16 * z.h + 8 + 4 * z.qd + 4 * z.kd + 4 * z.q + 8 * z.i


def saved(model: str | Model, kernels: Kernels) -> float:
    architecture = catalog.model(model) if isinstance(model, str) else model
    return in_all(blocks.layer(architecture.blocks[0], kernels).saved)


def in_all(table: tuple[Saved, ...]) -> float:
    return sum(tensor.size * tensor.nbytes * (SEQ_LEN if tensor.per_key else 1) for tensor in table)


@pytest.mark.parametrize("model", LLAMAS)
def test_bf16_flash(model: str) -> None:
    assert saved(model, BF16) == flash(sizes(model))


@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-8b", "qwen3-32b"])
def test_query_and_key_norms(model: str) -> None:
    """Qwen3: 2 of 2 traces."""
    z = sizes(model)
    assert saved(model, BF16) == flash(z) + (6 * z.d + 4) * (z.q + z.k)


@pytest.mark.parametrize("model", ["gemma-2b", "gemma-7b"])
def test_gemma_norms(model: str) -> None:
    """Gemma normalises in fp32 and multiplies by 1 + w: 20 h instead of 16 h, 5 of 5 traces."""
    z = sizes(model)
    assert saved(model, BF16) == flash(z) + 4 * z.h


@pytest.mark.parametrize("model", ["mixtral-8x7b-v0.1", "mixtral-8x22b-v0.1"])
def test_grouped_experts(model: str) -> None:
    """Mixtral with grouped_mm: k (8 I + 4 h) + 4 E + 40 k + 4 in the place of 8 I, 4 of 4 traces (+32 B a layer)."""
    z, mlp = sizes(model), catalog.model(model).blocks[0].mlp
    routed = mlp.top_k * (8 * z.i + 4 * z.h) + 4 * mlp.experts + 40 * mlp.top_k + 4
    assert saved(model, BF16) == flash(z) - 8 * z.i + routed


@pytest.mark.parametrize("model", LLAMAS)
def test_autocast(model: str) -> None:
    """26 h: q, k, v, gate and up each keep their own bf16 copy of the normalised input. 8 of 8 traces."""
    assert saved(model, AUTOCAST) == flash(sizes(model)) + 10 * sizes(model).h


def test_fp32_with_grouped_keys() -> None:
    """Plain code: the softmax of every key, keys and values repeated, and no log-sum-exp. 1 of 1 trace."""
    z = sizes("llama-3.2-3b")
    expected = 24 * z.h + 8 + 16 * z.qd + 4 * z.q * SEQ_LEN + 16 * z.i
    assert saved("llama-3.2-3b", FP32) == expected


def test_fp32() -> None:
    """Memory-efficient kernels, as many key heads as query heads: 1 of 1 trace."""
    z = sizes("llama-2-7b")
    assert saved("llama-2-7b", FP32) == 24 * z.h + 8 + 8 * z.qd + 8 * z.kd + 4 * z.q + 16 * z.i


@pytest.mark.parametrize("model", LLAMAS)
def test_eager_attention(model: str) -> None:
    """Keys and values repeated, the matrix in fp32 and in bf16: 3 of 3 traces."""
    z = sizes(model)
    expected = 16 * z.h + 8 + 8 * z.i + 8 * z.qd + 6 * z.q * SEQ_LEN
    assert saved(model, replace(BF16, attention="eager")) == expected


# Backward -------------------------------------------------------------------------------------------------------------


def beside_saved(table: tuple[Saved, ...]) -> tuple[float, float]:
    """Bytes that are made, and saved ones that are gone, at one moment of a block's backward."""
    made, gone = (tuple(t for t in table if (t.nbytes > 0) is sign) for sign in (True, False))
    return in_all(made), -in_all(gone)


@pytest.mark.parametrize("model", ["llama-2-7b", "llama-3-70b", "mistral-7b-v0.3"])
def test_silu_spelt_out(model: str) -> None:
    """Its gradient and six tensors of its own; the product, the activated gate and the other branch are gone."""
    z = sizes(model)
    layer = blocks.layer(catalog.model(model).blocks[0], replace(BF16, activation_backward="decomposed"))
    assert beside_saved(layer.working) == (14 * z.i + 4 * z.h, 6 * z.i)


def test_silu_of_grouped_experts_spelt_out() -> None:
    """Both branches are one tensor, whose halves go together; the experts' outputs are gone."""
    z, block = sizes("mixtral-8x7b-v0.1"), catalog.model("mixtral-8x7b-v0.1").blocks[0]
    layer, k = blocks.layer(block, replace(BF16, activation_backward="decomposed")), block.mlp.top_k
    assert beside_saved(layer.working) == (16 * k * z.i + 2 * z.h, 4 * k * z.i + 2 * k * z.h)


def test_leaving_grouped_experts() -> None:
    """All weight gradients of the experts are there, and of their tensors the gradient of both branches. 4 traces."""
    z, block = sizes("mixtral-8x7b-v0.1"), catalog.model("mixtral-8x7b-v0.1").blocks[0]
    layer, k = blocks.layer(block, BF16), block.mlp.top_k
    assert beside_saved(layer.leaving) == (4 * k * z.i + 2 * k * z.h + 2 * z.h, 8 * k * z.i + 2 * k * z.h)


# Adapters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", LLAMAS)
def test_lora_with_fp32_adapters(model: str) -> None:
    """PEFT's default: every adapter keeps its own fp32 copy of its input. 5 of 5 traces."""
    z = sizes(model)
    expected = 28 * z.h + 8 + 8 * z.qd + 4 * z.kd + 4 * z.q + 10 * z.i + 28 * RANK
    assert saved(model, LORA) == expected


@pytest.mark.parametrize("model", LLAMAS)
def test_lora_on_queries_and_values(model: str) -> None:
    """By hand, 4 traces."""
    z = sizes(model)
    expected = 16 * z.h + 8 + 4 * z.qd + 4 * z.kd + 4 * z.q + 6 * z.i + 8 * RANK
    assert saved(model, replace(LORA, targets=("q_proj", "v_proj"))) == expected


def lora_bf16(z: Sizes) -> int:
    return 12 * z.h + 8 + 4 * z.qd + 4 * z.kd + 4 * z.q + 8 * z.i + 14 * RANK


@pytest.mark.parametrize("model", LLAMAS)
def test_lora_with_bf16_adapters(model: str) -> None:
    """autocast_adapter_dtype=False: adapters share the inputs."""
    assert saved(model, LORA_BF16) == lora_bf16(sizes(model))


@pytest.mark.parametrize("model", LLAMAS)
def test_dropout_with_fp32_adapters(model: str) -> None:
    """A boolean mask for each adapter: 5 h + HqD + I."""
    z = sizes(model)
    assert saved(model, replace(LORA, dropout=True)) == saved(model, LORA) + 5 * z.h + z.qd + z.i


@pytest.mark.parametrize("model", LLAMAS)
def test_dropout_with_bf16_adapters(model: str) -> None:
    """Mask and dropped input for each adapter, 3 (5 h + HqD + I); the shared inputs of norms and product are freed.

    The attention output is not: attention keeps it for itself. (A first reading of the trace freed it, too.)
    """
    z = sizes(model)
    expected = lora_bf16(z) + 3 * (5 * z.h + z.qd + z.i) - 4 * z.h - 2 * z.i
    assert saved(model, replace(LORA_BF16, dropout=True)) == expected


# Tensor parallelism, recomputation, head ------------------------------------------------------------------------------


def run(model: str = "llama-3-8b", framework: Any = "torch", **strategy: Any) -> Case:
    devices = strategy.get("tp", 1)
    return Case(
        model=model,
        cluster={"device": "h100-sxm-80gb", "num_devices": devices},
        framework=framework,
        training={"seq_len": SEQ_LEN, "precision": "bf16_pure"},
        strategy=strategy,
    )


@pytest.mark.parametrize("degree", [1, 2, 4, 8])
@pytest.mark.parametrize("model", ["llama-3-8b", "llama-3-70b"])
def test_tensor_parallelism(model: str, degree: int) -> None:
    """Norms and inputs are whole on every rank: 3 of 3 traces."""
    z, table = sizes(model), blocks.layer(catalog.model(model).blocks[0], BF16).saved
    sharded = (4 * z.qd + 4 * z.kd + 4 * z.q + 8 * z.i) / degree
    assert bytes_per_token(table, run(model, tp=degree).resolve()) == 16 * z.h + 8 + sharded


@pytest.mark.parametrize("degree", [2, 4, 8])
@pytest.mark.parametrize("model", ["llama-3-8b", "llama-3-70b"])
def test_sequence_parallelism(model: str, degree: int) -> None:
    """Megatron's: norms are cut, inputs that were gathered for a product are whole. 3 of 3 traces, but for 8 - 8/t B.

    The traces cut the two deviations of 4 B as well; the table keeps them whole.
    """
    z, table = sizes(model), blocks.layer(catalog.model(model).blocks[0], BF16).saved
    expected = (12 * z.h + 8) / degree + 4 * z.h + (4 * z.qd + 4 * z.kd + 4 * z.q + 8 * z.i) / degree
    found = bytes_per_token(table, run(model, tp=degree, megatron_sp=True).resolve())
    assert 0 <= found - expected <= 8


@pytest.mark.parametrize(("precision", "size"), [("bf16_pure", 2), ("bf16", 4), ("fp32", 4)])
def test_checkpoints(precision: str, size: int) -> None:
    """2 h in bf16; 4 h under autocast and in fp32: 74 of 74 traces."""
    case = run(recompute="full").with_values({"training.precision": precision})
    layers, hidden = 32, 4096
    (inputs,) = (c for c in assemble(case).components if c.name == "checkpointed block inputs")
    assert inputs.nbytes == size * hidden * layers * SEQ_LEN


def test_first_layer_under_adapters() -> None:
    """Nothing before it trains, so its first norm need not keep its input: 4 h + 4 less."""
    case = run().with_values({"training.method": "lora"})
    assert activations.untrained_input(case.resolve()) == (4 * 4096 + 4) * SEQ_LEN


@pytest.mark.parametrize(("kernels", "per_hidden"), [(BF16, 8), (AUTOCAST, 10)])
def test_final_norm(kernels: Kernels, per_hidden: int) -> None:
    """8 h + 4: input and product of the norm, input of the head. Under autocast 4 + 4 + 2: the head's is a copy."""
    table = blocks.head(catalog.model("llama-3-8b"), kernels).saved
    assert in_all(table) == per_hidden * 4096 + 4


def test_rotary_tables() -> None:
    """Cosine and sine once for all layers and rows: 4 D S bytes."""
    (tables,) = (c for c in assemble(run()).components if c.name == "rotary tables")
    assert tables.nbytes == 4 * 128 * SEQ_LEN


def test_loss() -> None:
    """10 V forward (2 + 4 + 4), 12 V backward: 53 of 53 and 128 of 128 traces whose peak is there."""
    assert equations.loss_forward(1.0, 2.0) == 10.0
    assert equations.loss_backward(1.0) == 12.0


# Model states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framework", "precision", "devices", "per_parameter"),
    [
        ("torch", "bf16_pure", 1, 8.0),
        ("torch", "bf16", 1, 16.0),
        ("torch", "fp32", 1, 16.0),
        ("fsdp2", "bf16", 8, 16.0 / 8),
        ("fsdp2", "bf16_pure", 8, 8.0 / 8),
        ("ddp", "bf16", 8, 20.0),
        ("ddp", "bf16_pure", 8, 10.0),
        ({"name": "ddp", "gradient_as_bucket_view": True}, "bf16", 8, 16.0),
    ],
)
def test_states_after_backward(framework: Any, precision: str, devices: int, per_parameter: float) -> None:
    """Bytes per parameter once gradients and moments exist; DDP's reducer keeps buckets of its own."""
    case = Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": devices},
        framework=framework,
        training={"seq_len": 128, "precision": precision, "optimizer": "adamw_fused"},
    )
    states = (Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER_STATE)
    found = simulate(case).graph.components
    total = sum(c.nbytes for c in found if c.category in states and Phase.STEP in c.live and c.tier is Tier.HBM)
    assert total == pytest.approx(per_parameter * 8_030_261_248, rel=1e-4)


@pytest.mark.parametrize(("name", "nbytes"), [("nf4", 0.5625), ("nf4_dq", 0.51587), ("fp4", 0.5625), ("int8", 1.0)])
def test_quantized_storage(name: str, nbytes: float) -> None:
    """Measured storages of bitsandbytes 0.50, per element and without what is stored once per tensor or row."""
    kind = catalog.quantization(name)
    assert kind.packed + kind.scale == pytest.approx(nbytes, abs=1e-5)


def test_8bit_adam() -> None:
    """Measured: 2.03125 B a parameter, and 8 B where a tensor has fewer than 4096 elements (bitsandbytes 0.50)."""
    rule = catalog.optimizer("adamw_8bit")
    assert sum(1 + 4 / state.block for state in rule.states) == 2.03125
    assert rule.min_elements == 4096
