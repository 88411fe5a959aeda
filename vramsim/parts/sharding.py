"""How each engine cuts weights over ranks: the one place that knows ZeRO's flat slices from FSDP2's rows.

DeepSpeed flattens (stages 1 and 2) or pads each weight (stage 3), FSDP2 pads dimension 0, Megatron flattens optimizer
states only, DDP and a single process keep everything. A pipeline stage holds its share of the blocks, and the embedding
or the head where it is the first or the last. All sums run over the ledger and broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vramsim.equations import memory
from vramsim.layout import Entry, expert_tokens, kernels_of, ledger_of, local_numel, model_of
from vramsim.parts.wrapping import replicated
from vramsim.spec import Setup, derived, dtype_bytes
from vramsim.units import Num, maximum, minimum, where

FSDP = ("fsdp1", "fsdp2")
"""Engines that shard parameters, gradients and optimizer states of one unit at a time."""


@derived
def ranks(setup: Setup) -> Num:
    """Ranks that share one copy of the states: all that hold the same slice of the model, or one shard group. [-]

    Shard groups are HSDP's and MiCS's; copies of them are kept by all-reducing.

    setup : resolved run. [-]
    """
    size = setup.strategy.shard_size
    return where(size > 0, minimum(size, setup.shard_degree), setup.shard_degree)


def ranks_of(setup: Setup, entry: Entry) -> Num:
    """Ranks that share one copy of a weight's states: an expert's replicas are fewer by the expert-parallel degree. [-]

    setup : resolved run. [-]   entry : which weight. [-]
    """
    if entry.weight.adapter and replicated(setup):
        return 1.0
    if entry.weight.role != "experts":
        return ranks(setup)
    size = setup.strategy.shard_size
    alike = setup.shard_degree / (setup.strategy.ep * expert_tokens(setup))
    return maximum(where(size > 0, minimum(size, alike), alike), 1.0)


@derived
def sizes(setup: Setup) -> tuple[Num, ...]:
    """Elements of every ledger entry's weight on one device, before data-parallel sharding. [-]

    setup : resolved run. [-]
    """
    return tuple(local_numel(entry.weight, setup) for entry in ledger_of(setup))


@derived
def slices(setup: Setup) -> tuple[Num, ...]:
    """Elements of every ledger entry's weight that a rank owns when weights are sharded one by one. [-]

    setup : resolved run. [-]
    """
    cut = _rows if setup.framework.engine == "fsdp2" else _elements
    return tuple(cut(setup, entry, numel) for entry, numel in zip(ledger_of(setup), sizes(setup), strict=True))


def _rows(setup: Setup, entry: Entry, numel: Num) -> Num:
    rows: Num = float(entry.weight.first_dim)
    if entry.weight.role == "experts":
        rows = rows / setup.strategy.ep
    return memory.row_shard(numel, rows, ranks_of(setup, entry))


def _elements(setup: Setup, entry: Entry, numel: Num) -> Num:
    return memory.parameter_shard(numel, ranks_of(setup, entry))


def share_of(setup: Setup, part: str, kind: int = 0) -> Num:
    """Share of a part of the model that this pipeline stage holds. [-]

    setup : resolved run. [-]   part : embedding | block | head. [-]   kind : kind of blocks. [-]
    """
    stage = setup.stage
    if part == "block" and stage.kinds:
        return stage.kinds[kind]
    if part == "embedding" and setup.model.tied_embeddings:
        # A tied embedding is on the stage of the head, too, which multiplies by its own copy.
        return maximum(stage.embedding, stage.head)
    return {"embedding": stage.embedding, "block": stage.blocks, "head": stage.head}[part]


@derived
def layers(setup: Setup) -> Num:
    """Blocks that this pipeline stage holds. [-]

    setup : resolved run. [-]
    """
    return setup.model.num_layers * setup.stage.blocks


def _held(setup: Setup, entries: Iterable[Entry], amount: Callable[[Entry], Num]) -> Num:
    """Sum of an amount over the copies of weights that this pipeline stage holds."""
    sums: dict[tuple[str, int], Num] = {}
    for entry in entries:
        key = entry.part, entry.kind
        sums[key] = sums.get(key, 0.0) + entry.count * amount(entry)
    total: Num = 0.0
    for (part, kind), value in sums.items():
        total = total + value * share_of(setup, part, kind)
    return total


def whole(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some weights on one device before data-parallel sharding. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    numels = sizes(setup)
    return _held(setup, entries, lambda entry: numels[entry.index])


def sliced(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some weights that a rank owns when weights are sharded one by one. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    owned = slices(setup)
    return _held(setup, entries, lambda entry: owned[entry.index])


def padded(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some weights gathered from all slices, padding included. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    owned = slices(setup)
    return _held(setup, entries, lambda entry: owned[entry.index] * ranks_of(setup, entry))


def parameters(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some weights that stay on a device through the step. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    entries = tuple(entries)
    engine, stage = setup.framework.engine, setup.strategy.zero_stage
    if engine in FSDP:
        return sliced(setup, entries)
    if engine == "deepspeed":
        return where(stage >= 3, sliced(setup, entries), whole(setup, entries))
    return whole(setup, entries)


def optimizer_slice(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some trained weights whose optimizer states a rank keeps. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    entries = tuple(entries)
    engine, stage = setup.framework.engine, setup.strategy.zero_stage
    if engine in FSDP:
        return sliced(setup, entries)
    if engine == "deepspeed":
        return where(stage >= 3, sliced(setup, entries), _flat(setup, entries, memory.flat_shard))
    if engine == "megatron":
        return _flat(setup, entries, memory.parameter_shard)
    return whole(setup, entries)


def _flat(setup: Setup, entries: tuple[Entry, ...], cut: Callable[[Num, Num], Num]) -> Num:
    """One rank's slice of weights flattened together; experts are a group of their own, over their own ranks."""
    stage = setup.strategy.zero_stage
    total: Num = 0.0
    for experts in (False, True):
        group = [entry for entry in entries if (entry.weight.role == "experts") is experts]
        if group:
            total = total + cut(whole(setup, group), where(stage >= 1, ranks_of(setup, group[0]), 1.0))
    return total


