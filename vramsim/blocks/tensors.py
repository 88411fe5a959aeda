"""The tables that describe a layer: its weights, what autograd saves, what backward needs at once.

A dimension is named after how it is sharded ("heads", "kv_heads", "ffn", "vocab", "experts", "hidden"; "" is never
sharded), so that a mesh axis can shard it without knowing the layer. Sizes are global and per token; `layout` turns
them into one device's share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

Dim = tuple[str, int]
"""A named dimension and its global size. [elements]"""


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter tensor, rows x columns, each a product of named dims.

    `role`: linear | router | experts | conv | bias | norm | embedding | head.

    `module` is the name that LoRA targets use. FSDP2 shards the first row dim, DeepSpeed the flattened whole.
    """

    module: str
    role: str
    rows: tuple[Dim, ...]
    cols: tuple[Dim, ...] = ()
    adapter: bool = False
    numel: int = field(init=False)
    first_dim: int = field(init=False)

    def __post_init__(self) -> None:
        """Work out the number of elements and the size of tensor dimension 0, once."""
        object.__setattr__(self, "first_dim", prod(size for _, size in self.rows))
        object.__setattr__(self, "numel", self.first_dim * prod(size for _, size in self.cols))


@dataclass(frozen=True, slots=True)
class Saved:
    """A tensor kept from forward for backward: `size` (of dim `dim`) times `nbytes` bytes for every token.

    `per_key` multiplies it by the sequence length (an attention matrix). `core` marks what selective recompute drops:
    the attention core between the projections.
    """

    name: str
    dim: str
    size: int
    nbytes: float
    per_key: bool = False
    core: bool = False


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which implementation of a layer runs, and in which dtypes: the structural half of a Setup that layers depend on.

    `compute` and `residual` are bytes per element of kernel inputs and of the residual stream. `autocast` casts at
    every linear. `attention`: flash | eager | unfused (Megatron's softmax kernel). `trains_base` is False when only
    adapters train, and `copies` names modules of which a copy trains whole. `targets` names LoRA's; `adapter` is their
    dtype's size. `megatron` is Megatron-Core's code: values copied out of fused projections, and routing weights
    applied inside the experts. `fused_qkv` is code that projects to queries, keys and values at once whatever the
    model, and adapts them as one. `keeps_inputs` is an operator on quantized weights that holds its input for backward,
    `packs_head` a quantized base that covers the head, `packs_experts` one that covers experts in one parameter.
    `quantized` is bytes per element of a linear layer's input where the layer keeps it as its 8-bit or 4-bit product
    read it; 0 where it does not.
    """

    compute: float
    residual: float
    autocast: bool = False
    norm: str = "eager"
    activation: str = "eager"
    activation_backward: str = "fused"
    attention: str = "flash"
    grouped_experts: bool = True
    expand_kv: bool = False
    trains_base: bool = True
    targets: tuple[str, ...] = ()
    rank: int = 0
    dropout: bool = False
    adapter: float = 4.0
    megatron: bool = False
    fused_qkv: bool = False
    copies: tuple[str, ...] = ()
    keeps_inputs: bool = False
    packs_head: bool = False
    packs_experts: bool = False
    quantized: float = 0.0

    def trains(self, module: str) -> bool:
        """Whether a module's own weight trains: all do, or a copy beside the frozen one.

        module : module name such as "lm_head". [-]
        """
        return self.trains_base or module in self.copies

    def adapts(self, module: str) -> bool:
        """Whether LoRA adapts a linear module; "all-linear" leaves the output projection out, as PEFT does.

        module : module name such as "q_proj". [-]
        """
        return module in self.targets or ("all-linear" in self.targets and module != "lm_head")


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights and saved tensors of one layer; `outputs` is what per-op recomputation keeps.

    `working` and `leaving` are what two moments of its backward need beside what it saved: see `blocks.backward`. The
    weights of a `frozen` layer do not train.
    """

    weights: tuple[Weight, ...]
    saved: tuple[Saved, ...] = ()
    working: tuple[Saved, ...] = ()
    leaving: tuple[Saved, ...] = ()
    outputs: tuple[Saved, ...] = ()
    frozen: bool = False
