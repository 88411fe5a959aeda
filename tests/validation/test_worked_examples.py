"""Worked examples: numbers that issues, documentation and source code of the frameworks lead to, within one per cent.

Every test says where its figures come from. They are sums done by hand from what those sources allocate, not from
vramsim.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from vramsim import Case, assemble, blocks, catalog, simulate
from vramsim.equations import activations as equations
from vramsim.equations import optimizer
from vramsim.estimate import Estimate
from vramsim.layout import bytes_per_token, kernels_of
from vramsim.parts import backward, sharding
from vramsim.spec import Category, Component, Phase, Setup, Tier
from vramsim.units import GB

STATES = (Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER_STATE)
PARAMETERS_70B, PARAMETERS_8B = 70_553_706_496, 8_030_261_248
"""Llama-3 as transformers counts it: embeddings and head included."""


def about(gigabytes: float, within: float = 0.01) -> Any:
    """Bytes of a figure in GB, to one per cent."""
    return pytest.approx(gigabytes * GB, rel=within)


def case(model: str = "llama-3-70b", devices: int = 16, framework: Any = "xtuner-v0.1", **sections: Any) -> Case:
    return Case(
        model=model,
        cluster={"device": "a100-sxm-80gb", "num_devices": devices},
        framework=framework,
        training={"seq_len": 8192, **sections.get("training", {})},
        strategy=sections.get("strategy", {}),
    )


def seed(devices: int = 16, seq_len: int = 8192) -> Case:
    """XTuner issue 842: full fine-tuning of Llama-3-70B with ZeRO-3, on 16 A100 of 80 GB."""
    return case(devices=devices, training={"seq_len": seq_len}, strategy={"zero_stage": 3, "recompute": "full"})


def alive(estimate: Estimate, phase: Phase) -> list[Component]:
    return [c for c in estimate.graph.components if phase in c.live and c.tier is Tier.HBM]


def total(components: Iterable[Component], *categories: Category, lazy: bool = True) -> float:
    found = (c for c in components if not categories or c.category in categories)
    return sum(float(c.nbytes) for c in found if lazy or not c.lazy)


def tensors(estimate: Estimate, phase: Phase) -> float:
    """Bytes inside the allocator in a phase: all but context and communication buffers."""
    return total(c for c in alive(estimate, phase) if c.category is not Category.OVERHEAD)


def named(estimate: Estimate, phase: Phase, *names: str) -> float:
    return total(c for c in alive(estimate, phase) if c.name in names)


# Llama-3-70B on 16 A100 (XTuner issue 842; DeepSpeed runtime/zero) ----------------------------------------------------


def test_model_states_of_the_seed_case() -> None:
    """16 bytes a parameter over 16 GPUs: 70.55 GB (maintainer in xtuner issue 842; docs/acceleration/deepspeed.rst)."""
    estimate = simulate(seed())
    states = total(alive(estimate, Phase.STEP), *STATES)
    assert states == pytest.approx(16 * PARAMETERS_70B / 16, rel=0.005)
    assert states == about(70.55)


def test_moments_do_not_exist_before_the_first_step() -> None:
    """Half of it, 35.28 GB: DeepSpeed creates Adam's moments in the first step (DeepSpeed PR 5104)."""
    states = total(alive(simulate(seed()), Phase.BACKWARD), Category.OPTIMIZER_STATE, lazy=False)
    weights = named(simulate(seed()), Phase.INIT, "trained parameters", "gradient partition, allocated for good")
    assert states + weights == about(35.28)


def test_bucket_of_stage_3() -> None:
    """5e8 elements of 2 bytes, allocated once (DeepSpeed zero/config.py, stage3.py)."""
    assert named(simulate(seed()), Phase.INIT, "reduction bucket, allocated for good") == about(1.0)


def test_step_of_the_seed_case() -> None:
    """A sub-group of 1.0136e9 elements: fp32 gradient 4.05 and its root 4.05; 79.7 GB in all (stage3.py, step)."""
    estimate = simulate(seed())
    assert named(estimate, Phase.STEP, "step scratch") == about(8.1)
    assert tensors(estimate, Phase.STEP) == about(79.7)


