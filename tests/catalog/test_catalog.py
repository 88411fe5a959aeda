"""The catalog: complete, sourced, found under every usual spelling, and helpful about the others."""

from __future__ import annotations

import pytest

from vramsim import catalog
from vramsim.blocks import num_parameters
from vramsim.catalog import tables
from vramsim.equations.optimizer import state_bytes
from vramsim.errors import VramsimError
from vramsim.spec import dtype_bytes
from vramsim.units import DTYPE_BYTES, GiB

KINDS = ("device", "model", "framework", "optimizer", "quantization")


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_has_a_source(kind: str) -> None:
    assert [row["name"] for row in catalog.describe(kind) if not row.get("source")] == []


def test_every_node_has_a_source() -> None:
    assert list(tables.rows("node")) == catalog.names("device")
    assert all(row["source"] for row in tables.rows("node").values())


@pytest.mark.parametrize("name", catalog.names("device"))
def test_devices_are_plausible(name: str) -> None:
    device, node = catalog.device(name), catalog.node(name)
    assert 0.9 * device.memory < device.usable_memory <= device.memory
    assert max(dict(device.peak_flops).values()) > 1e13
    assert {dtype for dtype, _ in device.peak_flops} <= set(DTYPE_BYTES)
    for ratio in (device.gemm_efficiency, device.cudnn_efficiency, device.memory_efficiency):
        assert 0.2 < ratio <= 1.0
    # FlashAttention-2 has no kernel for Blackwell's tensor cores: 374 of 2500 TFLOP/s on GB200.
    assert 0.1 < device.attention_efficiency <= 1.0
    assert 0 < device.context < 1e9
    assert device.pcie_bandwidth < device.memory_bandwidth
    assert device.calibration in ("measured", "assumed")
    assert all(value > 0 for value in node.values())


def test_eighty_gigabyte_cards_expose_79_gib() -> None:
    for name in ("a100-sxm-80gb", "h100-sxm-80gb"):
        assert catalog.device(name).usable_memory == pytest.approx(79.33 * GiB)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("A100-80GB", "a100-sxm-80gb"),
        ("A100-80GB-SXM4", "a100-sxm-80gb"),
        ("a100_sxm 80GB", "a100-sxm-80gb"),
        ("A800-80GB", "a800-sxm-80gb"),
        ("H800-80GB", "h800-sxm-80gb"),
        ("H100-96GB (95 GiB usable)", "h100-sxm-96gb"),
        ("RTX3090-24GB", "rtx-3090-24gb"),
        ("V100-16GB", "v100-sxm2-16gb"),
        ("GB200-192GB", "gb200-186gb"),
        ("MI300X-192GB", "mi300x-192gb"),
        ("TPU-v4-32GB", "tpu-v4-32gb"),
    ],
)
def test_usual_spellings_of_devices(spelling: str, name: str) -> None:
    assert catalog.device(spelling).name == name


def test_no_spelling_stands_for_two_rows() -> None:
    for kind in ("device", "model"):
        seen: dict[str, str] = {}
        for name, row in tables.rows(kind).items():
            aliases = row["aliases"].split("|") if isinstance(row["aliases"], str) else row["aliases"]
            for spelling in {tables.fold(each) for each in (name, *aliases)}:
                assert seen.setdefault(spelling, name) == name


@pytest.mark.parametrize("name", catalog.names("model"))
def test_models_have_exactly_their_parameters(name: str) -> None:
    assert num_parameters(catalog.model(name)) == tables.rows("model")[name]["num_parameters"]


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("meta-llama/Meta-Llama-3-8B", "llama-3-8b"),
        ("llama-3.1-8b", "llama-3-8b"),
        ("Llama_3_70B", "llama-3-70b"),
        ("Qwen/Qwen2.5-7B", "qwen2.5-7b"),
        ("mistral-7b", "mistral-7b-v0.3"),
    ],
)
def test_usual_spellings_of_models(spelling: str, name: str) -> None:
    assert catalog.model(spelling).name == name


def test_frameworks_inherit_from_their_base() -> None:
    xtuner = catalog.make_framework("xtuner-v0.1")
    assert (xtuner.engine, xtuner.expand_kv, xtuner.cpu_optimizer) == ("deepspeed", True, "torch_adamw")
    assert xtuner.reduce_bucket_size == catalog.make_framework("deepspeed").reduce_bucket_size == 5e8


@pytest.mark.parametrize("name", catalog.names("framework"))
def test_frameworks_choose_among_the_choices(name: str) -> None:
    framework = catalog.make_framework(name)
    for knob, choices in catalog.framework_choices().items():
        assert getattr(framework, knob) in choices


