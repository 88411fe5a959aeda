"""Opens files of any known format, and what they refer to: from paths to facts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vramsim.case.reading import is_file, parsed, read_text
from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.formats import facts as formats
from vramsim.formats.facts import NAMES, Fact, Format, Found
from vramsim.formats.scripts import inherits, megatron_options, python_values, shell_options
from vramsim.formats.words import AUTO

SCRIPTS = ("megatron", "swift", "trainer", "llamafactory")
"""Formats that a shell script may hold the options of."""

KIND = "configuration"


@dataclass(frozen=True, slots=True)
class Source:
    """A file: its path, what it holds, its format, what is to be said of how it was read, and what it is called."""

    path: Path
    content: Mapping[str, Any]
    format: Format
    notes: tuple[str, ...] = ()
    label: str = ""

    @property
    def name(self) -> str:
        """What sentences call it: the file's name, or its whole path beside another of the same name."""
        return self.label or self.path.name


def told_apart(sources: Iterable[Source]) -> list[Source]:
    """The same files, those of one name called by their paths.

    sources : files in any order. [-]
    """
    found = list(sources)
    names = Counter(source.path.name for source in found)
    return [replace(source, label=str(source.path)) if names[source.path.name] > 1 else source for source in found]


def open_source(path: Path) -> Source:
    """A file's content and format.

    path : file to read. [-]
    Raises VramsimError for a file that cannot be read, parsed or recognised.
    """
    found = source_of(path)
    if found is None:
        known = ", ".join(formats.format_of(name).title for name in NAMES)
        raise VramsimError(f"{shown(str(path))} is no configuration that vramsim knows: known are {known}")
    return found


def source_of(path: Path) -> Source | None:
    """A file's content and format; None if it can be parsed, but is none of the formats.

    path : file to read; of a folder, its config.json. [-]
    Raises VramsimError for a file that cannot be read or parsed.
    """
    folder = path / "config.json"
    path = folder if not is_file(path) and is_file(folder) else path
    text, suffix, where = read_text(path, KIND), path.suffix.lower(), shown(str(path))
    if suffix == ".py":
        try:
            values = python_values(text)
        except (ValueError, RecursionError) as error:
            raise VramsimError(f"the {KIND} {where} cannot be read as Python: {error}") from None
        note = f"{path.name} builds on other files, which are not read: give their values with --set"
        known = formats.recognised(values, ("xtuner",))
        return Source(path, values, known, (note,) * inherits(text)) if known else None
    if suffix in (".json", ".yaml", ".yml", ".toml"):
        content = parsed(text, path, KIND)
        if not isinstance(content, dict):
            held = "nothing" if content is None else f"a {type(content).__name__}"
            raise VramsimError(f"the {KIND} {where} must be a mapping of keys to values, it holds {held}")
        return _options_or_mapping(path, content)
    try:
        options = shell_options(text)
    except ValueError as error:
        raise VramsimError(f"{where} is no {KIND}: {error}") from None
    known = formats.format_of("swift") if "swift_command" in options else formats.recognised(options, SCRIPTS)
    note = f"{path.name} is a script: its conditions are not followed, the last value of an option counts"
    return Source(path, options, known, (note,) * bool(re.search(r"^\s*if\b", text, re.MULTILINE))) if known else None


def _options_or_mapping(path: Path, content: dict[Any, Any]) -> Source | None:
    content = {key: value for key, value in content.items() if isinstance(key, str)}
    section = content.get("MODEL_ARGS", content)
    if isinstance(section, dict) and any(isinstance(key, str) and key.startswith("--") for key in section):
        content = megatron_options({str(key): value for key, value in section.items()})
        content = {key: value for key, value in content.items() if "$" not in str(value)}
    known, flat = formats.recognised(content), _flat(content)
    if formats.score(flat, "megatron") > max(formats.score(content, known.name) if known else 0, formats.SURE):
        content, known = flat, formats.format_of("megatron")
    return Source(path, content, known) if known else None


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of a NeMo or Megatron-Bridge recipe, whose keys are Megatron's, as one mapping."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= {str(inner): each for inner, each in value.items() if not isinstance(each, Mapping)}
        else:
            found[key] = value
    return found


