"""Reads a case file: YAML, TOML or JSON, as data and nothing else (no tags, no duplicate keys, no executed code)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.formats.hf import reason

LARGEST_FILE = 4_000_000
"""Bytes; a larger file is no case."""

MOST_ALIASES = 20


def read_mapping(
    path: Path, kind: str = "case", needs: str = "model, cluster, framework and training"
) -> dict[str, Any]:
    """Mapping that a YAML, TOML or JSON file holds, by its suffix (YAML by default).

    path : file to read. [-]   kind : what it is called in sentences. [-]   needs : keys that it must have. [-]
    Raises VramsimError for a file that cannot be read or parsed, or holds something else.
    """
    where = shown(str(path))
    content = parsed(read_text(path, kind), path, kind)
    if content is None:
        raise VramsimError(f"the {kind} file {where} is empty; it must name {needs}")
    if not isinstance(content, dict):
        raise VramsimError(f"the {kind} file {where} must be a mapping with {needs}, got {type(content).__name__}")
    return content


def read_text(path: Path, kind: str = "case") -> str:
    """Text of a file that is small enough to be a configuration.

    path : file to read. [-]   kind : what it is called in sentences. [-]
    Raises VramsimError for a file that cannot be read.
    """
    where = shown(str(path))
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8-sig") if size <= LARGEST_FILE else ""
    except UnicodeDecodeError:
        raise VramsimError(f"cannot read the {kind} file {where}: it is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise VramsimError(f"cannot read the {kind} file {where}: {reason(error)}") from None
    if size > LARGEST_FILE:
        raise VramsimError(f"the {kind} file {where} has {size} bytes; a {kind} has at most {LARGEST_FILE}")
    return text


def parsed(text: str, path: Path, kind: str = "case") -> Any:
    """What a text holds as YAML, TOML or JSON, by its file's suffix.

    text : of the file. [-]   path : where it stands. [-]   kind : what it is called in sentences. [-]
    Raises VramsimError for a text that cannot be parsed.
    """
    where, parse = shown(str(path)), {".toml": _toml, ".json": _json}.get(path.suffix.lower(), _yaml)
    try:
        return parse(text)
    except RecursionError:
        raise VramsimError(f"the {kind} file {where} is nested too deeply") from None
    except ValueError as error:
        raise VramsimError(f"the {kind} file {where} cannot be read as {parse.__name__[1:].upper()}: {error}") from None


def is_file(path: Path) -> bool:
    """Whether a path is a file; False for one that cannot exist.

    path : path to look at. [-]
    """
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a null byte
        return False


def _toml(text: str) -> Any:
    return tomllib.loads(text) or None


def _json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} is given twice")
            seen[key] = value
        return seen

    return json.loads(text, object_pairs_hook=unique) if text.strip() else None


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe loader that refuses a key given twice, which YAML forbids and PyYAML overwrites silently."""

        aliases = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            # Aliases of aliases grow exponentially when they are walked.
            self.aliases += self.check_event(yaml.AliasEvent)
            if self.aliases > MOST_ALIASES:
                raise ValueError(f"it has more than {MOST_ALIASES} aliases")
            return super().compose_node(parent, index)

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"the key {twice!r} is given twice (line {node.start_mark.line + 1})")
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(" ".join(problem.split()) + where) from None
