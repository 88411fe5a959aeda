"""Configurations of other programs become cases: goldens by hand for each format, the seed's story, and laws."""

from __future__ import annotations

import json
import tomllib
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vramsim
from vramsim import testing
from vramsim.case import Case
from vramsim.convert.architecture import catalog_name
from vramsim.convert.conversion import Conversion, convert, load
from vramsim.errors import VramsimError
from vramsim.formats import facts
from vramsim.units import GiB

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[2]

XTUNER = DATA / "own_xtuner_llama3_70b_full.py"
ZERO3 = DATA / "InternLM__xtuner__xtuner__configs__deepspeed__deepspeed_zero3.json"
ZERO3_AUTO = DATA / "huggingface__accelerate__tests__deepspeed__ds_config_zero3.json"
FSDP2 = DATA / "huggingface__trl__trl__accelerate_configs__fsdp2.yaml"
EVERY = sorted(path for path in DATA.iterdir() if path.name != "README.md")

MACHINES = {"device": "h100-sxm-80gb", "num_devices": 8}


def at(description: Any, path: str) -> Any:
    """What a dotted path leads to; None if it leads nowhere."""
    for key in path.split("."):
        description = description.get(key) if isinstance(description, dict) else None
    return description


def write(folder: Path, name: str, content: Any) -> Path:
    """A file with some content: as text, or as JSON."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# The seed -------------------------------------------------------------------------------------------------------------


def test_the_seed_story() -> None:
    """XTuner's full fine-tune of Llama 3 70B, with its deepspeed_zero3.json on 16 A100: what it all began with."""
    found = convert([XTUNER, ZERO3])
    assert found.missing == ("cluster",)
    found = convert([ZERO3, XTUNER], {"device": "a100-sxm-80gb", "num_devices": 16})
    assert found.missing == found.ignored == ()
    told = Case.load(ROOT / "studies/cases/llama3_70b_16xa100.yaml")
    mine, theirs = vramsim.simulate(found.case), vramsim.simulate(told)
    assert mine.memory.hbm.used_bytes == theirs.memory.hbm.used_bytes
    page = (ROOT / "studies/xtuner_llama3_70b.md").read_text(encoding="utf-8")
    assert f"Each of 16 GPUs needs {float(mine.memory.hbm.used_bytes) / GiB:.1f} GiB" in page
    assert not mine.fits
    # Its file has one thing that the case leaves out: the model is gathered whole when it is saved.
    assert found.case.framework == {"name": "xtuner-v0.1", "save": "full"}


# Goldens, format by format --------------------------------------------------------------------------------------------

