"""Parts: generators that turn a Setup into components, flows and work. One file a topic.

A part is any callable `Setup -> Iterator[Component | Flow | Work]`; `assemble(case, DEFAULT + (mine,))` adds another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vramsim.parts import (
    activations,
    backward,
    casts,
    communication,
    compute,
    copies,
    expert_parallel,
    fsdp,
    head_loss,
    launches,
    lengths,
    loading,
    megatron,
    model_parallel,
    model_states,
    offload,
    packed,
    pipeline,
    ring,
    runtime,
    vision,
    zero,
)
from vramsim.spec import Component, Flow, Setup, Work

Part = Callable[
    [Setup],
    Iterator[Component] | Iterator[Flow] | Iterator[Work] | Iterator[Flow | Component] | Iterator[Flow | Work],
]

DEFAULT: tuple[Part, ...] = (
    model_states.parameters,
    model_states.optimizer_states,
    model_states.gradients,
    activations.saved,
    backward.backward,
    casts.weight_casts,
    activations.inputs,
    vision.saved,
    head_loss.saved,
    head_loss.loss,
    head_loss.gradient,
    lengths.shorter,
    zero.buckets,
    zero.gathered,
    zero.whole_gradients,
    zero.step,
    zero.offload_staging,
    zero.swapping,
    fsdp.gathered,
    fsdp.reduced,
    fsdp.root_reduction,
    fsdp.held_inputs,
    megatron.gathered_inputs,
    megatron.dummy_gradients,
    megatron.weight_copies,
    expert_parallel.buffers,
    ring.buffers,
    pipeline.boundaries,
    loading.build,
    loading.load,
    loading.save,
    runtime.overhead,
    runtime.workspace,
    packed.dequantized,
    packed.last_graph,
    runtime.step,
    compute.blocks,
    compute.attention,
    compute.elementwise,
    copies.around_collectives,
    compute.head,
    vision.work,
    compute.optimizer_step,
    communication.data_parallel,
    copies.around_collectives,
    communication.whole_matrices,
    model_parallel.sequence_parallel,
    model_parallel.tensor_parallel,
    model_parallel.expert_parallel,
    model_parallel.context_parallel,
    model_parallel.pipeline_parallel,
    launches.host,
    offload.traffic,
)

__all__ = ["DEFAULT", "Part"]
