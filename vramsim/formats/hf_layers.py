"""Layers of the Hugging Face model types with RMSNorm: a function from the keys of a config to one decoder layer."""

from __future__ import annotations

from vramsim.formats.hf_keys import Keys, attention, window
from vramsim.spec import Block, LatentAttention, LinearAttention, Mixer, Mlp

BIASED_OUTPUT = ("llama", "granite", "qwen3", "qwen3_moe", "smollm3", "internlm", "gpt_oss", "llama4_text")
"""Model types whose attention_bias is on the output projection as well."""
ALWAYS_BIASED = ("qwen2", "qwen2_moe", "qwen", "chatglm", "internlm")
"""Model types with query, key and value biases that their configuration does not mention."""
FUSED_QKV = ("phi3", "qwen", "chatglm", "baichuan", "internlm2")
"""Model types that slice queries, keys and values out of one projection, then rotate the first two."""
QK_NORM = dict.fromkeys(("qwen3", "qwen3_moe", "gemma3_text", "hunyuan_v1_dense"), "head") | dict.fromkeys(
    ("olmo2", "olmo3", "minimax_m2"), "all"
)
"""Model type -> what its query and key norms span."""
NORMS = dict.fromkeys(("olmo2", "olmo3", "gpt_oss"), "rmsnorm_fp32")
"""Model types whose RMSNorm is not the usual one."""


def llama(keys: Keys, layer: int) -> Block:
    """Llama and its descendants: rotary, RMSNorm, SwiGLU; they differ in biases, query/key norms and windows.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    mlp = Mlp(_ffn(keys), bias=keys.flag("mlp_bias"))
    norms = 4 if keys.kind == "glm4" else 2
    return Block(1, keys.count("hidden_size"), _attention(keys, layer), mlp, NORMS.get(keys.kind, "rmsnorm"), norms)


def _ffn(keys: Keys) -> int:
    # Qwen's first generation states the width of gate and up together.
    return keys.count("intermediate_size") // (2 if keys.kind == "qwen" else 1)


def _attention(keys: Keys, layer: int) -> Mixer:
    bias = keys.flag("attention_bias") or keys.kind in ALWAYS_BIASED
    norm = QK_NORM.get(keys.kind, "head" if keys.kind == "glm4_moe" and keys.flag("use_qk_norm") else "")
    return attention(
        keys,
        qkv_bias=bias,
        out_bias=keys.flag("attention_out_bias", default=bias and keys.kind in BIASED_OUTPUT),
        qk_norm=norm,
        window=window(keys, layer),
        fused_qkv=keys.kind in FUSED_QKV,
        sinks=keys.kind == "gpt_oss",
    )


def gemma(keys: Keys, layer: int) -> Block:
    """Gemma: norms of weight 1 + w in fp32; two of them a layer at first, four since the second generation.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    bias = keys.flag("attention_bias")
    norm = QK_NORM.get(keys.kind, "")
    shape = attention(keys, qkv_bias=bias, out_bias=bias, qk_norm=norm, window=window(keys, layer))
    mlp = Mlp(keys.count("intermediate_size"))
    return Block(1, keys.count("hidden_size"), shape, mlp, "gemma", 2 if keys.kind == "gemma" else 4)


ROUTERS = {
    "qwen2_moe": "softmax_cast", "qwen3_moe": "softmax_cast", "qwen3_next": "softmax_cast", "gpt_oss": "topk",
    "qwen3_5_moe_text": "softmax_cast", "deepseek_v2": "softmax_fp32", "deepseek_v3": "sigmoid_fp32",
    "kimi_k2": "sigmoid_fp32", "glm4_moe": "sigmoid_fp32", "llama4_text": "sigmoid",
}  # fmt: skip
"""Model type -> its router; softmax elsewhere."""


