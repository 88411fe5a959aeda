"""Offload conserves bytes: what leaves the device arrives elsewhere, and what lives elsewhere has crossed the link."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import assemble, simulate, testing
from vramsim.graph import Graph
from vramsim.parts import activations, sharding
from vramsim.spec import Category, Link, Phase, Setup, Tier, dtype_bytes
from vramsim.testing import changed, placed

shares = st.sampled_from([0.1, 0.5, 0.75, 1.0])


@given(setup=testing.setups(), share=shares)
def test_states_are_conserved(setup: Setup, share: float) -> None:
    """Parameters and optimizer states: to the byte. Gradients: the host also holds DeepSpeed's fp32 copy.

    DeepSpeed casts the reduced gradient to fp32 for the CPU's step and keeps both: (e + 4) B an element on the host for
    the e B that left the device (runtime/zero/stage3.py, grad_partitions_flat_buffer and fp32_partitioned_groups).
    """
    stage = setup.strategy.zero_stage
    if stage >= 1:
        setup = changed(setup, offload_optimizer=share)
    if stage >= 3:
        setup = changed(setup, offload_parameters=share)
    testing.offload_conserves_bytes(setup)


@pytest.mark.parametrize(("stage", "parameters", "per_element"), [(2, 0.0, 18), (3, 0.0, 18), (3, 1.0, 20)])
@given(setup=testing.setups(framework="deepspeed", method="full", precision="bf16", optimizer="adamw"))
def test_host_bytes_per_element(stage: int, parameters: float, per_element: int, setup: Setup) -> None:
    """Whole offload of bf16 Adam: master 4, moments 8, gradient 2 and its fp32 copy 4; weights 2 more."""
    setup = changed(setup, zero_stage=float(stage), offload_optimizer=1.0, offload_parameters=parameters)
    setup = changed(setup, offload_activations=0.0, offload_tier=Tier.HOST)
    plain = replace(setup.framework, pinned_rounding=False, save="sharded", host_copies_at_load=0.0, flat_states=True)
    memory = simulate(replace(setup, framework=plain)).memory
    used = memory.host.used_bytes_per_node + memory.nvme.used_bytes_per_node
    ranks = min(float(setup.cluster.devices_per_node), float(setup.cluster.num_devices))
    elements = sharding.optimizer_elements(setup)
    assert used == pytest.approx(per_element * elements * ranks, abs=8 * ranks)


@given(setup=testing.setups(), share=shares)
def test_activations_are_conserved(setup: Setup, share: float) -> None:
    """Up to two blocks' inputs beside: one being sent and one being fetched stay on the device meanwhile."""
    before, after = (
        placed(assemble(changed(setup, offload_activations=value)), [Category.ACTIVATION], phase=Phase.BACKWARD)
        for value in (0.0, share)
    )
    two = 2.0 * activations.checkpoint_bytes(setup)
    assert before - 1 <= after <= before + two + 4


@given(setup=testing.setups(), share=shares)
def test_what_lives_on_the_host_has_crossed_the_link(setup: Setup, share: float) -> None:
    """Activations: as many bytes go down PCIe in forward, and come back in backward, as live on the host."""
    graph = assemble(changed(setup, offload_activations=share))
    (component,) = (c for c in graph.components if c.name == "offloaded activations")
    assert component.tier is Tier.HOST
    assert moved(graph, "activations to the host") == pytest.approx(component.nbytes, abs=1)
    assert moved(graph, "activations to the device") == pytest.approx(component.nbytes, abs=1)


@given(setup=testing.setups(framework="deepspeed", method="full"))
def test_pcie_bytes(setup: Setup) -> None:
    """MODELLING of ZeRO-Offload, one rank's n elements, g micro-steps: down e n g + 4 n, up e n (g - 1) + e n.

    Source: DeepSpeed runtime/zero/stage3.py, partition_grads and _post_step.
    """
    setup = changed(setup, zero_stage=3.0, offload_optimizer=1.0, offload_parameters=0.0)
    graph, owned = assemble(setup), sharding.optimizer_elements(setup)
    element = dtype_bytes(setup.training.precision.grad)
    steps = setup.training.gradient_accumulation_steps
    assert steps * moved(graph, "gradients to the host") == pytest.approx(element * owned * (2 * steps - 1))
    assert moved(graph, "fp32 gradients to the host") == pytest.approx(4 * owned)
    stored = dtype_bytes(setup.training.precision.param)
    assert moved(graph, "updated weights to the device") == pytest.approx(stored * owned)


def moved(graph: Graph, name: str) -> float:
    """Bytes that flows of one name move over PCIe in one occurrence."""
    return sum(float(flow.nbytes) for flow in graph.flows if flow.name == name and flow.link is Link.PCIE)
