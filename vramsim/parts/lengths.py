"""Batches that differ in length: blocks of shorter ones stay in the allocator's cache, too small for longer ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vramsim.equations import memory
from vramsim.parts import activations, backward, head_loss
from vramsim.spec import Category, Component, Setup, Tier

BY_TOKENS = (activations.saved, backward.backward, head_loss.saved, head_loss.loss)
"""Parts whose tensors are as long as the batch."""


def shorter(setup: Setup) -> Iterator[Component]:
    """Blocks that earlier, shorter batches left behind (equation M14).

    Every batch longer than all before it asks for tensors that no free block holds, and takes new ones; what the
    earlier ones took stays free until the device is full.

    setup : resolved run, `seq_len` of which is that of the longest batch. [-]
    """
    if not setup.training.uneven_lengths:
        return
    share = setup.framework.shorter_batches
    for part in BY_TOKENS:
        for found in part(setup):
            if found.tier is Tier.HBM and found.category in (Category.ACTIVATION, Category.TEMPORARY):
                yield replace(
                    found,
                    name="blocks of shorter batches",
                    nbytes=memory.left_behind(found.nbytes, share),
                    tier=Tier.CACHE,
                    moments=(),
                )
