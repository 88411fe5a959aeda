"""Copies that engines make around collectives: out of what was gathered, and into what is reduced.

They cost device memory bandwidth, once a micro-step whatever its batch, which small batches feel.
"""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.equations import compute as equations
from vramsim.parts import communication, products, resharding, sharding
from vramsim.spec import Phase, Setup, Work, dtype_bytes
from vramsim.units import Num, where


def around_collectives(setup: Setup) -> Iterator[Work]:
    """Weights copied out of all-gather buffers, and gradients into the buffers of reductions (equation C10).

    setup : resolved run. [-]
    Source: PyTorch torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py (split_with_sizes_copy, chunk_cat),
    torch/distributed/fsdp/_flat_param.py and _runtime_utils.py (_reduce_grad);
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
        copied = 1.0 - resharding.stays_whole(setup)
    if engine == "deepspeed":
        copied = where(setup.strategy.zero_stage >= 3, 1.0, 0.0)
    return equations.copied_bytes(copied * communication.gathered_bytes(setup), 1.0, 1.0)


def _reduced(setup: Setup) -> Num:
    """Bytes read and written to copy one micro-step's gradients into buffers, and back out where they stay apart."""
    engine, precision = setup.framework.engine, setup.training.precision
    elements = sharding.whole(setup, sharding.trained(setup))
    made, kept, sent = (dtype_bytes(dtype) for dtype in (precision.compute, precision.grad, precision.reduce))
    steps = setup.training.gradient_accumulation_steps
    # Where only the last micro-step reduces, so much for each.
    each = resharding.reduces_each(setup)
    reducing = each + (1.0 - each) / steps
    if engine == "fsdp2":
        return equations.copied_bytes(reducing * elements, made, sent)
    if engine == "fsdp1":
        # Gradients of views are joined in every micro-step; what is reduced is divided by a share of the ranks first.
        divided = equations.copied_bytes(reducing * elements, sent, sent)
        return equations.copied_bytes(elements, made, made) + divided
    if engine == "ddp":
        # Under no_sync the buckets wait for the last micro-step.
        times = 2.0 if setup.framework.sync_accumulation else 2.0 / steps
        copied = equations.copied_bytes(times * elements, kept, kept)
        return 0.0 if setup.framework.gradient_as_bucket_view else copied
    if engine == "deepspeed":
        times = 1.0 + where(setup.strategy.zero_stage >= 3, 1.0, 0.0)
        return equations.copied_bytes(times * elements, made, made)
    return 0.0