@pytest.mark.parametrize("engine", ["deepspeed", "fsdp2", "ddp", "torch"])
@pytest.mark.parametrize("name", catalog.names("precision"))
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_precisions_name_dtypes(engine: str, name: str, method: str) -> None:
    precision = catalog.precision(engine, name, method)
    for dtype in (precision.param, precision.frozen, precision.compute, precision.grad, precision.reduce):
        assert dtype in DTYPE_BYTES
    assert not (precision.autocast and precision.param == precision.compute)
    if name.endswith("_pure"):
        assert not precision.master
        assert not precision.autocast


def test_bytes_per_trained_weight_of_the_usual_precisions() -> None:
    def states(engine: str, name: str) -> float:
        precision = catalog.precision(engine, name)
        size = DTYPE_BYTES
        return size[precision.param] + size[precision.grad] + 4.0 * precision.master + 2 * size[precision.moments]

    assert states("deepspeed", "bf16") == states("fsdp2", "bf16") == states("torch", "bf16") == 16.0
    assert states("fsdp2", "bf16_pure") == 8.0


def test_a_preset_may_have_dtypes_of_its_own() -> None:
    # accelerate's set_mixed_precision: param_dtype = reduce_dtype (asserted by its own tests/fsdp/test_fsdp.py).
    assert catalog.precision("fsdp2", "bf16", preset="hf-trainer-fsdp").reduce == "bf16"
    assert catalog.precision("fsdp2", "bf16_pure", preset="hf-trainer-fsdp").param == "bf16"
    assert catalog.precision("fsdp2", "bf16", preset="torchtitan").reduce == "fp32"


def test_adamw_is_what_the_framework_makes_of_it() -> None:
    assert catalog.optimizer("adamw", "foreach").temporary == "foreach"
    assert catalog.optimizer("adamw", "fused").temporary_factor == 0.0
    assert catalog.optimizer("adamw_foreach", "fused").temporary_factor == 1.0
    assert catalog.optimizer("paged_adamw").name == "paged_adamw_32bit"
    old = catalog.optimizer("adamw", "foreach_2.0")
    assert (old.temporary, old.temporary_factor) == ("foreach", 2.0)


@pytest.mark.parametrize(("name", "bytes_per_element"), [("nf4", 0.5625), ("nf4_dq", 0.515869140625), ("none", 0.0)])
def test_quantized_bytes(name: str, bytes_per_element: float) -> None:
    quantization = catalog.quantization(name)
    assert quantization.packed + quantization.scale == bytes_per_element


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: catalog.device("h100-sxm-8gb"), "unknown device 'h100-sxm-8gb': did you mean h100-sxm-80gb"),
        (lambda: catalog.model("lama-3-70b"), "unknown model 'lama-3-70b': did you mean llama-3-70b"),
        (lambda: catalog.framework("deepsped"), "unknown framework 'deepsped': did you mean deepspeed?"),
        (lambda: catalog.optimizer("adamww"), "unknown optimizer 'adamww': did you mean adamw"),
        (lambda: catalog.quantization("nf5"), "unknown quantization 'nf5': did you mean nf4"),
        (lambda: catalog.precision("torch", "bf17"), "unknown precision 'bf17': did you mean bf16"),
        (lambda: catalog.precision("colossal", "bf16"), "unknown engine 'colossal'"),
        (lambda: catalog.names("gadget"), "no kind 'gadget': known are device"),
        (
            lambda: catalog.make_framework("torch", {"atention": "flash"}),
            "has no knob 'atention': did you mean attention?",
        ),
        (lambda: catalog.make_framework("torch", {"attention": "flsh"}), "must be one of flash, "),
        (lambda: catalog.make_framework("torch", {"overlap_comm": 1}), "must be true or false, got 1"),
        (lambda: catalog.make_framework("torch", {"fragmentation": float("nan")}), "must be a number from 0"),
    ],
)
def test_unknown_names_get_the_nearest(ask: object, sentence: str) -> None:
    with pytest.raises(VramsimError) as raised:
        ask()  # type: ignore[operator]
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "bytes_per_element"),
    [
        # torchao optim/README.md and bitsandbytes optim/optimizer.py: what a large weight's states take.
        ("adamw_8bit", 2.03125),
        ("adamw_fp8", 2.03125),
        ("adamw_4bit", 1.0625),
        ("lion_8bit", 1.015625),
        ("paged_adamw_32bit", 8.0),
    ],
)
def test_low_bit_states(name: str, bytes_per_element: float) -> None:
    states = catalog.optimizer(name).states
    each = [float(state_bytes(2.0**20, dtype_bytes(s.dtype), float(s.block))) for s in states]
    assert sum(each) / 2**20 == bytes_per_element


def test_power_limits_of_one_generation_agree_with_its_devices() -> None:
    """Provenance: GB200's products were measured at 1,200 W, B200's by others at 1,000 W; C11's exponent is GB300's."""
    slower, faster = catalog.device("b200-sxm-180gb"), catalog.device("gb200-186gb")
    held = catalog.powered(faster, slower.power)
    assert held.gemm_efficiency * held.peak("bf16") == pytest.approx(
        slower.gemm_efficiency * slower.peak("bf16"), rel=0.02
    )