GOLDENS: dict[str, dict[str, Any]] = {
    "InternLM__xtuner__xtuner__configs__deepspeed__deepspeed_zero3_offload.json": {
        "framework": {"name": "deepspeed", "save": "full", "cpu_optimizer": "torch_adamw"},
        "strategy": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
        "missing": ("model", "cluster", "seq_len"),
    },
    "deepspeedai__DeepSpeed__tests__model__Megatron_GPT2__ds_config_func_bs8_zero2_offload.json": {
        # overlap_comm is DeepSpeed's own default below stage 3; cpu_offload is the switch of old.
        "framework": {
            "name": "deepspeed",
            "overlap_comm": False,
            "reduce_bucket_size": 7000000,
            "allgather_bucket_size": 7000000,
        },
        "training": {"global_batch_size": 8, "precision": "fp16"},
        "strategy": {"zero_stage": 2, "offload_optimizer": "cpu"},
        "missing": ("model", "cluster", "seq_len"),
    },
    "huggingface__trl__trl__accelerate_configs__fsdp2.yaml": {
        "cluster": {"num_devices": 8},
        "framework": {"name": "hf-trainer-fsdp", "save": "full"},
        "training": {"precision": "bf16"},
        "strategy": {"zero_stage": 3},
        "missing": ("model", "device", "seq_len"),
    },
    "huggingface__trl__examples__accelerate_configs__alst_ulysses_4gpu.yaml": {
        "cluster": {"num_devices": 4},
        "framework": {"name": "deepspeed", "save": "full"},
        "strategy": {"zero_stage": 3, "sp": 2},
        "missing": ("model", "device", "seq_len"),
    },
    "hiyouga__LLaMA-Factory__examples__train_qlora__qwen3_lora_sft_bnb_npu.yaml": {
        "model": "qwen3-4b",
        # Checkpointing is on, and reentrant, unless a file says otherwise; alpha is twice the rank.
        "framework": {"name": "ddp", "reentrant_checkpoint": True},
        "training.method": "qlora",
        "training.seq_len": 2048,
        "training.micro_batch_size": 1,
        "training.gradient_accumulation_steps": 8,
        "training.lora": {"rank": 8, "alpha": 16, "targets": ["all-linear"], "dropout": 0.0},
        "strategy": {"zero_stage": 0, "recompute": "full", "quantization": "nf4"},
        "missing": ("cluster",),
    },
    "hiyouga__LLaMA-Factory__examples__v1__train_batching_strategy__train_full_fsdp2_batching_normal.yaml": {
        "model": "qwen3-0.6b",
        "framework": "hf-trainer-fsdp",
        "training": {"method": "full", "seq_len": 2048, "micro_batch_size": 2},
        "missing": ("cluster",),
    },
    "axolotl-ai-cloud__axolotl__examples__qwen3__qlora-fsdp.yaml": {
        "model": "qwen3-8b",
        "framework": {"name": "hf-trainer-fsdp1", "save": "full"},
        "training.method": "qlora",
        "training.seq_len": 2048,
        "training.optimizer": "adamw_fused",
        "training.precision": "bf16",
        "training.lora": {"rank": 32, "alpha": 64, "targets": ["all-linear"], "dropout": 0.05},
        # FSDP's offload takes everything along.
        "strategy": {
            "zero_stage": 3,
            "recompute": "full",
            "offload_optimizer": "cpu",
            "offload_parameters": "cpu",
            "quantization": "nf4_dq",
        },
        "missing": ("cluster",),
    },
    "axolotl-ai-cloud__axolotl__examples__cloud__baseten.yaml": {
        "cluster": {"device": "h100-sxm-80gb", "devices_per_node": 8, "num_devices": 8},
        "training": None,
        "missing": ("model", "framework", "seq_len"),
    },
    "pytorch__torchtune__recipes__configs__gemma__7B_qlora_single_device.yaml": {
        "model": "gemma-7b",
        "framework": {"name": "torch", "loss": "chunked"},
        "training.method": "qlora",
        "training.micro_batch_size": 4,
        "training.lora.rank": 64,
        "training.lora.targets": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "strategy.quantization": "nf4_dq",
        "missing": ("cluster", "seq_len"),
    },
    "own_xtuner_llama3_8b_qlora.py": {
        "model": "llama-3-8b",
        "training.seq_len": 4096,
        "training.gradient_accumulation_steps": 16,  # 8, as 2 ranks share a sequence, times 2
        "training.optimizer": "paged_adamw_32bit",
        "training.lora": {"rank": 64, "alpha": 16, "targets": ["all-linear"], "dropout": 0.1},
        "strategy": {"zero_stage": 0, "sp": 2, "recompute": "full", "quantization": "nf4_dq"},
        "missing": ("cluster",),
    },
    "own_trainer.yaml": {
        "model": "qwen2.5-7b",
        # Auto: 3584^2, 0.9 of it, 10 * 3584 (transformers integrations/deepspeed.py).
        "framework": {
            "name": "deepspeed",
            "loss": "liger",
            "norm": "fused",
            "activation": "fused",
            "max_grad_norm": 0.5,
            "gpu_optimizer": "foreach",
            "cpu_optimizer": "torch_adamw",
            "reduce_bucket_size": 12845056,
            "prefetch_bucket_size": 11560550,
            "param_persistence_threshold": 35840,
        },
        "training.micro_batch_size": 2,
        "training.precision": "bf16",
        "strategy.offload_parameters": "cpu",
        "missing": ("cluster",),
    },
    "own_torchtitan.toml": {
        "model": "llama-3-70b",
        "cluster": {"num_devices": 128},  # 2 * 4 * 8 * 2
        "framework": {"name": "torchtitan", "norm": "fused", "activation": "fused", "loss": "compiled"},
        "training": {
            "method": "full",
            "seq_len": 8192,
            "micro_batch_size": 8,
            "precision": "bf16",
            "optimizer": "adamw",
        },
        "strategy": {
            "zero_stage": 3,
            "tp": 8,
            "pp": 2,
            "schedule": "interleaved",
            "shard_size": 4,
            "recompute": 0.5,
        },
        "missing": ("device",),
    },
    "own_megatron.sh": {
        "model.model_type": "llama",
        "model.num_key_value_heads": 8,
        "model.vocab_size": 128256,
        "cluster": {"devices_per_node": 8, "num_devices": 32},
        "framework": "megatron",
        "training.global_batch_size": 128,
        "training.precision": {"name": "bf16", "products": "fp8"},
        "strategy": {"zero_stage": 1, "tp": 4, "pp": 2, "megatron_sp": True, "recompute": "selective"},
        "missing": ("device",),
    },
    "own_megatron.yaml": {
        "model.model_type": "gpt2",
        "model.intermediate_size": 4096,
        "training.precision": "fp16",
        # One block of 4 * 2 * 3 layers in each of 8 chunks is recomputed; chunks are 24 / (4 * 3) = 2 a device.
        "strategy": {"zero_stage": 0, "tp": 2, "pp": 4, "vpp": 2, "recompute": pytest.approx(1 / 3)},
        "missing": ("model.vocab_size", "cluster"),
    },
    "own_recipe.yaml": {
        "model.hidden_size": 4096,
        "training": {
            "method": "full",
            "seq_len": 4096,
            "micro_batch_size": 1,
            "global_batch_size": 64,
            "precision": "bf16",
            "optimizer": "adamw",
        },
        "strategy": {"zero_stage": 0, "tp": 2, "cp": 2, "megatron_sp": True, "recompute": "full"},
        "missing": ("model.vocab_size", "cluster"),
    },
    "own_swift.sh": {
        "model": "qwen2.5-7b",
        "cluster": {"devices_per_node": 2, "num_devices": 2},
        "training.gradient_accumulation_steps": 8,  # expr 16 / 2
        "framework.reduce_bucket_size": 12845056,  # its zero3 leaves that to the Trainer
        "strategy": {"zero_stage": 3, "recompute": "full"},
        "missing": ("device",),
    },
    "own_adapter_config.json": {
        "model": "llama-3-8b",
        "training": {
            "method": "lora",
            "lora": {
                "rank": 32,
                "alpha": 64,
                "targets": ["q_proj", "v_proj", "down_proj"],
                "dropout": 0.1,
                "modules_to_save": ["lm_head"],
            },
        },
        "missing": ("cluster", "framework", "seq_len"),
    },
}


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens(name: str) -> None:
    found = convert(DATA / name)
    for path, right in GOLDENS[name].items():
        assert (found.missing if path == "missing" else at(found.description, path)) == right, path


