"""Inverse queries: the answer fits and one step further does not; bisection finds what brute force finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vramsim
from vramsim import Case, VramsimError, simulate
from vramsim.search import inverse
from vramsim.search.bisection import first_true, last_of, last_true
from vramsim.units import GB, GiB


def make(**changes: Any) -> Case:
    base = Case(
        model="llama-3-8b",
        cluster={"device": "a100-sxm-80gb", "num_devices": 8},
        framework="deepspeed",
        training={"seq_len": 4096},
        strategy={"zero_stage": 3, "recompute": "full"},
    )
    return base.with_values(changes) if changes else base


CASES = {
    "plain": make(),
    "offload": make(offload_optimizer="cpu"),
    "sequence parallel": make(sp=4),
    "global batch": make(global_batch_size=96),
    "lora": make(method="lora", zero_stage=2),
    "fsdp": make(framework="fsdp2"),
    "small": make(device="l40s-48gb"),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@given(limit=st.integers(0, 10**9), most=st.integers(1, 10**9))
def test_last_true_is_the_last(limit: int, most: int) -> None:
    assert last_true(lambda n: n <= limit, most) == min(limit, most)


@given(limit=st.integers(0, 500), count=st.integers(1, 400))
def test_first_true_is_the_first(limit: int, count: int) -> None:
    assert first_true(lambda n: n >= limit, count) == min(limit, count)


@given(values=st.lists(st.integers(0, 100), max_size=40, unique=True), limit=st.integers(-1, 101))
def test_last_of_is_the_last(values: list[int], limit: int) -> None:
    ordered = sorted(values)
    assert last_of(ordered, lambda n: n <= limit) == sum(value <= limit for value in ordered) - 1


@each_case
def test_longest_sequence_fits_and_one_step_longer_does_not(case: Case) -> None:
    answer = inverse.longest_seq_len(case)
    step = int(case.resolve().strategy.sp)
    assert answer.value is not None
    assert answer.value % step == 0
    assert simulate(case.with_values(answer.values)).fits
    assert not simulate(case.with_values({"seq_len": answer.value + step})).fits


@each_case
def test_micro_batch_fits_and_the_next_does_not(case: Case) -> None:
    answer = inverse.largest_micro_batch(case)
    if answer.value is None:
        assert not simulate(case.with_values({"micro_batch_size": 1})).fits
        return
    assert simulate(case.with_values(answer.values)).fits
    if case.training.global_batch_size is None:
        assert not simulate(case.with_values({"micro_batch_size": answer.value + 1})).fits


def test_micro_batch_equals_brute_force_where_the_global_batch_must_divide() -> None:
    case = CASES["global batch"]
    fitting = []
    for size in range(1, 97):
        try:
            fitting += [size] if simulate(case.with_values({"micro_batch_size": size})).fits else []
        except VramsimError:
            continue
    assert inverse.largest_micro_batch(case).value == max(fitting)


@each_case
def test_fewest_devices_equals_brute_force(case: Case) -> None:
    answer = inverse.fewest_devices(case)
    found = None
    for number in range(1, 65):
        try:
            if simulate(case.with_values({"num_devices": number})).fits:
                found = number
                break
        except VramsimError:
            continue
    assert answer.value == found


def test_largest_model_equals_brute_force() -> None:
    answer = inverse.largest_model(make(device="rtx-4090-24gb"))
    fits = [
        bool(simulate(make(device="rtx-4090-24gb", **{"model.num_hidden_layers": layers})).fits)
        for layers in range(1, 60)
    ]
    assert answer.value == sum(fits)
    assert fits == sorted(fits, reverse=True)
    assert "billion parameters" in answer.note


def test_largest_model_passes_over_depths_that_a_pipeline_cannot_split() -> None:
    case = make(framework="megatron", zero_stage=1, pp=4, gradient_accumulation_steps=4)
    answer = inverse.largest_model(case)
    assert answer.value is not None
    assert answer.value % 4 == 0
    assert answer.estimate is not None
    assert answer.estimate.fits


@each_case
def test_answers_are_monotone_in_device_memory(case: Case) -> None:
    sizes = (24, 40, 80, 160)
    lengths = []
    for size in sizes:
        device = {"base": "a100-sxm-80gb", "usable_memory": size * GiB}
        lengths.append(inverse.longest_seq_len(case.with_values({"device": device})).value or 0.0)
    assert lengths == sorted(lengths)


def test_a_chance_asks_for_more() -> None:
    case = make()
    sure, best = (inverse.longest_seq_len(case, chance).value or 0.0 for chance in (0.95, None))
    assert sure <= best
    assert (inverse.fewest_devices(case, 0.99).value or 0) >= (inverse.fewest_devices(case).value or 0)


@each_case
def test_smallest_device_memory_is_just_enough(case: Case) -> None:
    answer = inverse.smallest_device_memory(case)
    assert answer.value is not None
    base = case.cluster.device
    for size, fits in ((answer.value * GiB + 2.0, True), (answer.value * GiB - 2.0, False)):
        hbm = simulate(case.with_values({"device": {"base": base, "usable_memory": size}})).memory.hbm
        assert (hbm.used_bytes <= hbm.capacity_bytes) == fits


def test_host_memory_is_what_a_node_uses() -> None:
    case = CASES["offload"]
    answer = inverse.host_memory_needed(case)
    assert answer.value is not None
    assert simulate(case.with_values(answer.values)).fits
    assert not simulate(case.with_values({"host_memory": answer.value * GiB - 1e6})).fits


def test_pcie_bandwidth_hides_offload_and_a_little_less_does_not() -> None:
    case = CASES["offload"]
    answer = inverse.pcie_bandwidth(case)
    assert answer.value is not None

    def waiting(bandwidth: float) -> float:
        time = simulate(case.with_values({"pcie_bandwidth": bandwidth})).time
        return float(time.by_activity["offload"] / time.step_seconds)

    assert waiting(answer.value * GB * 1.001) <= inverse.HIDDEN_SHARE < waiting(answer.value * GB * 0.99)


def test_binding_names_what_fails() -> None:
    assert "device memory" in inverse.longest_seq_len(make()).binding
    little = make(offload_optimizer="cpu", host_memory=64 * GiB)
    assert "host memory" in inverse.fewest_devices(little).binding or inverse.fewest_devices(little).value is None
    gpt2 = make(model="gpt2-xl", seq_len=512)
    assert "positions" in inverse.longest_seq_len(gpt2).binding


def test_solve_by_name() -> None:
    assert inverse.solve(make(), "seq-len").value == inverse.longest_seq_len(make()).value
    assert "tokens" in str(inverse.solve(make(), "seq-len"))


@pytest.mark.parametrize(
    ("question", "case", "match"),
    [
        ("seq_length", make(), "unknown question"),
        ("seq-len", make(seq_len=np.array([1024, 2048])), "holds arrays"),
        ("pcie", make(), "nothing crosses PCIe"),
    ],
)
def test_refusals_are_sentences(question: str, case: Case, match: str) -> None:
    with pytest.raises(VramsimError, match=match):
        inverse.solve(case, question)


def test_package_offers_nothing_by_accident() -> None:
    assert "inverse" not in vramsim.__all__
