"""Configurations as one case: `convert` reads files, says what they mean together and what is missing.

Data flows one way: files are opened and recognised (`reading`), become facts by a table of their format
(`vramsim.formats.facts`), one fact is believed for each field (`merging`), facts become a case (`meaning`), and the
case's own door checks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vramsim.case import Case, path_of, with_value
from vramsim.convert.known import Known
from vramsim.convert.meaning import case_of
from vramsim.convert.merging import merge
from vramsim.convert.reading import Source, flattened, found_in, open_source, references, source_of, told_apart
from vramsim.errors import VramsimError
from vramsim.formats.facts import Fact, Found, format_of

TOGETHER = {"cluster": ("device", "num_devices")}
"""What is missing -> the keys that give it."""


@dataclass(frozen=True, eq=False)
class Conversion:
    """What files mean together.

    `description` is the case as far as they give it, with the keys of a case file. `missing` names what no file said,
    as `--set` takes it; `notes` are conflicts and assumptions; `ignored` are keys that would change memory or time and
    are left out of account. `facts` has, for every field, who says so.
    """

    description: Mapping[str, Any]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    ignored: tuple[str, ...]
    facts: Mapping[str, Fact]
    formats: Mapping[str, str]

    @cached_property
    def case(self) -> Case:
        """The case; raises VramsimError while something is missing."""
        if self.missing:
            verb = "is" if len(self.missing) == 1 else "are"
            keys = (key for name in self.missing for key in TOGETHER.get(name, (name,)))
            wanted = " ".join(f"{key}=..." for key in keys)
            raise VramsimError(f"{_listed(self.missing)} {verb} missing: no file says; give --set {wanted}")
        return Case.load(self.description)

    def to_dict(self) -> dict[str, Any]:
        """The case file with `missing`, `notes` and `ignored`, as JSON and YAML have it."""
        lists = {"missing": self.missing, "notes": self.notes, "ignored": self.ignored}
        return {**self.description, **{name: list(lines) for name, lines in lists.items()}}


def convert(paths: Iterable[str | Path] | str | Path, values: Mapping[str, Any] | None = None) -> Conversion:
    """What configuration files of other programs mean together.

    Files are recognised by what they hold: DeepSpeed, accelerate, Hugging Face TrainingArguments, TRL, LLaMA-Factory,
    Axolotl, XTuner v0.1, torchtitan, torchtune, Megatron-LM, ms-swift, PEFT, a model's config.json, and vramsim's own
    cases, whole or not. Nothing in them is executed.

    paths : files, in any order. [-]   values : key -> value that comes before all files, as `Case.with_values`. [-]
    Raises VramsimError for files that cannot be read, recognised or meant.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise VramsimError("convert needs at least one file")
    return _converted([open_source(Path(path)) for path in given], values or {})


def load(paths: Iterable[Path], values: Mapping[str, Any]) -> tuple[Case, tuple[str, ...]]:
    """A case from its file, or from files of other programs; and notes on how those were understood.

    paths : one case file, or any files that `convert` takes. [-]   values : key -> value to set. [as the field]
    Raises VramsimError for anything wrong or missing.
    """
    paths = list(paths)
    if len(paths) == 1 and _is_case(paths[0]):
        return Case.load(paths[0], values), ()
    found = convert(paths, values)
    return found.case, (*found.notes, *(f"not in this estimate: {each}" for each in found.ignored))


def _is_case(path: Path) -> bool:
    """Whether a single file is to be read, and complained about, as a case of our own."""
    if path.suffix.lower() not in (".json", ".yaml", ".yml", ".toml", ""):
        return path.suffix.lower() not in (".py", ".sh", ".txt")
    try:
        source = source_of(path)
    except VramsimError:
        return True
    return source is None or source.format.name == "case"


def _converted(sources: list[Source], values: Mapping[str, Any]) -> Conversion:
    sources = told_apart(sources)
    found: list[Found] = [found_in(source) for source in sources]
    opened, named, notes = references(found, sources)
    found += [found_in(source) for source in opened]
    facts = [*(fact for each in found for fact in each.facts), *named, *_set_facts(values)]
    merged, conflicts = merge(facts)
    known = Known(merged, [note for each in found for note in each.notes] + notes)
    description, missing = case_of(known)
    for key, value in {**_of_cases(merged), **values}.items():
        description = with_value(description, key, value)
    missing = [name for name in missing if not _there(description, name)]
    _check(description, missing)
    # A conflict that a value of --set settles is none.
    told = [note for note in conflicts if "--set" not in note]
    ignored = [line for each in found for line in each.ignored]
    return Conversion(
        description,
        tuple(missing),
        tuple(dict.fromkeys(told + known.notes)),
        tuple(dict.fromkeys(ignored)),
        merged,
        {source.name: source.format.title for source in (*sources, *opened)},
    )


def _of_cases(merged: Mapping[str, Fact]) -> dict[str, Any]:
    """What cases of our own say: it needs no interpretation. (Names that others add to are taken already.)"""
    rank, added_to = format_of("case").rank, ("framework", "training.precision")
    return {name: fact.value for name, fact in merged.items() if fact.rank == rank and name not in added_to}


def _set_facts(values: Mapping[str, Any]) -> Iterable[Fact]:
    for key, value in values.items():
        path = path_of(key)
        nested = {path: value} if "." not in path else None
        for field, each in flattened(nested) if nested else [(path, value)]:
            yield Fact(field, each, "--set", key, 99)


def _there(description: Mapping[str, Any], name: str) -> bool:
    """Whether what was missing has been set."""
    where: Any = description
    for part in path_of(name).split("."):
        if not isinstance(where, Mapping) or part not in where:
            return False
        where = where[part]
    return name != "cluster" or {"device", "num_devices"} <= set(where)


FILLERS: Mapping[str, Any] = {
    "model": "llama-3-8b",
    "cluster": {"device": "a100-sxm-80gb", "num_devices": 8},
    "device": "a100-sxm-80gb",
    "num_devices": 8,
    "framework": "deepspeed",
    "seq_len": 1024,
    "model.vocab_size": 32000,
    "zero_stage": 3,
}
"""Stand-ins for what is missing, so that everything else can be checked field by field."""


def _check(description: Mapping[str, Any], missing: list[str]) -> None:
    filled: Mapping[str, Any] = description
    for name in missing:
        filled = with_value(filled, name, FILLERS[name])
    case = Case.load(filled)
    if not missing:
        case.resolve()


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
