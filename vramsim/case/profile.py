"""A machine's profile: a device of the catalog with what runs measured on it, as `vramsim calibrate` writes it.

A case names the file where it would name a device: `cluster: {device: my-machine.yaml, num_devices: 8}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from vramsim.case.fields import AMOUNT
from vramsim.case.numbers import number, optional
from vramsim.case.reading import read_mapping
from vramsim.catalog import tables
from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.spec import Measured

SUFFIXES = (".yaml", ".yml", ".toml", ".json")
FEW = 5
"""Runs below which a profile rests mostly on what was known before. [-]"""

Ratio = Annotated[float, PlainValidator(number(0, 1e3))]
OptionalBandwidth = Annotated[float | None, PlainValidator(optional(number(1, AMOUNT)))]
OptionalRatio = Annotated[float | None, PlainValidator(optional(number(0, 10)))]
OptionalBytes = Annotated[float | None, PlainValidator(optional(number(0, AMOUNT)))]


class Section(BaseModel):
    """A section of a profile: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Node(Section):
    """Bandwidths that the runs reached, where they say so; a case's own numbers come before them. B/s."""

    scale_out_bandwidth: OptionalBandwidth = None
    pcie_bandwidth: OptionalBandwidth = None
    host_memory_bandwidth: OptionalBandwidth = None


class Knobs(Section):
    """The allocator's constants, where the runs say so; a case's own come before them."""

    fragmentation: OptionalRatio = None
    allocator_slack: OptionalBytes = None


class Accuracy(Section):
    """Mean errors of the runs' estimates, by the catalog, after the fit, and by fits to the others; as fractions.

    Nine of ten runs like them lie within exp(-band) and exp(band) times the estimate. `shares` are the most that a step
    of theirs spends on each activity.
    """

    runs: Annotated[float, PlainValidator(number(1, 1e9, whole=True))]
    error_before: Ratio
    error_after: Ratio
    error_left_out: Ratio
    band: Ratio
    shares: dict[str, Ratio] = Field(default_factory=dict)


class Learnt(Section):
    """One parameter: the catalog's value, the fitted one, its relative standard error, and how much runs taught."""

    catalog: Annotated[float, PlainValidator(number(0, AMOUNT))]
    fitted: Annotated[float, PlainValidator(number(0, AMOUNT))]
    relative_error: Ratio
    learned: Ratio


class Profile(Section):
    """A machine as its owner's runs show it, and where that comes from.

    `device` is what a case may write as its device: a `base` of the catalog and what differs from it.
    """

    device: dict[str, Any]
    node: Node = Node()
    framework: Knobs = Knobs()
    throughput: Accuracy | None = None
    memory: Accuracy | None = None
    parameters: dict[str, Learnt] = Field(default_factory=dict)
    runs: list[str] = Field(default_factory=list)
    sources: list[str] = Field(default_factory=list)
    date: str = ""
    vramsim: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a file, without what is not known."""
        return self.model_dump(exclude_none=True, exclude_defaults=True)

    def text(self) -> str:
        """The file, in YAML."""
        import yaml

        head = (
            "# A machine as measured runs show it, by vramsim calibrate. A case names this file as its device:\n"
            "#   cluster: {device: this-file.yaml, num_devices: 8}\n"
        )
        return head + yaml.safe_dump(_plain(self.to_dict()), sort_keys=False, allow_unicode=True, width=100)

    def measured(self, origin: str) -> Measured | None:
        """What estimates must know of the throughput's fit; None where no rate was measured.

        origin : name of the file. [-]
        """
        found = self.throughput
        if found is None:
            return None
        return Measured(
            runs=found.runs,
            error=found.error_left_out,
            band=found.band,
            shares=tuple(found.shares.items()),
            origin=f"{origin}, {self.date}" if self.date else origin,
        )


def _plain(value: Any) -> Any:
    """Whole numbers without a decimal point where they are counts, large numbers as YAML reads them back."""
    if isinstance(value, dict):
        return {
            key: int(each) if key == "runs" and isinstance(each, float) else _plain(each) for key, each in value.items()
        }
    return [_plain(each) for each in value] if isinstance(value, list) else value


def is_profile(name: str) -> bool:
    """Whether the name of a device is the path of a profile.

    name : as a case has it. [-]

    >>> is_profile("my-machine.yaml"), is_profile("a100-sxm-80gb")
    (True, False)
    """
    return not tables.has("device", name) and name.lower().endswith(SUFFIXES)


def read_profile(path: str | Path) -> Profile:
    """The profile that a file holds.

    path : YAML, TOML or JSON file. [-]
    Raises VramsimError for a file that cannot be read, and for anything in it that is wrong.
    """
    content = read_mapping(Path(path), "profile", "device")
    try:
        return Profile(**content)
    except (ValidationError, TypeError) as error:
        raise VramsimError(f"the profile {shown(str(path))} is wrong: {_finding(error)}") from None


def _finding(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return "its keys must be texts"
    first = min(error.errors(include_url=False), key=lambda finding: finding["type"] != "extra_forbidden")
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {shown(name)}"
    if first["type"] == "missing":
        return f"{name} is missing"
    context = first.get("ctx", {}).get("error")
    return f"{name} {context if context else first['msg'].lower() + ', got ' + shown(first.get('input'))}"
