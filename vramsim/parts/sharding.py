"""How each engine cuts weights over ranks: the one place that knows ZeRO's flat slices from FSDP2's rows.

DeepSpeed flattens (stages 1 and 2) or pads each weight (stage 3), FSDP2 pads dimension 0, DDP and a single process keep
everything. All sums run over the ledger and broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vramsim.equations import memory
from vramsim.layout import Entry, ledger_of, local_numel
from vramsim.spec import Setup, derived
from vramsim.units import Num, maximum, where

FSDP = ("fsdp1", "fsdp2")
"""Engines that shard parameters, gradients and optimizer states of one unit at a time."""


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
    ranks, rows = setup.shard_degree, setup.framework.engine == "fsdp2"
    return tuple(
        memory.row_shard(numel, float(entry.weight.first_dim), ranks) if rows else memory.parameter_shard(numel, ranks)
        for entry, numel in zip(ledger_of(setup), sizes(setup), strict=True)
    )


def whole(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some weights on one device before data-parallel sharding. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    total: Num = 0.0
    for entry in entries:
        total = total + entry.count * sizes(setup)[entry.index]
    return total


def sliced(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some weights that a rank owns when weights are sharded one by one. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    total: Num = 0.0
    for entry in entries:
        total = total + entry.count * slices(setup)[entry.index]
    return total


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
        flat = memory.flat_shard(whole(setup, entries), where(stage >= 1, setup.shard_degree, 1.0))
        return where(stage >= 3, sliced(setup, entries), flat)
    return whole(setup, entries)


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
    return whole(setup, select(setup, lambda entry: entry.part == "block")) / setup.model.num_layers


@derived
def head_elements(setup: Setup) -> Num:
    """Elements of the output projection, the token embedding when it is tied. [-]

    setup : resolved run. [-]
    """
    part, role = ("embedding", "embedding") if setup.model.tied_embeddings else ("head", "head")
    found = select(setup, lambda entry: entry.part == part and entry.weight.role == role)
    return whole(setup, found[:1])


@derived
def embedding_elements(setup: Setup) -> Num:
    """Elements of the input embeddings. [-]

    setup : resolved run. [-]
    """
    return whole(setup, select(setup, lambda entry: entry.part == "embedding"))
