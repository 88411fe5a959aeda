"""The nouns: frozen records that every floor above shares, and nothing that computes.

A `Setup` is one training run as the physics sees it: model, cluster, framework, training, strategy, with every name
looked up and every default filled in. Fields annotated `Num` may be numbers or broadcastable arrays (an open grid);
everything else is structure, and decides *which* parts exist. Parts turn a Setup into `Component`s (bytes that live
somewhere), `Flow`s (bytes that move) and `Work` (FLOPs), each tagged with the phases of a training step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Flag, StrEnum, auto
from functools import wraps
from typing import Any, TypeVar

from vramsim.units import DTYPE_BYTES, Num


class Category(StrEnum):
    """What bytes are: torch.profiler's memory categories, plus overhead (bytes outside the caching allocator)."""

    PARAMETER = "parameter"
    GRADIENT = "gradient"
    OPTIMIZER_STATE = "optimizer_state"
    ACTIVATION = "activation"
    TEMPORARY = "temporary"
    INPUT = "input"
    OVERHEAD = "overhead"


class Tier(StrEnum):
    """Where bytes live."""

    HBM = "hbm"
    HOST = "host"
    NVME = "nvme"


class Link(StrEnum):
    """What bytes move over."""

    SCALE_UP = "scale_up"
    SCALE_OUT = "scale_out"
    PCIE = "pcie"
    HOST_MEMORY = "host_memory"
    NVME = "nvme"


class Phase(Flag):
    """When: the phases of a training run, in order. FORWARD, HEAD and BACKWARD repeat every micro-step.

    FORWARD is the last block's forward, HEAD the head and its loss (both passes), BACKWARD the first block to go
    backward (all activations alive), REDUCE the end of the last backward (all gradients alive), STEP the optimizer.
    """

    INIT = auto()
    FORWARD = auto()
    HEAD = auto()
    BACKWARD = auto()
    REDUCE = auto()
    STEP = auto()
    SAVE = auto()

    @property
    def label(self) -> str:
        """Lower-case name, as it stands in reports and JSON."""
        return "|".join(phase.name.lower() for phase in self if phase.name)


MICRO_STEP = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD
TRAINING = MICRO_STEP | Phase.REDUCE | Phase.STEP
ALWAYS = Phase.INIT | TRAINING | Phase.SAVE


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


