"""The reader, family by family: what each model type's config turns into."""

from __future__ import annotations

from typing import Any

import pytest

from vramsim import catalog
from vramsim.blocks import num_parameters
from vramsim.errors import VramsimError
from vramsim.formats.hf import BUILDERS, read_config
from vramsim.spec import Attention, Block, LatentAttention, LinearAttention

SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "vocab_size": 1000,
}


def blocks(kind: str, **keys: Any) -> tuple[Block, ...]:
    """Blocks of a small model of a type."""
    return read_config({"model_type": kind, **SMALL, **keys}).blocks


@pytest.mark.parametrize("kind", sorted(BUILDERS))
def test_every_model_type_reads_its_defaults(kind: str) -> None:
    model = read_config({"model_type": kind, **SMALL, "num_key_value_heads": 8})
    assert model.num_layers == 4
    assert num_parameters(model) > 0


def test_deepseek_has_latents_shared_experts_and_dense_layers_first() -> None:
    first, rest = catalog.model("deepseek-v3").blocks
    assert (first.count, first.mlp.ffn, first.mlp.experts) == (3, 18432, 0)
    assert (rest.count, rest.mlp.experts, rest.mlp.shared_ffn, rest.mlp.router) == (58, 256, 2048, "sigmoid_fp32")
    assert rest.attention == LatentAttention(128, 1536, 512, 128, 64, 128)
    # head_dim of such a config is the rotated part's, which vramsim must not take for a head's.
    (same,) = blocks("deepseek_v3", head_dim=64, first_k_dense_replace=0)
    assert isinstance(same.attention, LatentAttention)
    assert same.attention.qk_head_dim == 192


def test_a_null_query_rank_means_that_there_is_none() -> None:
    assert isinstance(catalog.model("deepseek-v2-lite").blocks[0].attention, LatentAttention)
    assert catalog.model("deepseek-v2-lite").blocks[0].attention.q_lora_rank == 0  # type: ignore[union-attr]
    (block, _) = blocks("deepseek_v3", q_lora_rank=None, first_k_dense_replace=1)
    assert block.attention.q_lora_rank == 0  # type: ignore[union-attr]


def test_llama_4_interleaves_and_sees_chunks() -> None:
    maverick = catalog.model("llama-4-maverick").blocks
    assert [block.mlp.experts for block in maverick[:4]] == [0, 128, 0, 128]
    assert [block.attention.window for block in maverick[:4]] == [4096, 4096, 4096, 0]
    scout = catalog.model("llama-4-scout").blocks
    assert [(block.count, block.attention.rotary_dim) for block in scout[:2]] == [(3, 128), (1, 0)]
    assert isinstance(scout[0].attention, Attention)
    assert scout[0].attention.qk_norm == "l2"


def test_qwen_next_has_three_linear_layers_for_each_gated_one() -> None:
    blocks = catalog.model("qwen3-next-80b-a3b").blocks
    assert [(block.count, type(block.attention)) for block in blocks[:2]] == [(3, LinearAttention), (1, Attention)]
    assert blocks[1].attention.gated  # type: ignore[union-attr]
    assert blocks[0].mlp.shared_gate


def test_gpt_oss_has_biases_sinks_and_windows_in_every_other_layer() -> None:
    first, second = catalog.model("gpt-oss-20b").blocks[:2]
    assert (first.attention.window, second.attention.window) == (128, 0)
    assert (first.mlp.bias, first.mlp.activation, first.norm) == (True, "clamped", "rmsnorm_fp32")
    assert first.attention.sinks  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "norms", "parallel"),
    [("gptj", 1, True), ("phi", 1, True), ("cohere", 1, True), ("gpt_neox", 2, True), ("gpt2", 2, False)],
)
def test_parallel_branches(kind: str, norms: int, parallel: bool) -> None:
    (block,) = blocks(kind)
    assert (block.num_norms, block.parallel) == (norms, parallel)


def test_falcons_differ_in_norms_and_heads() -> None:
    seven, forty = catalog.model("falcon-7b").blocks[0], catalog.model("falcon-40b").blocks[0]
    assert (seven.num_norms, seven.attention.kv_heads) == (1, 1)
    assert (forty.num_norms, forty.attention.kv_heads) == (2, 8)


def test_multi_query_attention() -> None:
    assert catalog.model("santacoder").blocks[0].attention.kv_heads == 1
    assert blocks("gpt_bigcode", multi_query=False)[0].attention.kv_heads == 8


def test_positions_that_are_learned_rotated_or_neither() -> None:
    assert catalog.model("opt-1.3b").positions == 2050
    assert catalog.model("bloom-7b1").positions == catalog.model("bloom-7b1").rotary_dim == 0
    assert catalog.model("gpt2-xl").rotary_dim == 0
    assert catalog.model("gpt-j-6b").rotary_dim == 64
    assert catalog.model("llama-2-7b").rotary_dim == 128
    assert catalog.model("deepseek-v3").rotary_dim == 64


def test_bert_predicts_words_or_classes() -> None:
    words = catalog.model("bert-large-uncased")
    assert (words.head, words.outputs, words.blocks[0].attention.causal) == ("transform", 30522, False)
    config = {"model_type": "bert", **SMALL, "architectures": ["BertForSequenceClassification"], "num_labels": 3}
    assert (read_config(config).head, read_config(config).outputs) == ("pooler", 3)


@pytest.mark.parametrize(("rate", "drops"), [(0.1, True), (0.0, False)])
def test_dropout_is_what_the_config_says(rate: float, drops: bool) -> None:
    assert blocks("gpt2", resid_pdrop=rate, attn_pdrop=rate)[0].dropout == drops


def test_remote_code_with_names_of_its_own() -> None:
    config = {
        "model_type": "chatglm", "auto_map": {"AutoModel": "modeling_chatglm.X"}, "hidden_size": 4096,
        "ffn_hidden_size": 13696, "num_layers": 28, "num_attention_heads": 32, "multi_query_group_num": 2,
        "kv_channels": 128, "padded_vocab_size": 65024, "add_qkv_bias": True,
    }  # fmt: skip
    assert num_parameters(read_config(config)) == num_parameters(catalog.model("chatglm3-6b")) == 6243584000
    assert catalog.model("qwen-7b").blocks[0].mlp.ffn == 11008


def test_a_vision_tower_comes_with_its_language_model() -> None:
    model = catalog.model("qwen2.5-vl-7b")
    assert model.encoder is not None
    assert model.encoder.num_layers == 32
    assert [(block.count, block.attention.window) for block in model.encoder.blocks[:2]] == [(7, 64), (1, 0)]
    flat = {"model_type": "qwen2_5_vl", **SMALL, "num_key_value_heads": 2, "vision_config": {"depth": 2}}
    assert read_config(flat).blocks[0].attention.qkv_bias  # type: ignore[union-attr]
    assert read_config(flat).encoder.num_layers == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"model_type": "opt", "do_layer_norm_before": False}, "post-norm OPT"),
        ({"model_type": "opt", "word_embed_proj_dim": 128}, "projected embeddings"),
        ({"model_type": "cohere", "use_qk_norm": True}, "use_qk_norm must be false"),
        ({"model_type": "gpt2", "resid_pdrop": 2}, "resid_pdrop must be a number from 0 to 1, got 2"),
        ({"model_type": "phi", "partial_rotary_factor": "half"}, "partial_rotary_factor must be a number"),
        ({"model_type": "llama4_text", "moe_layers": 3}, "moe_layers must be a list, got 3"),
    ],
)
def test_what_cannot_be_expressed_is_named(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(VramsimError, match=sentence):
        read_config({**SMALL, **keys})