def test_every_format_has_a_golden() -> None:
    titles = {title for name in GOLDENS for title in convert(DATA / name).formats.values()}
    asked_elsewhere = {"vramsim case", "Hugging Face model configuration"}
    assert {facts.format_of(name).title for name in facts.NAMES} - titles == asked_elsewhere


def test_a_models_configuration(tmp_path: Path) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "vocab_size": 32000}
    config |= {"num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 4096}
    path = write(tmp_path, "config.json", config)
    found = convert([path, FSDP2], {"device": "a100", "seq_len": 512})
    assert found.description["model"] == str(path)
    assert found.case.resolve().model.hidden == 1024
    # The Trainer's file names a checkpoint; its config.json says what that is.
    args = write(tmp_path, "args.json", {"per_device_train_batch_size": 1, "output_dir": "o", "max_length": 512})
    assert convert([args, path], MACHINES).description["model"] == str(path)


# Several files --------------------------------------------------------------------------------------------------------


def test_auto_values_resolve_from_the_trainer(tmp_path: Path) -> None:
    args = {"per_device_train_batch_size": 4, "fp16": True, "max_grad_norm": 0.3, "model_name_or_path": "gpt2"}
    found = convert([ZERO3_AUTO, write(tmp_path, "args.json", args)])
    assert at(found.description, "training.micro_batch_size") == 4
    assert at(found.description, "training.precision") == "fp16"
    assert at(found.description, "framework.max_grad_norm") == 0.3
    assert at(found.description, "framework.reduce_bucket_size") == 768**2


def test_a_stated_value_comes_before_a_default(tmp_path: Path) -> None:
    ds = write(tmp_path, "ds.json", {"zero_optimization": {"stage": 1}, "train_micro_batch_size_per_gpu": 3})
    args = write(tmp_path, "args.yaml", "output_dir: o\nlearning_rate: 1e-4\nmax_steps: 3\nbf16: true\n")
    found = convert([args, ds])
    assert at(found.description, "training.micro_batch_size") == 3  # the Trainer's 8 is only its default
    assert found.notes == ()


def test_a_switch_of_old_means_stage_one(tmp_path: Path) -> None:
    path = write(tmp_path, "ds.json", {"zero_optimization": True, "train_micro_batch_size_per_gpu": 3})
    assert at(convert(path).description, "strategy.zero_stage") == 1


def test_conflicts_are_told(tmp_path: Path) -> None:
    ds = write(tmp_path, "ds.json", {"zero_optimization": {"stage": 1}, "train_micro_batch_size_per_gpu": 3})
    args = write(tmp_path, "args.json", {"per_device_train_batch_size": 2, "output_dir": "o", "max_steps": 3})
    found = convert([args, ds])
    assert at(found.description, "training.micro_batch_size") == 2
    (note,) = found.notes
    for part in ("training.micro_batch_size", "2 as args.json", "not 3 as ds.json", "train_micro_batch_size_per_gpu"):
        assert part in note


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        write(tmp_path, f"{number}/ds.json", {"zero_optimization": {"stage": number}})
    found = convert([tmp_path / "1/ds.json", tmp_path / "2/ds.json"])
    assert at(found.description, "strategy.zero_stage") == 2  # the last of one kind
    (note,) = found.notes
    assert str(tmp_path / "1/ds.json") in note


def test_part_of_a_case_goes_with_foreign_files(tmp_path: Path) -> None:
    part = write(tmp_path, "machines.yaml", "cluster: {device: h100-sxm-80gb, num_devices: 64}\nstrategy: {sp: 2}\n")
    found = convert([XTUNER, ZERO3, part])
    assert found.missing == ()
    assert found.case.strategy.sp == 2


def test_named_files_are_read_where_they_are(tmp_path: Path) -> None:
    args = {"per_device_train_batch_size": 1, "output_dir": "o", "deepspeed": "conf/my.json"}
    path = write(tmp_path, "args.json", args)
    found = convert(path)
    assert "zero_stage" in found.missing
    (tmp_path / "conf").mkdir()
    write(tmp_path, "conf/my.json", {"zero_optimization": {"stage": 2}})
    found = convert(path)
    assert at(found.description, "strategy.zero_stage") == 2
    assert any("conf/my.json is read" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "stage", "offloads"),
    [
        ("deepspeed_zero3_offload", 3, True),
        ("examples/deepspeed/ds_z2_config.json", 2, False),
        ("default-zero3", 3, False),
    ],
)
def test_shipped_configurations_are_known_by_name(tmp_path: Path, name: str, stage: int, offloads: bool) -> None:
    args = write(tmp_path, "args.json", {"per_device_train_batch_size": 1, "output_dir": "o", "deepspeed": name})
    found = convert(args)
    assert at(found.description, "strategy.zero_stage") == stage
    assert (at(found.description, "strategy.offload_parameters") == "cpu") == offloads


