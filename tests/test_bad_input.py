"""Wrong input gets one sentence: what, the value given, what would be right. Right input becomes a case."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim import rules
from vramsim.case import Case
from vramsim.errors import VramsimError

SEED: dict[str, Any] = {
    "model": "llama-3-70b",
    "cluster": {"device": "a100-sxm-80gb", "num_devices": 16, "devices_per_node": 8},
    "framework": "deepspeed",
    "training": {"method": "full", "seq_len": 8192, "micro_batch_size": 1, "precision": "bf16", "optimizer": "adamw"},
    "strategy": {"zero_stage": 3, "recompute": "full"},
}


def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The seed with dotted paths set; a value of None removes the key."""
    case: dict[str, Any] = json.loads(json.dumps(SEED))
    for path, value in changes.items():
        section = case
        *parents, key = path.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is None:
            section.pop(key, None)
        else:
            section[key] = value
    return case


def refused(source: Any) -> str:
    """The sentence with which a case is refused."""
    with pytest.raises(VramsimError) as raised:
        Case.load(source).resolve()
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert "pydantic" not in sentence.lower()
    return sentence


# Fields, one by one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"training.seq_len": 0}, ["training.seq_len", "from 1 to 1e+09", "got 0"]),
        ({"training.seq_len": -4096}, ["training.seq_len", "got -4096"]),
        ({"training.seq_len": 4096.5}, ["whole number", "got 4096.5"]),
        ({"training.seq_len": float("nan")}, ["training.seq_len", "got nan"]),
        ({"training.seq_len": float("inf")}, ["training.seq_len", "got inf"]),
        ({"training.seq_len": 10**12}, ["1e+09", "got 1000000000000"]),
        ({"training.seq_len": 10**400}, ["training.seq_len", "about 401 digits"]),
        ({"training.seq_len": True}, ["training.seq_len", "got True"]),
        ({"training.seq_len": "8k"}, ["training.seq_len", "the text '8k'"]),
        ({"training.seq_len": "1e3"}, ["the text '1e3'", "number 1000 without quotes"]),
        ({"training.seq_len": {"value": 1}}, ["training.seq_len", "{'value': 1}"]),
        ({"training.seq_len": [4096, -1]}, ["training.seq_len", "got -1"]),
        ({"training.seq_len": [4096, True]}, ["training.seq_len", "got True"]),
        ({"training.seq_len": []}, ["training.seq_len", "empty array"]),
        ({"training.seq_len": [[1, 2], [3]]}, ["training.seq_len", "regular array"]),
        ({"training.seq_len": np.array([4096.0, np.nan])}, ["every element", "got nan"]),
        ({"training.seq_len": np.array([True])}, ["training.seq_len", "got True"]),
        ({"cluster.num_devices": "sixteen"}, ["cluster.num_devices", "'sixteen'"]),
        ({"cluster.host_memory": -1}, ["cluster.host_memory", "got -1"]),
        ({"strategy.tp": 0}, ["strategy.tp", "got 0"]),
        ({"strategy.zero_stage": 4}, ["strategy.zero_stage", "from 0 to 3", "got 4"]),
        ({"strategy.recompute": "some"}, ["none, selective, full", "'some'"]),
        ({"strategy.recompute": 1.5}, ["strategy.recompute", "from 0 to 1", "got 1.5"]),
        ({"strategy.recompute": True}, ["strategy.recompute", "got True"]),
        ({"strategy.offload_optimizer": "disk"}, ["none, cpu, nvme", "'disk'"]),
        ({"strategy.offload_activations": "nvme"}, ["none, cpu", "'nvme'"]),
        ({"strategy.vpp": 0}, ["strategy.vpp", "got 0"]),
        ({"strategy.schedule": "zigzag"}, ["strategy.schedule", "1f1b, interleaved, gpipe", "'zigzag'"]),
        ({"strategy.expert_load": 0.5}, ["strategy.expert_load", "from 1", "got 0.5"]),
        ({"training.method": "rlhf"}, ["training.method", "'full'", "got 'rlhf'"]),
        ({"training.optimizer": 3}, ["training.optimizer", "got 3"]),
        ({"training": "full"}, ["training must be a mapping", "'full'"]),
        ({"training": [1]}, ["training must be a mapping", "[1]"]),
        ({"model": 70}, ["model must be a name or a mapping", "70"]),
        ({"model": ""}, ["model must be a name or a mapping", "''"]),
        ({"model": "x" * 5000}, ["unknown model 'xxx", "..."]),
        ({"model": "x" * 5000 + ".json"}, ["cannot read the model configuration", "File name too long"]),
        ({"model": "\0.json"}, ["cannot read the model configuration", "null"]),
        ({"model": "a\nb"}, ["unknown model 'a\\nb'"]),
        ({"training.seq_len": [1.5] * 1000}, ["training.seq_len", "got 1.5"]),
        ({"training.precision": {"moments": "fp12"}}, ["moments", "fp12"]),
        ({"training.precision": {"name": ["bf16"]}}, ["training.precision", "['bf16']"]),
        ({"training.precision": {"momentum": "fp32"}}, ["no key 'momentum'", "moments"]),
        ({"training.precision": {"master": 1}}, ["master", "got 1"]),
        ({"training.method": "lora", "training.lora.rank": 0}, ["training.lora.rank", "got 0"]),
        ({"training.method": "lora", "training.lora.targets": "q_prj"}, ["q_proj", "'q_prj'"]),
        ({"training.method": "lora", "training.lora.dropout": 2}, ["training.lora.dropout", "got 2"]),
        ({"training.method": "lora", "training.lora.adapter_dtype": "fp8"}, ["adapter_dtype", "'fp8'"]),
        ({"training.method": "lora", "training.lora.modules_to_save": "lm_haed"}, ["embed_tokens", "'lm_haed'"]),
        ({"training.method": "lora", "training.lora.modules_to_save": 3}, ["must be a list of modules", "got 3"]),
    ],
)
def test_values_of_fields(changes: dict[str, Any], parts: list[str]) -> None:
    case = changed({path: value for path, value in changes.items() if not isinstance(value, np.ndarray)})
    for path, value in changes.items():
        if isinstance(value, np.ndarray):
            section, key = path.split(".")
            case[section][key] = value
    sentence = refused(case)
    for part in parts:
        assert part in sentence


