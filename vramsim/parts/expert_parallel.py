"""Expert parallelism: tokens travel to the ranks that hold their experts, and back."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.equations import memory
from vramsim.layout import expert_tokens
from vramsim.spec import Category, Component, Phase, Setup, dtype_bytes
from vramsim.units import maximum, where


def buffers(setup: Setup) -> Iterator[Component]:
    """The far side of the all-to-all at work, dispatch or combine: copies of tokens that nothing saves (equation M11).

    The near side is saved with the layer: expert inputs, and expert outputs to weigh. A busy rank holds more.

    setup : resolved run. [-]
    Source: Megatron-LM core/transformer/moe/token_dispatcher.py; DeepSpeed moe/sharded_moe.py.
    """
    strategy = setup.strategy
    routed = max((block.hidden * block.mlp.top_k for block in setup.model.blocks if block.mlp.experts), default=0)
    if not routed:
        return
    size = dtype_bytes(setup.training.precision.compute)
    copies = memory.dispatched(setup.tokens * routed * size, maximum(strategy.expert_load, 1.0))
    split = where(strategy.megatron_sp > 0, 1.0 / strategy.tp, expert_tokens(setup))
    nbytes = where(strategy.ep > 1, copies * split, 0.0)
    yield Component("dispatched tokens", Category.TEMPORARY, nbytes, Phase.FORWARD | Phase.BACKWARD)