@pytest.mark.parametrize(("seq_len", "gigabytes"), [(2048, 79.5), (4096, 85.3), (8192, 97.0)])
def test_head_of_the_seed_case(seq_len: int, gigabytes: float) -> None:
    """States, bucket, checkpoints 2 s h L, gathered head 2.10, cross-entropy 12 s V (transformers ForCausalLMLoss)."""
    assert tensors(simulate(seed(seq_len=seq_len)), Phase.HEAD) == about(gigabytes)


def test_backward_of_the_seed_case_at_2k() -> None:
    """Checkpoints 2.68, a block's working set 1.08, the gathered block 1.71, a flattened bucket 1.0: 78.0 GB."""
    estimate = simulate(seed(seq_len=2048))
    assert named(estimate, Phase.BACKWARD, "checkpointed block inputs") == about(2.68)
    assert tensors(estimate, Phase.BACKWARD) == about(78.0)


def test_the_seed_case_does_not_fit() -> None:
    """xtuner issue 842: out of memory, not at once but in the first step or the second backward."""
    estimate = simulate(seed())
    hbm = estimate.memory.hbm
    assert estimate.fits is False
    assert hbm.by_phase["first_step"] < hbm.capacity_bytes < hbm.used_bytes
    assert simulate(seed(seq_len=4096)).fits is False


def test_32_gpus_fit() -> None:
    """The maintainer's advice in xtuner issue 842, and XTuner's published run of 70B at 8k on 32 GPUs."""
    estimate = simulate(seed(devices=32))
    assert estimate.fits is True
    assert total(alive(estimate, Phase.STEP), *STATES) == about(35.28)
    assert tensors(estimate, Phase.HEAD) == about(62.0)


# Llama-3-8B, ZeRO-2, 8 GPUs, 4 micro-steps (DeepSpeed runtime/zero/stage_1_and_2.py) ----------------------------------


def test_zero_2() -> None:
    """Weights 16.06, Adam 12.05, two sets of gradients 2.01 each, two buckets, their flattening: 35.1 GB.

    In the step 16.06 + 12.05 + 8 * 1.004 = 36.1 GB: gradient, its flattening and fp32 copy. (2 P + 14 P / N is 30.1.)
    """
    estimate = simulate(
        case("llama-3-8b", 8, training={"gradient_accumulation_steps": 4}, strategy={"zero_stage": 2, "recompute": 1})
    )
    states = named(estimate, Phase.REDUCE, "trained parameters", "fp32 master weights", "optimizer moments")
    assert states == about(16.06 + 12.05)
    assert named(estimate, Phase.REDUCE, "gradient partition") == about(2.01)
    assert named(estimate, Phase.REDUCE, "accumulated gradients, second set") == about(2.01)
    buckets = named(estimate, Phase.REDUCE, "reduction buckets", "flattened bucket")
    assert buckets == about(3.0)
    gradients = total(alive(estimate, Phase.REDUCE), Category.GRADIENT)
    assert states + gradients + buckets == about(35.1)
    step = total(alive(estimate, Phase.STEP), *STATES) + named(estimate, Phase.STEP, "step scratch")
    assert step == about(36.1)


# Llama-3-70B with offload, one node of 8 (DeepSpeed stage3.py, partition_parameters.py) -------------------------------

OFFLOADED = {"zero_stage": 3, "recompute": "full", "offload_optimizer": "cpu", "offload_parameters": "cpu"}


def test_host_bytes_with_offload() -> None:
    """20 bytes a parameter: master 4, moments 8, gradient 2 and its fp32 copy 4, weights 2. 1.41 TB for the node."""
    memory = simulate(case(devices=8, strategy=OFFLOADED)).memory
    assert memory.host.used_bytes_per_node == about(20 * PARAMETERS_70B / GB)
    assert memory.host.used_bytes_per_node == about(1410)


