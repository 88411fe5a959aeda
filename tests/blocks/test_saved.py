"""What layers save: against storages that PyTorch saved, and against published closed forms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vramsim.blocks import Kernels, Saved, embedding, layer
from vramsim.formats.hf import read_config
from vramsim.spec import Attention, Block, LatentAttention, Mlp, Model

GOLDENS = json.loads(Path(__file__).with_name("goldens.json").read_text("utf-8"))["layers"]
TOKENS, SEQ_LEN = 192, 96
EAGER = Kernels(compute=2.0, residual=2.0)
TE = Kernels(compute=2.0, residual=2.0, norm="fused", activation="fused", grouped_experts=False, megatron=True)


def per_token(saved: tuple[Saved, ...], seq_len: int, dims: tuple[str, ...] | None = None) -> float:
    """Bytes a token of a table, of some dims or of all."""
    return sum(
        each.size * each.nbytes * (seq_len if each.per_key else 1) for each in saved if dims is None or each.dim in dims
    )


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden["name"])
def test_saved_storages_are_those_of_pytorch(golden: dict[str, Any]) -> None:
    block = read_config(golden["config"]).blocks[0]
    ours = TOKENS * per_token(layer(block, replace(EAGER, attention=golden["attention"])).saved, SEQ_LEN)
    # The goldens come from a CPU, whose layer norms keep two statistics of 2 bytes each instead of 4.
    statistics = 4.0 * TOKENS * block.num_norms if block.norm.startswith("layernorm") else 0.0
    assert ours - statistics == golden["bytes"] - golden.get("left_out", 0)


def gpt(hidden: int, heads: int) -> Block:
    """A layer of Megatron's GPT."""
    attention = Attention(heads, heads, hidden // heads, qkv_bias=True, out_bias=True, rotary=0.0)
    mlp = Mlp(4 * hidden, gated=False, bias=True, activation="gelu")
    return Block(1, hidden, attention, mlp, "layernorm", dropout=True)


def test_megatrons_gpt_layer_keeps_34_bytes_and_the_attention_matrix() -> None:
    # Korthikanti et al. 2022, equation 2: s b h (34 + 5 a s / h); they leave out two statistics of each norm.
    hidden, heads, seq_len = 12288, 96, 2048
    saved = layer(gpt(hidden, heads), replace(TE, attention="unfused")).saved
    assert per_token(saved, seq_len) - 16 == 34 * hidden + 5 * heads * seq_len
    assert per_token(tuple(each for each in saved if not each.core), seq_len) - 16 == 34 * hidden
    # Equation 3: tensor parallelism cuts 24 of the 34 and the matrix; sequence parallelism the other ten.
    assert per_token(saved, seq_len, ("heads", "kv_heads", "ffn")) == 24 * hidden + 5 * heads * seq_len
    assert per_token(saved, seq_len, ("hidden", "gathered")) == 10 * hidden


def test_a_fused_llama_layer() -> None:
    # b s h (12 + 4 kappa + 6 phi), and a log-sum-exp a head and a deviation a norm.
    hidden, heads, kv_heads, ffn = 8192, 64, 8, 28672
    block = Block(1, hidden, Attention(heads, kv_heads, 128), Mlp(ffn))
    assert per_token(layer(block, TE).saved, 1) == 12 * hidden + 4 * kv_heads * 128 + 6 * ffn + 4 * heads + 8


def test_values_of_latent_attention_are_copied_out_by_megatron_alone() -> None:
    latent = LatentAttention(128, 1536, 512, 128, 64, 128)
    block = Block(1, 7168, latent, Mlp(18432))
    view, copy = (
        per_token(layer(block, replace(TE, megatron=megatron)).saved, 1, ("heads",)) for megatron in (False, True)
    )
    assert view - copy == 2 * 128 * 128
    assert copy == 128 * (2 * (192 + 192 + 128 + 128) + 4)


def test_a_routed_copy_in_megatron_keeps_its_input_and_what_stands_between_the_projections() -> None:
    hidden, ffn, experts, top_k = 7168, 2048, 256, 8
    dense = Block(1, hidden, Attention(128, 128, 128), Mlp(ffn))
    mixed = replace(dense, mlp=Mlp(ffn, experts=experts, top_k=top_k, router="sigmoid_fp32"))
    one, many = (per_token(layer(block, TE).saved, 1) for block in (dense, mixed))
    router = 5 * experts + 40 * top_k + 12
    assert many - (one - 6 * ffn) == top_k * (2 * hidden + 6 * ffn + 4) + router


def test_transformers_llama_4_runs_every_expert_on_every_token() -> None:
    mlp = Mlp(8192, experts=16, top_k=1, router="sigmoid", masked=True)
    block = Block(1, 5120, Attention(40, 8, 128), mlp)
    routed = per_token(layer(block, EAGER).saved, 1, ("expert_ffn",))
    assert routed == 16 * per_token(layer(block, replace(TE, megatron=True)).saved, 1, ("expert_ffn",)) * 8 / 6


def test_dropout_masks_the_embedding_too() -> None:
    model = Model("gpt", 1024, 50304, (gpt(1024, 16),), tied_embeddings=True, positions=1024)
    assert per_token(embedding(model, EAGER).saved, 1) == 1024
    assert embedding(replace(model, blocks=(replace(gpt(1024, 16), dropout=False),)), EAGER).saved == ()


def test_an_embedding_norm_keeps_its_input() -> None:
    model = Model("bloom", 1024, 250880, (replace(gpt(1024, 16), dropout=False),), embedding_norm=True)
    assert per_token(embedding(model, EAGER).saved, 1) == 2 * 1024 + 8


def test_parallel_branches_share_what_their_norm_makes() -> None:
    block = Block(1, 4096, Attention(16, 16, 256), Mlp(16384, gated=False), "layernorm", 1, parallel=True)
    apart = replace(block, parallel=False, num_norms=2)
    # One norm's output instead of two, one norm's input and statistics instead of two.
    assert per_token(layer(apart, EAGER).saved, 1) - per_token(layer(block, EAGER).saved, 1) == 4 * 4096 + 8


@pytest.mark.parametrize("targets", [("up_proj",), ("q_proj", "up_proj"), ("all-linear",)])
def test_adapters_of_parallel_branches_share_one_input(targets: tuple[str, ...]) -> None:
    kernels = replace(EAGER, trains_base=False, targets=targets, rank=8, adapter=2.0)
    block = Block(1, 4096, Attention(16, 16, 256), Mlp(16384, gated=False), "layernorm", 1, parallel=True)
    names = [each.name for each in layer(block, kernels).saved]
    assert names.count("attention and mlp input") == 1


def test_a_fused_projection_keeps_itself_and_its_adapters_update() -> None:
    """lit_gpt's LoRA of queries and values, to the byte: 27 h + 6 I a token, and the log-sum-exp.

    Two fp32 norms 8 h, one dropped input and its mask 3 h, the projection 6 h, rotated queries and keys 4 h, what
    index_copy scatters 4 h, attention's output 2 h; gate, activated gate and up 6 I.
    """
    hidden, heads, ffn, rank = 4096, 32, 11008, 8
    block = Block(1, hidden, Attention(heads, heads, 128), Mlp(ffn))
    base = replace(EAGER, trains_base=False, rank=rank, targets=("q_proj", "v_proj"), adapter=2.0, dropout=True)
    saved = layer(block, replace(base, fused_qkv=True, expand_kv=True)).saved
    assert per_token(saved, 1) == 27 * hidden + 6 * ffn + 4 * heads + 2 * 4 + 2 * rank * 2
    everything = replace(base, fused_qkv=True, targets=("q_proj", "k_proj", "v_proj"))
    assert not [each for each in layer(block, everything).saved if "scattered" in each.name]


def test_an_operator_that_holds_its_inputs() -> None:
    """bitsandbytes before 0.43.2: the inputs of frozen products, of which attention's output is kept anyway."""
    hidden, ffn = 4096, 11008
    block = Block(1, hidden, Attention(32, 32, 128), Mlp(ffn))
    frozen = replace(EAGER, trains_base=False)
    held, free = (layer(block, replace(frozen, keeps_inputs=each)).saved for each in (True, False))
    assert per_token(held, 1) - per_token(free, 1) == 2 * hidden + 2 * hidden + 2 * ffn


def test_autocasts_softmax_is_fp32() -> None:
    """Without dropout the matrix and its cast; with it the matrix, a mask, and what is left of the cast."""
    autocast = Kernels(compute=2.0, residual=4.0, autocast=True, attention="eager")
    dropped = gpt(1024, 16)
    kept = [each for each in layer(dropped, autocast).saved if each.per_key]
    assert sum(each.nbytes for each in kept) == 4 + 1 + 2
    kept = [each for each in layer(replace(dropped, dropout=False), autocast).saved if each.per_key]
    assert sum(each.nbytes for each in kept) == 4 + 2