@dataclass(frozen=True, slots=True)
class Device:
    """Accelerator. Memory in bytes, bandwidths in B/s per direction, peaks in dense FLOP/s, efficiencies as ratios.

    `usable_memory` is what the driver exposes; `context` is taken by the runtime before the first tensor. The
    efficiencies are shares of the datasheet peak that large kernels reach; `calibration` says how they were obtained.
    """

    name: str
    memory: float
    usable_memory: float
    memory_bandwidth: float
    peak_flops: tuple[tuple[str, float], ...]
    scale_up_bandwidth: float
    pcie_bandwidth: float
    power: float
    context: float
    gemm_efficiency: float
    attention_efficiency: float
    memory_efficiency: float
    communicator_buffer: float
    all_to_all_buffer: float
    source: str = "inline"
    calibration: str = "assumed"

    def peak(self, dtype: str) -> float:
        """Dense peak for a compute dtype [FLOP/s]; 0 where the device has no such units."""
        return dict(self.peak_flops).get(dtype, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """`num_devices` devices in nodes of `devices_per_node`, with what each node offers.

    Bandwidths in B/s: scale_up per device, scale_out per node (all NICs together), pcie per device, host memory and
    NVMe per node. Latencies in seconds per hop. Host memory and NVMe capacity in bytes per node.
    """

    device: Device
    num_devices: Num
    devices_per_node: Num
    scale_up_bandwidth: Num
    scale_out_bandwidth: Num
    pcie_bandwidth: Num
    host_memory: Num
    host_memory_bandwidth: Num
    cpu_cores: Num
    nvme_capacity: Num
    nvme_bandwidth: Num
    scale_up_latency: float = 4e-6
    scale_out_latency: float = 14e-6
    source: str = "inline"


@dataclass(frozen=True, slots=True)
class Precision:
    """Which dtype each tensor family is kept in. `master` adds an fp32 copy of the trainable weights.

    `param` are trainable weights as stored, `frozen` those that do not train, `compute` what kernels run in (`autocast`
    casts at each kernel and leaves the residual stream in `param`), `grad` gradients as accumulated, `reduce` gradients
    on the wire, `moments` optimizer states.
    """

    name: str
    param: str
    frozen: str
    compute: str
    grad: str
    reduce: str
    moments: str
    master: bool = False
    autocast: bool = False

    @property
    def residual(self) -> str:
        """Dtype of the residual stream between blocks."""
        return self.param if self.autocast else self.compute


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """One state tensor per trainable weight.

    `dtype` is a storage type or "moments" (whatever the precision says). `layout` is "full" (one element each),
    "factored" (a row and a column vector per matrix) or "none". `block` > 0 adds one fp32 scale per `block` elements.
    """

    dtype: str
    layout: str = "full"
    block: int = 0


@dataclass(frozen=True, slots=True)
class Optimizer:
    """A rule for the bytes an optimizer keeps and touches: adding one is adding one record.

    Weights with fewer than `min_elements` elements keep fp32 states instead. `temporary` is how the step's scratch
    scales: "foreach" (elements of all weights at once, times `temporary_factor`), "single" (of the largest weight) or
    "fused" (none). `traffic` is HBM bytes touched per element in a step.
    """

    name: str
    states: tuple[OptimizerState, ...]
    temporary: str = "fused"
    temporary_factor: float = 0.0
    min_elements: int = 0
    traffic: float = 28.0
    source: str = "inline"


@dataclass(frozen=True, slots=True)
class Quantization:
    """Storage of frozen linear weights: `packed` bytes per element (shardable), `scale` bytes per element (kept whole
    on every rank), `row_scale` bytes per output row. `dequantized` says whether a full-precision copy of one weight is
    made when it is used."""

    name: str
    packed: float
    scale: float = 0.0
    row_scale: float = 0.0
    dequantized: bool = True
    source: str = "inline"


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters of `rank` on the linear modules named in `targets`, kept in `adapter_dtype`."""

    rank: int
    targets: tuple[str, ...]
    alpha: float = 16.0
    dropout: float = 0.0
    adapter_dtype: str = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """The knobs that a training framework sets: which code path runs, and how large its buffers are.

    `engine`: deepspeed | fsdp2 | ddp | torch. Bucket sizes are in elements, as DeepSpeed counts them. A named preset
    (xtuner-v0.1, hf-trainer) is the same record with other values.
    """

    name: str
    engine: str
    attention: str = "flash"
    norm: str = "eager"
    activation: str = "eager"
    loss: str = "hf"
    keep_logits: bool = False
    expand_kv: bool = False
    loss_chunks: int = 8
    gpu_optimizer: str = "foreach"
    cpu_optimizer: str = "cpu_adam"
    reduce_bucket_size: float = 5e8
    allgather_bucket_size: float = 5e8
    prefetch_bucket_size: float = 5e7
    param_persistence_threshold: float = 1e5
    max_live_parameters: float = 1e9
    max_reuse_distance: float = 1e9
    sub_group_size: float = 1e9
    overlap_comm: bool = True
    all_reduce_gradients: bool = True
    zero_init: bool = True
    gradient_as_bucket_view: bool = False
    ddp_bucket_bytes: float = 25.0 * 2**20
    wrap: str = "blocks"
    sync_accumulation: bool = True
    max_grad_norm: float = 1.0
    fragmentation: float = 0.03
    source: str = "inline"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Training:
    """What is trained and how. `method`: full | lora | qlora. Batch sizes are per data-parallel rank."""

    method: str
    seq_len: Num
    micro_batch_size: Num
    gradient_accumulation_steps: Num
    precision: Precision
    optimizer: Optimizer
    lora: Lora | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Strategy:
    """Degrees of parallelism, ZeRO stage, and switches from 0 to 1.

    `sp` is Ulysses (XTuner) sequence parallelism, `megatron_sp` (0 or 1) Megatron's. `recompute` is the share of layers
    whose activations are recomputed whole, `recompute_selective` (0 or 1) recomputes the attention core only.
    `offload_*` are the shares that live off the device, in `offload_tier`.
    """

    zero_stage: Num = 0.0
    tp: Num = 1.0
    pp: Num = 1.0
    cp: Num = 1.0
    sp: Num = 1.0
    ep: Num = 1.0
    megatron_sp: Num = 0.0
    recompute: Num = 0.0
    recompute_selective: Num = 0.0
    offload_optimizer: Num = 0.0
    offload_parameters: Num = 0.0
    offload_activations: Num = 0.0
    offload_tier: Tier = Tier.HOST
    quantization: Quantization = field(default_factory=lambda: Quantization("none", packed=0.0, dequantized=False))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Setup:
    """One training run, resolved: what parts read. `notes` are assumptions made while it was resolved."""

    model: Model
    cluster: Cluster
    framework: Framework
    training: Training
    strategy: Strategy
    notes: tuple[str, ...] = ()
    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def tokens(self) -> Num:
        """Tokens that one device holds in one micro-step. [-]"""
        training, strategy = self.training, self.strategy
        return training.micro_batch_size * training.seq_len / (strategy.cp * strategy.sp)

    @property
    def shard_degree(self) -> Num:
        """Ranks over which ZeRO or FSDP shards states: all that hold the same slice of the model. [-]"""
        return self.cluster.num_devices / (self.strategy.tp * self.strategy.pp)

    @property
    def data_parallel(self) -> Num:
        """Ranks that see different data. [-]"""
        return self.shard_degree / (self.strategy.cp * self.strategy.sp)

    @property
    def global_batch_size(self) -> Num:
        """Sequences per optimizer step. [-]"""
        return self.training.micro_batch_size * self.training.gradient_accumulation_steps * self.data_parallel


Derived = TypeVar("Derived")


def derived(function: Callable[[Setup], Derived]) -> Callable[[Setup], Derived]:
    """Remember what a pure function of a setup returned, for as long as the setup lives.

    Parts ask for the same few quantities (elements of a block, a block's working set) again and again.

    function : pure function of a Setup. [-]
    """

    @wraps(function)
    def remembered(setup: Setup) -> Derived:
        if function not in setup.memo:
            setup.memo[function] = function(setup)
        found: Derived = setup.memo[function]
        return found

    return remembered


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """Bytes that live in a tier during the phases in `live`. `lazy` ones first exist after the first optimizer step.

    Host and NVMe components are per device; reports multiply them by the devices of a node.
    """

    name: str
    category: Category
    nbytes: Num
    live: Phase
    tier: Tier = Tier.HBM
    lazy: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """Bytes that one device moves over a link in one occurrence of `phase`.

    `hidden` is the share of its time that the framework can overlap with the computation of phase `behind`.
    """

    name: str
    link: Link
    nbytes: Num
    seconds: Num
    phase: Phase
    hidden: Num = 0.0
    behind: Phase | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """FLOPs and bytes of one device in one occurrence of `phase`; `seconds` on the engine that runs it.

    `model_flops` is the part that a run without recomputation would also need (the numerator of MFU).
    """

    name: str
    flops: Num
    model_flops: Num
    nbytes: Num
    seconds: Num
    phase: Phase
    activity: str = "compute"


def dtype_bytes(dtype: str) -> float:
    """Bytes per element of a storage type. [B]

    dtype : name such as "bf16". [-]

    >>> dtype_bytes("bf16")
    2.0
    """
    return DTYPE_BYTES[dtype]
