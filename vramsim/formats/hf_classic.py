"""Layers of the Hugging Face model types with LayerNorm: a function from the keys of a config to one layer."""

from __future__ import annotations

from typing import Any

from vramsim.formats.hf_keys import Keys, attention, window
from vramsim.spec import Block, Mlp

ACTIVATIONS = {"relu": "relu", "relu2": "relu2", "gelu_new": "gelu_new", "gelu_fast": "gelu_new"}
"""Names of activations that save otherwise than a fused GELU."""


def _plain(keys: Keys, *, bias: bool, activation: str = "gelu") -> Mlp:
    """A feed-forward layer without a gate, four times as wide as the model unless the config says otherwise."""
    width = keys.count("intermediate_size", 4 * keys.count("hidden_size"))
    named = next((keys.keys[key] for key in ("hidden_act", "activation_function") if keys.keys.get(key)), activation)
    return Mlp(width, gated=False, bias=bias, activation=ACTIVATIONS.get(str(named), "gelu"))


def _drops(keys: Keys, *names: str) -> bool:
    """Whether any of some dropout rates is above zero."""
    return any(keys.share(name) > 0 for name in names)


def gpt(keys: Keys, layer: int) -> Block:
    """GPT-2, GPT-NeoX, GPT-BigCode and OPT: biases everywhere, a plain feed-forward layer.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    neox = keys.kind == "gpt_neox"
    if keys.kind == "opt" and not keys.flag("do_layer_norm_before", default=True):
        raise keys.wrong("do_layer_norm_before must be true: post-norm OPT (350m) cannot be expressed")
    if keys.kind == "opt" and keys.count("word_embed_proj_dim", keys.count("hidden_size")) != keys.count("hidden_size"):
        raise keys.wrong("word_embed_proj_dim must equal hidden_size: projected embeddings cannot be expressed")
    bias = keys.flag("attention_bias", default=True)
    traits: dict[str, Any] = {"rotary": keys.share("rotary_pct", 0.25), "fused_qkv": True} if neox else {"rotary": 0.0}
    shape = attention(
        keys if not keys.keys.get("multi_query") else _with(keys, num_key_value_heads=1),
        qkv_bias=bias,
        out_bias=bias,
        fp32_softmax=keys.kind != "gpt2",
        **traits,
    )
    dropout = _drops(keys, "resid_pdrop", "attn_pdrop", "dropout", "attention_dropout", "hidden_dropout")
    mlp = _plain(keys, bias=True)
    parallel = neox and keys.flag("use_parallel_residual", default=True)
    return Block(1, keys.count("hidden_size"), shape, mlp, "layernorm", parallel=parallel, dropout=dropout)


def _with(keys: Keys, **changes: Any) -> Keys:
    return Keys(keys.name, keys.kind, {**keys.keys, **changes})


def one_norm(keys: Keys, layer: int) -> Block:
    """GPT-J, Phi and Cohere: attention and feed-forward layer beside each other, behind one norm.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    cohere, phi = keys.kind in ("cohere", "cohere2"), keys.kind == "phi"
    if cohere and keys.flag("use_qk_norm"):
        raise keys.wrong("use_qk_norm must be false: centred query and key norms cannot be expressed")
    bias = phi or keys.flag("attention_bias")
    head = keys.count("hidden_size") // keys.count("num_attention_heads")
    rotary = {"rotary": keys.count("rotary_dim", 64) / head} if keys.kind == "gptj" else {}
    shape = attention(keys, qkv_bias=bias, out_bias=bias, window=window(keys, layer), **rotary)
    mlp = Mlp(keys.count("intermediate_size")) if cohere else _plain(keys, bias=True)
    norm = "cohere" if cohere else "layernorm"
    dropout = _drops(keys, "resid_pdrop", "attn_pdrop")
    return Block(1, keys.count("hidden_size"), shape, mlp, norm, 1, parallel=True, dropout=dropout)


