"""Families of models that published tables name: what each does that the columns leave out. Facts about software."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Family:
    """What a family of models does that a table's columns leave out; the fields mean what they mean in spec.model.

    `head_dim` is 0 where it is hidden / heads; `learned` models have a position embedding as long as the sequence.
    `upcasts` says whether the family's own code casts logits to fp32 for the loss, as Llama's did before transformers
    4.46; after it the loss function does, for all.
    """

    norm: str = "rmsnorm"
    num_norms: int = 2
    parallel: bool = False
    gated: bool = True
    activation: str = "silu"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: str = ""
    head_dim: int = 0
    rotary: float = 1.0
    fused_qkv: bool = False
    causal: bool = True
    dropout: bool = False
    learned: bool = False
    embedding_norm: bool = False
    tied: bool = False
    head_bias: bool = False
    router: str = "softmax"
    classifier: bool = False
    upcasts: bool = True


LLAMA = Family()
GPT = Family(
    norm="layernorm",
    gated=False,
    activation="gelu",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    rotary=0.0,
    dropout=True,
    learned=True,
    tied=True,
    upcasts=False,
)
"""GPT-2 and Megatron's GPT: learned positions, biases everywhere, dropout, a tied head."""
FALCON = Family("layernorm", parallel=True, gated=False, activation="gelu", tied=True, upcasts=False)

FAMILIES: tuple[tuple[str, Family], ...] = (
    (r"qwen-?3", Family(qk_norm="head", head_dim=128, router="softmax_cast")),
    (r"qwen-?2|qwen1", Family(qkv_bias=True, router="softmax_cast")),
    (r"chatglm", Family(qkv_bias=True, fused_qkv=True)),
    (r"qwen", Family(qkv_bias=True, fused_qkv=True, upcasts=False)),
    (r"gemma-?3", Family(norm="gemma", num_norms=4, activation="gelu", qk_norm="head", head_dim=256, tied=True)),
    (r"gemma-?2-", Family(norm="gemma", num_norms=4, activation="gelu", head_dim=256, tied=True)),
    (r"gemma", Family(norm="gemma", activation="gelu", head_dim=256, tied=True)),
    (r"bloom|bigscience", replace(GPT, learned=False, embedding_norm=True, dropout=False)),
    (r"mpt", replace(GPT, dropout=False)),
    (r"opt-", replace(GPT, activation="relu")),
    (r"bert", replace(GPT, causal=False, embedding_norm=True, classifier=True)),
    (r"gpt-?j", Family("layernorm", 1, True, False, "gelu_new", mlp_bias=True, head_bias=True)),
    (
        r"neox|pythia",
        replace(GPT, parallel=True, fused_qkv=True, learned=False, rotary=0.25, tied=False, dropout=False),
    ),
    (r"gpt_bigcode|santacoder|starcoder(?!2)", replace(GPT, fused_qkv=True)),
    (r"gpt(?!q)|megatron|starcoder|mt-nlg", GPT),
    (r"phi-?[12]", Family("layernorm", 1, True, False, "gelu", True, True, True, rotary=0.5, head_bias=True)),
    (r"falcon-?(rw-|7b)", replace(FALCON, num_norms=1)),
    (r"falcon", FALCON),
    (r"nemotron|minitron", Family("layernorm", gated=False, activation="relu2", rotary=0.5)),
    (r"grok-?1", Family(activation="gelu")),
    (r"maxtext", Family(gated=False, activation="relu", head_dim=256)),
    (r"baichuan", Family(fused_qkv=True, upcasts=False)),
    (r"internlm-?7b", Family(qkv_bias=True, out_bias=True)),
    (r"internlm-?2", Family(fused_qkv=True)),
    (r"llama|mistral|mixtral|yi-|internlm|vicuna|tiny|7b|granite|zephyr|deepseek-(llm|coder)", LLAMA),
)
"""Pattern in a model's name -> its family; the first that matches counts."""

BY_CATALOG = (
    r"deepseek-?v[23]|deepseek-?r1$|kimi|gpt-oss|llama-?4|qwen3-next|minimax|glm-?4|-vl|llava|qwen.*moe|qwen2-57b"
)
"""Models whose layers differ from each other, or hold what no column says: the catalog's configuration counts."""


def family_of(name: str) -> Family | None:
    """The family that a model's name says it belongs to.

    name : of the model, in lower case. [-]
    """
    return next((family for pattern, family in FAMILIES if re.search(pattern, name)), None)
