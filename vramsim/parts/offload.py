"""Offload: what crosses PCIe when states, parameters or activations live on the host."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.parts import activations, sharding
from vramsim.spec import Flow, Link, Phase, Setup, Tier, dtype_bytes
from vramsim.units import Num


def traffic(setup: Setup) -> Iterator[Flow]:
    """PCIe traffic of one device (equations of docs/equations/offload.md).

    Parameters come up once a gathering pass. Gradients go down every micro-step, come back to be added to, and go down
    once more in fp32 at the boundary. Updated weights come up after the step. Checkpoints go down and come back.

    setup : resolved run. [-]
    """
    strategy, precision, pcie = setup.strategy, setup.training.precision, setup.cluster.pcie_bandwidth
    share, weights = strategy.offload_optimizer, strategy.offload_parameters
    owned = sharding.optimizer_elements(setup)
    stored = sharding.parameters(setup, sharding.select(setup, lambda entry: True)) * dtype_bytes(precision.compute)
    gradient = owned * dtype_bytes(precision.grad) * share

    def flow(name: str, nbytes: Num, phase: Phase, hidden: Num, behind: Phase | None) -> Flow:
        return Flow(name, Link.PCIE, nbytes, nbytes / pcie, phase, hidden, behind)

    yield flow("parameters to the device, forward", stored * weights, Phase.FORWARD, 0.9, Phase.FORWARD)
    yield flow("parameters to the device, backward", stored * weights, Phase.BACKWARD, 0.9, Phase.BACKWARD)
    steps = setup.training.gradient_accumulation_steps
    both_ways = gradient * (1.0 + (steps - 1.0) / steps)
    yield flow("gradients to the host", both_ways, Phase.BACKWARD, 0.5, Phase.BACKWARD)
    yield flow("fp32 gradients to the host", 4.0 * owned * share, Phase.REDUCE, 0.5, Phase.BACKWARD)
    updated = owned * dtype_bytes(precision.param) * share * (1.0 - weights)
    yield flow("updated weights to the device", updated, Phase.STEP, 0.0, None)
    # What lives on the host is that of every micro-batch in flight; one of them crosses in a micro-step.
    away = [each.nbytes for each in activations.saved(setup) if each.tier is Tier.HOST]
    moved = sum(away, 0.0) / setup.stage.in_flight
    yield flow("activations to the host", moved, Phase.FORWARD, 0.9, Phase.FORWARD)
    yield flow("activations to the device", moved, Phase.BACKWARD, 0.9, Phase.BACKWARD)
