"""Multi-head latent attention (DeepSeek-V2, V3, Kimi-K2): weights and saved tensors."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.blocks import attention, linear, norm
from vramsim.blocks.tensors import Kernels, Saved, Weight
from vramsim.spec import LatentAttention


def readers(latent: LatentAttention) -> tuple[str, ...]:
    """Linear layers that read the layer's input.

    latent : shape. [-]
    """
    return ("q_a_proj" if latent.q_lora_rank else "q_proj", "kv_a_proj_with_mqa")


def weights(hidden: int, latent: LatentAttention, kernels: Kernels) -> Iterator[Weight]:
    """Projections into the latents, their norms, and the projections out of them, of which heads are sharded.

    hidden : model width. [elements]   latent : shape. [-]   kernels : implementation. [-]
    """
    model, heads = (("hidden", hidden),), ("heads", latent.heads)
    queries = (heads, ("", latent.qk_head_dim))
    if latent.q_lora_rank:
        narrow = ("", latent.q_lora_rank)
        yield from linear.weights("q_a_proj", (narrow,), model, latent.bias, kernels)
        yield from norm.weights("q_a_norm", "rmsnorm", narrow)
        yield from linear.weights("q_b_proj", queries, (narrow,), False, kernels)
    else:
        yield from linear.weights("q_proj", queries, model, False, kernels)
    rank, rotated = ("", latent.kv_lora_rank), ("", latent.kv_lora_rank + latent.qk_rope_head_dim)
    expanded = (heads, ("", latent.qk_nope_head_dim + latent.v_head_dim))
    yield from linear.weights("kv_a_proj_with_mqa", (rotated,), model, latent.bias, kernels)
    yield from norm.weights("kv_a_norm", "rmsnorm", rank)
    yield from linear.weights("kv_b_proj", expanded, (rank,), False, kernels)
    yield from linear.weights("o_proj", model, (heads, ("", latent.v_head_dim)), latent.bias, kernels)


def saved(latent: LatentAttention, kernels: Kernels) -> Iterator[Saved]:
    """Tensors that one latent attention layer keeps per token, its input aside.

    Both latents are normalised and read by a projection. Queries and keys are assembled from their two parts, which
    copies them; values are a view of the expanded latent and keep its keys alive too, where Megatron copies them out.

    latent : shape. [-]   kernels : implementation. [-]
    Source: autograd-saved storages of transformers 5.23 (DeepseekV3Attention), to the byte.
    """
    size = kernels.compute
    latents = [("query latent", "q_b_proj", latent.q_lora_rank), ("key/value latent", "kv_b_proj", latent.kv_lora_rank)]
    for name, reader, rank in latents:
        if rank:
            yield from norm.saved(f"{name} norm", "rmsnorm", ("", rank), kernels)
            yield from linear.saved_input(name, ("", rank), (reader,), kernels, nbytes=size)
    yield Saved("queries", "heads", latent.query_width, size)
    yield Saved("keys", "heads", latent.key_width, size)
    values = latent.value_width if kernels.megatron else latent.value_width + latent.heads * latent.qk_nope_head_dim
    yield Saved("values", "heads", values, size)
    yield from attention.core(latent.heads, kernels, fp32_softmax=True, dropout=False)
    yield Saved("attention output", "heads", latent.output_width, size)
    product = ("heads", latent.output_width)
    yield from linear.saved_input("attention output", product, ("o_proj",), kernels, nbytes=size, kept=True)
