"""The case: what a user asks about, as written in a file or in Python, checked at the door.

`Case.resolve()` gives the `Setup` that the rest of vramsim computes with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from vramsim.case.fields import ClusterFields, Fields, NameOrMapping, StrategyFields, TrainingFields
from vramsim.case.sentences import TOP, known_paths, sentence
from vramsim.catalog.tables import nearest, shown
from vramsim.errors import VramsimError
from vramsim.spec import Framework, Setup

__all__ = ["Case", "path_of", "with_value"]


class Case(BaseModel):
    """Model x cluster x framework x training x strategy, with the nouns of the case file.

    Numbers may be arrays (an open grid). Raises VramsimError, one sentence, for anything that is wrong.

    >>> case = Case(
    ...     model="llama-3-70b",
    ...     cluster={"device": "a100-sxm-80gb", "num_devices": 16},
    ...     framework="xtuner-v0.1",
    ...     training={"seq_len": 8192},
    ...     strategy={"zero_stage": 3, "recompute": "full"},
    ... )
    >>> case.resolve().shard_degree
    16.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: NameOrMapping
    cluster: ClusterFields
    framework: NameOrMapping
    training: TrainingFields
    strategy: StrategyFields = StrategyFields()

    _setup: Setup | None = PrivateAttr(default=None)

    def __init__(self, /, **given: Any) -> None:
        try:
            super().__init__(**_adopt_lora(given))
        except ValidationError as error:
            raise sentence(error) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Case) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash(repr(self.describe()))

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], values: Mapping[str, Any] | None = None) -> Case:
        """Case from a YAML, TOML or JSON file, or from a mapping with the same keys.

        source : path or mapping; what `vramsim convert` says beside the case is left out. [-]
        values : key -> value to set before anything is checked, as `with_values` takes them. [as the field]
        Raises VramsimError for a file that cannot be read and for anything in it that is wrong.
        """
        from vramsim.case.reading import is_file, read_mapping

        if isinstance(source, Mapping):
            content = _text_keys(source)
        else:
            path = Path(source)
            content = _text_keys(read_mapping(path))
            named = content.get("model")
            if isinstance(named, str) and named.endswith(".json") and is_file(path.parent / named):
                content["model"] = str(path.parent / named)
            content = _beside(path, content)
        for key, value in (values or {}).items():
            content = with_value(content, key, value)
        return cls(**{key: value for key, value in content.items() if key not in BESIDE})

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Case:
        """As `load`: pydantic's own door, with our errors.

        obj : mapping or path. [-]   options : pydantic's, without effect. [-]
        """
        return obj if isinstance(obj, Case) else cls.load(obj)

    def with_values(self, values: Mapping[str, Any]) -> Case:
        """The same case with some fields set otherwise.

        values : dotted path, or last word of one where that is unambiguous -> value. [as the field]
        Raises VramsimError for an unknown or ambiguous key, with the nearest ones.
        """
        given = _given(self)
        for key, value in values.items():
            _put(given, path_of(key).split("."), value)
        return Case(**given)

    def resolve(self) -> Setup:
        """The setup that this case means; looked up once.

        Raises VramsimError for names that are unknown and numbers that do not go together.
        """
        if self._setup is None:
            from vramsim.case.resolution import resolve

            self._setup = resolve(self)
        return self._setup

    def describe(self) -> dict[str, Any]:
        """The case as understood, defaults filled in, as JSON has it; `load` reads it back as an equal case."""
        from vramsim.case.description import describe

        return describe(self)


BESIDE = ("missing", "notes", "ignored")
"""Keys that `vramsim convert` writes beside a case's own."""


def with_value(given: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The mapping of a case, whole or not, with one field set.

    given : as `Case.load` takes it. [-]   key : as `Case.with_values` takes it. [-]   value : of it. [as the field]
    Raises VramsimError for an unknown or ambiguous key, with the nearest ones.
    """
    changed = dict(given)
    _put(changed, path_of(key).split("."), value)
    return changed


def _beside(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """A case file's content, with the path of a machine's profile taken from where the case lies."""
    from vramsim.case.profile import is_profile

    cluster = content.get("cluster")
    if not isinstance(cluster, dict):
        return content
    device = cluster.get("device")
    if isinstance(device, str) and is_profile(device):
        return {**content, "cluster": {**cluster, "device": str(path.parent / device)}}
    if isinstance(device, dict) and isinstance(base := device.get("base"), str) and is_profile(base):
        return {**content, "cluster": {**cluster, "device": {**device, "base": str(path.parent / base)}}}
    return content


def _text_keys(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    for key in mapping:
        if not isinstance(key, str):
            raise VramsimError(f"a case must have texts as keys, got {shown(key)}; known are {', '.join(TOP)}")
    return dict(mapping)


def _adopt_lora(given: dict[str, Any]) -> dict[str, Any]:
    """A `lora` section beside `training` is read as one inside it."""
    training = given.get("training")
    if "lora" not in given or not isinstance(training, Mapping) or "lora" in training:
        return given
    return {key: value for key, value in given.items() if key != "lora"} | {
        "training": {**training, "lora": given["lora"]}
    }


def _given(section: Fields | Case) -> dict[str, Any]:
    """What the user set in a section, as it was given."""
    values = {name: getattr(section, name) for name in section.model_fields_set}
    return {name: _given(value) if isinstance(value, BaseModel) else value for name, value in values.items()}  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _short_keys() -> dict[str, list[str]]:
    """Last word of a path -> the paths that end in it."""
    knobs = (field.name for field in dataclass_fields(Framework) if field.name not in ("name", "engine", "source"))
    found: dict[str, list[str]] = {}
    for path in [*known_paths(), "training.lora", *(f"framework.{knob}" for knob in knobs)]:
        found.setdefault(path.rpartition(".")[2], []).append(path)
    return found


def path_of(key: str) -> str:
    """Full path of a key.

    key : dotted path, or last word of one where that is unambiguous. [-]
    Raises VramsimError for an unknown or ambiguous key, with the nearest ones.

    >>> path_of("seq_len")
    'training.seq_len'
    """
    known = _short_keys()
    paths = [path for group in known.values() for path in group]
    inside = ("model.", "framework.", "cluster.device.", "training.precision.")
    if not isinstance(key, str):
        raise VramsimError(f"a key must be a text such as training.seq_len, got {shown(key)}")
    if key in paths or key in TOP or key.startswith(inside):
        return key
    if key in known:
        if len(known[key]) > 1:
            raise VramsimError(f"the key {shown(key)} is ambiguous: it may mean {' or '.join(known[key])}")
        return known[key][0]
    raise VramsimError(
        f"unknown key {shown(key)}: {nearest(key, paths, spellings={k: v[0] for k, v in known.items()})}"
    )


_NAMED = {("model",): "base", ("framework",): "name", ("cluster", "device"): "base", ("training", "precision"): "name"}
"""Fields that hold a name or a mapping -> the key that holds the name in the mapping."""


def _put(given: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a value in nested mappings, turning a bare name on the way into a mapping."""
    section = given
    for depth, key in enumerate(path[:-1], start=1):
        inner = section.get(key)
        if isinstance(inner, str) and tuple(path[:depth]) in _NAMED:
            inner = {_NAMED[tuple(path[:depth])]: inner}
        section[key] = dict(inner) if isinstance(inner, Mapping) else {}
        section = section[key]
    section[path[-1]] = value
    rivals = {"gradient_accumulation_steps", "global_batch_size"}
    if path[-1] in rivals and value is not None:
        section.pop((rivals - {path[-1]}).pop(), None)
