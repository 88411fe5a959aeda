"""Every framework, method and optimizer of the catalog keeps every law."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramsim import Case, assemble, catalog, testing
from vramsim.parts import DEFAULT
from vramsim.spec import Category, Component, Phase, Setup

METHODS = ("full", "lora", "qlora")
FEW = max(4, settings.default.max_examples // 12)
"""Examples for each of some hundred members; the laws profile (--hypothesis-profile=laws) draws more."""


RUNS = [
    (framework, optimizer)
    for framework in catalog.names("framework")
    for optimizer in catalog.names("optimizer")
    if catalog.make_framework(framework).engine in catalog.optimizer(optimizer).engines
    or not catalog.optimizer(optimizer).engines
]
"""Frameworks with the optimizers that they run."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("framework", "optimizer"), RUNS)
@settings(max_examples=FEW)
@given(data=st.data())
def test_members_conform(framework: str, method: str, optimizer: str, data: st.DataObject) -> None:
    setup = data.draw(testing.setups(framework=framework, method=method, optimizer=optimizer))
    testing.conforms(setup)


@pytest.mark.parametrize("precision", catalog.names("precision"))
@pytest.mark.parametrize("framework", catalog.names("framework"))
@settings(max_examples=FEW)
@given(data=st.data())
def test_precisions_conform(framework: str, precision: str, data: st.DataObject) -> None:
    testing.conforms(data.draw(testing.setups(framework=framework, precision=precision)))


@pytest.mark.parametrize("quantization", [name for name in catalog.names("quantization") if name != "none"])
@settings(max_examples=FEW)
@given(data=st.data())
def test_quantizations_conform(quantization: str, data: st.DataObject) -> None:
    testing.conforms(data.draw(testing.setups(method="qlora", quantization=quantization)))


@pytest.mark.parametrize("model", catalog.names("model"))
def test_models_conform(model: str) -> None:
    case = Case(
        model=model,
        cluster={"device": "h100-sxm-80gb", "num_devices": 16},
        framework="deepspeed",
        training={"seq_len": 512},
        strategy={"zero_stage": 3, "recompute": 0.5, "offload_optimizer": 0.5},
    )
    testing.conforms(case.resolve())


@given(setup=testing.setups())
def test_amounts_are_whole_and_never_negative(setup: Setup) -> None:
    graph = assemble(setup)
    for component in graph.components:
        assert component.nbytes > 0, component
        assert float(component.nbytes).is_integer(), component
    for work in graph.work:
        assert work.seconds > 0, work
        assert work.nbytes >= 0, work
    for flow in graph.flows:
        assert flow.seconds > 0, flow
        assert flow.nbytes > 0, f"{flow.name} takes time and moves nothing"


def test_a_law_says_what_breaks_it() -> None:
    def replica(setup: Setup) -> Iterator[Component]:
        nbytes = 1e9 * setup.cluster.num_devices**2
        yield Component("replica of every rank's states", Category.OPTIMIZER_STATE, nbytes, Phase.STEP)

    case = Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 8},
        framework="deepspeed",
        training={"seq_len": 1024},
        strategy={"zero_stage": 3},
    )
    with pytest.raises(AssertionError, match=r"model states against devices: factor = 2"):
        testing.states_never_grow(case.resolve(), (*DEFAULT, replica))
