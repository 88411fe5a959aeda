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
from vramsim.layout import Entry, ledger_of
from vramsim.parts import stepping
from vramsim.spec import Category, Setup
from vramsim.units import GiB


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
    assert stepping.scratch_at_step(setup, Entry(0, weight, 1, "block", True, False)) == traced


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
    [("muon", 1.0, 2.0), ("adamw", 2.0, 2.0), ("lomo", 0.0, 0.0), ("schedule_free_adamw", 2.0, 2.0)],
)
def test_states(name: str, per_matrix: float, per_rest: float) -> None:
    """Llama-3-8B: 6,979,321,856 elements in matrices of hidden layers, 1,050,939,392 elsewhere; 2 B each."""
    estimate = simulate(setup_of(name, "bf16_pure"))
    found = sum(c.nbytes for c in estimate.graph.components if c.category is Category.OPTIMIZER_STATE)
    assert found == 2 * (per_matrix * 6_979_321_856 + per_rest * 1_050_939_392)


@pytest.mark.parametrize(
    ("name", "precision", "shape", "traced"),
    [
        ("galore_adamw", "fp32", (768, 256), 196608 + 262144),
        ("galore_adamw", "bf16_pure", (256, 768), 98304 + 16384),
        ("apollo_adamw", "fp32", (256, 768), 196608 + 32768),
        ("apollo_adamw", "bf16_pure", (768, 256), 98304 + 16384),
        ("adam_mini", "fp32", (768, 256), 786432 + 3072),
        ("adam_mini", "bf16_pure", (768, 256), 393216 + 1536),
    ],
)
def test_states_in_a_subspace(name: str, precision: str, shape: tuple[int, int], traced: int) -> None:
    """Moments and projector of one matrix at rank 32; GaLore's projector of an fp32 weight keeps 256 x 256 alive.

    Adam-mini's has no subspace: a momentum, and one element a row."""
    model = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 1, "num_attention_heads": 4}
    case = Case(
        model={**model, "vocab_size": 100},
        cluster={"device": "h100-sxm-80gb", "num_devices": 1},
        framework="torch",
        training={"seq_len": 128, "optimizer": {"name": name, "rank": 32}, "precision": precision},
    )
    setup = case.resolve()
    entry = next(e for e in ledger_of(setup) if (e.weight.first_dim, e.weight.numel // e.weight.first_dim) == shape)
    assert stepping.state_bytes(setup, [entry]) == traced * entry.count


@pytest.mark.parametrize(
    ("micro_batch_size", "recompute", "published"),
    [(1, "none", 22.72), (16, "full", 22.8)],
)
def test_published_galore(micro_batch_size: int, recompute: str, published: float) -> None:
    """LLaMA-7B on one GPU of 24 GB, 8-bit, layer by layer, rank 1024, 256 tokens: galore_torch@2cc66f8, README.md and
    scripts/single_gpu/llama_7b.sh, as "G" (GiB of nvidia-smi taken)."""
    model = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    training = {
        "seq_len": 256,
        "micro_batch_size": micro_batch_size,
        "precision": "bf16_pure",
        "optimizer": {"name": "galore_adamw_8bit", "rank": 1024, "gradients": "one"},
    }
    case = Case(
        model={**model, "vocab_size": 32000},
        cluster={"device": "rtx-4090-24gb", "num_devices": 1},
        framework="torch",
        training=training,
        strategy={"recompute": recompute},
    )
    estimate = simulate(case)
    assert estimate.fits
    assert estimate.memory.hbm.used_bytes / GiB == pytest.approx(published, rel=0.07)
