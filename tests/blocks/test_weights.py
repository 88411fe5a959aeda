"""What layers weigh: which dims a mesh shards, and what adapters and towers add."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vramsim import catalog
from vramsim.blocks import Kernels, components, layer, num_parameters
from vramsim.layout import TENSOR_PARALLEL_DIMS
from vramsim.spec import Attention, Block, Encoder, LatentAttention, LinearAttention, Mlp

PLAIN = Kernels(compute=2.0, residual=2.0)
LATENT = LatentAttention(128, 1536, 512, 128, 64, 128)


def numel(block: Block, kernels: Kernels = PLAIN, *, sharded: bool = False, adapters: bool = False) -> int:
    """Elements of a layer's weights, or of some of them."""
    return sum(
        weight.numel
        for weight in layer(block, kernels).weights
        if (not sharded or any(dim in TENSOR_PARALLEL_DIMS for dim, _ in weight.rows + weight.cols))
        and (not adapters or weight.adapter)
    )


def test_latent_attention_weighs_what_deepseek_v3_does() -> None:
    # q_a, its norm, q_b, kv_a with the rotated key, its norm, kv_b, o (DeepSeek-V3 technical report, table 2 sizes).
    hidden, queries, expanded = 7168, 128 * 192, 128 * (128 + 128)
    latents = hidden * 1536 + 1536 + hidden * (512 + 64) + 512
    heads = 1536 * queries + 512 * expanded + 128 * 128 * hidden
    block = Block(1, hidden, LATENT, Mlp(18432))
    assert numel(block) == latents + heads + 3 * hidden * 18432 + 2 * hidden
    # Tensor parallelism shards what has heads; every rank keeps the latents' projections whole.
    assert numel(block, sharded=True) == heads + 3 * hidden * 18432


@pytest.mark.parametrize(
    "shape",
    [Attention(64, 8, 128), LATENT, LatentAttention(16, 0, 512, 128, 64, 128), LinearAttention(32, 16, 128, 128)],
)
def test_every_mixer_has_the_widths_that_its_users_need(shape: Attention | LatentAttention | LinearAttention) -> None:
    assert shape.heads % shape.kv_heads == 0
    assert shape.output_width % shape.heads == shape.query_width % shape.kv_heads == 0
    assert shape.window >= 0
    assert shape.causal


def test_a_latent_heads_width_counts_its_flops_and_its_all_to_alls() -> None:
    assert LATENT.heads * LATENT.head_dim == (LATENT.query_width + LATENT.value_width) / 2
    moved = LATENT.query_width + LATENT.key_width + LATENT.value_width + LATENT.output_width
    assert 2 * LATENT.heads * LATENT.head_dim + 2 * LATENT.kv_heads * LATENT.head_dim == moved


def test_experts_that_are_linear_layers_have_adapters() -> None:
    block = Block(1, 4096, Attention(32, 8, 128), Mlp(14336, experts=8, top_k=2))
    kernels = replace(PLAIN, rank=16, targets=("gate_proj", "up_proj", "down_proj"), trains_base=False)
    assert numel(block, kernels, adapters=True) == 0
    linear = replace(kernels, grouped_experts=False)
    assert numel(block, linear, adapters=True) == 8 * 3 * 16 * (4096 + 14336)


def test_every_active_parameter_of_deepseek_v3() -> None:
    # 37.55 B with both embeddings: "37B activated" of the technical report leaves the input embedding out.
    model = catalog.model("deepseek-v3")
    active = num_parameters(model)
    for block in model.blocks:
        routed = sum(w.numel for w in layer(block, PLAIN).weights if w.role == "experts")
        active -= block.count * routed * (block.mlp.experts - block.mlp.top_k) // max(block.mlp.experts, 1)
    assert active == 37552282624


def test_a_vision_tower_counts() -> None:
    # CLIP ViT-L/14 at 336 pixels before Vicuna-7B, two linear layers between: LLaVA-1.5-7B.
    attention = Attention(16, 16, 64, qkv_bias=True, out_bias=True, rotary=0.0, causal=False)
    block = Block(24, 1024, attention, Mlp(4096, gated=False, bias=True, activation="gelu"), "layernorm")
    tower = Encoder(
        (block,), 3 * 14 * 14, class_token=True, positions=577, norms=2, projector=((1024, 4096), (4096, 4096))
    )
    language = catalog.model("llama-2-7b")
    model = replace(language, vocab=32064, encoder=tower)
    parts = {part for part, _, _ in components(model, PLAIN)}
    assert parts == {"encoder", "embedding", "block", "head"}
    assert num_parameters(model) == 7063427072