def test_a_configuration_inside_another(tmp_path: Path) -> None:
    inner = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}}
    args = write(tmp_path, "args.json", {"per_device_train_batch_size": 1, "output_dir": "o", "deepspeed": inner})
    assert at(convert(args).description, "strategy") == {"zero_stage": 2, "recompute": "none", "offload_optimizer": 0.5}


def test_what_is_missing_can_be_set() -> None:
    for path in EVERY:
        try:
            found = convert(path)
        except VramsimError:
            continue
        fill = {"cluster": MACHINES, "seq_len": 1024, "model": "llama-3-8b", "framework": "ddp", "zero_stage": 3}
        fill |= {"device": "h100-sxm-80gb", "num_devices": 8, "model.vocab_size": 51200}
        values = {name: fill[name] for name in found.missing}
        assert convert(path, values).missing == ()


def test_the_printed_case_is_read_back(tmp_path: Path) -> None:
    printed = yaml.safe_dump(convert([XTUNER, ZERO3]).to_dict(), sort_keys=False)
    path = write(tmp_path, "case.yaml", printed)
    values = {"device": "a100-sxm-80gb", "num_devices": 16}
    assert Case.load(path, values) == convert([XTUNER, ZERO3], values).case
    with pytest.raises(VramsimError, match="cluster is missing"):
        Case.load(path)