# Keys and names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"training.seqlen": 4096}, ["'training.seqlen'", "did you mean seq_len?"]),
        ({"training.seq_len": None, "training.seqlen": 4096}, ["'training.seqlen'", "did you mean seq_len?"]),
        ({"stratgy": {"tp": 1}}, ["'stratgy'", "did you mean strategy?"]),
        ({"cluster.seq_len": 4096}, ["'cluster.seq_len'", "belongs in training.seq_len"]),
        ({"model": None}, ["model is missing"]),
        ({"cluster": None}, ["cluster is missing"]),
        ({"cluster.num_devices": None}, ["cluster.num_devices is missing"]),
        ({"framework": None}, ["framework is missing"]),
        ({"model": "llama-3-71b"}, ["unknown model 'llama-3-71b'", "did you mean llama-3-70b"]),
        ({"model": "absent/config.json"}, ["absent/config.json", "No such file"]),
        ({"model": {"hidden_size": 64}}, ["inline model must state", "vocab_size"]),
        ({"model": {"base": "llama-3-8"}}, ["unknown model 'llama-3-8'", "llama-3-8b"]),
        ({"cluster.device": "a100"}, []),
        ({"cluster.device": "a1000"}, ["unknown device 'a1000'", "a100"]),
        ({"cluster.device": {"memory": 8e10}}, ["inline device", "memory_bandwidth"]),
        ({"cluster.device": {"base": "a100-sxm-80gb", "powr": 1}}, ["cluster.device.powr", "did you mean power?"]),
        ({"cluster.device": {"base": "a100-sxm-80gb", "power": "300 W"}}, ["cluster.device.power", "'300 W'"]),
        ({"framework": "deepspeeed"}, ["unknown framework 'deepspeeed'", "did you mean deepspeed?"]),
        ({"framework": {"overlap_comm": True}}, ["framework must have a name"]),
        ({"framework": {"name": "deepspeed", "overlap": True}}, ["no knob 'overlap'"]),
        ({"training.precision": "fp64"}, ["unknown precision 'fp64'"]),
        ({"training.optimizer": "adam_w"}, ["unknown optimizer 'adam_w'", "did you mean adamw"]),
        ({"strategy.quantization": "int9", "training.method": "qlora"}, ["unknown quantization 'int9'", "int8"]),
    ],
)
def test_keys_and_names(changes: dict[str, Any], parts: list[str]) -> None:
    if not parts:
        Case.load(changed(changes)).resolve()
        return
    sentence = refused(changed(changes))
    for part in parts:
        assert part in sentence


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("case.yaml", b"", ["is empty", "model"]),
        ("case.yaml", b"# nothing\n", ["is empty"]),
        ("case.json", b"", ["is empty"]),
        ("case.toml", b"", ["is empty"]),
        ("case.yaml", b"- 1\n- 2\n", ["must be a mapping", "list"]),
        ("case.yaml", b"just words", ["must be a mapping", "str"]),
        ("case.yaml", b"a: [1, 2", ["YAML", "line"]),
        ("case.json", b'{"model": }', ["JSON", "line 1"]),
        ("case.toml", b"model = ", ["TOML", "Invalid value"]),
        ("case.yaml", b"model: a\nmodel: b\n", ["'model' is given twice"]),
        ("case.yaml", b"training: {seq_len: 1, seq_len: 2}\n", ["'seq_len' is given twice"]),
        ("case.json", b'{"model": "a", "model": "b"}', ["'model' is given twice"]),
        ("case.toml", b'model = "a"\nmodel = "b"\n', ["TOML"]),
        ("case.yaml", b"model: !!python/object/apply:os.system [ls]\n", ["YAML", "python/object"]),
        ("case.yaml", b"model: !custom x\n", ["YAML", "!custom"]),
        ("case.yaml", b"model: \xff\xfe\n", ["not UTF-8 text"]),
        ("case.yaml", b"1: 2\n", ["texts as keys", "1"]),
        ("case.yaml", b"a: &a [*a]\n", ["YAML", "recursive"]),
        ("case.yaml", b"a: &a [1]\nb: [" + b"*a, " * 30 + b"1]\n", ["more than 20 aliases"]),
        ("case.yaml", b"? [a]\n: 1\n", ["YAML"]),
        ("case.json", b"[" * 100_000, ["nested too deeply"]),
    ],
)
def test_files(tmp_path: Path, name: str, content: bytes, parts: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    sentence = refused(path)
    for part in parts:
        assert part in sentence


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "absent.yaml")
    assert "directory" in refused(tmp_path).lower()


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".txt"])
def test_a_case_reads_the_same_from_any_format(tmp_path: Path, suffix: str) -> None:
    path = (tmp_path / "case").with_suffix(suffix)
    path.write_text(json.dumps(SEED), encoding="utf-8")
    assert Case.load(path) == Case.load(SEED)


