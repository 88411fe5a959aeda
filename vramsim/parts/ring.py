"""Ring attention: the keys and values of other ranks that a context-parallel rank holds while it attends to them."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim import blocks
from vramsim.equations import activations as equations
from vramsim.layout import bytes_per_token, kernels_of, largest_block
from vramsim.parts import products
from vramsim.spec import Category, Component, Phase, Setup, dtype_bytes
from vramsim.units import maximum, where

FEED_FORWARD = ("ffn", "expert_ffn")


def buffers(setup: Setup) -> Iterator[Component]:
    """Blocks of keys and values on their way, and sums of partial results, beyond what one block else needs then.

    They are gone when the feed-forward network runs, forward as backward: what counts is the larger of the two.
    Megatron-Core's ring is Transformer Engine's, the other engines' is PyTorch's.

    setup : resolved run. [-]
    """
    strategy, block, kernels = setup.strategy, largest_block(setup.model), kernels_of(setup)
    shape, tokens = block.attention, setup.tokens / strategy.tp
    keys = tokens * float(shape.key_width + shape.value_width)
    element = max(dtype_bytes(setup.training.precision.compute), products.SMALLEST_ELEMENT)
    rule = equations.ring_point_to_point if setup.framework.engine == "megatron" else equations.ring_gathered
    ahead, back = rule(tokens * shape.query_width, keys, tokens * shape.output_width, strategy.cp, element)
    layer = blocks.layer(block, kernels)
    network = tuple(tensor for tensor in layer.saved if tensor.dim in FEED_FORWARD)
    later = setup.tokens * bytes_per_token(network, setup)
    working = setup.tokens * bytes_per_token(layer.working, setup)
    again = where(strategy.recompute > 0, ahead, 0.0)
    travels = where(strategy.cp > 1, 1.0, 0.0)
    name, category = "travelling keys and values", Category.TEMPORARY
    beyond = maximum(ahead - (1.0 - strategy.recompute) * later, 0.0)
    yield Component(name, category, travels * beyond, Phase.FORWARD)
    beyond = maximum(maximum(back, again) - later - working, 0.0)
    yield Component(name, category, travels * beyond, Phase.BACKWARD | Phase.REDUCE)
