"""Rows of published tables as models: families, headline sizes, and models cut to a few layers."""

from __future__ import annotations

import pytest

from vramsim.blocks import num_parameters
from vramsim.spec import LatentAttention
from vramsim.validate.architecture import Inexpressible, architecture
from vramsim.validate.rows import Row


def row(**columns: str) -> Row:
    """A row with some columns."""
    return Row({"id": "r", "source": "s", "framework": "f", **columns})


GPT = {"n_layers": "24", "hidden": "2048", "n_heads": "16", "vocab": "50257", "seq_len": "1024"}


def test_a_blank_width_is_four_times_the_models() -> None:
    model, assumed = architecture(row(model="gpt-1.3b", **GPT))
    assert model.blocks[0].mlp.ffn == 8192
    assert ("ffn", "4 hidden") in assumed
    assert model.positions == 1024


def test_a_blank_tie_is_the_one_that_makes_the_stated_parameters() -> None:
    shape = {"n_layers": "32", "hidden": "4096", "n_heads": "32", "n_kv_heads": "8", "ffn": "16384", "vocab": "131073"}
    model, assumed = architecture(row(model="gpt3-7b-gqa", n_params_b="6.711", seq_len="1", **shape))
    assert not model.tied_embeddings
    assert ("tied_embeddings", "false") in assumed
    assert num_parameters(model) == pytest.approx(6.711e9, rel=5e-3)


def test_blank_layers_follow_from_the_stated_parameters() -> None:
    # BigScience's prequel notes: 72 layers of width 14400 are called 183B.
    shape = {"hidden": "14400", "n_heads": "96", "ffn": "57600", "vocab": "250880", "tied_embeddings": "true"}
    model, assumed = architecture(row(model="BLOOM-prequel 183B", n_params_b="183.0", **shape))
    assert model.num_layers == 72
    assert ("n_layers", "72, from n_params_b") in assumed
    with pytest.raises(Inexpressible, match="neither the layers nor the parameters"):
        architecture(row(model="BLOOM-prequel", **shape))


def test_a_label_that_the_columns_contradict_gives_way() -> None:
    shape = {"n_layers": "10", "hidden": "14336", "n_heads": "64", "ffn": "57344", "vocab": "250880"}
    model, assumed = architecture(row(model="bloom-like-18B", n_params_b="18.0", **shape))
    assert model.num_layers == 10
    assert ("n_params_b", "what the other columns give") in assumed


def test_a_shrunken_model_keeps_one_dense_layer() -> None:
    model, _ = architecture(row(model="deepseekv3 shrunk to 4 layers", n_layers="4", hidden="7168", vocab="129280"))
    assert [(block.count, bool(block.mlp.experts)) for block in model.blocks] == [(1, False), (3, True)]
    assert isinstance(model.blocks[0].attention, LatentAttention)


def test_experts_that_the_columns_leave_out_come_from_the_catalog() -> None:
    shape = {"n_layers": "32", "hidden": "4096", "n_heads": "32", "n_kv_heads": "8", "ffn": "14336", "vocab": "32000"}
    model, _ = architecture(row(model="mistralai/Mixtral-8x7B-Instruct-v0.1", **shape))
    assert num_parameters(model) == 46702792704


@pytest.mark.parametrize(
    ("name", "columns", "parameters"),
    [
        # Qwen's first generation, ChatGLM3 and Baichuan2: counts of the published checkpoints.
        ("qwen-7b", "32 4096 32 32 11008 151936 false", 7721324544),
        ("chatglm3-6b", "28 4096 32 2 13696 65024 false", 6243584000),
        ("baichuan2-13b", "40 5120 40 40 13696 125696 false", 13896668160),
        ("phi-1.5", "24 2048 32 32 8192 51200 false", 1418270720),
        ("falcon-40b", "60 8192 128 8 32768 65024 true", 41303293952),
        ("nemotron3-8b", "32 4096 32 32 16384 256000 false", 8540135424),
    ],
)
def test_families_add_what_columns_leave_out(name: str, columns: str, parameters: int) -> None:
    keys = ("n_layers", "hidden", "n_heads", "n_kv_heads", "ffn", "vocab", "tied_embeddings")
    model, _ = architecture(row(model=name, **dict(zip(keys, columns.split(), strict=True))))
    assert num_parameters(model) == parameters


def test_a_bert_that_classifies_is_an_encoder() -> None:
    shape = {"n_layers": "24", "hidden": "1024", "n_heads": "16", "ffn": "4096", "vocab": "30522", "seq_len": "512"}
    model, _ = architecture(row(model="bert-large-uncased", **shape))
    # BertForSequenceClassification of transformers with two labels.
    assert num_parameters(model) == 335143938
    assert (model.outputs, model.blocks[0].attention.causal) == (2, False)


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(Inexpressible, match="the model's family is not known"):
        architecture(row(model="zzz-9", **GPT))