def test_a_model_beside_the_case_file(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 99, "intermediate_size": 128}))
    (tmp_path / "case.json").write_text(json.dumps(SEED | {"model": "config.json"}))
    case = Case.load(tmp_path / "case.json")
    assert case.resolve().model.vocab == 99
    assert Case.load(case.describe()) == case


# Relations ------------------------------------------------------------------------------------------------------------

MEGATRON = {"framework": "megatron", "strategy.zero_stage": 1}
RELATIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"strategy.tp": 8, "strategy.pp": 3}, ["tp*pp*cp*sp", "16 % (8*3*1*1 = 24) = 16", "num_devices to 24"]),
    ({"cluster.num_devices": 12}, ["12 % 8 = 4", "devices_per_node to 6"]),
    ({"framework": "ddp"}, ["ddp", "must be 0, got 3"]),
    ({"framework": "fsdp2", "strategy.zero_stage": 1}, ["fsdp2", "2 or 3, got 1"]),
    ({"framework": "torch", "strategy.zero_stage": 0}, ["16 != 1", "num_devices to 1"]),
    ({"model": "llama-3.2-3b", "strategy.tp": 16}, ["24 query", "tp 16"]),
    ({"strategy.sp": 3, "cluster.num_devices": 24, "training.seq_len": 9}, ["64 % (1*3 = 3) = 1"]),
    ({"strategy.cp": 16, "training.seq_len": 8200}, ["seq_len", "8200 % (16*1 = 16) = 8", "8208"]),
    ({"strategy.pp": 16, "strategy.zero_stage": 1, "model": "llama-2-7b", "strategy.tp": 1}, []),
    ({"strategy.pp": 3, "strategy.zero_stage": 1, "cluster.num_devices": 24}, []),
    ({"strategy.pp": 4}, ["zero_stage must be 0 or 1", "zero_stage is 3", "pp is 4"]),
    ({"strategy.pp": 88, "cluster.num_devices": 88, "strategy.zero_stage": 1}, ["88 > 80", "set pp to 80"]),
    (MEGATRON | {"strategy.pp": 3, "cluster.num_devices": 24}, []),
    (MEGATRON | {"strategy.pp": 4, "strategy.vpp": 24}, ["chunks of a device", "96 > 80", "to 80 or less"]),
    (MEGATRON | {"strategy.pp": 4, "strategy.vpp": 5}, ["1 % 4 = 1", "gradient_accumulation_steps to 4"]),
    (MEGATRON | {"strategy.vpp": 2}, ["vpp is 2, pp is 1"]),
    (MEGATRON | {"strategy.zero_stage": 2}, ["optimizer states only", "got 2"]),
    (MEGATRON | {"strategy.offload_parameters": "cpu"}, ["no parameters"]),
    (
        MEGATRON | {"strategy.schedule": "dualpipe", "strategy.pp": 5, "cluster.num_devices": 40},
        ["pp must be even, got 5"],
    ),
    ({"strategy.ep": 8, "model": "mixtral-8x7b", "cluster.num_devices": 4}, ["4 % 8 = 4"]),
    ({"strategy.shard_size": 3}, ["shard_size", "16 % 3 = 1"]),
    ({"strategy.shard_size": 8, "strategy.zero_stage": 2}, ["shard_size is 8", "zero_stage is 2"]),
    ({"strategy.secondary_shard_size": 5}, ["secondary_shard_size", "16 % 5 = 1"]),
    ({"strategy.ep": 2}, ["no experts", "ep is 2", "set ep to 1"]),
    ({"strategy.ep": 3, "model": "mixtral-8x7b"}, ["8 experts", "ep is 3"]),
    ({"model": "gpt2-xl", "training.seq_len": 2048}, ["2048 > 1024"]),
    ({"framework": "ddp", "strategy.zero_stage": 0, "strategy.offload_optimizer": "cpu"}, ["offload_optimizer is 1"]),
    ({"strategy.offload_parameters": "cpu", "strategy.zero_stage": 2}, ["zero_stage 3", "zero_stage is 2"]),
    ({"strategy.offload_optimizer": "cpu", "strategy.zero_stage": 0}, ["zero_stage is 0"]),
    ({"strategy.offload_optimizer": "nvme", "strategy.offload_parameters": "cpu"}, ["one tier", "nvme", "cpu"]),
    ({"training.method": "qlora"}, ["qlora", "quantization is none", "nf4"]),
    ({"strategy.quantization": "nf4"}, ["method full", "quantization is nf4"]),
    ({"training.lora": {"rank": 8}}, ["method full has no adapters", "rank 8"]),
    ({"training.global_batch_size": 40}, ["40 % (1*16 = 16) = 8", "global_batch_size to 48"]),
    ({"training.global_batch_size": 32, "training.gradient_accumulation_steps": 2}, ["not both", "got 2 and 32"]),
    ({"cluster.device": "v100-sxm2-32gb"}, ["no units for bf16", "fp16"]),
]


