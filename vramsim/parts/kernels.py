"""Attention, and the kernels that memory bandwidth bounds: norms, activations, weights cast or added to."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks.attention import kernel_of
from vramsim.equations import compute as equations
from vramsim.layout import expert_tokens, kernels_of, ledger_of
from vramsim.parts import frozen, products, sharding
from vramsim.spec import Block, Phase, Setup, Work, dtype_bytes
from vramsim.units import Num, ceil_div, maximum, minimum, where

FLASH_ROWS = 128.0
"""Queries that one thread block of flash attention works on. [tokens]"""
FLASH_FORWARD = (1.78, 350.0)
FLASH_BACKWARD = (0.71, 700.0)
"""Half-saturation of flash attention: thread blocks per processor (fitted: studies/calibrate_hardware.py) and tokens
per sequence under a causal mask (FlashAttention-2, arXiv 2307.08691, figures 4-6: A100, 512 to 16k tokens)."""
FLASH_BACKWARD_RATE = 0.83
"""Best backward rate over the best forward rate (0.601 / 0.727 fitted on A100). [-]"""
FLASH_EIGHT_BIT = (1.3, 1.04)
"""Rate of attention in MXFP8 over that in bf16, forward and backward (mean of GB200 and GB300 over causal sequences of
4k to 32k: NVIDIA/cudnn-frontend benchmark/sdpa_benchmark_training/results/llama3.1, cuDNN 9.22). [-]"""
FLASH_HEAD = 18.0
"""Head dim at which flash attention would run at half rate: 64 runs at 0.89 of 128 (arXiv 2307.08691). [elements]"""
OLDER_RATE = {"triton": (1.0 / 1.4, 0.5), "flash1": (0.5, 0.5)}
"""Rate of other kernels over FlashAttention-2's, forward and backward (arXiv 2307.08691, section 4.1: Triton's 1.3 to
1.5 times slower forward and two times backward, FlashAttention's first version about two times). [-]"""
GRADIENT_SUM = 6.0
"""HBM bytes per element to add the gradients of one more reader of an activation. [B]"""
SCORE_TRAFFIC = {"fused": (7.0, 13.0), "eager": (24.0, 34.0)}
"""HBM bytes per score of attention that writes them, forward and backward, by how softmax is implemented: one fused
causal kernel, or scale, mask, fp32 softmax and cast one after the other (docs/equations/compute.md). [B]"""
SOFTMAX_BATCH, SOFTMAX_KEYS = 4.0, 4096.0
"""Megatron's fused softmax takes that many heads at once, and rows of no more keys (bigscience-workshop/
Megatron-DeepSpeed megatron/model/fused_softmax.py, is_kernel_available); else PyTorch's runs. [-], [tokens]"""
DROPOUT_TRAFFIC = 5.0
"""HBM bytes per element of dropout in either pass: read and written, and its mask. [B]"""
NORM_TRAFFIC = {"eager": 34.0, "fused": 4.0}
"""HBM bytes per element of the hidden dim that one norm's forward touches, by implementation. [B]"""
GATE_TRAFFIC = {"eager": 10.0, "fused": 6.0}
"""HBM bytes per element of the feed-forward width that the activation's forward touches. [B]"""
ROTARY_TRAFFIC = {"eager": 20.0, "fused": 4.0}
"""HBM bytes per rotated element of queries and keys. [B]"""
EXPANDED_TRAFFIC = 4.0
"""HBM bytes per element of the queries to write keys and values once for each of their query heads. [B]"""
ACCUMULATION = 0.34
"""Share of reading and writing fp32 sums of gradients that the product which adds to them does not hide (on A100 and on
B200 alike, over 61 and 144 shapes: studies/calibrate_hardware.py). [-]"""
UNPACKED_BY_OPERATIONS = 20.0
"""HBM bytes per element to unpack a weight with PyTorch operations (AutoGPTQ's trainable path: shift, mask, subtract,
scale and cast, each reading and writing 2 B); fused kernels read the packed weight and write 2 B. [B]"""
UNPACKING_RATE = 0.4
"""Share of a streaming kernel's bandwidth that those reach: 4.6 ps an element on A100, by what runs with nf4 and GPTQ
(fms-acceleration scripts/benchmarks/refs, batches of 4 and 8) take more than those without, whatever the batch. [-]"""
ROUTED_TRAFFIC, SORTED_TRAFFIC = 8.0, 6.0
"""HBM bytes per element of a token's copies to gather them for experts and to add them up again, and to sort what an
all-to-all brings by expert and back, where a rank has several (Megatron-LM core/transformer/moe/token_dispatcher.py,
sort_chunks_by_idxs; adding up then reads alone). [B]"""
EXPERT_BIAS_TRAFFIC = 28.0
"""HBM bytes per element to add the biases of experts' second layers, times the router's fp32 probabilities, and to
join and cast the sums (core/transformer/moe/experts.py, _apply_bias: 4 + 10 + 8 + 6). [B]"""
CAST_TRAFFIC = 6.0
"""HBM bytes per element of a cast between fp32 and 16 bits. [B]"""


