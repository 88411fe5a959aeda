"""FSDP1's units of adapters: which there are, and what is kept out of them."""

from __future__ import annotations

from vramsim.layout import joined, ledger_of
from vramsim.spec import Setup


def replicated(setup: Setup) -> bool:
    """Whether adapters are kept out of FSDP1, each rank having all of them.

    setup : resolved run. [-]
    """
    return setup.framework.engine == "fsdp1" and setup.framework.replicates_adapters


def adapter_units(setup: Setup) -> float:
    """Units that each hold one matrix of an adapter: PEFT's wrapping policy makes one of every module that trains,
    inside of a block's own. [-]

    setup : resolved run. [-]
    Source: huggingface/peft utils/other.py, fsdp_auto_wrap_policy.
    """
    framework = setup.framework
    if framework.engine != "fsdp1" or framework.flat_units or replicated(setup):
        return 0.0
    entries = (entry for entry in ledger_of(setup) if entry.weight.adapter and entry.part == "block")
    return float(sum(entry.count for entry in entries if not joined(setup, entry)))
