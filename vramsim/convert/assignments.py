"""`--set key=value`: what commands of the command line change in a case."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from vramsim.errors import VramsimError


def assigned(texts: Iterable[str] | None) -> dict[str, Any]:
    """Keys and values of assignments; a value as JSON or YAML has it, so numbers, lists and mappings work.

    texts : each key=value. [-]
    Raises VramsimError for a text that is none.

    >>> assigned(["seq_len=4096", "recompute=full"])
    {'seq_len': 4096, 'recompute': 'full'}
    """
    return dict(_assigned(text) for text in texts or ())


def key_and_text(assignment: str) -> tuple[str, str]:
    """The two sides of an assignment.

    assignment : key=value. [-]
    Raises VramsimError for a text that is none.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise VramsimError(f"--set must be followed by key=value, such as --set seq_len=4096; got {assignment!r}")
    return key.strip(), text


def _assigned(text: str) -> tuple[str, Any]:
    key, value = key_and_text(text)
    try:
        return key, json.loads(value)  # before YAML, which takes 5e8 for a text
    except ValueError:
        pass
    import yaml

    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise VramsimError(f"the value of --set {key} cannot be read as YAML: {value!r}") from None
