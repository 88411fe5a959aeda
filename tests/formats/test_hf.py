"""The reader of Hugging Face configurations: defaults, aliases, towers, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vramsim.blocks import num_parameters
from vramsim.errors import VramsimError
from vramsim.formats.hf import NOT_YET, read_config
from vramsim.spec import Attention

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def test_reads_a_file_and_a_directory(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    model = read_config(folder)
    assert model == read_config(folder / "config.json")
    assert (model.name, num_parameters(model)) == ("my-llama", 8030261248)


def test_head_dim_follows_the_width_unless_it_is_stated() -> None:
    assert read_config({**LLAMA, "hidden_size": 2048}).blocks[0].attention.head_dim == 64
    assert read_config({**LLAMA, "model_type": "mistral", "head_dim": 128, "hidden_size": 5120}).hidden == 5120


def test_llama_without_kv_heads_has_one_for_each_head() -> None:
    config = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert read_config(config).blocks[0].attention.kv_heads == 32


def test_aliases_of_gpt2() -> None:
    model = read_config({"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024})
    assert num_parameters(model) == 1557611200
    assert (model.positions, model.tied_embeddings) == (1024, True)


def test_equal_neighbours_are_one_block() -> None:
    assert [block.count for block in read_config(LLAMA).blocks] == [32]
    gemma = read_config({"model_type": "gemma2", "num_hidden_layers": 4})
    assert [(block.count, block.attention.window) for block in gemma.blocks] == [(1, 4096), (1, 0)] * 2
    gemma3 = read_config({"model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 512})
    assert [(block.count, block.attention.window) for block in gemma3.blocks] == [(5, 512), (1, 0), (1, 512)]


def test_layer_types_name_the_windows() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    model = read_config({"model_type": "gemma3_text", "num_hidden_layers": 3, "layer_types": kinds})
    assert [(block.count, block.attention.window) for block in model.blocks] == [(1, 0), (2, 4096)]


def test_a_window_of_null_is_none() -> None:
    assert read_config({**LLAMA, "model_type": "mistral", "sliding_window": None}).blocks[0].attention.window == 0
    assert read_config({**LLAMA, "model_type": "mistral"}).blocks[0].attention.window == 4096


def test_dense_layers_among_experts() -> None:
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 4, "decoder_sparse_step": 2, "num_experts": 16}
    assert [(block.count, block.mlp.experts) for block in read_config(config).blocks] == [(1, 0), (1, 16)] * 2
    only = {**config, "decoder_sparse_step": 1, "mlp_only_layers": [0]}
    assert [(block.count, block.mlp.experts) for block in read_config(only).blocks] == [(1, 0), (3, 16)]


def test_qwen2_always_has_biases() -> None:
    attention = read_config({**LLAMA, "model_type": "qwen2"}).blocks[0].attention
    assert isinstance(attention, Attention)
    assert (attention.qkv_bias, attention.out_bias) == (True, False)


def test_the_language_model_of_a_multimodal_config() -> None:
    tower = {key: value for key, value in LLAMA.items() if key != "model_type"}
    assert read_config({"model_type": "llava", "text_config": LLAMA}).hidden == 4096
    assert read_config({"model_type": "gemma3", "text_config": {**tower}}).blocks[0].norm == "gemma"


def test_remote_code_is_refused_unless_the_numbers_are_there() -> None:
    assert read_config({**LLAMA, "auto_map": {"AutoModel": "modeling.X"}}).hidden == 4096
    with pytest.raises(VramsimError, match=r"remote code .* leaves out .*vocab_size"):
        read_config({"model_type": "llama", "hidden_size": 64, "auto_map": {"AutoModel": "modeling.X"}})


@pytest.mark.parametrize("kind", sorted(NOT_YET))
def test_what_cannot_be_expressed_is_refused_with_its_reason(kind: str) -> None:
    with pytest.raises(VramsimError) as raised:
        read_config({**LLAMA, "model_type": kind})
    assert kind in str(raised.value)
    assert NOT_YET[kind] in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_size": 4097}, r"4097 % 32 = 1"),
        ({"num_key_value_heads": 5}, r"32 % 5 = 2"),
        ({"hidden_size": "4096"}, r"hidden_size must be a whole number, got '4096'"),
        ({"hidden_size": True}, r"hidden_size must be a whole number, got True"),
        ({"hidden_size": 0}, r"from 1 to 1e9, got 0"),
        ({"hidden_size": float("nan")}, r"whole number, got nan"),
        ({"hidden_size": float("inf")}, r"got inf"),
        ({"num_hidden_layers": 10**8}, r"at most 10000, got 100000000"),
        ({"tie_word_embeddings": "no"}, r"true or false, got 'no'"),
        ({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3}, r"3 > 2"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": 3}, r"mlp_only_layers must be a list, got 3"),
        ({"model_type": 7}, r"model_type must be a word such as llama, got 7"),
        ({"model_type": "llamma"}, r"'llamma' cannot be expressed yet; known are"),
    ],
)
def test_wrong_numbers_are_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(VramsimError, match=sentence):
        read_config({**LLAMA, **changes})


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"{", "not JSON"), (b"[]", "must be a mapping"), (b"\xff", "UTF-8")]
)
def test_broken_files(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(VramsimError, match=sentence):
        read_config(path)
    with pytest.raises(VramsimError, match="cannot read the model configuration"):
        read_config(tmp_path / "absent.json")
