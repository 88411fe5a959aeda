"""Linear layers and their adapters: which copies of an input stay alive for the gradient of a weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vramsim.blocks.tensors import Dim, Kernels, Saved, Weight

QKV = ("q_proj", "k_proj", "v_proj")
"""Linear layers that a fused projection computes at once."""


def weights(
    module: str, rows: tuple[Dim, ...], cols: tuple[Dim, ...], bias: bool, kernels: Kernels
) -> Iterator[Weight]:
    """Weight, bias and (where LoRA adapts the module) adapter matrices A (rank x in) and B (out x rank).

    module : name. [-]   rows : output dims. [elements]   cols : input dims. [elements]   bias : whether it has one. [-]
    kernels : implementation. [-]
    """
    yield Weight(module, "linear", rows, cols)
    if bias:
        yield Weight(module, "bias", rows)
    if kernels.rank and kernels.adapts(module):
        rank: Dim = ("", kernels.rank)
        yield Weight(module, "linear", (rank,), cols, adapter=True)
        yield Weight(module, "linear", rows, (rank,), adapter=True)


def saved_input(
    name: str, dim: Dim, modules: Sequence[str], kernels: Kernels, *, nbytes: float, kept: bool = False
) -> Iterator[Saved]:
    """Tensors kept because the linear `modules` read one shared input (equation A3 of docs/equations/activations.md).

    A trained weight needs its input. Autocast gives each module its own copy in the compute dtype when the input is
    wider. A frozen weight needs nothing, but an adapter needs the input, in its own dtype, and its rank-sized product.

    name : the input. [-]   dim : its dimension. [elements]   modules : readers. [-]   kernels : implementation. [-]
    nbytes : bytes per element of the input. [B]   kept : whether its producer keeps it anyway. [-]
    Source: autograd-saved storages of PyTorch 2.13 and PEFT 0.21 (traces), to the byte.
    """
    axis, size = dim
    shared = kept
    trained = any(kernels.trains(module) for module in modules)
    if trained and kernels.quantized and "lm_head" not in modules:
        # Transformer Engine keeps the transposed cast for the weight's gradient, whoever else keeps the input. The head
        # multiplies in 16 bits.
        yield Saved(f"{name}, quantized", axis, size, kernels.quantized)
    elif trained:
        if kernels.autocast and nbytes > kernels.compute:
            yield Saved(f"{name}, one cast a reader", axis, size, kernels.compute * len(modules))
        elif not shared:
            yield Saved(name, axis, size, nbytes)
            shared = True
    elif kernels.keeps_inputs and "lm_head" not in modules:
        # An operator that unpacks frozen weights holds its input, which it needs for nothing; it casts it first.
        if nbytes > kernels.compute:
            yield Saved(f"{name}, one cast a reader", axis, size, kernels.compute * len(modules))
        elif not shared:
            yield Saved(name, axis, size, nbytes)
            shared = True
    adapted = [module for module in modules if kernels.rank and kernels.adapts(module)]
    if not adapted:
        return
    count = len(adapted)
    if kernels.fused_qkv:
        # One adapter of the fused projection reads the input once for all that it adapts.
        count -= max(sum(module in QKV for module in adapted) - 1, 0)
    cast = kernels.adapter != nbytes and not kernels.autocast
    if cast:
        yield Saved(f"{name}, one cast an adapter", axis, size, kernels.adapter * count)
    elif not shared and not kernels.dropout:
        yield Saved(name, axis, size, nbytes)
    if kernels.dropout:
        yield Saved(f"{name}, dropout masks", axis, size, 1.0 * count)
        if not cast:
            yield Saved(f"{name}, after dropout", axis, size, nbytes * count)
    products = kernels.rank * len(adapted)
    yield Saved(f"{name}, rank-sized products", "", products, kernels.adapter if cast else nbytes)
