"""Named dims meet mesh axes: which slice of every weight and saved tensor one device holds.

The ledger of a model is its list of weights with how often each occurs, whether it trains and whether it is stored
quantized: structure, cached. What a degree of parallelism does to it is arithmetic that broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from vramsim import blocks
from vramsim.blocks import Kernels, Saved, Weight
from vramsim.spec import Block, Model, Setup, derived, dtype_bytes
from vramsim.units import Num, ceil_div, maximum, round_up, where

TENSOR_PARALLEL_DIMS = frozenset({"heads", "kv_heads", "ffn", "vocab", "expert_ffn"})
RECAST_ENGINES = ("deepspeed", "megatron")
"""Engines that keep every parameter in the model's dtype, adapters included."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A weight of the ledger: `count` copies in the whole model, in one `part`: embedding | block | head.

    `kind` is the kind of blocks that it belongs to.
    """

    index: int
    weight: Weight
    count: int
    part: str
    trains: bool
    quantized: bool
    kind: int = 0


@lru_cache(maxsize=1024)
def ledger(model: Model, kernels: Kernels, quantized: bool) -> tuple[Entry, ...]:
    """Every weight of a model, equal ones merged.

    model : architecture. [-]   kernels : implementation, with the adapters it adds. [-]
    quantized : whether frozen linear weights of blocks are stored quantized. [-]
    Returns the entries in forward order.
    """
    merged: dict[tuple[Weight, str, int, bool], int] = {}
    runs = iter(kinds(model, kernels))
    for part, count, layer in blocks.components(model, kernels):
        kind = next(runs) if part == "block" else 0
        # A vision tower stands where the embedding does: on the first stage, outside the blocks.
        place = "embedding" if part == "encoder" else part
        for weight in layer.weights:
            trains = weight.adapter or (kernels.trains_base and not layer.frozen)
            key = weight, place, kind, trains
            merged[key] = merged.get(key, 0) + count
    entries: list[Entry] = []
    for (weight, part, kind, trains), count in merged.items():
        # Experts in one three-dimensional parameter are no linear layers, and stay as they are unless all are packed.
        apart = kernels.packs_experts or not kernels.grouped_experts
        roles = ("linear", "experts") if apart else ("linear",)
        in_place = (part == "block" and weight.role in roles) or (kernels.packs_head and weight.role == "head")
        packed = quantized and in_place and not weight.adapter
        entries.append(Entry(len(entries), weight, count, part, trains, packed, kind))
    for weight, part in _copies(model, kernels, tuple((entry.weight, entry.part) for entry in entries)):
        entries.append(Entry(len(entries), weight, 1, part, True, False))
    return tuple(entries)


def _copies(model: Model, kernels: Kernels, weights: tuple[tuple[Weight, str], ...]) -> Iterator[tuple[Weight, str]]:
    """Weights of the modules of which a copy trains beside the frozen one; a tied head becomes one of its own."""
    for module in kernels.copies:
        yield from ((weight, part) for weight, part in weights if weight.module == module)
        if module == "lm_head" and model.tied_embeddings and not model.labels:
            yield Weight(module, "head", (("vocab", model.vocab),), (("hidden", model.hidden),)), "head"


@lru_cache(maxsize=1024)
def kinds(model: Model, kernels: Kernels) -> tuple[int, ...]:
    """Kind of each run of blocks: runs whose layers weigh the same are of one kind.

    model : architecture. [-]   kernels : implementation. [-]
    """
    found: dict[tuple[Weight, ...], int] = {}
    return tuple(found.setdefault(blocks.layer(block, kernels).weights, len(found)) for block in model.blocks)


@derived
def kernels_of(setup: Setup) -> Kernels:
    """The structural half of a setup that decides what layers save.

    setup : resolved run. [-]
    """
    framework, precision, lora = setup.framework, setup.training.precision, setup.training.lora
    # FSDP2 also casts every parameter to the compute dtype, adapters included; elsewhere they keep their own.
    casts = framework.engine in ("fsdp2", *RECAST_ENGINES)
    # Transformer Engine keeps the input of an 8-bit or 4-bit product as it was cast; torchao keeps it wide.
    narrow = precision.products if framework.engine == "megatron" else ""
    return Kernels(
        compute=dtype_bytes(precision.compute),
        residual=dtype_bytes(precision.residual),
        autocast=precision.autocast,
        norm=framework.norm,
        activation=framework.activation,
        activation_backward=framework.activation_backward,
        # Other kernels that never write the matrix of scores keep what flash attention keeps.
        attention="flash" if framework.attention in ("cudnn", "triton", "flash1") else framework.attention,
        grouped_experts=framework.grouped_experts,
        megatron=framework.megatron_layers,
        expand_kv=framework.expand_kv,
        trains_base=lora is None,
        targets=lora.targets if lora else (),
        rank=lora.rank if lora else 0,
        copies=lora.modules_to_save if lora else (),
        dropout=bool(lora and lora.dropout > 0),
        fused_qkv=framework.fused_qkv,
        packs_head=framework.packs_head,
        packs_experts=framework.packs_experts,
        keeps_inputs=setup.strategy.quantization.packed > 0 and framework.dequantize == "operator_with_input",
        adapter=dtype_bytes(lora.adapter_dtype if lora and not casts else precision.compute),
        quantized=dtype_bytes(narrow) if narrow else 0.0,
    )


def joined(setup: Setup, entry: Entry) -> bool:
    """Whether a weight is computed with the one before it: keys' and values' of a projection that is one module, whose
    adapter has one matrix A.

    setup : resolved run. [-]   entry : of the ledger. [-]
    """
    if entry.part != "block" or entry.weight.module not in ("k_proj", "v_proj"):
        return False
    fused = setup.framework.fused_qkv or getattr(model_of(setup).blocks[entry.kind].attention, "fused_qkv", False)
    return fused and not setup.framework.megatron_layers


@derived
def ledger_of(setup: Setup) -> tuple[Entry, ...]:
    """The ledger of a setup's model.

    setup : resolved run. [-]
    """
    return ledger(model_of(setup), kernels_of(setup), setup.strategy.quantization.packed > 0)


@derived
def model_of(setup: Setup) -> Model:
    """The model as it trains: an optimizer of a few blocks at a time freezes the others, a run may freeze its tower.

    Those that train stand before the others of their kind, so that backward has to pass these: the worst of the
    choices that it cycles through.

    setup : resolved run. [-]
    """
    model, rule = setup.model, setup.training.optimizer
    if model.encoder is not None and (setup.training.freeze_vision or (rule.blocks and not rule.ends)):
        frozen = tuple(replace(block, frozen=True) for block in model.encoder.blocks)
        model = replace(model, encoder=replace(model.encoder, blocks=frozen, frozen=True))
    if not rule.blocks or setup.training.lora is not None:
        return model
    heaviest = largest_block(model)
    active = min(rule.blocks, heaviest.count)
    runs: list[Block] = []
    for block in model.blocks:
        trained = active if block is heaviest else 0
        split = (replace(block, count=trained), replace(block, count=block.count - trained, frozen=True))
        runs += [run for run in split if run.count]
    return replace(model, blocks=tuple(runs), frozen_ends=not rule.ends)


def degree(dim: str, setup: Setup) -> Num:
    """Ways a named dim is split over devices. [-]

    dim : dimension name. [-]   setup : resolved run. [-]
    """
    if dim == "expert_ffn":
        return expert_degree(setup)
    if dim in TENSOR_PARALLEL_DIMS:
        return setup.strategy.tp
    if dim == "experts":
        return setup.strategy.ep
    return 1.0


def expert_degree(setup: Setup) -> Num:
    """Ranks that each expert is cut over: expert tensor parallelism, the tensor-parallel degree unless stated. [-]

    setup : resolved run. [-]
    """
    strategy = setup.strategy
    return where(strategy.etp > 0, strategy.etp, strategy.tp)


def expert_tokens(setup: Setup) -> Num:
    """Share of its tokens that a rank sends through experts: experts cut over fewer ranks meet fewer ranks' tokens. [-]

    setup : resolved run. [-]
    """
    return expert_degree(setup) / setup.strategy.tp


def local_numel(weight: Weight, setup: Setup) -> Num:
    """Elements of a weight that one device computes with, before ZeRO or FSDP sharding. [-]

    weight : global tensor. [-]   setup : resolved run. [-]
    """
    total: Num = 1.0
    for dim, size in weight.rows + weight.cols:
        total = total * (local_size(dim, size, setup) if dim in _SHARDED else float(size))
    return total


def local_size(dim: str, size: int, setup: Setup) -> Num:
    """Elements of a sharded dim on one device, padding included. [-]

    dim : dimension name. [-]   size : its global size. [-]   setup : resolved run. [-]
    """
    return ceil_div(padded_size(dim, size, setup), degree(dim, setup))


def padded_size(dim: str, size: int, setup: Setup) -> Num:
    """Elements of a dim on all devices; Megatron pads the vocabulary to a multiple. [-]

    dim : dimension name. [-]   size : its size in the model. [-]   setup : resolved run. [-]
    """
    if dim == "vocab" and setup.framework.vocab_multiple > 1:
        return round_up(float(size), setup.framework.vocab_multiple * degree(dim, setup))
    return float(size)


@lru_cache(maxsize=1024)
def _fewest_kv_heads(model: Model) -> float:
    """Key/value heads of the block that has fewest."""
    return float(min(block.attention.kv_heads for block in model.blocks))


_SHARDED = TENSOR_PARALLEL_DIMS | {"experts"}
ROUTED = ("routed tokens in", "routed tokens out", "gradient of routed tokens")
"""Tensors of experts beside those of their own width."""


@lru_cache(maxsize=4096)
def _totals(saved: tuple[Saved, ...], core: bool) -> tuple[tuple[str, int, bool, bool, float], ...]:
    """Saved tensors summed by how they scale: (dim, divisible size, per key, routed, bytes per token)."""
    sums: dict[tuple[str, int, bool, bool], float] = {}
    for tensor in saved:
        if tensor.core and not core:
            continue
        size = tensor.size if tensor.dim in _SHARDED else 1
        key = (tensor.dim, size, tensor.per_key, tensor.dim == "expert_ffn" or tensor.name in ROUTED)
        sums[key] = sums.get(key, 0.0) + tensor.size * tensor.nbytes
    return tuple((*key, total) for key, total in sums.items())


def bytes_per_token(saved: tuple[Saved, ...], setup: Setup, *, core: bool = True) -> Num:
    """Bytes that a table of saved tensors takes on one device, for each token it holds (equation A1). [B]

    Megatron's sequence parallelism shards "hidden" dims over the tensor-parallel group; a tensor that was gathered
    for a projection stays whole, unless the framework gathers it again in backward. Attention matrices grow with the
    sequence length, what experts keep with the tokens that come to them and with the load of the busiest rank.

    saved : table. [-]   setup : resolved run. [-]   core : whether the attention core's tensors count. [-]
    """
    strategy, seq_len = setup.strategy, setup.training.seq_len
    split = ("hidden", "gathered") if setup.framework.regather_inputs else ("hidden",)
    busy = strategy.expert_load * expert_tokens(setup)
    total: Num = 0.0
    for dim, size, per_key, routed, nbytes in _totals(saved, core):
        share: Num = 1.0
        if dim in _SHARDED:
            share = ceil_div(float(size), degree(dim, setup)) / float(size)
            if dim == "kv_heads":
                # Fewer heads than ranks are repeated: no rank has a part of one.
                share = maximum(share, 1.0 / _fewest_kv_heads(setup.model))
        elif dim in split:
            share = where(strategy.megatron_sp > 0, 1.0 / strategy.tp, 1.0)
        total = total + nbytes * share * (seq_len if per_key else 1.0) * (busy if routed else 1.0)
    return total


def largest_block(model: Model) -> Block:
    """The block kind with most parameters: the one whose gathering and backward set the peaks.

    model : architecture. [-]
    """
    return max(model.blocks, key=lambda block: sum(w.numel for w in blocks.layer(block, blocks.PLAIN).weights))
