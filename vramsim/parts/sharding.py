"""How each engine cuts weights over ranks: the one place that knows ZeRO's flat slices from FSDP2's rows.

DeepSpeed flattens (stages 1 and 2) or pads each weight (stage 3), FSDP2 pads dimension 0, DDP and a single process keep
everything. All sums run over the ledger and broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from vramsim.equations import memory
from vramsim.layout import Entry, ledger_of, local_numel
from vramsim.spec import Setup
from vramsim.units import Num


def whole(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some weights on one device before data-parallel sharding. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    total: Num = 0.0
    for entry in entries:
        total = total + entry.count * local_numel(entry.weight, setup)
    return total


def slice_of(setup: Setup, entry: Entry) -> Num:
    """Elements of one weight that a rank owns when weights are sharded one by one (ZeRO-3, FSDP2). [-]

    setup : resolved run. [-]   entry : the weight. [-]
    """
    numel, ranks = local_numel(entry.weight, setup), setup.shard_degree
    if setup.framework.engine == "fsdp2":
        return memory.row_shard(numel, float(entry.weight.first_dim), ranks)
    return memory.parameter_shard(numel, ranks)


def sliced(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some weights that a rank owns when weights are sharded one by one. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    total: Num = 0.0
    for entry in entries:
        total = total + entry.count * slice_of(setup, entry)
    return total


def parameters(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some weights that stay on a device through the step. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    entries = tuple(entries)
    engine, stage = setup.framework.engine, setup.strategy.zero_stage
    if engine == "fsdp2":
        return sliced(setup, entries)
    if engine == "deepspeed":
        return np.where(stage >= 3, sliced(setup, entries), whole(setup, entries))
    return whole(setup, entries)


def optimizer_slice(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Elements of some trained weights whose optimizer states a rank keeps. [-]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    entries = tuple(entries)
    engine, stage = setup.framework.engine, setup.strategy.zero_stage
    if engine == "fsdp2":
        return sliced(setup, entries)
    if engine == "deepspeed":
        flat = memory.flat_shard(whole(setup, entries), np.where(stage >= 1, setup.shard_degree, 1.0))
        return np.where(stage >= 3, sliced(setup, entries), flat)
    return whole(setup, entries)


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


def block_elements(setup: Setup) -> Num:
    """Elements of one block, averaged over the model's blocks: what is gathered at once. [-]

    setup : resolved run. [-]
    """
    return whole(setup, select(setup, lambda entry: entry.part == "block")) / setup.model.num_layers


def head_elements(setup: Setup) -> Num:
    """Elements of the output projection, the token embedding when it is tied. [-]

    setup : resolved run. [-]
    """
    part, role = ("embedding", "embedding") if setup.model.tied_embeddings else ("head", "head")
    found = select(setup, lambda entry: entry.part == part and entry.weight.role == role)
    return whole(setup, found[:1])


def embedding_elements(setup: Setup) -> Num:
    """Elements of the input embeddings. [-]

    setup : resolved run. [-]
    """
    return whole(setup, select(setup, lambda entry: entry.part == "embedding"))
