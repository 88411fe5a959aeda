"""Keys of a Hugging Face config, read with checks, and the attention that all families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.spec import Attention


class Keys:
    """Keys of a config, read with checks."""

    def __init__(self, name: str, kind: str, keys: Mapping[str, Any]) -> None:
        self.name, self.kind, self.keys = name, kind, keys

    def wrong(self, what: str) -> VramsimError:
        """The error that says what is wrong with this config."""
        return VramsimError(f"model {self.name} ({self.kind}): {what}")

    def count(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Whole number at `key`, at least `least`."""
        value = self.keys.get(key, default)
        if value is None:
            raise self.wrong(f"{key} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise self.wrong(f"{key} must be a whole number, got {shown(value)}")
        if not least <= value <= 1e9:
            raise self.wrong(f"{key} must lie from {least} to 1e9, got {shown(value)}")
        return int(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """Truth value at `key`."""
        value = self.keys.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(f"{key} must be true or false, got {shown(value)}")
        return value

    def share(self, key: str, default: float = 0.0) -> float:
        """Number from 0 to 1 at `key`."""
        value = self.keys.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise self.wrong(f"{key} must be a number from 0 to 1, got {shown(value)}")
        return float(value)

    def words(self, key: str) -> list[Any] | None:
        """List at `key`, or None where it is left out."""
        value = self.keys.get(key)
        if value is not None and not isinstance(value, list):
            raise self.wrong(f"{key} must be a list, got {shown(value)}")
        return value


def attention(keys: Keys, **traits: Any) -> Attention:
    """Grouped-query attention of a config.

    keys : of the config. [-]   traits : fields of Attention that the family sets. [-]
    Raises VramsimError when heads do not divide.
    """
    hidden, heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    kv_heads = keys.count("num_key_value_heads", heads)
    if keys.keys.get("head_dim") is None and hidden % heads:
        raise keys.wrong(
            f"hidden_size must be a multiple of num_attention_heads: {hidden} % {heads} = {hidden % heads}; correct "
            f"one or state head_dim"
        )
    if heads % kv_heads:
        raise keys.wrong(
            f"num_attention_heads must be a multiple of num_key_value_heads: {heads} % {kv_heads} = {heads % kv_heads}"
        )
    rotary = traits.pop("rotary", keys.share("partial_rotary_factor", 1.0))
    return Attention(heads, kv_heads, keys.count("head_dim", hidden // heads), rotary=rotary, **traits)


PERIODS = {
    "mistral": 1, "ministral3": 1, "mixtral": 1, "starcoder2": 1, "gemma2": 2, "gpt_oss": 2, "olmo3": 4, "cohere2": 4,
    "gemma3_text": 6,
}  # fmt: skip
"""Model types with a sliding window -> every how many layers one sees everything (1: none does)."""


def window(keys: Keys, layer: int) -> int:
    """Sliding window of a layer in tokens; 0 where attention sees everything.

    keys : of the config. [-]   layer : index from the first. [-]
    """
    length = keys.keys.get("sliding_window")
    if length is None or keys.keys.get("use_sliding_window") is False or keys.kind not in PERIODS:
        return 0
    kinds = keys.keys.get("layer_types")
    if isinstance(kinds, list) and layer < len(kinds):
        sliding = kinds[layer] == "sliding_attention"
    else:
        period = keys.count("sliding_window_pattern", PERIODS[keys.kind])
        sliding = period == 1 or (layer + 1) % period != 0
    return keys.count("sliding_window") if sliding else 0