def falcon(keys: Keys, layer: int) -> Block:
    """Falcon: beside each other behind one norm (7B, multi-query) or two (40B and 180B, grouped-query).

    keys : of the config. [-]   layer : index from the first. [-]
    """
    new = keys.flag("new_decoder_architecture")
    heads = keys.count("num_attention_heads")
    kv_heads = keys.count("num_kv_heads", heads) if new else (1 if keys.flag("multi_query", default=True) else heads)
    bias, parallel = keys.flag("bias"), new or keys.flag("parallel_attn", default=True)
    shape = attention(
        _with(keys, num_key_value_heads=kv_heads),
        qkv_bias=bias,
        out_bias=bias,
        rotary=0.0 if keys.flag("alibi") else 1.0,
        fp32_softmax=False,
    )
    norms = 1 if parallel and (not new or keys.keys.get("num_ln_in_parallel_attn") == 1) else 2
    mlp = _plain(keys, bias=bias)
    return Block(1, keys.count("hidden_size"), shape, mlp, "layernorm", norms, parallel=parallel)


def alibi(keys: Keys, layer: int) -> Block:
    """BLOOM and MPT: positions as biases of the scores.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    bias = keys.kind == "bloom" or not keys.flag("no_bias", default=True)
    shape = attention(keys, qkv_bias=bias, out_bias=bias, rotary=0.0)
    width = keys.count("expansion_ratio", 4) * keys.count("hidden_size")
    mlp = Mlp(width, gated=False, bias=bias, activation="gelu")
    dropout = _drops(keys, "hidden_dropout", "attention_dropout", "resid_pdrop")
    norm = "layernorm" if bias else "layernorm_unbiased"
    return Block(1, keys.count("hidden_size"), shape, mlp, norm, dropout=dropout)


def grouped(keys: Keys, layer: int) -> Block:
    """StarCoder2 and Nemotron: rotary, grouped-query attention and a plain feed-forward layer.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    coder = keys.kind == "starcoder2"
    bias = keys.flag("use_bias", default=True) if coder else keys.flag("attention_bias")
    shape = attention(keys, qkv_bias=bias, out_bias=bias, window=window(keys, layer))
    mlp = _plain(keys, bias=bias if coder else keys.flag("mlp_bias"), activation="gelu" if coder else "relu2")
    return Block(1, keys.count("hidden_size"), shape, mlp, "layernorm", dropout=_drops(keys, "residual_dropout"))


def bert(keys: Keys, layer: int) -> Block:
    """BERT: an encoder, normed after each residual addition, whose tokens see each other in both directions.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    shape = attention(keys, qkv_bias=True, out_bias=True, rotary=0.0, causal=False, fp32_softmax=False)
    dropout = _drops(keys, "hidden_dropout_prob", "attention_probs_dropout_prob")
    return Block(1, keys.count("hidden_size"), shape, _plain(keys, bias=True), "layernorm", dropout=dropout)


def frame(keys: Keys) -> dict[str, Any]:
    """Fields of Model beside its blocks that a model type sets: positions, biases, what stands before the head.

    keys : of the config. [-]
    """
    kind = keys.kind
    if kind in ("gpt2", "gpt_bigcode"):
        return {"positions": keys.count("max_position_embeddings")}
    if kind == "opt":
        # The first two rows of its table are never used.
        return {"positions": keys.count("max_position_embeddings") + 2}
    if kind in ("gptj", "phi"):
        return {"head_bias": True}
    if kind == "bloom":
        return {"embedding_norm": True}
    if kind != "bert":
        return {}
    classes = "ForSequenceClassification" in str(keys.keys.get("architectures", ""))
    common = {"positions": keys.count("max_position_embeddings"), "token_types": keys.count("type_vocab_size", 2)}
    head = {"head": "pooler", "labels": keys.count("num_labels", 2)} if classes else {"head": "transform"}
    return {**common, **head, "embedding_norm": True, "head_bias": not classes}