@derived
def optimizer_elements(setup: Setup) -> Num:
    """Elements whose optimizer states a rank keeps, all trained weights together. [-]

    setup : resolved run. [-]
    """
    return optimizer_slice(setup, trained(setup))


@derived
def trained(setup: Setup) -> tuple[Entry, ...]:
    """Ledger entries that have gradients and optimizer states.

    setup : resolved run. [-]
    """
    return tuple(entry for entry in ledger_of(setup) if entry.trains)


def trains_head(setup: Setup) -> bool:
    """Whether the output projection has a gradient: optimizers of single blocks and adapters leave it frozen.

    A copy of it that trains beside adapters has one.

    setup : resolved run. [-]
    """
    return kernels_of(setup).trains("lm_head") and not model_of(setup).frozen_ends


def copies(setup: Setup) -> tuple[Entry, ...]:
    """Ledger entries of whole modules that train beside adapters, in the dtype of the frozen base.

    setup : resolved run. [-]
    """
    if setup.training.lora is None:
        return ()
    return tuple(entry for entry in trained(setup) if not entry.weight.adapter)


@derived
def with_gradients(setup: Setup) -> tuple[Entry, ...]:
    """Ledger entries that FSDP's gradients cover: what trains, and the frozen weights of a flat parameter with it.

    setup : resolved run. [-]
    Source: PyTorch torch/distributed/fsdp/_flat_param.py: autograd's gradient of a flat parameter is that of its
    views joined, zeros where a view has none.
    """
    entries = trained(setup)
    # Blocks that an optimizer leaves out are units of their own, with no gradient.
    if setup.training.lora is None or not setup.framework.flat_units or setup.framework.engine != "fsdp1":
        return entries
    parts = {(entry.part, entry.kind) for entry in entries}
    return tuple(e for e in ledger_of(setup) if (e.part, e.kind) in parts and not e.quantized)


def frozen_bytes(setup: Setup) -> float:
    """Bytes of one element of a frozen weight that is not quantized. [B]

    Below adapters a model is loaded in a dtype of its own; layers that merely do not train are as the others.

    setup : resolved run. [-]
    """
    precision = setup.training.precision
    return dtype_bytes(precision.frozen if setup.training.lora is not None else precision.param)


def select(setup: Setup, wanted: Callable[[Entry], bool]) -> tuple[Entry, ...]:
    """Ledger entries that satisfy a predicate.

    setup : resolved run. [-]   wanted : predicate. [-]
    """
    return tuple(entry for entry in ledger_of(setup) if wanted(entry))


@derived
def largest_weight(setup: Setup) -> Num:
    """Elements of the largest weight of a block: what one module gathers. [-]

    setup : resolved run. [-]
    """
    return largest(sizes(setup)[e.index] for e in ledger_of(setup) if e.part == "block")


@derived
def largest_held(setup: Setup) -> Num:
    """Elements of the largest weight on this pipeline stage. [-]

    setup : resolved run. [-]
    """
    numels = sizes(setup)
    return largest(numels[e.index] * where(share_of(setup, e.part, e.kind) > 0, 1.0, 0.0) for e in ledger_of(setup))


def largest(values: Iterable[Num]) -> Num:
    """The largest of some sizes, elementwise.

    values : sizes. [-]
    """
    result: Num = 0.0
    for value in values:
        result = maximum(result, value)
    return result


@derived
def block_elements(setup: Setup) -> Num:
    """Elements of one block, averaged over the model's blocks: what is gathered at once. [-]

    setup : resolved run. [-]
    """
    return whole(setup, select(setup, lambda entry: entry.part == "block")) / layers(setup)


@derived
def head_elements(setup: Setup) -> Num:
    """Elements of the output projection on this stage, the token embedding when it is tied. [-]

    setup : resolved run. [-]
    """
    part, role = ("embedding", "embedding") if setup.model.tied_embeddings else ("head", "head")
    found = select(setup, lambda entry: entry.part == part and entry.weight.role == role)
    return sizes(setup)[found[0].index] * setup.stage.head if found else 0.0


@derived
def embedding_elements(setup: Setup) -> Num:
    """Elements of the input embeddings. [-]

    setup : resolved run. [-]
    """
    return whole(setup, select(setup, lambda entry: entry.part == "embedding"))
