"""An axis of degree 1 changes nothing: it moves no bytes, keeps no buffers and takes no time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from vramsim import assemble, simulate, testing
from vramsim.parts import DEFAULT, expert_parallel, model_parallel, pipeline
from vramsim.spec import Setup
from vramsim.testing import changed, numbers

OWNERS = [
    ("tp", model_parallel.tensor_parallel),
    ("sp", model_parallel.sequence_parallel),
    ("pp", pipeline.boundaries),
    ("ep", expert_parallel.buffers),
]
AXES = ("tp", "pp", "cp", "sp", "ep")


@pytest.mark.parametrize(("axis", "part"), OWNERS, ids=[axis for axis, _ in OWNERS])
@given(setup=testing.setups())
def test_its_part_yields_nothing(axis: str, part: object, setup: Setup) -> None:
    testing.degree_one_changes_nothing(setup, axis, part)  # type: ignore[arg-type]


@given(setup=testing.setups())
def test_the_communicator_of_an_axis_needs_an_axis(setup: Setup) -> None:
    alone = changed(setup, num_devices=1.0, **dict.fromkeys(AXES, 1.0))
    names = {component.name for component in assemble(alone).components}
    assert not names & {"communicator buffers", "all-to-all buffers", "all-to-all copies"}


@given(setup=testing.setups())
def test_megatron_sp_needs_tensor_parallelism(setup: Setup) -> None:
    on, off = (numbers(simulate(changed(setup, tp=1.0, megatron_sp=value))) for value in (1.0, 0.0))
    assert on == off


@given(setup=testing.setups())
def test_an_array_of_one_is_a_number(setup: Setup) -> None:
    one = changed(setup, **dict.fromkeys(AXES, 1.0))
    arrays = numbers(simulate(changed(setup, **dict.fromkeys(AXES, np.ones(1)))))
    for name, value in numbers(simulate(one)).items():
        assert np.all(arrays[name] == value), name


@given(setup=testing.setups(framework="deepspeed"))
def test_zero_over_one_rank_gathers_nothing(setup: Setup) -> None:
    """Stage 3 on one rank keeps all parameters where they are: no gathering, no second copy of small ones."""
    alone = changed(setup, num_devices=1.0, zero_stage=3.0, **dict.fromkeys(AXES, 1.0))
    names = {component.name for component in assemble(alone).components}
    assert not names & {"gathered parameters", "persistent parameters", "reduction buckets", "flattened bucket"}


@pytest.mark.parametrize("framework", ["fsdp2", "ddp"])
def test_data_parallelism_of_one_moves_nothing(framework: str) -> None:
    """FSDP2 and DDP over one rank still copy into their buffers, as PyTorch does; they send nothing."""
    from vramsim import Case

    case = Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 1},
        framework=framework,
        training={"seq_len": 1024},
    )
    assert assemble(case).flows == ()


def test_default_parts_own_their_axes() -> None:
    assert {part for _, part in OWNERS} <= set(DEFAULT)
