"""DeepSpeed ZeRO: reduction buckets, gathered parameters and the scratch of its mixed-precision step."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.equations import memory
from vramsim.layout import ledger_of
from vramsim.parts import model_states, sharding, stepping
from vramsim.spec import ALWAYS, MICRO_STEP, Category, Component, Phase, Setup, Tier, dtype_bytes
from vramsim.units import Num, maximum, minimum, where

BACKWARD_PASS = Phase.HEAD | Phase.BACKWARD | Phase.REDUCE


def buckets(setup: Setup) -> Iterator[Component]:
    """Reduction buckets: two while backward runs in stages 1 and 2 with overlap, one for good in stage 3.

    setup : resolved run. [-]
    """
    if setup.framework.engine != "deepspeed":
        return
    framework, stage = setup.framework, setup.strategy.zero_stage
    reduced = sharding.ranks(setup) > 1
    size = dtype_bytes(setup.training.precision.reduce)
    bucket: Num = framework.reduce_bucket_size * size
    copies = 2.0 if framework.overlap_comm else 1.0
    category = Category.TEMPORARY
    # Backward begins by making them, whether there is anybody to reduce with or not.
    stages_1_2 = (stage >= 1) & (stage < 3)
    # Whole fp32 gradients are reduced from where they lie, once backward is over.
    fp32 = model_states.bf16_optimizer(setup)
    # A pipeline reduces once its last backward is over, through one buffer.
    piped = model_states.pipeline_engine(setup)
    pair = where(stages_1_2, bucket, 0.0) * (1.0 - fp32)
    yield Component("reduction buckets", category, pair * copies * (1.0 - piped), BACKWARD_PASS)
    yield Component("reduction buckets", category, pair * piped, Phase.REDUCE)
    yield Component("reduction bucket, allocated for good", category, where(stage >= 3, bucket, 0.0), ALWAYS)
    trained = size * sharding.whole(setup, sharding.trained(setup))
    # A bucket of whole gradients is closed by the one that overshoots it.
    bucket = bucket + fp32 * size * sharding.largest_held(setup)
    flattened = where((stage >= 1) & reduced, minimum(bucket, trained), 0.0)
    yield Component("flattened bucket", category, flattened * (1.0 - fp32) * (1.0 - piped), Phase.BACKWARD)
    yield Component("flattened bucket", category, flattened * maximum(1.0 - piped, fp32), Phase.REDUCE)


def gathered(setup: Setup) -> Iterator[Component]:
    """Parameters that stage 3 has gathered: the module at work, what is prefetched, what waits for the turn-around.

    setup : resolved run. [-]
    """
    if setup.framework.engine != "deepspeed":
        return
    framework, strategy = setup.framework, setup.strategy
    sharded = where((strategy.zero_stage >= 3) & (sharding.ranks(setup) > 1), 1.0, 0.0)
    size = dtype_bytes(setup.training.precision.compute)
    block, head = sharding.block_elements(setup), sharding.head_elements(setup)
    largest = sharding.largest_weight(setup)
    kept = memory.turn_around(sharding.layers(setup), block, head, framework.max_reuse_distance)
    # Weights fetched ahead are gathered together and copied out one by one: twice their bytes for a while.
    prefetch = 2.0 * minimum(framework.prefetch_bucket_size, block)
    in_backward = where(
        block <= framework.max_reuse_distance,
        strategy.recompute * block + (1.0 - strategy.recompute) * largest,
        largest,
    )
    name, category = "gathered parameters", Category.PARAMETER
    yield Component(name, category, sharded * size * (largest + prefetch), Phase.FORWARD)
    yield Component(name, category, sharded * size * kept, Phase.HEAD)
    waiting = kept - head
    yield Component(name, category, sharded * size * (maximum(in_backward, waiting) + prefetch), Phase.BACKWARD)
    yield Component(name, category, sharded * size * in_backward, Phase.REDUCE)
    small = [e for e in ledger_of(setup) if e.weight.numel <= framework.param_persistence_threshold]
    yield Component("persistent parameters", category, sharded * size * sharding.whole(setup, small), ALWAYS)
    # ZeRO++: a second copy over few ranks, made once forward has gathered the weights: backward stays in a node.
    few = strategy.secondary_shard_size
    everything = sharding.whole(setup, ledger_of(setup))
    second = where(few > 0, sharded * size * everything / maximum(few, 1.0), 0.0)
    yield Component("secondary parameter shards", category, second, MICRO_STEP | Phase.REDUCE)


def whole_gradients(setup: Setup) -> Iterator[Component]:
    """Gradients that autograd has made and no bucket has taken yet: the head's is larger than a bucket.

    setup : resolved run. [-]
    """
    if setup.framework.engine != "deepspeed" or not sharding.trains_head(setup):
        return
    stage, precision = setup.strategy.zero_stage, setup.training.precision
    head = sharding.head_elements(setup) * dtype_bytes(precision.grad)
    unreduced = where(stage < 1, head, 0.0)
    yield Component("gradient of the head", Category.GRADIENT, unreduced, Phase.BACKWARD)


def step(setup: Setup) -> Iterator[Component]:
    """Scratch of the step: the flattened gradient and its fp32 copy, or that and the optimizer's own scratch.

    Stages 1 and 2 handle the whole partition at once, stage 3 one sub-group at a time.

    setup : resolved run. [-]
    """
    if setup.framework.engine != "deepspeed":
        return
    framework, strategy = setup.framework, setup.strategy
    entries = sharding.trained(setup)
    partition, slices = sharding.optimizer_elements(setup), sharding.slices(setup)
    typical = sharding.largest(slices[e.index] for e in entries if e.part == "block")
    group = memory.sub_group(partition, framework.sub_group_size, typical)
    handled = where(strategy.zero_stage >= 3, group, partition)
    rule, gradient = setup.training.optimizer, dtype_bytes(setup.training.precision.grad)
    # One flat fp32 tensor: a per-tensor loop has the same scratch as a foreach call, times its own factor.
    matrix = sharding.largest(stepping.scratch_of(setup, entry, gradient) for entry in stepping.matrices(setup))
    optimizer_scratch = 0.0 if rule.temporary == "fused" else rule.temporary_factor * 4.0
    flattened = where(strategy.zero_stage >= 1, gradient, 0.0) if framework.flat_states else 0.0
    freed = where(strategy.zero_stage >= 3, 0.0, flattened)
    scratch = memory.step_scratch(flattened, optimizer_scratch, freed)
    # The optimizer steps on slices of whole fp32 gradients as they are.
    scratch = where(model_states.bf16_optimizer(setup) > 0, optimizer_scratch, scratch)
    on_device = 1.0 - strategy.offload_optimizer
    yield Component("step scratch", Category.TEMPORARY, scratch * handled * on_device, Phase.STEP)
    if framework.flat_states:
        # Blocks as large as a partition or a sub-group: nothing takes their place between steps.
        free, between = scratch * handled * on_device, MICRO_STEP | Phase.REDUCE
        yield Component("step scratch, free again", Category.TEMPORARY, free, between, Tier.CACHE)
    # Matrices are worked on as they are reduced (stage 3), or before the step makes its own scratch.
    yield Component("whole matrices", Category.TEMPORARY, matrix * on_device, Phase.REDUCE)
    largest = sharding.largest(slices[entry.index] for entry in entries)
    norm = where(strategy.zero_stage >= 3, 8.0 * largest, 0.0)
    yield Component("gradient norm in float64", Category.TEMPORARY, norm, Phase.REDUCE)
    copies = where(strategy.zero_stage < 3, 4.0 * partition * on_device, 0.0) if framework.norm_copies else 0.0
    yield Component("fp32 gradients for their norm", Category.TEMPORARY, copies, Phase.REDUCE)
    # The optimizer's scratch is as large as the partition: nothing of what was freed before it takes it in.
    gone = where(optimizer_scratch > 0, (flattened + freed) * handled * on_device, 0.0) + copies
    yield Component("gradients, free again", Category.TEMPORARY, gone, Phase.STEP, Tier.CACHE)


def swapping(setup: Setup) -> Iterator[Component]:
    """Pinned host buffers of states that live on NVMe (equation M13).

    setup : resolved run. [-]
    """
    strategy = setup.strategy
    if setup.framework.engine != "deepspeed" or strategy.offload_tier is not Tier.NVME:
        return
    group = memory.sub_group(sharding.optimizer_elements(setup), setup.framework.sub_group_size, 0.0)
    states = where(strategy.offload_optimizer > 0, memory.swap_buffers(group, 4.0, 4.0), 0.0)
    yield Component("swap buffers of the optimizer", Category.TEMPORARY, states, ALWAYS, Tier.HOST)
    weights = memory.swap_buffers(1e8, dtype_bytes(setup.training.precision.param), 5.0)
    weights = where(strategy.offload_parameters > 0, weights, 0.0)
    yield Component("swap buffers of parameters", Category.TEMPORARY, weights, ALWAYS, Tier.HOST)


def offload_staging(setup: Setup) -> Iterator[Component]:
    """The device buffers through which stages 1 and 2 send gradients to the host.

    setup : resolved run. [-]
    """
    if setup.framework.engine != "deepspeed" or not setup.framework.flat_states:
        return
    stage, share = setup.strategy.zero_stage, setup.strategy.offload_optimizer
    largest = sharding.largest(sharding.sizes(setup)[entry.index] for entry in sharding.trained(setup))
    staging = where((stage >= 1) & (stage < 3) & (share > 0), 2.0 * largest * 2.0, 0.0)
    yield Component("offload staging", Category.TEMPORARY, staging, MICRO_STEP | Phase.REDUCE)