def attention(setup: Setup) -> Iterator[Work]:
    """Scores and weighted values: causal, over the whole sequence, whichever ranks share it.

    Flash attention needs five products backward where forward needs two, since it recomputes the scores.

    setup : resolved run. [-]
    """
    share, strategy = setup.stage.blocks, setup.strategy
    implementation = kernels_of(setup)
    flops: Num = 0.0
    ahead: Num = 0.0
    back: Num = 0.0
    for block in setup.model.blocks:
        keys, width = _keys(setup, block), block.attention.heads * block.attention.head_dim / strategy.tp
        each = equations.attention_flops(width, setup.tokens, keys)
        written = kernel_of(block.attention, implementation) != "flash"
        once, twice = (_eager if written else _flash)(setup, block, each, keys)
        flops, ahead, back = flops + block.count * each, ahead + block.count * once, back + block.count * twice
    flops, ahead, back = share * flops, share * ahead, share * back
    yield Work("attention, forward", flops, flops, 0.0, ahead, Phase.FORWARD)
    yield Work("attention, backward", 2.5 * flops, 2.0 * flops, 0.0, back, Phase.BACKWARD)
    again = maximum(strategy.recompute, strategy.recompute_selective)
    yield Work("attention, recomputed", again * flops, 0.0, 0.0, again * ahead, Phase.BACKWARD)


def _keys(setup: Setup, block: Block) -> Num:
    """Keys that a query would see without the causal mask, twice those that it sees on average with it. [tokens]"""
    seq_len, window = setup.training.seq_len, block.attention.window
    seen = seq_len if block.attention.causal else 2.0 * seq_len
    return minimum(seen, 2.0 * window) if window else seen


def _flash(setup: Setup, block: Block, flops: Num, keys: Num) -> tuple[Num, Num]:
    """Seconds of one layer, forward and backward, without a matrix of scores."""
    device, shape, strategy = setup.cluster.device, block.attention, setup.strategy
    ranks = strategy.tp * strategy.sp * strategy.cp
    sequences = ceil_div(setup.tokens * ranks, setup.training.seq_len)
    # Ulysses shares heads, not tokens; what counts is how many thread blocks one device has.
    launched = sequences * ceil_div(setup.training.seq_len, FLASH_ROWS) * shape.heads / ranks
    efficiency: Num = device.attention_efficiency
    if setup.framework.attention == "cudnn":
        efficiency = where(device.cudnn_efficiency > 0.0, device.cudnn_efficiency, efficiency)
    full: Num = products.core_rate(setup) * efficiency
    ahead, back = OLDER_RATE.get(setup.framework.attention, (1.0, 1.0))
    if setup.framework.attention_dtype == "fp8":
        ahead, back = ahead * FLASH_EIGHT_BIT[0], back * FLASH_EIGHT_BIT[1]
    full = full * equations.saturation(float(shape.head_dim), FLASH_HEAD) / equations.saturation(128.0, FLASH_HEAD)

    def seconds(work: Num, rate: Num, halves: tuple[float, float]) -> Num:
        filled = equations.saturation(launched, halves[0] * device.processors)
        return work / (rate * filled * equations.saturation(keys, halves[1]))

    forward = seconds(flops, ahead * full, FLASH_FORWARD)
    return forward, seconds(2.5 * flops, back * full * FLASH_BACKWARD_RATE, FLASH_BACKWARD)