def found_in(source: Source) -> Found:
    """What a file says.

    source : of the file. [-]
    Raises VramsimError as `formats.facts.read` does.
    """
    if source.format.name == "case":
        return Found(source.format, tuple(_case_facts(source)), (), source.notes)
    found = formats.read(source.content, source.name, source.format)
    said = list(found.facts)
    if source.format.name == "model":
        said.append(Fact("model", str(source.path.resolve()), source.name, "model_type", source.format.rank))
    return Found(found.format, tuple(said), found.ignored, (*source.notes, *found.notes))


def _case_facts(source: Source) -> Iterable[Fact]:
    """Fields of a case that is not whole."""
    for field, value in flattened(source.content):
        yield Fact(field, value, source.name, field, source.format.rank)


SECTIONS = ("cluster", "training", "training.lora", "training.precision", "strategy", "framework")
"""Sections of a case whose keys are facts of their own."""


def flattened(content: Mapping[str, Any], within: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted fields of a case, and their values.

    content : of a case file. [-]   within : section that it is of. [-]
    """
    for key, value in content.items():
        field = f"{within}{key}"
        if field in SECTIONS and isinstance(value, Mapping):
            yield from flattened(value, f"{field}.")
        elif field not in ("missing", "notes", "ignored"):
            yield (
                field.removesuffix(".name") if field in ("framework.name", "training.precision.name") else field,
                value,
            )


PRESET = re.compile(r"z(?:ero)?_?(?:stage)?_?(?P<stage>[0-3])(?P<rest>\w*)", re.IGNORECASE)
"""How shipped DeepSpeed configurations are called: deepspeed_zero3_offload, ds_z2_config.json, default-zero3."""


AUTO_BUCKETS = ("llamafactory", "swift")
"""Programs whose own ZeRO-3 configurations leave buckets to the Trainer (examples/deepspeed, swift/llm/ds_config)."""

BUCKETS = (
    "framework.reduce_bucket_size",
    "framework.prefetch_bucket_size",
    "framework.param_persistence_threshold",
)


def references(found: Iterable[Found], sources: Iterable[Source]) -> tuple[list[Source], list[Fact], list[str]]:
    """Files that other files name and nobody gave: opened where they are there, else understood by their name.

    found : what the files say. [-]   sources : the files. [-]
    """
    sources, found = list(sources), list(found)
    given = {source.format.name for source in sources}
    opened: list[Source] = []
    facts: list[Fact] = []
    notes: list[str] = []
    for said in (fact for each in found for fact in each.facts):
        kind = {"deepspeed_file": "deepspeed", "accelerate_file": "accelerate"}.get(said.field)
        if kind is None or kind in given or not isinstance(said.value, str):
            continue
        folders = [source.path.parent for source in sources if source.name == said.file]
        paths = [folder / said.value for folder in folders] + [Path(said.value)]
        if path := next((path for path in paths if is_file(path)), None):
            source = open_source(path)
            if source.format.name == kind:
                opened.append(source)
                notes.append(f"{said.value} is read because {said.file} names it ({said.key})")
                given.add(kind)
                continue
        match = PRESET.search(Path(said.value).name) if kind == "deepspeed" else None
        if match is None:
            notes.append(f"{said.file} names {said.value} ({said.key}), which was not given: give it as well")
            continue
        stage, where = int(match["stage"]), (said.file, said.key, said.rank - 3)
        facts.append(Fact("strategy.zero_stage", stage, *where))
        if "off" in match["rest"].lower():
            facts.append(Fact("strategy.offload_optimizer", "cpu", *where))
            facts += [Fact("strategy.offload_parameters", "cpu", *where)] * (stage == 3)
        shipped = any(fact.field == "program" and fact.value in AUTO_BUCKETS for each in found for fact in each.facts)
        facts += [Fact(field, AUTO, *where) for field in BUCKETS if shipped and stage == 3]
        notes.append(
            f"{said.file} names {said.value} ({said.key}), which was not given: by its name, ZeRO stage {stage}"
        )
    return opened, facts, notes
