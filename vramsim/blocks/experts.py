"""Mixtures of experts: weights and saved tensors of the router, the routed experts and the shared one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vramsim.blocks import mlp as dense
from vramsim.blocks.tensors import Dim, Kernels, Saved, Weight
from vramsim.spec import Mlp


@dataclass(frozen=True, slots=True)
class Router:
    """What routing keeps per token: bytes for every expert, for each chosen one, and once; whether it runs in fp32."""

    per_expert: float
    per_choice: float
    once: float
    fp32: bool = False


ROUTERS = {
    # Probabilities 4 E; chosen indices 8 k, three sort orders 24 k, and weights in fp32, in order and scattered, 8 k.
    "softmax": Router(4.0, 40.0, 4.0),
    # Qwen casts the weights to the compute dtype first.
    "softmax_cast": Router(4.0, 38.0, 4.0),
    # DeepSeek-V2 does not normalise the weights of the chosen.
    "softmax_fp32": Router(4.0, 36.0, 0.0, fp32=True),
    # DeepSeek-V3 also keeps the mask of the chosen groups; the indices of groups (16 B a group) are left out.
    "sigmoid_fp32": Router(5.0, 40.0, 12.0, fp32=True),
    # GPT-OSS: softmax over the chosen only, and one more sort order for the biases.
    "topk": Router(0.0, 44.0, 0.0),
    # Llama 4: scores in fp32 and cast.
    "sigmoid": Router(6.0, 8.0, 0.0),
}
"""Kind of router -> what it keeps, as transformers 5.23 writes it. [B]"""


def weights(hidden: int, mlp: Mlp, kernels: Kernels) -> Iterator[Weight]:
    """Router, experts and shared expert of one layer.

    Transformers 5 has one three-dimensional parameter a projection; before it, and in Megatron, each expert has linear
    layers of its own, which LoRA and quantization find.

    hidden : model width. [elements]   mlp : shape. [-]   kernels : implementation. [-]
    """
    model = (("hidden", hidden),)
    yield Weight("router", "router", (("", mlp.experts),), model)
    if mlp.bias:
        yield Weight("router", "bias", (("", mlp.experts),))
    count: Dim = ("experts", mlp.experts)
    up: Dim = ("expert_ffn", mlp.ffn * (2 if mlp.gated else 1))
    down: Dim = ("expert_ffn", mlp.ffn)
    yield Weight("experts_up", "experts", (count,), (up, *model))
    yield Weight("experts_down", "experts", (count,), (*model, down))
    if mlp.bias:
        yield Weight("experts_up", "bias", (count,), (up,))
        yield Weight("experts_down", "bias", (count,), model)
    if kernels.rank and not kernels.grouped_experts:
        yield from _adapters(hidden, mlp, kernels)
    if mlp.shared_ffn:
        yield from dense.weights(hidden, mlp.shared_ffn, mlp, kernels)
        if mlp.shared_gate:
            yield Weight("shared_gate", "linear", (("", 1),), model)


def _adapters(hidden: int, mlp: Mlp, kernels: Kernels) -> Iterator[Weight]:
    """Adapters of experts that are linear layers."""
    count, rank = ("experts", mlp.experts), ("", kernels.rank)
    inner, model = ("expert_ffn", mlp.ffn), ("hidden", hidden)
    products = [(module, inner, model) for module in dense.readers(mlp)] + [("down_proj", model, inner)]
    for module, rows, cols in products:
        if kernels.adapts(module):
            yield Weight(module, "experts", (count,), (rank, cols), adapter=True)
            yield Weight(module, "experts", (count,), (rows, rank), adapter=True)


def saved(hidden: int, mlp: Mlp, kernels: Kernels, *, input_bytes: float) -> Iterator[Saved]:
    """Tensors that one mixture keeps per token (equation A6 of docs/equations/activations.md).

    Sorted copies of the tokens go in; what comes out is kept for the gradient of the routing weights, unless Megatron
    has applied those before the down projection. A masked mixture runs on all experts, on a copy of the tokens each.
    Experts are cut over tensor-parallel ranks, each of which needs all tokens of its experts: sequence parallelism
    gathers them before, and leaves none of these tensors cut.

    hidden : model width. [elements]   mlp : shape. [-]   kernels : implementation. [-]
    input_bytes : bytes per element of the layer's normalised input. [B]
    Source: autograd-saved storages of PyTorch 2.13 (traces) and of transformers 5.23; Megatron: moe/experts.py,
    moe_utils.py, weighted SwiGLU; token_dispatcher.py gathers routed tokens over the tensor-parallel group, and
    extensions/transformer_engine.py leaves that to it (explicit_expert_comm), so that linear layers save them whole.
    """
    size, router = kernels.compute, ROUTERS[mlp.router]
    masked = mlp.masked and not kernels.megatron
    copies = mlp.experts if masked else mlp.top_k
    tables = router.per_expert * mlp.experts + router.per_choice * mlp.top_k + router.once
    yield Saved("router logits and indices", "", 1, tables)
    trains = kernels.trains_base
    if trains:
        yield Saved("mlp input", "gathered", hidden, input_bytes)
        if router.fp32 and not kernels.megatron:
            yield Saved("router input, fp32", "gathered", hidden, 4.0)
        yield Saved("routed tokens in", "", hidden * copies, size)
    if masked:
        yield Saved("tokens repeated for every expert", "", hidden * copies, size)
    elif kernels.megatron:
        yield Saved("routing weights of the copies", "", copies, 4.0)
    else:
        yield Saved("routed tokens out", "", hidden * copies, size)
    yield from dense.inner("expert_ffn", mlp.ffn * copies, mlp, kernels)
    if mlp.shared_ffn:
        yield from dense.inner("ffn", mlp.shared_ffn, mlp, kernels)
        if mlp.shared_gate:
            yield Saved("shared expert's output", "hidden", hidden, size)
            yield Saved("shared expert's gate", "", 1, size)
