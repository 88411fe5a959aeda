"""Copies that engines make around collectives: out of what was gathered, and into what is reduced.

They cost device memory bandwidth, once a micro-step whatever its batch, which small batches feel.
"""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.equations import compute as equations
from vramsim.parts import communication, products, sharding
from vramsim.spec import Phase, Setup, Work, dtype_bytes
from vramsim.units import Num, where


def around_collectives(setup: Setup) -> Iterator[Work]:
    """Weights copied out of all-gather buffers, and gradients into the buffers of reductions (equation C10).

    setup : resolved run. [-]
    Source: PyTorch torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py (split_with_sizes_copy, chunk_cat);
    DeepSpeed runtime/zero/partition_parameters.py (AllGatherCoalescedHandle.wait concatenates), stage_1_and_2.py and
    stage3.py (gradients move to a bucket; reduce_scatter_coalesced concatenates them once more).
    """
    several = where(sharding.ranks(setup) > 1, 1.0, 0.0)
    gathered = several * _gathered(setup)
    reduced = where(setup.shard_degree > 1, 1.0, 0.0) * _reduced(setup)
    back = gathered + reduced
    bandwidth = products.bandwidth(setup)
    yield Work("copies of gathered weights, forward", 0.0, 0.0, gathered, gathered / bandwidth, Phase.FORWARD)
    yield Work("copies of weights and gradients, backward", 0.0, 0.0, back, back / bandwidth, Phase.BACKWARD)


def _gathered(setup: Setup) -> Num:
    """Bytes read and written to copy one pass's weights out of the buffers that they were gathered in."""
    engine = setup.framework.engine
    copied: Num = 0.0
    if engine == "fsdp2":
        copied = 1.0 - sharding.stays_whole(setup)
    if engine == "deepspeed":
        copied = where(setup.strategy.zero_stage >= 3, 1.0, 0.0)
    return equations.copied_bytes(copied * communication.gathered_bytes(setup), 1.0, 1.0)


def _reduced(setup: Setup) -> Num:
    """Bytes read and written to copy one micro-step's gradients into buffers, and back out where they stay apart."""
    engine, precision = setup.framework.engine, setup.training.precision
    elements = sharding.whole(setup, sharding.trained(setup))
    made, kept = dtype_bytes(precision.compute), dtype_bytes(precision.grad)
    if engine == "fsdp2":
        return equations.copied_bytes(sharding.reduces_each(setup) * elements, made, dtype_bytes(precision.reduce))
    if engine == "ddp":
        # Under no_sync the buckets wait for the last micro-step.
        steps = 1.0 if setup.framework.sync_accumulation else setup.training.gradient_accumulation_steps
        copied = equations.copied_bytes(2.0 * elements / steps, kept, kept)
        return 0.0 if setup.framework.gradient_as_bucket_view else copied
    if engine == "deepspeed":
        elements = elements * (1.0 + where(setup.strategy.zero_stage >= 3, 1.0, 0.0))
    return equations.copied_bytes(elements, made, made) if engine in ("fsdp1", "deepspeed") else 0.0