def test_pcie_bytes_with_offload() -> None:
    """Up 4 n = 35.3 GB a rank, down 2 n = 17.6 and 4 n = 35.3 (stage3.py, partition_grads; one micro-step)."""
    flows = assemble(case(devices=8, strategy=OFFLOADED)).flows
    up = sum(float(flow.nbytes) for flow in flows if flow.name.startswith("parameters to the device"))
    assert up == about(35.3)
    assert sum(float(flow.nbytes) for flow in flows if flow.name == "gradients to the host") == about(17.6)
    assert sum(float(flow.nbytes) for flow in flows if flow.name == "fp32 gradients to the host") == about(35.3)


def test_adam_on_the_cpu() -> None:
    """8.82e9 elements, 28 bytes each, an eighth of 300 GB/s: 6.6 s; 84 bytes when torch's AdamW steps (no fusion)."""
    owned = PARAMETERS_70B / 8
    assert optimizer.cpu_step_seconds(owned, 28.0, 300e9 / 8) == pytest.approx(6.6, rel=0.01)
    fused, unfused = (
        simulate(case(devices=8, framework=name, strategy=OFFLOADED)).time.by_activity["cpu_optimizer"]
        for name in ("deepspeed", "xtuner-v0.1")
    )
    # The fused kernel also writes the bf16 weight, 2 B more.
    assert fused == pytest.approx(6.6 * 30 / 28, rel=0.01)
    assert unfused == pytest.approx(6.6 * 3, rel=0.01)


# One FSDP2 step of Llama-3-8B on 8 GPUs (PyTorch fully_shard) ---------------------------------------------------------


def test_fsdp2() -> None:
    """16.06 GB of states; a block of 218 M: 6 U = 1.3 GB forward; root unit 2.1 GB; without sync 4 P = 32.1."""
    estimate = simulate(case("llama-3-8b", 8, "fsdp2"))
    assert total(alive(estimate, Phase.STEP), *STATES) == about(16.06)
    assert named(estimate, Phase.FORWARD, "unsharded parameters", "all-gather outputs") == about(1.3, 0.02)
    assert named(estimate, Phase.FORWARD, "unsharded root unit") == about(2.1)
    unsynced = {"name": "fsdp2", "sync_accumulation": False}
    estimate = simulate(case("llama-3-8b", 8, unsynced, training={"gradient_accumulation_steps": 2}))
    assert named(estimate, Phase.BACKWARD, "accumulated unsharded gradients") == about(32.1)


# Activations of Llama-3-70B, 8192 tokens (storages saved by autograd) -------------------------------------------------


def resolved(recompute: Any = "none", framework: Any = "deepspeed") -> Setup:
    return case(framework=framework, strategy={"zero_stage": 3, "recompute": recompute}).resolve()


def test_one_layer() -> None:
    """s h (20 + 4 kv + 8 ffn) + 8 s + 4 heads s = 3.26 GB; 80 of them 260 GB (transformers Llama, PyTorch 2.13)."""
    setup = resolved()
    block = setup.model.blocks[0]
    layer = bytes_per_token(blocks.layer(block, kernels_of(setup)).saved, setup) * setup.tokens
    assert layer == about(3.26)
    (saved,) = (c for c in assemble(setup).components if c.name == "saved activations")
    assert saved.nbytes == about(260)


def test_recomputed_layers() -> None:
    """Inputs 2 s h L = 10.74 GB, and one block going backward: a layer and s h (4 ffn + 2), 4.33 GB."""
    setup = resolved("full")
    (inputs,) = (c for c in assemble(setup).components if c.name == "checkpointed block inputs")
    assert inputs.nbytes == about(10.74)
    assert backward.backward_working(setup) == about(4.33)


