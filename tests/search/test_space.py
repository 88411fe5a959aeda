"""What a space may choose, which points rules remove, and that blocks hold each of the others once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim.case import Case
from vramsim.errors import VramsimError
from vramsim.rules import violations
from vramsim.space import Space

BASE: dict[str, Any] = {
    "model": "llama-3-8b",
    "cluster": {"device": "a100-sxm-80gb", "num_devices": 8},
    "framework": "deepspeed",
    "training": {"seq_len": 4096},
    "strategy": {"zero_stage": 3},
}


def one(key: str, values: object) -> tuple[Any, ...]:
    """Values of a search of one key."""
    return Space(BASE, {key: values}).choices[0].values


@pytest.mark.parametrize(
    ("key", "given", "values"),
    [
        ("zero_stage", [1, 2, 3], (1, 2, 3)),
        ("num_devices", {"min": 8, "max": 32, "step": 8}, (8, 16, 24, 32)),
        ("num_devices", {"min": 8, "max": 31, "step": 8}, (8, 16, 24)),
        ("strategy.tp", {"min": 1, "max": 3}, (1, 2, 3)),
        ("sp", {"powers_of_two": [1, 9]}, (1, 2, 4, 8)),
        ("seq_len", {"powers_of_two": [1000, 5000]}, (1024, 2048, 4096)),
        ("recompute", {"min": 0, "max": 1, "step": 0.1}, tuple(0.1 * n for n in range(11))),
        ("training.method", "lora", ("lora",)),
        ("framework", {"name": "deepspeed", "loss": "liger"}, ({"name": "deepspeed", "loss": "liger"},)),
    ],
)
def test_values(key: str, given: object, values: tuple[Any, ...]) -> None:
    found = one(key, given)
    assert len(found) == len(values)
    assert all(a == b or a == pytest.approx(b) for a, b in zip(found, values, strict=True))


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ({}, "search must map keys to values"),
        ({"sq_len": [1]}, "unknown key 'sq_len'.*seq_len"),
        ({"sp": []}, "strategy.sp must have from 1"),
        ({"tp": {"min": 1}}, r"a range of strategy.tp must be written as \{min: 1, max: 8\}.*got \{'min': 1\}"),
        ({"sp": [1, 2, 1]}, "strategy.sp lists the value 1 twice"),
        ({"sp": [1], "strategy.sp": [2]}, "searched twice"),
        ({"sp": [0, 1]}, "strategy.sp must hold a whole number"),
        ({"num_devices": {"min": 8, "max": 4}}, "must not start above its end: 8 > 4"),
        ({"num_devices": {"min": 8, "max": 16, "step": 0}}, "step of cluster.num_devices must be a number above 0"),
        ({"num_devices": {"powers_of_two": 8}}, "must have two numbers"),
        ({"num_devices": {"min": 1, "max": 1e9}}, "at most 60000 values"),
        ({"device": ["a100-sxm-80gb", "a100-sxm-80gbb"]}, "unknown device 'a100-sxm-80gbb'.*a100-sxm-80gb"),
        ({"framework": ["deepspede"]}, "unknown framework"),
        ({"quantization": ["nf5"]}, "unknown quantization"),
        ({"method": ["full", "half"]}, "training.method must be one of"),
        ({"gradient_accumulation_steps": [1], "global_batch_size": [8]}, "not both"),
    ],
)
def test_what_is_refused(search: dict[str, Any], sentence: str) -> None:
    with pytest.raises(VramsimError, match=sentence):
        Space(BASE, search)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"constraints": ["fit"]}, "unknown constraint 'fit'"),
        ({"constraints": {"max_step_second": 3}}, "unknown metric in the constraint max_step_second.*step_seconds"),
        ({"constraints": {"max_step_seconds": "3"}}, "must be bounded by a number, got '3'"),
        ({"objectives": ["speed"]}, "unknown objective 'speed'"),
        ({"objectives": []}, "at least one objective"),
    ],
)
def test_constraints_and_objectives_that_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(VramsimError, match=sentence):
        Space(BASE, {"sp": [1, 2]}, **options)


def test_files(tmp_path: Path) -> None:
    case, space = tmp_path / "case.json", tmp_path / "space.json"
    case.write_text(json.dumps(BASE))
    space.write_text(json.dumps({"base": "case.json", "search": {"sp": [1, 2]}, "constraints": {"fits": True}}))
    assert Space.load(space).base == Case.load(BASE)
    assert Space.load({"base": BASE, "search": {"sp": [1, 2]}}).size == 2
    with pytest.raises(VramsimError, match=r"case.json' is one case, not a space.*search: \{zero_stage: \[1, 2, 3\]"):
        Space.load(case)
    with pytest.raises(VramsimError, match="must have base and search, got objectives"):
        Space.load({"objectives": ["mfu"]})
    with pytest.raises(VramsimError, match="unknown key 'searches'"):
        Space.load({"base": BASE, "searches": {}})


def test_every_configuration_is_a_case() -> None:
    space = Space(BASE, {"sp": [1, 2], "method": ["full", "lora"], "recompute": ["none", "full", "selective"]})
    cases = [space.case_at(index) for index in range(space.size)]
    seen = [(c.strategy.sp, c.training.method, c.strategy.recompute) for c in cases]
    assert seen[:4] == [(1, "full", "none"), (1, "full", "full"), (1, "full", "selective"), (1, "lora", "none")]
    assert len(set(seen)) == space.size == 12
    with pytest.raises(VramsimError, match="from 0 to 11, got 12"):
        space.case_at(12)


def test_accumulation_follows_from_the_global_batch() -> None:
    base = {**BASE, "training": {"seq_len": 4096, "global_batch_size": 32}}
    space = Space(base, {"micro_batch_size": [1, 2, 4, 8], "num_devices": [8, 16, 32]})
    found = {
        (float(micro), float(devices), float(steps))
        for block in space.blocks()
        for micro, devices, steps in zip(
            block.case.resolve().training.micro_batch_size.ravel(),  # type: ignore[union-attr]
            block.case.resolve().cluster.num_devices.ravel(),  # type: ignore[union-attr]
            block.case.resolve().training.gradient_accumulation_steps.ravel(),  # type: ignore[union-attr]
            strict=True,
        )
    }
    assert found == {(1, 8, 4), (1, 16, 2), (1, 32, 1), (2, 8, 2), (2, 16, 1), (4, 8, 1)}
    assert next(space.structures()).removed == {"batch divides global batch": 6}


def test_impossible_structures_are_counted_not_raised() -> None:
    space = Space(BASE, {"method": ["full", "qlora"], "quantization": ["none", "nf4"], "sp": [1, 2]})
    removed = Counter[str]()
    for structure in space.structures():
        removed.update(structure.removed)
    assert sum(removed.values()) == 4
    assert any("quantized" in reason for reason in removed)
    assert sum(block.size for block in space.blocks()) == 4


def test_words_and_nvme() -> None:
    on_host = Space(BASE, {"offload_optimizer": ["none", "cpu"]})
    assert on_host.choices[0].numbers is not None
    on_nvme = Space(BASE, {"offload_optimizer": ["none", "nvme"], "offload_parameters": ["none", "nvme"]})
    assert all(choice.numbers is None for choice in on_nvme.choices)
    mixed = Space(BASE, {"recompute": ["none", "selective"]})
    assert mixed.choices[0].numbers is None


SEARCHED = {
    "num_devices": [8, 12, 16, 24],
    "tp": [1, 2, 3],
    "sp": [1, 2, 8],
    "micro_batch_size": [1, 2, 3],
    "zero_stage": [0, 1, 3],
    "offload_optimizer": ["none", "cpu"],
    "offload_parameters": ["none", 0.5, "cpu"],
    "recompute": ["none", "full"],
    "framework": ["deepspeed", "ddp"],
}


@given(
    keys=st.sets(st.sampled_from(sorted(SEARCHED)), min_size=1, max_size=5),
    batch=st.sampled_from([None, 24, 48]),
    most=st.sampled_from([1, 7, 1000]),
)
def test_blocks_hold_every_point_that_keeps_the_rules_once(keys: set[str], batch: int | None, most: int) -> None:
    base = {**BASE, "training": {"seq_len": 4096, "global_batch_size": batch}} if batch else BASE
    space = Space(base, {key: SEARCHED[key] for key in sorted(keys)})
    valid: Counter[tuple[int, ...]] = Counter()
    for block in space.blocks(most):
        assert block.size <= most
        assert not violations(block.case.resolve())
        positions = block.positions(np.arange(block.size))
        valid.update(zip(*(positions[choice.key].tolist() for choice in space.choices), strict=True))
    expected = set()
    for point in np.ndindex(*(len(choice) for choice in space.choices)):
        try:
            space.case_of(dict(zip(space.by_key, point, strict=True))).resolve()
        except VramsimError:
            continue
        expected.add(point)
    assert set(valid) == expected
    assert all(count == 1 for count in valid.values())
    removed = sum(sum(structure.removed.values()) for structure in space.structures())
    assert removed + len(expected) == space.size