def _eager(setup: Setup, block: Block, flops: Num, keys: Num) -> tuple[Num, Num]:
    """Seconds of one layer, forward and backward, with a matrix of scores in memory: the mask saves no products."""
    shape, strategy, seq_len = block.attention, setup.strategy, setup.training.seq_len
    heads = shape.heads / (strategy.tp * strategy.sp)
    rows = seq_len / strategy.cp
    count = ceil_div(setup.tokens * strategy.sp, rows) * heads
    dim = float(shape.head_dim)
    aligned = products.aligned(setup, dim)
    scores = products.product(setup, rows, seq_len, dim, count=count, core=True, aligned=aligned)
    values = products.product(setup, rows, dim, seq_len, count=count, core=True, aligned=aligned)
    fused = fused_softmax(setup, block)
    ahead, back = (
        fused * kernel + (1.0 - fused) * eager
        for kernel, eager in zip(SCORE_TRAFFIC["fused"], SCORE_TRAFFIC["eager"], strict=True)
    )
    if block.dropout:
        ahead, back = ahead + DROPOUT_TRAFFIC, back + DROPOUT_TRAFFIC
    bandwidth = products.bandwidth(setup)
    tokens = setup.tokens * strategy.sp
    # The products' own reading and writing of scores is part of the traffic counted here.
    return (
        scores + values + equations.score_bytes(tokens, seq_len, heads, ahead - 4.0) / bandwidth,
        2.0 * (scores + values) + equations.score_bytes(tokens, seq_len, heads, back - 8.0) / bandwidth,
    )


def fused_softmax(setup: Setup, block: Block) -> Num:
    """Whether (1 or 0) unfused attention has one kernel for scaling, masking and softmax: four score matrices a time.

    setup : resolved run. [-]   block : of the model. [-]
    """
    if setup.framework.activation != "fused":
        return 0.0
    strategy, training = setup.strategy, setup.training
    heads = training.micro_batch_size * block.attention.heads / (strategy.tp * strategy.sp)
    whole = ceil_div(heads, SOFTMAX_BATCH) * SOFTMAX_BATCH == heads
    return where(whole & (training.seq_len <= SOFTMAX_KEYS), 1.0, 0.0)


def elementwise(setup: Setup) -> Iterator[Work]:
    """Norms, activations, rotary embeddings and residual additions: bound by memory bandwidth.

    setup : resolved run. [-]
    """
    share, bandwidth = setup.stage.blocks, products.bandwidth(setup)
    per_token: Num = 0.0
    for block in setup.model.blocks:
        per_token = per_token + block.count * _layer_bytes(setup, block)
    nbytes = share * per_token * setup.tokens
    yield Work("elementwise, forward", 0.0, 0.0, nbytes, nbytes / bandwidth, Phase.FORWARD)
    # Backward reads what forward wrote and writes as many gradients; recomputation repeats forward.
    again = (2.0 + setup.strategy.recompute + setup.strategy.recompute_op) * nbytes
    again = again + share * setup.tokens * _summed_bytes(setup)
    casts = share * setup.tokens * sum((b.count * frozen.cast_bytes(setup, b) for b in setup.model.blocks), 0.0)
    yield Work("casts around packed weights, forward", 0.0, 0.0, casts, casts / bandwidth, Phase.FORWARD)
    repeated = (1.0 + setup.strategy.recompute) * casts
    yield Work("casts around packed weights, backward", 0.0, 0.0, repeated, repeated / bandwidth, Phase.BACKWARD)
    yield Work("elementwise, backward", 0.0, 0.0, again, again / bandwidth, Phase.BACKWARD)
    yield from _weights(setup)


def _summed_bytes(setup: Setup) -> Num:
    """HBM bytes per token to add up gradients where several linear layers, adapters among them, read one activation."""
    width: Num = 0.0
    for entry in ledger_of(setup):
        weight = entry.weight
        if entry.part != "block" or weight.role != "linear" or (weight.adapter and weight.cols[0][0] == ""):
            continue
        if weight.adapter or weight.module in ("k_proj", "v_proj", "gate_proj"):
            width = width + entry.count * weight.numel / weight.first_dim
    return GRADIENT_SUM * width / setup.strategy.tp if not setup.model.positions else 0.0


