"""Autocast's copies of weights."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.layout import Entry
from vramsim.parts import sharding
from vramsim.spec import Category, Component, Phase, Setup, derived, dtype_bytes
from vramsim.units import Num


@derived
def block_casts(setup: Setup) -> Num:
    """Bytes of autocast's copies of one block's weights. [B]

    setup : resolved run. [-]
    """
    if not setup.training.precision.autocast:
        return 0.0
    entries = sharding.select(setup, lambda entry: entry.part == "block" and entry.trains)
    return _cast_bytes(setup, entries) + _frozen_casts(setup)


def _cast_bytes(setup: Setup, entries: tuple[Entry, ...]) -> Num:
    return sharding.whole(setup, entries) * dtype_bytes(setup.training.precision.compute) / sharding.layers(setup)


@derived
def _frozen_casts(setup: Setup) -> Num:
    """Bytes of one block's casts of frozen weights: no cache has them, but every product keeps its own for backward.

    setup : resolved run. [-]
    Source: PyTorch aten/src/ATen/autocast_mode.cpp, cached_cast: only leaves that need a gradient are cached.
    """
    precision = setup.training.precision
    if not precision.autocast or sharding.frozen_bytes(setup) <= dtype_bytes(precision.compute):
        return 0.0
    frozen = sharding.select(
        setup, lambda e: e.part == "block" and e.weight.role == "linear" and not e.trains and not e.quantized
    )
    return _cast_bytes(setup, frozen)


def weight_casts(setup: Setup) -> Iterator[Component]:
    """Autocast's cache: a copy of every weight in the compute dtype, from its first use to its own backward.

    Recomputed blocks drop theirs when forward ends and make them again, one block at a time. Casts of frozen weights
    are not cached, and a recomputed block drops them at once.

    setup : resolved run. [-]
    """
    precision, recompute = setup.training.precision, setup.strategy.recompute
    if not precision.autocast:
        return
    in_blocks = block_casts(setup) * sharding.layers(setup)
    dropped = _frozen_casts(setup) * (sharding.layers(setup) - 1.0) * recompute
    head = sharding.head_elements(setup) * dtype_bytes(precision.compute)
    name, category = "autocast copies of weights", Category.TEMPORARY
    yield Component(name, category, in_blocks - dropped + head, Phase.FORWARD)
    yield Component(name, category, in_blocks * (1.0 - recompute) + head, Phase.HEAD)
    one = block_casts(setup) * recompute
    yield Component(name, category, in_blocks * (1.0 - recompute) + one, Phase.BACKWARD)
