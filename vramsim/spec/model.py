"""Architectures: a model is a run-length list of blocks between an embedding and a head."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention: `heads` query heads share `kv_heads` key/value heads of `head_dim` elements.

    `window` is the sliding window in tokens (0: none). `qk_norm` adds an RMSNorm over each query and key head.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    window: int = 0


@dataclass(frozen=True, slots=True)
class Mlp:
    """Feed-forward network of width `ffn`: gated (SwiGLU, GeGLU) or plain (GELU); dense, or `experts` of them.

    With experts, `top_k` of them see each token and `shared_ffn` is the width of the always-on expert (0: none).
    """

    ffn: int
    gated: bool = True
    bias: bool = False
    experts: int = 0
    top_k: int = 0
    shared_ffn: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """`count` equal decoder layers in a row. `norm`: rmsnorm | layernorm | gemma (fp32, weight 1 + w)."""

    count: int
    hidden: int
    attention: Attention
    mlp: Mlp
    norm: str = "rmsnorm"
    num_norms: int = 2


@dataclass(frozen=True, slots=True)
class Model:
    """Decoder-only transformer: a run-length list of blocks between an embedding and a head.

    `positions` counts learned position embeddings (0: rotary). `source` says where the architecture was read.
    """

    name: str
    hidden: int
    vocab: int
    blocks: tuple[Block, ...]
    tied_embeddings: bool = False
    positions: int = 0
    head_bias: bool = False
    source: str = "inline"

    @property
    def num_layers(self) -> int:
        """Number of blocks, all kinds together."""
        return sum(block.count for block in self.blocks)
