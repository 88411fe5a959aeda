"""Vision towers of multimodal Hugging Face configs: CLIP before LLaVA, and those of Qwen-VL."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from vramsim.formats.hf_keys import Keys
from vramsim.spec import Attention, Block, Encoder, Mlp

LANGUAGE = {
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen3_vl_moe_text": "qwen3_moe",
}
"""Model type of a multimodal model or its language tower -> the plain model type with the same layers."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "llava": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
              "image_size": 336, "patch_size": 14},
    "qwen2_vl": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14,
                 "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3},
    "qwen2_5_vl": {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16, "patch_size": 14,
                   "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3, "window_size": 112},
    "qwen3_vl": {"hidden_size": 1152, "intermediate_size": 4304, "depth": 27, "num_heads": 16, "patch_size": 16,
                 "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3, "num_position_embeddings": 2304,
                 "deepstack_visual_indexes": [8, 16, 24]},
}  # fmt: skip
"""What the vision configurations of transformers 5.23 assume, by the model type around them."""


CUT = 768
"""Side of the largest square image that LLaMA-Factory lets through (image_max_pixels: 768 x 768). [pixels]"""


def encoder(config: Mapping[str, Any], name: str, hidden: int) -> Encoder | None:
    """Vision tower of a multimodal config; None for one without, or of a kind that is not known.

    config : the whole config. [-]   name : of the model. [-]   hidden : width of the language model. [elements]
    """
    kind = str(config.get("model_type", "")).removesuffix("_moe")
    given = config.get("vision_config")
    if not isinstance(given, Mapping) or kind not in DEFAULTS:
        return None
    keys = Keys(name, f"{kind} vision", {**DEFAULTS[kind], **{k: v for k, v in given.items() if v is not None}})
    return _clip(keys, hidden) if kind == "llava" else _qwen(keys, kind, hidden)


def _block(
    width: int, heads: int, mlp: Mlp, norm: str = "layernorm", window: int = 0, *, rotates: bool = True
) -> Block:
    """A layer whose patches see each other in both directions; one that rotates slices its projection in three."""
    shape = Attention(
        heads,
        heads,
        width // heads,
        qkv_bias=True,
        out_bias=True,
        window=window,
        rotary=1.0 if rotates else 0.0,
        causal=False,
        fused_qkv=rotates,
    )
    return Block(1, width, shape, mlp, norm)


def _activation(keys: Keys, usual: str) -> str:
    """CLIP's approximation is written out; both others are one kernel."""
    return "quick_gelu" if keys.keys.get("hidden_act", usual) == "quick_gelu" else "gelu"


def _runs(blocks: list[Block]) -> tuple[Block, ...]:
    """Equal neighbours as one block."""
    runs = [(block, sum(1 for _ in same)) for block, same in groupby(blocks)]
    return tuple(Block(n, b.hidden, b.attention, b.mlp, b.norm) for b, n in runs)


def _clip(keys: Keys, hidden: int) -> Encoder:
    """CLIP's tower with its class token, and LLaVA's two linear layers."""
    width, patch = keys.count("hidden_size"), keys.count("patch_size")
    mlp = Mlp(keys.count("intermediate_size"), gated=False, bias=True, activation=_activation(keys, "quick_gelu"))
    block = _block(width, keys.count("num_attention_heads"), mlp, rotates=False)
    return Encoder(
        _runs([block] * keys.count("num_hidden_layers")),
        inputs=3 * patch * patch,
        class_token=True,
        positions=(keys.count("image_size") // patch) ** 2 + 1,
        norms=2,
        projector=((width, hidden), (hidden, hidden)),
        patches=(keys.count("image_size") // patch) ** 2 + 1,
    )


def _qwen(keys: Keys, kind: str, hidden: int) -> Encoder:
    """Qwen's towers: patches of two frames, and mergers that join neighbouring patches for the language model."""
    second = kind == "qwen2_vl"
    width, heads, depth = (
        keys.count("embed_dim" if second else "hidden_size"),
        keys.count("num_heads"),
        keys.count("depth"),
    )
    patch, merged = keys.count("patch_size"), width * keys.count("spatial_merge_size") ** 2
    ffn = keys.count("mlp_ratio") * width if second else keys.count("intermediate_size")
    if kind == "qwen2_5_vl":
        full = keys.words("fullatt_block_indexes") or [7, 15, 23, 31]
        seen = (keys.count("window_size") // patch) ** 2
        mlp = Mlp(ffn, bias=True)
        blocks = [_block(width, heads, mlp, "rmsnorm", 0 if layer in full else seen) for layer in range(depth)]
    else:
        named = _activation(keys, "quick_gelu" if second else "gelu")
        blocks = [_block(width, heads, Mlp(ffn, gated=False, bias=True, activation=named))] * depth
    # An image as large as the learned grid of positions is; without one, as large as users cut images to.
    positions, merge = keys.count("num_position_embeddings", 0, least=0), keys.count("spatial_merge_size")
    side = CUT // (patch * merge) * merge
    deep = len(keys.words("deepstack_visual_indexes") or []) if kind == "qwen3_vl" else 0
    return Encoder(
        _runs(blocks),
        inputs=keys.count("in_channels") * keys.count("temporal_patch_size") * patch * patch,
        patch_bias=kind == "qwen3_vl",
        positions=positions,
        patches=positions or side * side,
        merged=float(merge * merge),
        merger_norms=(width, *[merged] * deep),
        projector=((merged, merged), (merged, hidden)) * (1 + deep),
    )
