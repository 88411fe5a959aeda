"""Token mixers: attention of three kinds, with the widths that its users need under the same names.

Every kind has `heads`, `kv_heads` and `head_dim`, such that heads x head_dim is the width that counts FLOPs (a score
and a weighted value per key), `query_width`, `key_width`, `value_width` and `output_width`, `rotary_dim` (the rotated
part of a head), `window` (tokens that one query sees; 0: all) and `causal`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention: `heads` query heads share `kv_heads` key/value heads of `head_dim` elements.

    `window` is the sliding window in tokens (0: none). `qk_norm` normalises queries and keys: head (an RMSNorm over
    each head) | all (one over all heads) | l2 (over each head, weightless) | "" (none). `rotary` is the share of each
    head that rotary embeddings turn (0: learned positions or ALiBi). `fused_qkv` is an implementation that slices the
    values out of one projection, so that they keep all of it alive. `fp32_softmax` is eager attention's; `sinks` adds
    a learned logit a head, `gated` a gate on the output that the query projection makes too.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: str = ""
    window: int = 0
    rotary: float = 1.0
    causal: bool = True
    fused_qkv: bool = False
    fp32_softmax: bool = True
    sinks: bool = False
    gated: bool = False

    @property
    def query_width(self) -> int:
        """Elements of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Elements of all keys of a token."""
        return self.kv_heads * self.head_dim

    @property
    def value_width(self) -> int:
        """Elements of all values of a token."""
        return self.kv_heads * self.head_dim

    @property
    def output_width(self) -> int:
        """Elements of attention's output of a token, before the output projection."""
        return self.heads * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Elements of a head that rotary embeddings turn."""
        return int(self.head_dim * self.rotary)


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention: keys and values are expanded from one latent of `kv_lora_rank` elements a token.

    Queries come from a latent of `q_lora_rank` (0: straight from the residual stream). A query or key head is
    `qk_nope_head_dim` elements and `qk_rope_head_dim` rotated ones, whose keys all heads share; a value head is
    `v_head_dim`. Once expanded it is plain attention with as many key as query heads.
    """

    heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    bias: bool = False
    window: int = 0
    causal: bool = True

    @property
    def kv_heads(self) -> int:
        """Key/value heads: all, since each expands its own."""
        return self.heads

    @property
    def qk_head_dim(self) -> int:
        """Elements of a query or key head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def head_dim(self) -> float:
        """Mean of a key's and a value's elements: exact for FLOPs and for moving queries, keys, values and output."""
        return (self.qk_head_dim + self.v_head_dim) / 2

    @property
    def query_width(self) -> int:
        """Elements of all queries of a token."""
        return self.heads * self.qk_head_dim

    @property
    def key_width(self) -> int:
        """Elements of all keys of a token."""
        return self.heads * self.qk_head_dim

    @property
    def value_width(self) -> int:
        """Elements of all values of a token."""
        return self.heads * self.v_head_dim

    @property
    def output_width(self) -> int:
        """Elements of attention's output of a token, before the output projection."""
        return self.heads * self.v_head_dim

    @property
    def rotary_dim(self) -> int:
        """Elements of a head that rotary embeddings turn."""
        return self.qk_rope_head_dim


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Gated delta net (Qwen3-Next): a state of `key_dim` x `value_dim` a value head, updated token by token.

    `heads` value heads share `kv_heads` query/key heads; a causal convolution of `conv` taps stands before them. It
    runs in chunks of `chunk` tokens, attention within a chunk and the state between chunks.
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    conv: int = 4
    chunk: int = 64
    causal: bool = True

    @property
    def head_dim(self) -> int:
        """Elements of a value head."""
        return self.value_dim

    @property
    def window(self) -> int:
        """Keys whose scores and values cost as much as a chunk's and reading and writing the state. [tokens]"""
        return self.chunk // 2 + self.key_dim

    @property
    def query_width(self) -> int:
        """Elements of all queries of a token."""
        return self.kv_heads * self.key_dim

    @property
    def key_width(self) -> int:
        """Elements of all keys of a token."""
        return self.kv_heads * self.key_dim

    @property
    def value_width(self) -> int:
        """Elements of all values of a token."""
        return self.heads * self.value_dim

    @property
    def output_width(self) -> int:
        """Elements of the output of a token, before the output projection."""
        return self.heads * self.value_dim

    @property
    def rotary_dim(self) -> int:
        """Nothing is rotated."""
        return 0
