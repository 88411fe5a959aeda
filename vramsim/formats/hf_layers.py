"""Layers of the Hugging Face model types: a function from the keys of a config to one decoder layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.spec import Attention, Block, Mlp


class Keys:
    """Keys of a config, read with checks."""

    def __init__(self, name: str, kind: str, keys: Mapping[str, Any]) -> None:
        self.name, self.kind, self.keys = name, kind, keys

    def count(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Whole number at `key`, at least `least`."""
        value = self.keys.get(key, default)
        if value is None:
            raise VramsimError(f"model {self.name} ({self.kind}): {key} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise VramsimError(f"model {self.name} ({self.kind}): {key} must be a whole number, got {shown(value)}")
        if not least <= value <= 1e9:
            raise VramsimError(
                f"model {self.name} ({self.kind}): {key} must lie from {least} to 1e9, got {shown(value)}"
            )
        return int(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """Truth value at `key`."""
        value = self.keys.get(key, default)
        if not isinstance(value, bool):
            raise VramsimError(f"model {self.name} ({self.kind}): {key} must be true or false, got {shown(value)}")
        return value


def _attention(keys: Keys, *, qkv_bias: bool, out_bias: bool, qk_norm: bool = False, window: int = 0) -> Attention:
    hidden, heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    kv_heads = keys.count("num_key_value_heads", heads)
    if keys.keys.get("head_dim") is None and hidden % heads:
        raise VramsimError(
            f"model {keys.name} ({keys.kind}): hidden_size must be a multiple of num_attention_heads: "
            f"{hidden} % {heads} = {hidden % heads}; correct one or state head_dim"
        )
    if heads % kv_heads:
        raise VramsimError(
            f"model {keys.name} ({keys.kind}): num_attention_heads must be a multiple of num_key_value_heads: "
            f"{heads} % {kv_heads} = {heads % kv_heads}"
        )
    head_dim = keys.count("head_dim", hidden // heads)
    return Attention(heads, kv_heads, head_dim, qkv_bias, out_bias, qk_norm, window)


def _experts(keys: Keys, width: str, *, shared: int = 0) -> Mlp:
    experts, top_k = keys.count("num_local_experts"), keys.count("num_experts_per_tok")
    if top_k > experts:
        raise VramsimError(
            f"model {keys.name} ({keys.kind}): num_experts_per_tok must be at most the number of experts: "
            f"{top_k} > {experts}"
        )
    ffn = keys.count(width)
    return Mlp(ffn, experts=experts, top_k=top_k, shared_ffn=shared * ffn)


def _llama(keys: Keys, layer: int) -> Block:
    """Llama and its descendants: rotary, RMSNorm, SwiGLU; they differ in biases, query/key norms and windows."""
    bias = keys.flag("attention_bias") or keys.kind == "qwen2"
    attention = _attention(
        keys,
        qkv_bias=bias,
        out_bias=keys.flag("attention_out_bias", default=bias and keys.kind in _BIASED_OUTPUT),
        qk_norm=keys.kind == "qwen3",
        window=_window(keys, layer),
    )
    mlp = Mlp(keys.count("intermediate_size"), bias=keys.flag("mlp_bias"))
    return Block(1, keys.count("hidden_size"), attention, mlp, num_norms=4 if keys.kind == "glm4" else 2)


_BIASED_OUTPUT = ("llama", "granite", "qwen3", "qwen3_moe", "smollm3")
"""Model types whose attention_bias is on the output projection as well."""


def _window(keys: Keys, layer: int) -> int:
    """Sliding window of a layer in tokens; 0 where attention sees everything."""
    window = keys.keys.get("sliding_window")
    if window is None or keys.keys.get("use_sliding_window") is False or keys.kind not in _WINDOWED:
        return 0
    kinds = keys.keys.get("layer_types")
    if isinstance(kinds, list) and layer < len(kinds):
        sliding = kinds[layer] == "sliding_attention"
    else:
        period = keys.count("sliding_window_pattern", _WINDOWED[keys.kind])
        sliding = period == 1 or (layer + 1) % period != 0
    return keys.count("sliding_window") if sliding else 0


_WINDOWED = {"mistral": 1, "ministral3": 1, "mixtral": 1, "gemma2": 2, "gemma3_text": 6}
"""Model types with a sliding window -> every how many layers one sees everything (1: none does)."""


def _gemma(keys: Keys, layer: int) -> Block:
    """Gemma: norms of weight 1 + w in fp32; two of them a layer at first, four since the second generation."""
    bias = keys.flag("attention_bias")
    third = keys.kind == "gemma3_text"
    attention = _attention(keys, qkv_bias=bias, out_bias=bias, qk_norm=third, window=_window(keys, layer))
    mlp = Mlp(keys.count("intermediate_size"))
    return Block(1, keys.count("hidden_size"), attention, mlp, "gemma", 2 if keys.kind == "gemma" else 4)


def _mixture(keys: Keys, layer: int) -> Block:
    """Mixtral, Qwen3-MoE and GLM-4.5: experts in all layers, in every n-th, or in all but the first few."""
    bias = keys.flag("attention_bias")
    attention = _attention(
        keys,
        qkv_bias=bias,
        out_bias=bias and keys.kind in _BIASED_OUTPUT,
        qk_norm=keys.kind == "qwen3_moe" or keys.flag("use_qk_norm"),
        window=_window(keys, layer),
    )
    if keys.kind == "mixtral":
        mlp = _experts(keys, "intermediate_size")
    elif _is_dense(keys, layer):
        mlp = Mlp(keys.count("intermediate_size"))
    else:
        mlp = _experts(keys, "moe_intermediate_size", shared=keys.count("n_shared_experts", 0, least=0))
    return Block(1, keys.count("hidden_size"), attention, mlp)


def _is_dense(keys: Keys, layer: int) -> bool:
    """Whether a layer of a mixture has a plain feed-forward layer instead of experts."""
    listed = keys.keys.get("mlp_only_layers") or []
    if not isinstance(listed, list):
        raise VramsimError(f"model {keys.name} ({keys.kind}): mlp_only_layers must be a list, got {shown(listed)}")
    every = keys.count("decoder_sparse_step", 1)
    return layer < keys.count("first_k_dense_replace", 0, least=0) or layer in listed or (layer + 1) % every != 0


def _gpt(keys: Keys, layer: int) -> Block:
    """GPT-2 and GPT-NeoX: LayerNorm, biases everywhere, a plain GELU feed-forward layer of four times the width."""
    bias = keys.flag("attention_bias", default=True)
    mlp = Mlp(keys.count("intermediate_size", 4 * keys.count("hidden_size")), gated=False, bias=True)
    return Block(1, keys.count("hidden_size"), _attention(keys, qkv_bias=bias, out_bias=bias), mlp, "layernorm")


BUILDERS: dict[str, Callable[[Keys, int], Block]] = {
    **dict.fromkeys(("llama", "mistral", "ministral3", "qwen2", "qwen3", "phi3", "smollm3"), _llama),
    **dict.fromkeys(("internlm3", "seed_oss", "glm4", "granite"), _llama),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _gemma),
    **dict.fromkeys(("mixtral", "qwen3_moe", "glm4_moe"), _mixture),
    **dict.fromkeys(("gpt2", "gpt_neox"), _gpt),
}
"""Model type -> the function that builds one of its layers."""
