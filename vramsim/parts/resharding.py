"""When FSDP lets go of gathered weights, and when it reduces gradients."""

from __future__ import annotations

from vramsim.spec import Setup, derived
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