@pytest.mark.parametrize(("changes", "parts"), RELATIONS)
def test_relations(changes: dict[str, Any], parts: list[str]) -> None:
    if not parts:
        Case.load(changed(changes)).resolve()
        return
    sentence = refused(changed(changes))
    for part in parts:
        assert part in sentence


def test_xtuner_takes_any_degree_of_sequence_parallelism() -> None:
    case = {"strategy.sp": 3, "cluster.num_devices": 24, "training.seq_len": 9, "framework": "xtuner-v0.1"}
    assert Case.load(changed(case)).resolve().data_parallel == 8.0


def test_rules_mask_a_grid_as_they_refuse_its_elements() -> None:
    grid = {"strategy.tp": [1, 2, 3, 8], "training.seq_len": [[4096], [4099]], "strategy.sp": 2}
    setup = Case.load(changed(grid)).resolve()
    masks = rules.violations(setup)
    shape = rules.grid_shape(setup)
    for index in range(int(np.prod(shape))):
        where = np.unravel_index(index, shape)
        alone = rules.violations(rules.element(setup, index))
        assert set(alone) == {name for name, mask in masks.items() if np.broadcast_to(mask, shape)[where]}


def test_a_grid_is_refused_only_where_nothing_is_left() -> None:
    assert "16 % (3*1*1*1 = 3) = 1" in refused(changed({"strategy.tp": [3, 5]}))
    assert rules.violations(Case.load(changed({"strategy.tp": [3, 4]})).resolve())