def test_loss() -> None:
    """12 bytes a logit, 12.6 GB; Liger: chunks of 512 tokens, 0.13 GB, and the head's gradient of 2.1 GB."""
    logits = 8192.0 * 128256
    assert equations.loss_backward(logits) == about(12.6)
    chunk = equations.liger_chunk(8192.0, 128256.0, 8192.0)
    assert chunk == 512
    assert chunk * 128256 * 2 == about(0.13, 0.02)
    assert 2 * sharding.head_elements(resolved()) == about(2.1)
    estimate = simulate(case(framework={"name": "deepspeed", "loss": "liger"}, strategy={"zero_stage": 3}))
    # Chunk in bf16 and fp32, gradient of the head, gradient of its input.
    assert named(estimate, Phase.HEAD, "logits and loss") == about(0.131 * 3 + 2.10 + 0.134)


# Optimizers of an 8B model on one GPU ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "name", "gigabytes", "source"),
    [
        ("bf16", "adamw_fused", 128.5, "fp32 weights, gradients and moments: 16 B (torch.optim.AdamW)"),
        ("bf16_pure", "adamw_8bit", 48.4, "2 + 2 + 2.03 B (bitsandbytes optim/optimizer.py)"),
        ("bf16_pure", "adamw_fused", 64.2, "2 + 2 + 4 B: moments inherit the weights' dtype"),
        ("bf16_pure", "sgd", 32.1, "2 + 2 B: no state (torch.optim.SGD)"),
    ],
)
def test_optimizers(precision: str, name: str, gigabytes: float, source: str) -> None:
    estimate = simulate(case("llama-3-8b", 1, "torch", training={"precision": precision, "optimizer": name}))
    assert total(alive(estimate, Phase.STEP), *STATES) == about(gigabytes), source


# QLoRA of Llama-3-70B (bitsandbytes functional.py; transformers quantizers/base.py; PEFT) -----------------------------


def qlora(framework: str = "torch", devices: int = 1, **training: Any) -> Estimate:
    return simulate(
        case(
            devices=devices,
            framework=framework,
            training={"method": "qlora", "seq_len": 512, "lora": {"rank": 64}, **training},
            strategy={"quantization": "nf4_dq", **({"zero_stage": 3} if framework == "deepspeed" else {})},
        )
    )


def test_qlora_weights() -> None:
    """68.451e9 linear weights of 0.515869 B = 35.31 GB; embedding, head and norms 2.103e9 in bf16 4.21: 39.5 GB."""
    estimate = qlora()
    packed = named(estimate, Phase.INIT, "quantized parameters", "quantization scales")
    rest = named(estimate, Phase.INIT, "frozen parameters")
    assert packed == about(35.31)
    assert rest == about(4.21)
    assert packed + rest == about(39.5)


def test_qlora_upcast() -> None:
    """prepare_model_for_kbit_training upcasts the rest to fp32: 8.41 GB, 43.7 in all (PEFT utils/other)."""
    estimate = qlora(precision={"name": "bf16", "frozen": "fp32"})
    names = ("quantized parameters", "quantization scales", "frozen parameters")
    assert named(estimate, Phase.INIT, *names) == about(43.7)


def test_qlora_adapters() -> None:
    """Rank 64 on all linears: 828 M parameters, 16 B each with fp32 adapters and Adam: 13.25 GB (PEFT)."""
    estimate = qlora()
    assert sharding.whole(estimate.graph.setup, sharding.trained(estimate.graph.setup)) == about(0.828)
    names = ("trained parameters", "gradients", "optimizer moments")
    assert named(estimate, Phase.STEP, *names) == about(13.25)


def test_qlora_sharded() -> None:
    """ZeRO-3 over 8: packed weights 4.28 GB; absmax is no parameter and stays whole, 1.09; the rest 0.53."""
    estimate = qlora("deepspeed", 8)
    assert named(estimate, Phase.INIT, "quantized parameters") == about(4.28)
    assert named(estimate, Phase.INIT, "quantization scales") == about(1.09)
    assert named(estimate, Phase.INIT, "frozen parameters") == about(0.53)


def test_parameters_are_those_of_transformers() -> None:
    assert blocks.num_parameters(catalog.model("llama-3-70b")) == PARAMETERS_70B
    assert blocks.num_parameters(catalog.model("llama-3-8b")) == PARAMETERS_8B
