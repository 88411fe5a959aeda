"""A case written as another program's configuration, and read back, keeps its strategy; the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vramsim.case import Case
from vramsim.cli import main
from vramsim.convert.conversion import convert
from vramsim.convert.export import export
from vramsim.errors import VramsimError
from vramsim.simulate import simulate

ROOT = Path(__file__).parents[2]
SEED = ROOT / "studies/cases/llama3_70b_16xa100.yaml"
DATA = Path(__file__).parent / "data"

OFFLOADS = st.sampled_from(["none", "cpu", "nvme"])
KNOBS = {
    "reduce_bucket_size": 2e8,
    "allgather_bucket_size": 1e8,
    "prefetch_bucket_size": 1e7,
    "param_persistence_threshold": 0,
    "max_live_parameters": 1e8,
    "sub_group_size": 1e8,
    "overlap_comm": False,
    "max_grad_norm": 0.5,
    "save": "full",
    "cpu_optimizer": "torch_adamw",
}


def case_of(framework: Any, training: dict[str, Any], strategy: dict[str, Any]) -> Case:
    """A small model on two nodes; assumes that the configuration is possible."""
    case = Case(
        model="qwen2.5-7b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 16, "devices_per_node": 8},
        framework=framework,
        training={"seq_len": 4096, **training},
        strategy=strategy,
    )
    try:
        case.resolve()
    except VramsimError:
        assume(False)
    return case


def back(folder: Path, target: str, case: Case, beside: dict[str, Any]) -> tuple[Case, list[str]]:
    """What is understood of a case that has been written, with what that file cannot say."""
    content, notes = export(case, target)
    path = folder / f"{target}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    given_elsewhere = {"model": case.model, "device": "h100-sxm-80gb", "num_devices": 16, "devices_per_node": 8}
    return convert(path, {**given_elsewhere, "seq_len": 4096, **beside}).case, notes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stage=st.integers(0, 3),
    offloads=st.tuples(OFFLOADS, OFFLOADS) | st.tuples(st.sampled_from([0.25, 0.5]), st.just("none")),
    precision=st.sampled_from(
        ["bf16", "fp16", "fp32", {"name": "bf16", "grad": "fp32"}, {"name": "bf16", "reduce": "fp32"}]
    ),
    batch=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 8])),
    knobs=st.lists(st.sampled_from(sorted(KNOBS)), unique=True, max_size=4),
    groups=st.sampled_from([{}, {"shard_size": 8}, {"secondary_shard_size": 8}, {"sp": 2}, {"tp": 2}]),
)
def test_deepspeed_round_trip(
    tmp_path: Path, stage: int, offloads: Any, precision: Any, batch: tuple[int, int], knobs: list[str], groups: Any
) -> None:
    case = case_of(
        {"name": "deepspeed", **{knob: KNOBS[knob] for knob in knobs}},
        {"precision": precision, "micro_batch_size": batch[0], "gradient_accumulation_steps": batch[1]},
        {"zero_stage": stage, "offload_optimizer": offloads[0], "offload_parameters": offloads[1], **groups},
    )
    read, notes = back(tmp_path, "deepspeed", case, {})
    assert notes == []
    ours, theirs = case.describe(), read.describe()
    assert theirs["strategy"] == ours["strategy"]
    assert theirs["framework"] == ours["framework"]
    assert theirs["training"] == ours["training"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    framework=st.sampled_from(["hf-trainer-fsdp", "hf-trainer-fsdp1", "ddp", "deepspeed"]),
    stage=st.integers(0, 3),
    offload=st.sampled_from(["none", "cpu"]),
    recompute=st.sampled_from(["none", "full"]),
    precision=st.sampled_from(["bf16", "fp32"]),
    mesh=st.sampled_from([{}, {"tp": 2}, {"cp": 2}, {"sp": 2}, {"shard_size": 8}, {"shard_size": 4, "tp": 2}]),
)
def test_accelerate_round_trip(
    tmp_path: Path, framework: str, stage: int, offload: str, recompute: str, precision: str, mesh: dict[str, int]
) -> None:
    assume(framework != "deepspeed" or "shard_size" not in mesh)
    offloads = {"offload_optimizer": offload, "offload_parameters": offload}
    case = case_of(
        framework, {"precision": precision}, {"zero_stage": stage, "recompute": recompute, **offloads, **mesh}
    )
    beside = {} if "fsdp" in framework else {"recompute": recompute}  # the trainer's file says that
    read, notes = back(tmp_path, "accelerate", case, beside)
    assert bool(notes) == (bool(beside) and recompute == "full")
    assert read.describe()["strategy"] == case.describe()["strategy"]
    assert read.resolve().framework.engine == case.resolve().framework.engine
    assert read.describe()["training"]["precision"] == case.describe()["training"]["precision"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    engine=st.sampled_from(["deepspeed", "accelerate"]),
    batch=st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 4])),
    precision=st.sampled_from(["bf16", "fp16", "fp32"]),
    optimizer=st.sampled_from(["adamw_foreach", "adamw_fused", "adamw_8bit", "paged_adamw_8bit", "lion", "adafactor"]),
    recompute=st.sampled_from(["none", "full"]),
    adapters=st.sampled_from([{}, {"method": "lora", "lora": {"rank": 8, "targets": ["q_proj", "down_proj"]}}])
    | st.sampled_from(["nf4", "nf4_dq", "fp4", "int8"]).map(lambda stored: {"method": "qlora", "stored": stored}),
    loss=st.sampled_from([{}, {"loss": "liger", "norm": "fused", "activation": "fused"}]),
)
def test_trainer_and_sharding_round_trip(
    tmp_path: Path,
    engine: str,
    batch: tuple[int, int],
    precision: str,
    optimizer: str,
    recompute: str,
    adapters: dict[str, Any],
    loss: dict[str, str],
) -> None:
    """The Trainer's file and the one that shards say the whole case but the machine."""
    framework = {"name": "deepspeed" if engine == "deepspeed" else "hf-trainer-fsdp", **loss}
    training = {"precision": precision, "optimizer": optimizer, "micro_batch_size": batch[0]}
    training |= {"gradient_accumulation_steps": batch[1]} | {k: v for k, v in adapters.items() if k != "stored"}
    strategy = {"zero_stage": 3, "recompute": recompute, "quantization": adapters.get("stored", "none")}
    case = case_of(framework, training, strategy)
    paths = []
    for target in ("trainer", engine):
        paths.append(tmp_path / f"{target}.json")
        paths[-1].write_text(json.dumps(export(case, target)[0]), encoding="utf-8")
    machine = {"device": "h100-sxm-80gb", "num_devices": 16, "devices_per_node": 8}
    read = convert(paths, machine).case
    ours, theirs = case.describe(), read.describe()
    assert theirs["model"] == ours["model"]
    assert theirs["training"] == ours["training"]
    assert theirs["strategy"] == ours["strategy"]
    assert simulate(read).memory.hbm.used_bytes == simulate(case).memory.hbm.used_bytes


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    degrees=st.fixed_dictionaries({axis: st.sampled_from([1, 2]) for axis in ("tp", "pp", "cp")}),
    stage=st.integers(0, 1),
    recompute=st.sampled_from(["none", "selective", "full"]),
    precision=st.sampled_from(["bf16", "fp16", {"name": "bf16", "products": "fp8"}]),
    extra=st.sampled_from([{}, {"megatron_sp": True}, {"offload_optimizer": "cpu"}]),
)
def test_megatron_round_trip(
    tmp_path: Path, degrees: dict[str, int], stage: int, recompute: str, precision: Any, extra: dict[str, Any]
) -> None:
    assume("megatron_sp" not in extra or degrees["tp"] > 1)
    case = case_of(
        "megatron",
        {"precision": precision, "micro_batch_size": 1, "global_batch_size": 32},
        {"zero_stage": stage, "recompute": recompute, **degrees, **extra},
    )
    options, _ = export(case, "megatron")
    path = tmp_path / "run.sh"
    path.write_text(
        "torchrun " + " ".join(f"--{key}" + ("" if value is True else f" {value}") for key, value in options.items()),
        encoding="utf-8",
    )
    read = convert(path, {"model": case.model, "device": "h100-sxm-80gb"}).case
    assert read.describe() == case.describe()