def test_arrays_must_broadcast() -> None:
    sentence = refused(changed({"strategy.tp": [1, 2], "training.seq_len": [1024, 2048, 4096]}))
    assert "(2,)" in sentence
    assert "(3,)" in sentence


# Cases that are right -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"framework": "xtuner-v0.1", "strategy.offload_optimizer": "cpu", "strategy.offload_parameters": 0.5},
        {"framework": {"name": "deepspeed", "reduce_bucket_size": 2e8, "overlap_comm": False}},
        {"framework": "fsdp2", "strategy.zero_stage": None, "training.precision": {"name": "bf16", "reduce": "bf16"}},
        {"training.method": "lora", "training.lora": {"rank": 8, "targets": "q,v"}, "model": "llama-3-8b"},
        {"training.method": "qlora", "strategy.quantization": "nf4_dq", "training.lora": {"adapter_dtype": "fp32"}},
        {"training.method": "lora", "training.lora": {"modules_to_save": ["wte", "lm_head"]}},
        {"training.global_batch_size": 64, "strategy.recompute": "selective", "strategy.megatron_sp": True},
        {"model": {"base": "llama-3-8b", "num_hidden_layers": 4}, "strategy.recompute": 0.5},
        {"cluster.device": {"base": "h100-sxm-80gb", "power": 500}, "cluster.scale_out_bandwidth": 5e10},
        {"training.seq_len": [1024, 2048], "strategy.tp": [[1], [2]]},
        {"strategy.offload_optimizer": "nvme"},
    ],
)
def test_a_described_case_is_the_same_case(changes: dict[str, Any]) -> None:
    case = Case.load(changed(changes))
    described = json.loads(json.dumps(case.describe()))
    again = Case.load(described)
    assert again == case
    assert again.describe() == described
    assert repr(again.resolve().strategy) == repr(case.resolve().strategy)
    assert repr(again.resolve().training) == repr(case.resolve().training)
    assert repr(again.resolve().framework) == repr(case.resolve().framework).replace("inline", "inline")


