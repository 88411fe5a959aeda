"""Optimizers' states and scratch against storages traced in PyTorch 2.13.0 (CPU build).

A TorchDispatchMode counted every storage from allocation to release in the second step of the optimizer on one weight
(the third for APOLLO), with weight, gradient and states left out. torch.optim.Muon; galore_torch@2cc66f8 adamw.py (rank
32); apollo_torch@76b3472 apollo.py (random, rank 32); lomo_optim@45d4bac lomo.py and adalomo.py (`fuse_update`,
gradient included).
"""

from __future__ import annotations

import pytest

from vramsim import Case, simulate
from vramsim.blocks import Weight
from vramsim.equations import optimizer as equations
from vramsim.layout import Entry
from vramsim.parts import stepping
from vramsim.spec import Category, Setup


def setup_of(name: str, precision: str, **changes: object) -> Setup:
    case = Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 1},
        framework="torch",
        training={"seq_len": 128, "optimizer": {"name": name, **changes}, "precision": precision},
    )
    return case.resolve()


@pytest.mark.parametrize(
    ("name", "changes", "precision", "shape", "traced"),
    [
        ("muon", {}, "fp32", (768, 256), 1835008),
        ("muon", {}, "fp32", (512, 512), 3145728),
        ("muon", {}, "bf16_pure", (256, 768), 1441792),
        ("muon", {}, "bf16_pure", (512, 512), 2621440),
        ("galore_adamw", {"rank": 32}, "fp32", (768, 256), 1867776),
        ("apollo_adamw", {"rank": 32}, "fp32", (768, 256), 1870856 - 3080),
        ("apollo_adamw", {"rank": 32}, "bf16_pure", (256, 768), 935428 - 1540),
    ],
)
def test_scratch_of_a_matrix(
    name: str, changes: dict[str, object], precision: str, shape: tuple[int, int], traced: int
) -> None:
    """To the byte; APOLLO also has a scale for each channel and norms (768 elements and two scalars)."""
    setup = setup_of(name, precision, **changes)
    weight = Weight("q_proj", "linear", (("heads", shape[0]),), (("hidden", shape[1]),))
    element = stepping.step_element(setup)
    assert stepping.scratch_of(setup, Entry(0, weight, 1, "block", True, False), element) == traced


def test_a_new_subspace() -> None:
    """GaLore's first step in bf16, without the moments that it creates: 1852416 B with its projector of 32 x 256."""
    assert equations.svd_scratch(256.0, 768.0, 2.0) + 2 * 32 * 256 == 1852416


@pytest.mark.parametrize(("name", "bytes_per_element"), [("lomo", 8.0), ("adalomo", 12.0)])
def test_largest_weight_in_backward(name: str, bytes_per_element: float) -> None:
    """8.00 and 12.02 B an element of the weight at work, gradient included, in bf16."""
    setup = setup_of(name, "bf16_pure")
    assert stepping.in_backward(setup) == bytes_per_element * 128256 * 4096


@pytest.mark.parametrize(
    ("name", "per_matrix", "per_rest"),
    [("muon", 1.0, 2.0), ("adamw", 2.0, 2.0), ("lomo", 0.0, 0.0)],
)
def test_states(name: str, per_matrix: float, per_rest: float) -> None:
    """Llama-3-8B: 6,979,321,856 elements in matrices of hidden layers, 1,050,939,392 elsewhere; 2 B each."""
    estimate = simulate(setup_of(name, "bf16_pure"))
    found = sum(c.nbytes for c in estimate.graph.components if c.category is Category.OPTIMIZER_STATE)
    assert found == 2 * (per_matrix * 6_979_321_856 + per_rest * 1_050_939_392)
