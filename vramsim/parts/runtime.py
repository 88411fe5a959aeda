"""What the runtime takes: context, communicators' buffers, workspaces, and the scratch of a plain optimizer step."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.parts import sharding, stepping
from vramsim.spec import ALWAYS, TRAINING, Category, Component, Phase, Setup, Tier
from vramsim.units import MiB, Num, in_order, maximum, minimum, where

WORKSPACE = 8.125 * MiB
"""cuBLAS workspace of one handle and stream, from its default configuration :4096:2:16:8. [B]"""

NETWORK_COMMUNICATOR = 8.0 * 3.0 * 10.0 * MiB
"""Buffers of a communicator with one rank a node: eight channels, three peers in its ring and trees, 10 MiB for each
(NCCL src/init.cc: the buffers of three protocols). [B]"""


def overhead(setup: Setup) -> Iterator[Component]:
    """Memory outside the caching allocator: the device context and the communication library's buffers.

    setup : resolved run. [-]
    """
    device, strategy, cluster = setup.cluster.device, setup.strategy, setup.cluster
    yield Component("device context", Category.OVERHEAD, device.context, ALWAYS)
    yield Component("communicator buffers", Category.OVERHEAD, communicators(setup), TRAINING)
    # An all-to-all opens channels to every peer in the node, not to two neighbours only.
    for degree in (strategy.sp, strategy.ep):
        peers = maximum(minimum(degree, cluster.devices_per_node) - 1.0, 0.0) / 7.0
        yield Component("all-to-all buffers", Category.OVERHEAD, peers * device.all_to_all_buffer, TRAINING)


def communicators(setup: Setup) -> Num:
    """Bytes of the buffers of all groups of ranks that have a communicator of their own on one device. [B]

    Where a model is cut, a norm is summed up over its slices, and a barrier needs all ranks. A pipeline has one with a
    neighbour; DeepSpeed's sends losses along it, and puts activations together over slices by a group of its own.
    Where slices fill a node, groups across them have one rank a node, and channels over the network only.

    setup : resolved run. [-]
    Source: DeepSpeed 2151c78, runtime/pipe/engine.py, module.py (tied_comms, world_group), topology.py; Megatron-LM
    core/parallel_state.py.
    """
    strategy, engine, cluster = setup.strategy, setup.framework.engine, setup.cluster
    inside = cluster.device.communicator_buffer
    across = where(strategy.tp >= cluster.devices_per_node, minimum(inside, NETWORK_COMMUNICATOR), inside)
    piped, cut = where(strategy.pp > 1, 1.0, 0.0), where(strategy.tp > 1, 1.0, 0.0)
    buffers = cut * inside + (piped + where(setup.shard_degree > 1, 1.0, 0.0)) * across
    for degree in (strategy.sp, strategy.cp, strategy.ep):
        buffers = buffers + where(degree > 1, 1.0, 0.0) * inside
    if engine not in ("deepspeed", "megatron"):
        return buffers
    ends = maximum(setup.stage.embedding, setup.stage.head) if setup.model.tied_embeddings else 0.0
    buffers = buffers + 2.0 * maximum(piped, cut) * inside + piped * ends * across
    return buffers + (piped * (across + cut * inside) if engine == "deepspeed" else 0.0)


def workspace(setup: Setup) -> Iterator[Component]:
    """Workspace of the matrix library.

    setup : resolved run. [-]
    """
    yield Component("cuBLAS workspace", Category.TEMPORARY, WORKSPACE, TRAINING)


def step(setup: Setup) -> Iterator[Component]:
    """Scratch of an optimizer that steps on weights as they are (DDP, FSDP2, a single process), or on fp32 slices.

    A foreach step makes one temporary for all weights together, a loop two for the largest. Where an optimizer keeps
    fp32 copies of 16-bit weights, it steps on them, with the gradients cast up for the step.

    setup : resolved run. [-]
    """
    if setup.framework.engine == "deepspeed":
        return
    rule, precision = setup.training.optimizer, setup.training.precision
    on_device = 1.0 - setup.strategy.offload_optimizer
    cast: Num = 0.0
    if precision.master and precision.grad != "fp32":
        # An offloaded optimizer is sent the cast, so that it is made on the device all the same.
        cast = 4.0 * sharding.optimizer_elements(setup)
        yield Component("gradients cast to fp32", Category.GRADIENT, cast, Phase.STEP)
    if rule.gradients == "one":
        return
    entries = stepping.element_wise(setup)
    scratch: Num = 0.0
    if rule.temporary == "foreach":
        stepped = sharding.optimizer_slice if setup.framework.engine == "megatron" else sharding.parameters
        sized = stepping.by_size(entries, lambda entry: stepping.step_element(setup, entry))
        scratch = rule.temporary_factor * in_order(stepped(setup, group) * size for group, size in sized)
    elif rule.temporary == "single":
        scratch = sharding.largest(stepping.scratch_at_step(setup, entry) for entry in entries)
    largest = sharding.largest(stepping.scratch_at_step(setup, entry) for entry in stepping.matrices(setup))
    yield Component("step scratch", Category.TEMPORARY, maximum(scratch, largest) * on_device, Phase.STEP)
    # Temporaries of flat shards are larger than what activations could take the place of; those of single weights are
    # not.
    if rule.temporary == "foreach" and setup.framework.engine in ("fsdp1", "megatron"):
        between = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD | Phase.REDUCE
        free = scratch * on_device + cast
        yield Component("step scratch, free again", Category.TEMPORARY, free, between, Tier.CACHE)
