"""From the content of another program's configuration to facts: a field of a case, its value, and who says so.

A format is a table in the folder `foreign`: marks by which its files are known, keys with the field that each means and
a converter (`words`), what the program does where a file is silent, and keys that matter but are not modelled. Adding a
format is adding a table. What a table may hold:

- `title`, `source`; `rank`, by which the more decisive of two files is believed; `marks`: keys by which it is known,
  and `sure` ones, which no other format has; `says`: facts of every file.
- `include`: tables whose keys count as well; `strip`: section -> prefix that its keys may have.
- `refuse`: key -> why a file that has it describes no training run; or {values: those that say so, why}.
- `keys`: key -> field; or {to, as: converter, when: value that it means where true, values: word -> value, what: why
  another word is refused, table: that of a mapping in place of a word}; or a list of those.
- `means`: field -> what the program takes it to be where no file says anything.
- `ignored`: key -> how the estimate deals with it; or {unless: values that change nothing, why}.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.formats.words import AUTO, CONVERTERS, switch

_FOLDER = Path(__file__).with_name("foreign")

NAMES = (
    "case", "deepspeed", "accelerate", "xtuner", "trainer", "llamafactory", "llamafactory_v1", "axolotl", "swift",
    "torchtitan", "torchtune", "megatron", "peft", "cloud", "model",
)  # fmt: skip
"""Formats; among equals the first is believed, so that what others include comes before them."""

SURE = 10
"""Marks that one sure one outweighs. [-]"""

DEEPEST = 12
"""Levels of nesting that are looked into; configurations have four."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One field's value, as one file has it; `stated` where the file says so, rather than the program's default."""

    field: str
    value: Any
    file: str
    key: str
    rank: int
    stated: bool = True


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of configuration file, with everything that it includes."""

    name: str
    title: str
    rank: int
    marks: tuple[str, ...]
    sure: tuple[str, ...]
    says: Mapping[str, Any]
    strip: Mapping[str, str]
    refuse: Mapping[str, Any]
    keys: Mapping[str, Any]
    means: Mapping[str, Any]
    ignored: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """What one file says: its format, facts, and keys that matter but are left out of account, with why."""

    format: Format
    facts: tuple[Fact, ...]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


@lru_cache(maxsize=32)
def format_of(name: str) -> Format:
    """A format by its name.

    name : of a table in the folder `foreign`, without its suffix. [-]
    """
    table = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    included = [format_of(each) for each in table.get("include", ())]

    def merged(part: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in included:
            found |= getattr(each, part)
        return {**found, **table.get(part, {})}

    return Format(
        name=name,
        title=table["title"],
        rank=table.get("rank", 0),
        marks=(*table.get("marks", ()), *(mark for each in included for mark in each.marks)),
        sure=tuple(table.get("sure", ())),
        says=table.get("says", {}),
        **{part: merged(part) for part in ("strip", "refuse", "keys", "means", "ignored")},
    )


def recognised(content: Mapping[str, Any], formats: tuple[str, ...] = NAMES) -> Format | None:
    """The format of a file, by the keys that it has; None if it is none that we know.

    content : of the file, parsed. [-]   formats : names of those that it may be. [-]
    """
    scores = {name: score(content, name) for name in formats}
    best = max(scores, key=lambda name: scores[name])  # the first among equals
    return format_of(best) if scores[best] > 0 else None


def score(content: Mapping[str, Any], name: str) -> int:
    """How many marks of a format a file has, sure ones counting as many.

    content : of the file, parsed. [-]   name : of the format. [-]
    """
    known = format_of(name)

    def has(mark: str) -> bool:
        return _at(content, mark, known.strip) is not _ABSENT

    return sum(map(has, known.marks)) + SURE * sum(map(has, known.sure))


def read(content: Mapping[str, Any], file: str, known: Format) -> Found:
    """What a file says.

    content : of the file, parsed. [-]   file : its name, for sentences. [-]   known : its format. [-]
    Raises VramsimError for a file that describes no training run, and for values that cannot be meant.
    """
    for key, why in known.refuse.items():
        value = _at(content, key, known.strip)
        told, only = (why["why"], why["values"]) if isinstance(why, Mapping) else (why, None)
        if value in only if only else value not in (_ABSENT, None, False):
            raise VramsimError(f"{file}: {known.title}, but {told} ({key})")
    facts = [Fact(field, value, file, "", known.rank) for field, value in known.says.items()]
    ignored: list[str] = []
    for key, entries in known.keys.items():
        value = _at(content, key, known.strip)
        if value is _ABSENT:
            continue
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, Mapping) and "table" in entry and isinstance(value, Mapping):
                inner = read(value, file, format_of(entry["table"]))
                facts += inner.facts
                ignored += inner.ignored
                continue
            try:
                said = _converted(entry, value)
            except _Unmodelled as error:
                raise VramsimError(f"{file}: {key} {shown(value)} {error}: known are {error.known}") from None
            except ValueError as error:
                if "is no " in str(error):
                    ignored.append(f"{key} ({file}) {error}")
                    continue
                raise VramsimError(f"{file}: {key} {error}") from None
            if said is not None:
                field = entry["to"] if isinstance(entry, Mapping) else entry
                facts.append(Fact(field, said, file, key, known.rank))
    said_of = {fact.field for fact in facts}
    facts += [
        Fact(field, value, file, "", known.rank, stated=False)
        for field, value in known.means.items()
        if field not in said_of
    ]
    ignored += _left_out(content, file, known)
    return Found(known, tuple(facts), tuple(dict.fromkeys(ignored)), tuple(_mistyped(content, file, known)))


class _Unmodelled(ValueError):
    """A word whose meaning is known, and not modelled."""

    def __init__(self, what: str, known: str) -> None:
        super().__init__(what)
        self.known = known


def _converted(entry: Any, value: Any) -> Any:
    if not isinstance(entry, Mapping):
        return CONVERTERS["number"](value)
    if "when" in entry:
        truth = switch(value)
        return entry.get(AUTO, AUTO) if truth == AUTO else entry["when"] if truth else None
    if "values" in entry:
        if value is None or value == "":
            return None
        names = {str(name).lower(): meant for name, meant in entry["values"].items()}
        # YAML reads an unquoted `no` as a truth value.
        text = (
            {True: "yes", False: "no"}.get(value, str(value).lower()) if isinstance(value, bool) else str(value).lower()
        )
        if text in names:
            return names[text]
        if "what" in entry:
            raise _Unmodelled(entry["what"], ", ".join(entry["values"]))
        raise ValueError(f"must be one of {', '.join(map(str, entry['values']))}, got {shown(value)}")
    return CONVERTERS[entry.get("as", "number")](value)


def _left_out(content: Mapping[str, Any], file: str, known: Format) -> Iterator[str]:
    """Keys that change memory or time, and are not modelled."""
    for key, why in known.ignored.items():
        value = _at(content, key, known.strip)
        usual: tuple[Any, ...] = (None, False, "", "none", "None", "null", 0, "0", "false", "False")
        if isinstance(why, Mapping):
            usual, why = (*usual, *why["unless"]), why["why"]
        if value is not _ABSENT and not any(value is each or value == each for each in usual) and value not in ([], {}):
            yield f"{key} ({file}): {why}"


def _mistyped(content: Mapping[str, Any], file: str, known: Format) -> Iterator[str]:
    """Keys at the top that are nearly one that counts: unknown keys are no error, but these look like one."""
    tops = {key.partition(".")[0] for key in (*known.keys, *known.ignored, *known.marks)}
    for key in content:
        if isinstance(key, str) and len(key) > 5 and key not in tops:
            near = get_close_matches(key, tops, n=1, cutoff=0.93)
            if near and near[0] not in content:
                yield f"{file}: the key {key} means nothing here; {near[0]} would"


_ABSENT = object()


def _at(content: Mapping[str, Any], path: str, strip: Mapping[str, str]) -> Any:
    """What a dotted path leads to; a key that holds the dots itself counts, too (recipes are overridden so)."""
    if path in content:
        return content[path]
    first, dot, rest = path.partition(".")
    inner = content.get(first, _ABSENT)
    if not dot or inner is _ABSENT:
        return inner if not dot else _ABSENT
    if not isinstance(inner, Mapping) or path.count(".") > DEEPEST:
        return _ABSENT
    found = _at(inner, rest, {})
    return _at(inner, strip[first] + rest, {}) if found is _ABSENT and first in strip else found
