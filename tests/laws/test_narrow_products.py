"""Products in 8 and 4 bits: what they change, and what they leave as it was."""

from __future__ import annotations

import pytest

from vramsim import Case, Estimate, VramsimError, simulate


def case_of(compute: str, framework: str = "megatron", device: str = "b200-sxm-180gb") -> Case:
    return Case(
        model="llama-3-8b",
        cluster={"device": device, "num_devices": 8},
        framework=framework,
        training={"seq_len": 8192, "precision": {"name": "bf16", "compute": compute}},
    )


@pytest.mark.parametrize(
    ("compute", "device", "per_element"),
    [
        ("fp8", "h100-sxm-80gb", 2.0),
        ("fp8", "b200-sxm-180gb", 1.0),
        ("mxfp8", "b200-sxm-180gb", 2.0625),
        ("nvfp4", "gb200-186gb", 1.125),
    ],
)
def test_copies_of_weights(compute: str, device: str, per_element: float) -> None:
    """Of 6,979,321,856 elements in linear layers of Llama-3-8B."""
    graph = simulate(case_of(compute, device=device)).graph
    found = [c.nbytes for c in graph.components if c.name == f"{compute} copies of weights"]
    assert found == [per_element * 6_979_321_856]


def test_faster_products_and_smaller_inputs() -> None:
    """Fewer bits take less time; inputs of linear layers shrink with them, logits and attention do not."""
    wide, eight, four = (simulate(case_of(compute)) for compute in ("bf16", "mxfp8", "nvfp4"))
    assert four.time.step_seconds < eight.time.step_seconds < wide.time.step_seconds

    def kept(estimate: Estimate, name: str) -> float:
        return sum(float(c.nbytes) for c in estimate.graph.components if c.name == name)

    saved = [kept(each, "saved activations") for each in (wide, eight, four)]
    assert saved[0] > saved[1] > saved[2] > saved[0] / 2
    assert kept(wide, "logits and loss") == kept(eight, "logits and loss") == kept(four, "logits and loss") > 0


def test_torchao_keeps_inputs_wide() -> None:
    """torchao's Float8Linear saves its input as it came: memory is that of bf16, time is not."""
    wide, eight = (simulate(case_of(compute, "fsdp2")) for compute in ("bf16", "fp8"))
    assert eight.memory.hbm.allocated_bytes == wide.memory.hbm.allocated_bytes
    assert eight.time.step_seconds < wide.time.step_seconds


def test_devices_without_such_units_are_refused() -> None:
    with pytest.raises(VramsimError, match="h100-sxm-80gb has no units for nvfp4"):
        simulate(case_of("nvfp4", device="h100-sxm-80gb"))


def test_round_trip() -> None:
    """A case that is described and read again computes in the same format."""
    case = case_of("nvfp4")
    again = Case(**case.describe())
    assert again.resolve().training.precision.linear == "nvfp4"
    assert again.resolve().training.precision.compute == "bf16"


def gpt2(vocab: int, framework: str, tp: int = 1) -> float:
    """Seconds of GPT-2 large's head, forward and backward, in one micro-step."""
    case = Case(
        model={"base": "gpt2-large", "vocab_size": vocab},
        cluster={"device": "a100-sxm-80gb", "num_devices": 8},
        framework=framework,
        strategy={"tp": tp},
        training={"seq_len": 1024, "micro_batch_size": 8},
    )
    works = simulate(case).graph.work
    return float(sum(work.seconds for work in works if work.name == "output projection"))


def test_a_vocabulary_that_does_not_fill_loads_is_slow() -> None:
    """Provenance: about 3x on heads whose vocabulary is no multiple of 64 (Netflix, 2026)."""
    assert gpt2(50257, "ddp") / gpt2(50304, "ddp") == pytest.approx(3.0, rel=0.02)
    times = [gpt2(vocab, "ddp") for vocab in (50264, 50260, 50258, 50257)]
    assert times == sorted(times)
    assert times[0] < times[1]


def test_padding_and_even_slices_avoid_it() -> None:
    assert gpt2(50257, "megatron") == gpt2(50304, "megatron")
    halves = gpt2(50257, "ddp", tp=2), gpt2(50256, "ddp", tp=2)
    assert halves[0] == pytest.approx(halves[1], rel=1e-3)
