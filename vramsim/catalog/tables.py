"""Reads the data files of the catalog, and looks names up in them.

A name is found whatever its case, and whether its words are parted by `-`, `_` or a space; an alias stands for the
name of its row. Files are read once, when they are first needed.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from vramsim.errors import VramsimError

Row = Mapping[str, Any]

KINDS = ("device", "model", "framework", "optimizer", "quantization", "precision")
"""What there are names of."""

_FOLDER = Path(__file__).parent


def fold(name: str) -> str:
    """One spelling for a name's usual spellings.

    >>> fold("A100_SXM 80GB")
    'a100-sxm-80gb'
    """
    return "-".join(name.lower().replace("_", " ").replace("-", " ").split())


def nearest(name: str, known: Iterable[str], *, spellings: Mapping[str, str] | None = None, most: int = 16) -> str:
    """Clause that offers what a mistyped name may have meant, or else all known names.

    name : what was given. [-]   known : right names. [-]   spellings : other spelling -> right name. [-]
    most : largest number of names to list. [-]

    >>> nearest("seqlen", ["seq_len", "method"])
    'did you mean seq_len?'
    """
    known = list(known)
    targets = {**{fold(each): each for each in spellings or ()}, **{fold(each): each for each in known}}
    wanted = fold(name)
    close = get_close_matches(wanted, targets, n=4, cutoff=0.6)
    # Only what is about as near as the nearest: three far guesses beside a near one confuse.
    near = {each: SequenceMatcher(None, each, wanted).ratio() for each in close}
    best = [each for each in close if near[each] >= near[close[0]] - 0.1]
    meant = dict.fromkeys((spellings or {}).get(targets[each], targets[each]) for each in best)
    if meant:
        return f"did you mean {' or '.join(meant)}?"
    listed, rest = sorted(known)[:most], len(known) - most
    return f"known are {', '.join(listed)}" + (f" and {rest} more (vramsim catalog lists them)" if rest > 0 else "")


def shown(value: object) -> str:
    """A value as it stands in a sentence: on one line, and not too long.

    value : what was given. [any]

    >>> shown("8k")
    "'8k'"
    """
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # an integer of thousands of digits, or a list that holds itself
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 120 else f"{text[:100]}..."


@lru_cache(maxsize=8)
def toml(name: str) -> dict[str, Any]:
    """Parsed TOML file of the catalog, by its stem."""
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


@lru_cache(maxsize=8)
def rows(kind: str) -> dict[str, Row]:
    """Name -> row, of one kind, in the order of the file."""
    if kind == "model":
        table = json.loads((_FOLDER / "models.json").read_text(encoding="utf-8"))
        return {row["name"]: row for row in table["models"]}
    if kind in ("device", "node"):
        with (_FOLDER / f"{kind}s.csv").open(encoding="utf-8", newline="") as file:
            return {row["name"]: row for row in csv.DictReader(file)}
    if kind == "framework":
        return dict(toml("frameworks")["framework"])
    if kind == "optimizer":
        return dict(toml("optimizers")["optimizer"])
    if kind == "quantization":
        return dict(toml("quantizations"))
    if kind == "precision":
        return {name: {"name": name} for name in toml("frameworks")["precision"]["deepspeed"] if name != "source"}
    raise VramsimError(f"the catalog has no kind {kind!r}: {nearest(kind, KINDS)}")


@lru_cache(maxsize=8)
def _spellings(kind: str) -> dict[str, str]:
    """Folded name or alias -> name."""
    found = {}
    for name, row in rows(kind).items():
        aliases = row.get("aliases") or ()
        for alias in aliases.split("|") if isinstance(aliases, str) else aliases:
            found[fold(alias)] = name
    return found | {fold(name): name for name in rows(kind)}


def canonical(kind: str, name: str) -> str:
    """Name of the row that a spelling stands for.

    Raises VramsimError, with the nearest names, if there is none.

    >>> canonical("device", "A100_SXM4 80gb")
    'a100-sxm-80gb'
    """
    found = _spellings(kind).get(fold(name)) if isinstance(name, str) else None
    if found is None:
        raise VramsimError(
            f"unknown {kind} {shown(name)}: {nearest(str(name), rows(kind), spellings=_spellings(kind))}"
        )
    return found


def has(kind: str, name: str) -> bool:
    """Whether a name or alias is in the catalog."""
    return fold(name) in _spellings(kind)


def inherited(table: Mapping[str, Row], name: str) -> dict[str, Any]:
    """Row of a table with what it takes from its `base`."""
    row = dict(table[name])
    base = row.pop("base", None)
    return {**inherited(table, base), **row} if base else row
