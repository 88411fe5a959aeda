"""What FSDP gathers at once, when it lets go of it, and when it reduces gradients."""

from __future__ import annotations

from vramsim.parts import sharding
from vramsim.spec import Setup, derived, dtype_bytes
from vramsim.units import Num, where


@derived
def stays_whole(setup: Setup) -> Num:
    """1 where FSDP keeps weights whole from a unit's forward to its backward: stage 2, and some pipelines. [-]

    setup : resolved run. [-]
    """
    strategy = setup.strategy
    piped = where(strategy.pp > 1, 0.0 if setup.framework.reshards_stages else 1.0, 0.0)
    return where(strategy.zero_stage < 3, 1.0, piped)


@derived
def reduces_each(setup: Setup) -> Num:
    """1 where FSDP reduces gradients in every micro-step, 0 where whole gradients are kept until the last one. [-]

    setup : resolved run. [-]
    Source: PyTorch torch/distributed/pipelining/stage.py, backward_maybe_with_nosync: nothing is reduced or resharded
    before a stage's last backward.
    """
    return where(setup.strategy.pp > 1, 0.0, 1.0 if setup.framework.sync_accumulation else 0.0)


@derived
def gathered_block(setup: Setup) -> Num:
    """Bytes of one block gathered: padded to a multiple of the ranks, quantized weights as they are packed. [B]

    setup : resolved run. [-]
    """
    compute, packed = dtype_bytes(setup.training.precision.compute), setup.strategy.quantization.packed
    total: Num = 0.0
    for quantized, size in ((False, compute), (True, packed)):
        entries = sharding.select(setup, lambda e, q=quantized: e.part == "block" and e.quantized is q)  # type: ignore[misc]
        total = total + sharding.padded(setup, entries) * size
    return total / sharding.layers(setup)