def test_what_a_file_cannot_say_is_told() -> None:
    _, notes = export(Case.load(SEED), "deepspeed")
    assert "recomputation" in notes[0]


@pytest.mark.parametrize(
    ("values", "target", "parts"),
    [
        ({}, "axolotl", ["case, deepspeed, accelerate, trainer, megatron", "'axolotl'"]),
        ({"framework": "fsdp2"}, "deepspeed", ["fsdp2 does not run DeepSpeed"]),
        ({"framework": "megatron", "zero_stage": 1}, "accelerate", ["accelerate does not run framework megatron"]),
    ],
)
def test_impossible_targets_get_one_sentence(values: dict[str, Any], target: str, parts: list[str]) -> None:
    with pytest.raises(VramsimError) as raised:
        export(Case.load(SEED).with_values(values), target)
    assert all(part in str(raised.value) for part in parts)


# The command line -----------------------------------------------------------------------------------------------------


def test_convert_prints_a_case(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [
        str(DATA / "own_trainer.yaml"),
        str(DATA / "huggingface__accelerate__tests__deepspeed__ds_config_zero3.json"),
    ]
    assert main(["convert", *files]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert yaml.safe_load(printed.out)["missing"] == ["cluster"]
    assert main(["convert", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == yaml.safe_load(printed.out)
    case = tmp_path / "case.yaml"
    case.write_text(printed.out, encoding="utf-8")
    sets = ["--set", "device=h100-sxm-80gb", "num_devices=8"]
    assert main(["estimate", str(case), *sets, "--json"]) == 0
    of_case = json.loads(capsys.readouterr().out)
    assert main(["estimate", *files, *sets, "--json"]) == 0
    of_files = json.loads(capsys.readouterr().out)
    assert of_files["memory"] == of_case["memory"]
    assert any("gradient_accumulation_steps" in note for note in of_files["notes"])
    assert any("torch_empty_cache_steps" in note for note in of_files["notes"])


def test_convert_complains_in_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{", encoding="utf-8")
    for words in (
        ["convert", str(wrong)],
        ["convert", str(tmp_path / "none.json")],
        ["convert", str(SEED), "--to", "x"],
    ):
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
    assert main(["estimate", str(DATA / "own_swift.sh")]) == 2
    assert "give --set device=..." in capsys.readouterr().err


def test_convert_to_deepspeed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(SEED), "--to", "deepspeed"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["zero_optimization"]["stage"] == 3
    assert "recomputation" in captured.err
    assert main(["convert", str(SEED), "--to", "accelerate", "--set", "framework=fsdp2"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["fsdp_config"]["fsdp_version"] == 2