def mixture(keys: Keys, layer: int) -> Block:
    """Mixtral, Qwen-MoE, GLM-4.5, MiniMax, GPT-OSS: experts in all layers, in every n-th, or in all but the first few.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    mlp = Mlp(keys.count("intermediate_size")) if _is_dense(keys, layer) else _experts(keys)
    return Block(1, keys.count("hidden_size"), _attention(keys, layer), mlp, NORMS.get(keys.kind, "rmsnorm"))


def _is_dense(keys: Keys, layer: int) -> bool:
    """Whether a layer of a mixture has a plain feed-forward layer instead of experts."""
    listed = keys.words("mlp_only_layers") or []
    every = keys.count("decoder_sparse_step", 1)
    return layer < keys.count("first_k_dense_replace", 0, least=0) or layer in listed or (layer + 1) % every != 0


def _experts(keys: Keys) -> Mlp:
    experts, top_k = keys.count("num_local_experts"), keys.count("num_experts_per_tok")
    if top_k > experts:
        raise keys.wrong(f"num_experts_per_tok must be at most the number of experts: {top_k} > {experts}")
    ffn = keys.count("moe_intermediate_size", keys.count("intermediate_size", 0, least=0))
    llama4, gated = keys.kind == "llama4_text", keys.keys.get("shared_expert_intermediate_size") is not None
    shared = ffn * (1 if llama4 else keys.count("n_shared_experts", 0, least=0))
    clamped = keys.kind == "gpt_oss"
    return Mlp(
        ffn,
        bias=clamped,
        experts=experts,
        top_k=top_k,
        shared_ffn=keys.count("shared_expert_intermediate_size", least=0) if gated else shared,
        shared_gate=gated,
        activation="clamped" if clamped else "silu",
        router=ROUTERS.get(keys.kind, "softmax"),
        masked=llama4,
    )


def deepseek(keys: Keys, layer: int) -> Block:
    """DeepSeek-V2 and V3, Kimi-K2: latent attention, shared experts, plain layers first.

    `head_dim` of such a config is that of the rotated part, and its key/value heads are as many as the query heads.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    latent = LatentAttention(
        keys.count("num_attention_heads"),
        0 if keys.keys.get("q_lora_rank") is None else keys.count("q_lora_rank"),
        keys.count("kv_lora_rank"),
        keys.count("qk_nope_head_dim"),
        keys.count("qk_rope_head_dim"),
        keys.count("v_head_dim"),
        keys.flag("attention_bias"),
    )
    mlp = Mlp(keys.count("intermediate_size")) if _is_dense(keys, layer) else _experts(keys)
    return Block(1, keys.count("hidden_size"), latent, mlp)


def llama4(keys: Keys, layer: int) -> Block:
    """Llama 4: experts in every n-th layer; chunks of tokens see each other, all tokens in every fourth layer.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    every = keys.count("interleave_moe_layer_step", 1)
    mixed = keys.words("moe_layers")
    sparse = layer in mixed if mixed is not None else (layer + 1) % every == 0
    rotates = keys.words("no_rope_layers")
    rope = bool(rotates[layer]) if rotates and layer < len(rotates) else (layer + 1) % 4 != 0
    # A query sees half a chunk on average, which is what a sliding window of half its length lets it see.
    chunk = keys.count("attention_chunk_size", 8192)
    shape = attention(
        keys,
        qkv_bias=keys.flag("attention_bias"),
        out_bias=keys.flag("attention_bias"),
        qk_norm="l2" if rope and keys.flag("use_qk_norm") else "",
        window=chunk // 2 if rope else 0,
        rotary=1.0 if rope else 0.0,
    )
    mlp = _experts(keys) if sparse else Mlp(keys.count("intermediate_size_mlp"))
    return Block(1, keys.count("hidden_size"), shape, mlp)


def qwen_next(keys: Keys, layer: int) -> Block:
    """Qwen3-Next and Qwen3.5: three gated delta nets for each layer of gated attention.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    kinds = keys.words("layer_types")
    every = keys.count("full_attention_interval", 4)
    full = kinds[layer] == "full_attention" if kinds and layer < len(kinds) else (layer + 1) % every == 0
    mixer: Mixer = LinearAttention(
        keys.count("linear_num_value_heads"),
        keys.count("linear_num_key_heads"),
        keys.count("linear_key_head_dim"),
        keys.count("linear_value_head_dim"),
        keys.count("linear_conv_kernel_dim"),
    )
    if full:
        bias = keys.flag("attention_bias")
        rotary = keys.share("partial_rotary_factor", 0.25)
        mixer = attention(keys, qkv_bias=bias, out_bias=bias, qk_norm="head", gated=True, rotary=rotary)
    dense = keys.kind == "qwen3_5_text" or _is_dense(keys, layer)
    mlp = Mlp(keys.count("intermediate_size")) if dense else _experts(keys)
    return Block(1, keys.count("hidden_size"), mixer, mlp, "gemma")
