"""Vision towers: what images add to a language model, and what a frozen tower does not."""

from __future__ import annotations

import numpy as np
import pytest

from vramsim import Case, Estimate, VramsimError, simulate, testing
from vramsim.formats.hf import read_config
from vramsim.spec import Phase

LLAVA = {
    "model_type": "llava",
    "text_config": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32064,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
}
QWEN = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "vision_config": {},
}


def case_of(model: dict[str, object], framework: str = "fsdp2", **training: object) -> Case:
    return Case(
        model=model,
        cluster={"device": "h100-sxm-80gb", "num_devices": 8},
        framework=framework,
        training={"seq_len": 8192, "precision": "bf16", **training},
    )


def of_images(estimate: Estimate) -> tuple[float, float]:
    """Bytes and FLOPs that images cause."""
    words = ("vision", "images", "projector")
    graph = estimate.graph
    kept = sum(float(np.max(c.nbytes)) for c in graph.components if any(word in c.name for word in words))
    return kept, sum(float(np.max(w.flops)) for w in graph.work if any(word in w.name for word in words))


@pytest.mark.parametrize("model", [LLAVA, QWEN], ids=["llava", "qwen2.5-vl"])
def test_images(model: dict[str, object]) -> None:
    """Without images there is no tower at work; twice the images are twice the bytes and FLOPs."""
    none, some, more = (of_images(simulate(case_of(model, image_tokens=tokens))) for tokens in (0, 1152, 2304))
    assert none == (0.0, 0.0)
    assert more[1] == pytest.approx(2 * some[1])
    assert some[0] < more[0] <= 2 * some[0] * 1.1


@pytest.mark.parametrize("model", [LLAVA, QWEN], ids=["llava", "qwen2.5-vl"])
@pytest.mark.parametrize("framework", ["fsdp2", "deepspeed", "megatron"])
def test_a_frozen_tower(model: dict[str, object], framework: str) -> None:
    """It has no gradients, no states, no backward, and keeps no more than pixels."""
    trained, frozen = (
        simulate(case_of(model, framework, image_tokens=1152, freeze_vision=flag)) for flag in (False, True)
    )
    assert frozen.memory.hbm.used_bytes < trained.memory.hbm.used_bytes
    kept = [c.name for c in frozen.graph.components if "vision" in c.name or "images" in c.name]
    assert kept == ["pixels of images"]
    at_work = [w for w in frozen.graph.work if "vision" in w.name]
    assert at_work
    assert all(w.phase is Phase.FORWARD for w in at_work)
    forward = sum(float(w.flops) for w in at_work)
    every = sum(float(w.flops) for w in trained.graph.work if "vision" in w.name)
    assert every > 2.9 * forward


def test_default_image() -> None:
    """576 patches of 336 pixels; 54 x 54 patches of 14 pixels, four a token; 48 x 48 learned positions."""
    qwen3 = {**QWEN, "model_type": "qwen3_vl", "head_dim": 128}
    for model, tokens in ((LLAVA, 576.0), (QWEN, 729.0), (qwen3, 576.0)):
        setup = case_of(model).resolve()
        assert setup.training.image_tokens == tokens
        assert any("image_tokens not given" in note for note in setup.notes)
    assert not any("image" in note for note in case_of(LLAVA, image_tokens=1.0).resolve().notes)


def test_attention_of_patches() -> None:
    """Every patch of an image sees every other: 4 w s FLOPs a patch and layer, not half of them."""
    estimate = simulate(case_of(LLAVA, image_tokens=577 * 4))
    found = next(w for w in estimate.graph.work if w.name == "attention, forward, vision tower")
    assert found.flops == pytest.approx(24 * 4 * 1024 * 577 * (577 * 4))
    products = next(w for w in estimate.graph.work if w.name == "matrix products, forward, vision tower")
    assert products.flops == pytest.approx(24 * 2 * (4 * 1024**2 + 2 * 1024 * 4096) * (577 * 4))


@pytest.mark.parametrize("framework", ["torch", "fsdp2", "deepspeed", "megatron"])
def test_laws_hold_with_a_tower(framework: str) -> None:
    devices = 1 if framework == "torch" else 8
    for model in (LLAVA, QWEN):
        setup = case_of(model, framework, image_tokens=1152).with_values({"cluster.num_devices": devices}).resolve()
        testing.conforms(setup)
        testing.broadcast_is_map(testing.changed(setup, recompute=np.array([0.0, 0.5, 1.0]), micro_batch_size=2.0))


def test_what_is_said_is_read_again() -> None:
    case = case_of(QWEN, image_tokens=1000, freeze_vision=True)
    assert Case(**case.describe()) == case
    with pytest.raises(VramsimError, match="image_tokens"):
        simulate(case_of(QWEN, image_tokens=-1))
    assert read_config(LLAVA).encoder is not None