def _layer_bytes(setup: Setup, block: Block) -> Num:
    """HBM bytes per token that the elementwise kernels of one layer's forward touch."""
    framework, strategy = setup.framework, setup.strategy
    sharded = where(strategy.megatron_sp > 0, 1.0 / strategy.tp, 1.0)
    shape, mlp = block.attention, block.mlp
    stream = products.stream_bytes(setup)
    # PyTorch's LayerNorm is one kernel whoever calls it; RMSNorm is seven where nothing fuses it.
    norm = NORM_TRAFFIC["fused" if block.norm == "layernorm" else framework.norm] * stream / 2.0
    streams = block.num_norms * (norm + 3.0 * stream) * block.hidden
    gated = GATE_TRAFFIC[framework.activation] if mlp.gated else 4.0
    # One kernel that multiplies and activates moves nothing in between.
    masked = mlp.masked and not framework.megatron_layers
    copies = mlp.experts if masked else max(mlp.top_k, 1)
    active = gated * mlp.ffn * copies * (0.0 if mlp.experts and framework.fused_experts else 1.0)
    inner = active + gated * mlp.shared_ffn
    rotary = 0.0 if setup.model.positions else ROTARY_TRAFFIC[framework.rotary or framework.activation]
    heads = rotary * shape.head_dim * (shape.heads + shape.kv_heads)
    if framework.expand_kv and shape.kv_heads < shape.heads:
        heads = heads + EXPANDED_TRAFFIC * shape.head_dim * shape.heads
    if frozen.wide(setup):
        inner, heads = inner * stream / products.SMALLEST_ELEMENT, heads * stream / products.SMALLEST_ELEMENT
    # Every rank that has a part of the experts routes the tokens of all of them.
    routed = copies * block.hidden * expert_tokens(setup) if mlp.experts else 0.0
    return streams * sharded + _routed_bytes(setup, block) * routed + (inner + heads) / strategy.tp


def _routed_bytes(setup: Setup, block: Block) -> Num:
    """HBM bytes per element of a token's copies on their way through experts, beside what these do."""
    framework, ep = setup.framework, setup.strategy.ep
    found: Num = ROUTED_TRAFFIC
    if framework.engine == "megatron" and framework.dispatcher == "alltoall":
        found = found + where(ep > 1, where(block.mlp.experts / ep > 1, SORTED_TRAFFIC, 0.0), 0.0)
    if framework.engine == "megatron" and block.mlp.bias and not framework.fused_experts:
        found = found + EXPERT_BIAS_TRAFFIC
    return found


def unpacked_bytes(setup: Setup) -> float:
    """HBM bytes per element of each use of a frozen weight that is stored packed; 0 where nothing is. [B]

    setup : resolved run. [-]
    """
    quantization = setup.strategy.quantization
    if not quantization.dequantized:
        return 0.0
    if setup.framework.dequantize == "autograd":
        return UNPACKED_BY_OPERATIONS
    return (quantization.packed + quantization.scale + 2.0) / UNPACKING_RATE


def _weights(setup: Setup) -> Iterator[Work]:
    """Weights that are dequantized or cast for each use, and gradients added to those of earlier micro-steps."""
    precision, strategy, bandwidth = setup.training.precision, setup.strategy, products.bandwidth(setup)
    share = setup.stage.blocks
    in_blocks = sharding.select(setup, lambda entry: entry.part == "block")
    packed = sharding.whole(setup, (e for e in in_blocks if e.quantized))
    use: Num = unpacked_bytes(setup) * packed
    if precision.autocast:
        use = use + CAST_TRAFFIC * sharding.whole(setup, (e for e in in_blocks if e.trains))
    yield Work("weights unpacked or cast, forward", 0.0, 0.0, use, use / bandwidth, Phase.FORWARD)
    adapted, adapting = (each * setup.tokens * share for each in frozen.adapter_bytes(setup))
    yield Work("adapters, forward", 0.0, 0.0, adapted, adapted / bandwidth, Phase.FORWARD)
    trained = sharding.whole(setup, sharding.trained(setup))
    steps = setup.training.gradient_accumulation_steps
    passes = 2.0 * ACCUMULATION if setup.framework.fused_accumulation else 3.0
    added = passes * dtype_bytes(precision.grad) * trained * (steps - 1.0) / steps
    cast = CAST_TRAFFIC * trained if precision.autocast else 0.0
    later = (1.0 + strategy.recompute) * use + adapting + strategy.recompute * adapted + added + cast
    yield Work("weights, gradients and adapters, backward", 0.0, 0.0, later, later / bandwidth, Phase.BACKWARD)