def test_estimate_takes_both() -> None:
    own = ROOT / "studies/cases/llama3_70b_16xa100.yaml"
    assert load([own], {"seq_len": 4096})[0] == Case.load(own).with_values({"seq_len": 4096})
    case, notes = load([XTUNER], MACHINES | {"sp": 1})
    assert case.framework == "ddp"
    assert any("plain data parallelism" in note for note in notes)


# Wrong files ----------------------------------------------------------------------------------------------------------

REFUSED = {
    "hiyouga__LLaMA-Factory__examples__inference__mossvl.yaml": ["inference, not training", "infer_backend"],
    "hiyouga__LLaMA-Factory__examples__v1__train_freeze__train_freeze_sft.yaml": [
        "'freeze'",
        "not modelled",
        "lora, full",
    ],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_training_run_is_refused(name: str) -> None:
    with pytest.raises(VramsimError) as raised:
        convert(DATA / name)
    assert all(part in str(raised.value) for part in REFUSED[name])


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.json", "{", ["a.json", "cannot be read as JSON"]),
        ("a.json", "[1, 2]", ["must be a mapping", "list"]),
        ("a.yaml", "", ["must be a mapping", "nothing"]),
        ("a.yaml", "a: [", ["cannot be read as YAML"]),
        ("a.yaml", "!!python/object/apply:os.system ['true']", ["cannot be read as YAML"]),
        ("a.toml", "a = ", ["cannot be read as TOML"]),
        ("a.yaml", "colour: blue", ["no configuration that vramsim knows", "DeepSpeed"]),
        ("a.py", "def f(:\n", ["cannot be read as Python", "line 1"]),
        ("a.py", "x = 1", ["no configuration that vramsim knows"]),
        ("a.sh", "echo hello", ["holds no options"]),
        ("a.json", {"zero_optimization": {"stage": 4}}, ["a.json", "zero_optimization.stage", "0, 1, 2 or 3", "4"]),
        ("a.json", {"zero_optimization": {"stage": "three"}}, ["zero_optimization.stage", "a number", "'three'"]),
        ("a.json", {"train_batch_size": {"a": 1}}, ["train_batch_size", "a number"]),
        ("a.json", {"zero_optimization": {"offload_param": {"device": "gpu"}}}, ["offload_param.device", "cpu, nvme"]),
        ("a.yaml", "distributed_type: TPU", ["distributed_type", "MULTI_GPU", "'TPU'"]),
        ("a.yaml", "base_model: gpt2\nsequence_len: -3", ["seq_len", "-3"]),
        ("a.yaml", "base_model: gpt2\nsequence_len: 512\nadapter: llama-adapter", ["adapter", "lora, qlora"]),
    ],
)
def test_wrong_files_get_one_sentence(tmp_path: Path, name: str, content: Any, parts: list[str]) -> None:
    with pytest.raises(VramsimError) as raised:
        convert(write(tmp_path, name, content))
    assert "\n" not in str(raised.value)
    assert all(part in str(raised.value) for part in parts), str(raised.value)


def test_nothing_is_executed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    write(tmp_path, "a.py", f"import os\nopen({str(made)!r}, 'w')\noptim_wrapper = dict(x=os.mkdir({str(made)!r}))\n")
    write(
        tmp_path,
        "a.sh",
        f"touch {made}\nX=$(touch {made})\ntrain --per_device_train_batch_size 1 --bf16 `touch {made}`",
    )
    for name in ("a.py", "a.sh"):
        convert(tmp_path / name)
    assert not made.exists()


# Laws -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["own_trainer.yaml", ZERO3_AUTO.name, FSDP2.name],
        ["own_xtuner_llama3_8b_qlora.py", ZERO3.name, "axolotl-ai-cloud__axolotl__examples__cloud__baseten.yaml"],
        ["own_adapter_config.json", "own_trainer.yaml", "own_xtuner_llama3_70b_full.py"],
    ],
)
def test_the_order_of_files_matters_only_in_conflicts(names: list[str]) -> None:
    orders = [convert([DATA / name for name in order]) for order in permutations(names)]
    for other in orders[1:]:
        same = other.description == orders[0].description
        assert same or any(" not " in note for note in (*other.notes, *orders[0].notes))
    if "xtuner_llama3_70b" not in "".join(names):  # two programs that train contradict each other
        assert all(other.description == orders[0].description for other in orders)
        assert all(sorted(other.notes) == sorted(orders[0].notes) for other in orders)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=testing.cases())
