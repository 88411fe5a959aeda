"""Copies around collectives: what engines move in device memory because buffers are flat and tensors are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from vramsim import Case, testing
from vramsim.parts import copies
from vramsim.spec import Phase, Setup

PARAMETERS = 8_030_261_248.0
"""meta-llama/Meta-Llama-3-8B. [elements]"""


def copied(setup: Setup) -> dict[Phase, float]:
    """Bytes copied by phase. [B]"""
    return {work.phase: float(work.nbytes) for work in copies.around_collectives(setup)}


def eight_billion(framework: str, devices: int = 8, **strategy: object) -> Setup:
    return Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": devices},
        framework=framework,
        training={"seq_len": 4096},
        strategy=strategy,
    ).resolve()


def test_fsdp2_copies_weights_twice_and_gradients_once() -> None:
    """Provenance: by hand: weights of 2 B read and written in both passes, gradients of 2 B read and of 4 B written."""
    moved = copied(eight_billion("fsdp2", zero_stage=3))
    assert moved[Phase.FORWARD] == pytest.approx(4 * PARAMETERS)
    assert moved[Phase.BACKWARD] == pytest.approx((4 + 6) * PARAMETERS)


@pytest.mark.parametrize(("stage", "ahead", "back"), [(1, 0, 4), (2, 0, 4), (3, 4, 4 + 8)])
def test_deepspeed_copies_gradients_to_a_bucket(stage: int, ahead: int, back: int) -> None:
    """Provenance: by hand from stage_1_and_2.py and stage3.py."""
    moved = copied(eight_billion("deepspeed", zero_stage=stage))
    assert moved[Phase.FORWARD] == pytest.approx(ahead * PARAMETERS)
    assert moved[Phase.BACKWARD] == pytest.approx(back * PARAMETERS)


@given(setup=testing.setups())
def test_one_device_copies_nothing(setup: Setup) -> None:
    if setup.cluster.num_devices == 1:
        assert not any(copied(setup).values())


@given(setup=testing.setups(framework="ddp"))
def test_views_save_the_copies_of_gradients(setup: Setup) -> None:
    views, apart = (
        copied(replace(setup, framework=replace(setup.framework, gradient_as_bucket_view=view)))[Phase.BACKWARD]
        for view in (True, False)
    )
    assert views == 0.0
    assert (apart > 0.0) == (setup.cluster.num_devices > 1)