def test_lora_beside_training_is_read_as_inside() -> None:
    inside = changed({"training.method": "lora", "training.lora": {"rank": 8}})
    beside = changed({"training.method": "lora"}) | {"lora": {"rank": 8}}
    assert Case.load(inside) == Case.load(beside)


def test_defaults_and_notes() -> None:
    setup = Case.load(changed({"strategy": None, "training.method": "lora"})).resolve()
    assert setup.strategy.zero_stage == 0.0
    assert any("zero_stage" in note for note in setup.notes)
    assert setup.training.lora is not None
    assert (setup.training.lora.rank, setup.training.lora.alpha) == (16, 32.0)
    assert Case.load(changed({"framework": "fsdp2", "strategy": None})).resolve().strategy.zero_stage == 3.0


def test_a_small_job_has_a_small_node() -> None:
    assert Case.load(changed({"cluster.num_devices": 2})).resolve().cluster.devices_per_node == 2.0


def test_adapters_keep_their_own_dtype_outside_deepspeed() -> None:
    changes = {"framework": "fsdp2", "training.method": "lora", "training.lora": {"adapter_dtype": "bf16"}}
    precision = Case.load(changed(changes)).resolve().training.precision
    assert (precision.param, precision.grad, precision.moments) == ("bf16", "bf16", "bf16")


# Setting values -------------------------------------------------------------------------------------------------------


def test_values_are_set_by_path_or_by_last_word() -> None:
    case = Case.load(SEED)
    assert case.with_values({"training.seq_len": 4096}) == case.with_values({"seq_len": 4096})
    assert case.with_values({"overlap_comm": False}).resolve().framework.overlap_comm is False
    assert case.with_values({"model.num_hidden_layers": 4}).resolve().model.num_layers == 4
    assert case.with_values({"cluster.device.power": 300}).resolve().cluster.device.power == 300.0
    assert case.with_values({"training.precision.reduce": "fp32"}).resolve().training.precision.reduce == "fp32"
    lora = case.with_values({"method": "lora", "rank": 4}).resolve().training.lora
    assert lora is not None
    assert lora.rank == 4


def test_the_two_ways_to_size_a_batch_replace_each_other() -> None:
    case = Case.load(changed({"training.gradient_accumulation_steps": 4}))
    assert case.with_values({"global_batch_size": 32}).resolve().training.gradient_accumulation_steps == 2.0


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("seqlen", ["unknown key 'seqlen'", "did you mean training.seq_len"]),
        ("training.seqlen", ["unknown key 'training.seqlen'", "training.seq_len"]),
        ("framework.overlap", ["no knob 'overlap'"]),
        ("__class__", ["unknown key '__class__'"]),
    ],
)
def test_unknown_keys_are_refused(key: str, parts: list[str]) -> None:
    with pytest.raises(VramsimError) as raised:
        Case.load(SEED).with_values({key: 1}).resolve()
    for part in parts:
        assert part in str(raised.value)


def test_a_case_is_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Case.load(SEED).model = "llama-3-8b"  # type: ignore[misc]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PATHS = ["model", "cluster", "framework", "training", "strategy", "cluster.device", "cluster.num_devices"]
PATHS += ["training.seq_len", "training.precision", "training.lora", "strategy.tp", "strategy.recompute"]


@given(path=st.sampled_from(PATHS), value=JUNK)
def test_whatever_is_written_either_a_case_or_one_sentence(path: str, value: object) -> None:
    case: dict[str, Any] = json.loads(json.dumps(SEED))
    section, _, key = path.rpartition(".")
    (case[section] if section else case)[key] = value
    with contextlib.suppress(VramsimError):
        Case.load(case).resolve()


def test_pydantic_errors_do_not_escape_by_another_door() -> None:
    with pytest.raises(VramsimError, match=r"strategy\.tp .*got 0"):
        Case.model_validate(changed({"strategy.tp": 0}))