def test_a_case_of_our_own_means_itself(tmp_path: Path, case: Case) -> None:
    assert convert(write(tmp_path, "case.json", case.describe())).case == case


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name[-40:])
def test_unknown_keys_change_nothing(path: Path, tmp_path: Path) -> None:
    if path.suffix not in (".json", ".yaml", ".yml"):
        return
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content |= {"zzz": {"deep": [1, {"er": None}]}, "unheard_of": True}
    for name in ("deepspeed", "deepspeed_config"):  # names of files beside the original
        if isinstance(content.get(name), str):
            content.pop(name)
            return
    more = write(tmp_path, path.name, content)
    assert told(more) == told(path)


def told(path: Path) -> Any:
    """What is made of a file, or why it is refused."""
    try:
        return {**convert(path).to_dict(), "model": None}
    except VramsimError as error:
        return str(error)


def known_keys() -> list[str]:
    return sorted({key for name in facts.NAMES for key in facts.format_of(name).keys} | set(facts.NAMES))


ODD = st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats() | st.text(max_size=8)
ODD |= st.sampled_from(
    ["auto", "cpu", "no", "bf16", "full", "lora", "q_proj", "1e400", "FULL_SHARD", "Qwen/Qwen2.5-7B"]
)
NESTED = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        where = found
        for section in sections:
            inner = where.get(section)
            where[section] = inner if isinstance(inner, dict) else {}
            where = where[section]
        where[last] = value
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.dictionaries(st.sampled_from(known_keys()) | st.text(max_size=6), NESTED, max_size=8).map(nest),
    suffix=st.sampled_from([".json", ".yaml"]),
)
def test_arbitrary_content_gets_an_answer_or_a_sentence(tmp_path: Path, content: Any, suffix: str) -> None:
    text = json.dumps(content) if suffix == ".json" else yaml.safe_dump(content)
    found = answer(write(tmp_path, f"any{suffix}", text), {"seq_len": 64})
    if isinstance(found, str):
        assert "\n" not in found
    else:
        json.dumps(found.to_dict())


def answer(path: Path, values: dict[str, Any] | None = None) -> Conversion | str:
    """What is made of a file, or the sentence with which it is refused."""
    try:
        return convert(path, values)
    except VramsimError as error:
        return str(error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=200), suffix=st.sampled_from([".json", ".yaml", ".toml", ".py", ".sh", ""]))
def test_arbitrary_text_gets_a_sentence(tmp_path: Path, text: str, suffix: str) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_text(text, encoding="utf-8", errors="replace")
    assert "\n" not in str(answer(path))


@pytest.mark.parametrize("path", sorted((ROOT / "vramsim/formats/foreign").glob("*.toml")), ids=lambda path: path.stem)
def test_tables_say_what_they_mean(path: Path) -> None:
    """Every field that a table names is one of a case, or one that the conversion asks for; every converter exists."""
    from vramsim.case import path_of
    from vramsim.formats.words import CONVERTERS

    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert table["source"]
    asked = "".join(each.read_text(encoding="utf-8") for each in (ROOT / "vramsim/convert").glob("*.py"))
    entries = [e for entry in table.get("keys", {}).values() for e in (entry if isinstance(entry, list) else [entry])]
    fields = [entry["to"] if isinstance(entry, dict) else entry for entry in entries]
    for field in [*fields, *table.get("means", {}), *table.get("says", {})]:
        if "." in field:
            assert path_of(field) == field
        else:
            assert f'"{field}"' in asked, field
    assert {entry["as"] for entry in entries if isinstance(entry, dict) and "as" in entry} <= set(CONVERTERS)


@pytest.mark.parametrize(
    ("given_name", "right"),
    [
        ("meta-llama/Meta-Llama-3-70B-Instruct", "llama-3-70b"),
        ("models/Qwen2.5-7B", "qwen2.5-7b"),
        ("./assets/hf/Llama-3.1-70B", "llama-3-70b"),
        ("deepseek-ai/DeepSeek-V3-0324-BF16", "deepseek-v3"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
        ("llama3_2_1b", "llama-3.2-1b"),
        ("mistralai/Ministral-8B-Instruct-2410", None),
        ("nobody/nothing-7b", None),
        ("-it", None),
    ],
)
def test_checkpoints_are_known_by_their_architecture(given_name: str, right: str | None) -> None:
    assert catalog_name(given_name) == right
