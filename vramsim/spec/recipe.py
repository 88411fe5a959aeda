"""What is trained and how: precision, optimizer, adapters, quantization, framework, strategy."""

from __future__ import annotations

from dataclasses import dataclass, field

from vramsim.spec.ledger import Tier
from vramsim.units import DTYPE_BYTES, Num


@dataclass(frozen=True, slots=True)
class Precision:
    """Which dtype each tensor family is kept in. `master` adds an fp32 copy of the trainable weights.

    `param` are trainable weights as stored, `frozen` those that do not train, `compute` what kernels run in (`autocast`
    casts at each kernel and leaves the residual stream in `param`), `grad` gradients as accumulated, `reduce` gradients
    on the wire, `moments` optimizer states. `products` is what linear layers multiply in where that is narrower than
    `compute`, which everything between them keeps: 8 or 4 bits, where `compute` is given so.
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
    stream: str = ""
    products: str = ""

    def __post_init__(self) -> None:
        """Take a narrow compute dtype for that of products: nothing but linear layers computes in 8 or 4 bits."""
        if DTYPE_BYTES[self.compute] < DTYPE_BYTES["bf16"]:
            object.__setattr__(self, "products", self.compute)
            object.__setattr__(self, "compute", "bf16")

    @property
    def linear(self) -> str:
        """Dtype that linear layers multiply in."""
        return self.products or self.compute

    @property
    def residual(self) -> str:
        """Dtype of the residual stream between blocks: `stream` where it is set."""
        return self.stream or (self.param if self.autocast else self.compute)


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """One state tensor per trainable weight.

    `dtype` is a storage type or "moments" (whatever the precision says), `scope` the weights that have it: all |
    matrices (those of hidden layers) | rest (embeddings, head, vectors). `layout` is its shape: full (one element each)
    | factored (a row and a column vector per matrix) | rows (one element for each row of a matrix) | low_rank (the
    gradient projected to the optimizer's rank) | projector (what projects it); other than matrices have full ones.
    `block` > 0 adds one fp32 scale per `block` elements.
    """

    dtype: str
    layout: str = "full"
    block: int = 0
    scope: str = "all"


@dataclass(frozen=True, slots=True)
class Optimizer:
    """A rule for the bytes an optimizer keeps and touches: adding one is adding one record.

    Weights with fewer than `min_elements` elements keep fp32 states instead. `temporary` is how the step's scratch
    scales: "foreach" (elements of all weights at once, times `temporary_factor`), "single" (of the largest weight) or
    "fused" (none). `traffic` is HBM bytes touched per element in a step, of fp32 tensors: where parameters, gradients
    and states are all of one narrower dtype, it is less by as much.

    `matrix` names what a step computes on every hidden matrix (`parts.stepping.MATRIX_STEPS`): newton_schulz, in
    `iterations`, or a projection to `rank` by svd | random; the words above then hold for the other weights.

    `gradients` is how many live at once: all, or one, which is stepped on and freed as soon as backward has made it.
    With `blocks` > 0 only so many blocks of the model train at a time, and embedding and head where `ends` says so;
    `forgets` says whether the states of blocks that have trained are dropped. `paged` states lie in managed memory,
    outside of the caching allocator, and give way to anything else. `engines` are those that can run it; none: all.
    """

    name: str
    states: tuple[OptimizerState, ...]
    temporary: str = "fused"
    temporary_factor: float = 0.0
    min_elements: int = 0
    traffic: float = 28.0
    matrix: str = ""
    iterations: int = 0
    rank: int = 0
    gradients: str = "all"
    blocks: int = 0
    ends: bool = True
    forgets: bool = True
    paged: bool = False
    engines: tuple[str, ...] = ()
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
    """Low-rank adapters of `rank` on the linear modules named in `targets`, kept in `adapter_dtype`.

    `modules_to_save` (embed_tokens, lm_head) train whole: a copy in the dtype of the base, beside the frozen original.
    """

    rank: int
    targets: tuple[str, ...]
    alpha: float = 16.0
    dropout: float = 0.0
    adapter_dtype: str = "fp32"
    modules_to_save: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """The knobs that a training framework sets: which code path runs, and how large its buffers are.

    `engine`: deepspeed | fsdp1 | fsdp2 | ddp | megatron | torch. Bucket sizes are in elements, as DeepSpeed counts
    them. A named preset (xtuner-v0.1, hf-trainer) is the same record with other values.

    `attention`: flash (FlashAttention-2) | flash1 (its first version) | triton | cudnn (the vendor's kernel) | eager;
    `attention_dtype` fp8 has it compute in 8 bits. `rotary` names how rotary embeddings are implemented where it is not
    as `activation` is: complex numbers, which torch.compile leaves to eager kernels. `overlap_comm` hides data-parallel
    traffic, `overlap_tp` cuts tensor-parallel collectives into chunks that products hide (Transformer Engine's user
    buffers). `parallel_loss` leaves logits cut over tp (vocab_parallel always does), which else are gathered.
    `fused_qkv` is software whose own models project to queries, keys and values at once and adapt them as one.
    `dequantize`: operator (one copy at a time) | operator_with_input (which holds its input as well: bitsandbytes
    before 0.43.2) | autograd (plain code, whose copies the graph keeps). With `packs_head` a quantized base covers
    the head, with `packs_experts` experts that are one parameter, which unpacks whole. `unpacks_to` is a dtype that
    packed weights unpack to before their cast to the compute dtype (Lightning Fabric's precision plug-in packs
    fp16). `keeps_graph` is a loop that holds the last outputs, and with them the graph, through the next forward.
    `stops_early` is a checkpoint whose second forward ends with the last tensor that backward needs (PyTorch's
    non-reentrant one from 2.1 on). `norm_copies` casts all gradients up at once for their norm. With
    `pipeline_engine` DeepSpeed's runs models of one stage, too. Without `flat_states` a ZeRO engine takes weights
    over and steps on their slices one by one (ColossalAI).

    Of experts: `dispatcher` sends a token once for each expert (alltoall) or once to each rank (flex: DeepEP,
    HybridEP), `overlap_experts` moves tokens beside another micro-batch's computation, `fused_experts` has one kernel
    for the products of experts, their activation and their casts.

    FSDP's: `sync_accumulation` reduces gradients in every micro-step (in the last one only under a pipeline),
    `reshards_stages` is false where a pipeline's stages stay whole once they are gathered, `checkpoint_inside` applies
    checkpoints to blocks that are wrapped already, `reshards_frozen` is false before PyTorch 2.1, `flat_units` has
    frozen weights share a flat parameter with adapters, so that its gradient covers both, `replicates_adapters` keeps
    adapters out of FSDP1. `reads_lengths` has attention over sequences of several lengths, which the host reads from
    the device in each layer.

    Megatron's: `vocab_multiple` pads the vocabulary to a multiple of that times tp, `regather_inputs` saves linear
    inputs sharded under sequence parallelism, `distribute_saved_activations` cuts checkpoints over tp,
    `recompute_group` is layers per checkpoint, `master_bytes` the width of the master copy, `balanced_ends` counts the
    embedding and the head as layers when stages are cut, `free_stage_outputs` drops a stage's output once it is sent,
    `fused_accumulation` adds gradients up inside of the products that make them, `dummy_gradients` keeps a placeholder
    gradient of every shape of weight, as Transformer Engine does.

    The allocator's: shares and a base that it loses (equations M7, M9, M14).

    Loading and saving: `host_copies_at_load` is the share of the model that each rank holds on the host, `save` how a
    checkpoint leaves: sharded | full. `pinned_rounding` rounds pinned buffers up to powers of two, as PyTorch does.
    """

    name: str
    engine: str
    attention: str = "flash"
    norm: str = "eager"
    activation: str = "eager"
    activation_backward: str = "fused"
    rotary: str = ""
    loss: str = "hf"
    parallel_loss: bool = False
    dispatcher: str = "alltoall"
    overlap_experts: bool = False
    fused_experts: bool = False
    attention_dtype: str = ""
    keep_outputs: str = "none"
    expand_kv: bool = False
    fused_qkv: bool = False
    loss_chunks: int = 8
    dequantize: str = "operator"
    packs_head: bool = False
    packs_experts: bool = False
    unpacks_to: str = ""
    keeps_graph: bool = False
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
    overlap_tp: bool = False
    all_reduce_gradients: bool = True
    zero_init: bool = True
    gradient_as_bucket_view: bool = False
    ddp_bucket_bytes: float = 25.0 * 2**20
    wrap: str = "blocks"
    grouped_experts: bool = True
    reentrant_checkpoint: bool = False
    stops_early: bool = False
    checkpoint_inside: bool = False
    flat_units: bool = False
    replicates_adapters: bool = False
    reads_lengths: bool = False
    megatron_layers: bool = False
    reshards_frozen: bool = True
    reshards_stages: bool = True
    sync_accumulation: bool = True
    vocab_multiple: float = 1.0
    regather_inputs: bool = False
    dummy_gradients: bool = False
    distribute_saved_activations: bool = False
    recompute_group: float = 1.0
    master_bytes: float = 4.0
    balanced_ends: bool = False
    free_stage_outputs: bool = False
    norm_copies: bool = False
    flat_states: bool = True
    pipeline_engine: bool = False
    fused_accumulation: bool = False
    host_copies_at_load: float = 0.0
    save: str = "sharded"
    pinned_rounding: bool = False
    max_grad_norm: float = 1.0
    fragmentation: float = 0.19
    allocator_slack: float = 0.8e9
    rigid_gaps: float = 0.5
    unfit_buffers: float = 0.95
    shorter_batches: float = 1.35
    source: str = "inline"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Training:
    """What is trained and how. `method`: full | lora | qlora. Batch sizes are per data-parallel rank.

    `image_tokens` are those of a sequence's tokens that come from a vision tower, if the model has one, which does not
    train with `freeze_vision`. With `uneven_lengths` batches are as long as their longest sample, and `seq_len` is the
    longest of all.
    """

    method: str
    seq_len: Num
    micro_batch_size: Num
    gradient_accumulation_steps: Num
    precision: Precision
    optimizer: Optimizer
    lora: Lora | None = None
    image_tokens: Num = 0.0
    freeze_vision: bool = False
    uneven_lengths: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Strategy:
    """Degrees of parallelism, ZeRO stage, and switches from 0 to 1.

    `sp` is Ulysses (XTuner) sequence parallelism, `megatron_sp` (0 or 1) Megatron's. `recompute` is the share of layers
    whose activations are recomputed whole, `recompute_selective` (0 or 1) recomputes the attention core only,
    `recompute_op` (0 or 1) everything but every second matrix product and attention's output.
    `offload_*` are the shares that live off the device, in `offload_tier`.

    `schedule` orders a pipeline's micro-batches (`equations.pipeline.SCHEDULES`), `vpp` is the chunks of layers a
    device holds. `shard_size` is how many ranks share states: 0 for all of them, fewer for HSDP and MiCS.
    `secondary_shard_size` is that of ZeRO++'s second copy (0: none). `etp` is how many ranks each expert is cut over: 0
    for as many as `tp`; with fewer, expert-parallel groups reach across tensor-parallel ranks. `expert_load` is the
    tokens that the busiest expert-parallel rank computes over the mean: an imbalance, or a capacity factor.
    """

    zero_stage: Num = 0.0
    tp: Num = 1.0
    pp: Num = 1.0
    cp: Num = 1.0
    sp: Num = 1.0
    ep: Num = 1.0
    etp: Num = 0.0
    vpp: Num = 1.0
    schedule: str = "1f1b"
    shard_size: Num = 0.0
    secondary_shard_size: Num = 0.0
    expert_load: Num = 1.0
    megatron_sp: Num = 0.0
    recompute: Num = 0.0
    recompute_selective: Num = 0.0
    recompute_op: Num = 0.0
    offload_optimizer: Num = 0.0
    offload_parameters: Num = 0.0
    offload_activations: Num = 0.0
    offload_tier: Tier = Tier.HOST
    quantization: Quantization = field(default_factory=lambda: Quantization("none", packed=0.0, dequantized=False))
