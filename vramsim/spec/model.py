"""Architectures: a model is a run-length list of blocks between an embedding and a head."""

from __future__ import annotations

from dataclasses import dataclass

from vramsim.spec.mixers import Attention, LatentAttention, LinearAttention

Mixer = Attention | LatentAttention | LinearAttention
"""What lets tokens of a sequence see each other."""


@dataclass(frozen=True, slots=True)
class Mlp:
    """Feed-forward network of width `ffn`: gated (SwiGLU, GeGLU) or plain (GELU); dense, or `experts` of them.

    With experts, `top_k` of them see each token and `shared_ffn` is the width of the always-on expert (0: none), which
    `shared_gate` scales token by token. `activation`: silu | gelu | gelu_new (tanh, written out) | quick_gelu | relu |
    relu2 (squared) | clamped (GPT-OSS). `router`: softmax | softmax_cast | softmax_fp32 | sigmoid | sigmoid_fp32 |
    topk. `bias` is on the projections, and with experts on the router too. `masked` runs every expert on every token
    and masks, as transformers' Llama 4 does.
    """

    ffn: int
    gated: bool = True
    bias: bool = False
    experts: int = 0
    top_k: int = 0
    shared_ffn: int = 0
    shared_gate: bool = False
    activation: str = "silu"
    router: str = "softmax"
    masked: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """`count` equal layers in a row.

    `norm`: rmsnorm | rmsnorm_fp32 (weighted in fp32) | gemma (the same, weight 1 + w) | layernorm | layernorm_unbiased
    | cohere (centred, in fp32, unbiased). With `parallel`, attention and the feed-forward network read the same
    residual stream: through one norm when `num_norms` is 1, through a norm each when it is 2. `dropout` keeps masks of
    both branches' outputs, and of the attention matrix where there is one. A `frozen` one does not train.
    """

    count: int
    hidden: int
    attention: Mixer
    mlp: Mlp
    norm: str = "rmsnorm"
    num_norms: int = 2
    parallel: bool = False
    dropout: bool = False
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Encoder:
    """A vision tower before the language model: patches of `inputs` elements, blocks, and a projector.

    `positions` counts learned position embeddings, `norms` the norms outside the blocks, and `projector` lists the
    (in, out) widths of biased linear layers that lead to the language model, `merger_norms` the widths of the norms
    before them; `class_token` adds a learned token. `patches` are those of an image as large as the tower was made for,
    the class token among them, `merged` patches make one token of the language model. A `frozen` one does not train.
    """

    blocks: tuple[Block, ...]
    inputs: int
    patch_bias: bool = False
    class_token: bool = False
    positions: int = 0
    norms: int = 0
    merger_norms: tuple[int, ...] = ()
    projector: tuple[tuple[int, int], ...] = ()
    patches: int = 1
    merged: float = 1.0
    frozen: bool = False

    @property
    def num_layers(self) -> int:
        """Number of blocks, all kinds together."""
        return sum(block.count for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Model:
    """Transformer: a run-length list of blocks between an embedding and a head.

    `positions` counts learned position embeddings (0: rotary or ALiBi), `token_types` those of segments. `head` stands
    between the blocks and the output projection: norm | transform (BERT's masked language model: dense, GELU, norm) |
    pooler (BERT's classifier: dense, tanh); with a pooler, `labels` classes are predicted instead of the vocabulary.
    `source` says where the architecture was read. With `frozen_ends` neither embedding nor head trains.
    """

    name: str
    hidden: int
    vocab: int
    blocks: tuple[Block, ...]
    tied_embeddings: bool = False
    positions: int = 0
    head_bias: bool = False
    source: str = "inline"
    embedding_norm: bool = False
    token_types: int = 0
    head: str = "norm"
    labels: int = 0
    encoder: Encoder | None = None
    frozen_ends: bool = False

    @property
    def num_layers(self) -> int:
        """Number of blocks, all kinds together."""
        return sum(block.count for block in self.blocks)

    @property
    def outputs(self) -> int:
        """Width of the logits: the vocabulary, or the classes. [-]"""
        return self.labels or self.vocab

    @property
    def rotary_dim(self) -> int:
        """Width of the rotary tables, the widest of the blocks; 0 where none rotates. [elements]"""
        return max((block.attention.rotary_dim for block in self.blocks), default=0)
