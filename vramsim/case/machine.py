"""The machine that a case names: a device of the catalog, a profile of measured runs, or one described inline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from vramsim import catalog
from vramsim.case.numbers import number
from vramsim.case.profile import is_profile, read_profile
from vramsim.catalog import tables
from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.spec import Device

ASSUMED_OF_DEVICE = {
    "context": 0.5e9,
    "gemm_efficiency": 0.65,
    "attention_efficiency": 0.5,
    "memory_efficiency": 0.85,
    "communicator_buffer": 0.7e9,
    "all_to_all_buffer": 3.28e9,
    "power": 400.0,
}
"""Values of an inline device for what it leaves out. Bytes, ratios, watts."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Device, the usual node around it, and what runs on it showed of a framework's knobs, with a note on that."""

    device: Device
    node: Mapping[str, float]
    framework: Mapping[str, float]
    notes: tuple[str, ...] = ()


def machine_of(given: str | dict[str, Any]) -> Machine:
    """The machine of a device's name, of a profile's path, or of a mapping whose base is either.

    given : as a case has it. [-]
    Raises VramsimError for a name that is unknown and numbers that are wrong.
    """
    if isinstance(given, str):
        if not is_profile(given):
            return Machine(catalog.device(given), catalog.node(given), {})
        profile, name = read_profile(given), Path(given).name
        try:
            device, node = _device(profile.device)
        except VramsimError as error:
            raise VramsimError(f"the profile {shown(given)} is wrong: {error}") from None
        device = replace(device, name=f"{profile.device.get('base', name)} ({name})", measured=profile.measured(name))
        knobs, known = profile.framework.model_dump(exclude_none=True), profile.memory
        notes = (f"memory beyond tensors is measured by the user: {known.runs:g} readings ({name})",) if known else ()
        return Machine(device, {**node, **profile.node.model_dump(exclude_none=True)}, knobs, notes)
    if isinstance(base := given.get("base"), str) and is_profile(base):
        machine = machine_of(base)
        device = _changed(machine.device, base, _stated(given))
        return replace(machine, device=device, node={k: v for k, v in machine.node.items() if k not in given})
    return Machine(*_device(given), {})


def device_of(given: str | dict[str, Any]) -> Device:
    """The device that a case names, takes from a profile, or describes.

    given : as a case has it. [-]
    Raises VramsimError for a name that is unknown and numbers that are wrong.
    """
    return machine_of(given).device


def _device(given: dict[str, Any]) -> tuple[Device, Mapping[str, float]]:
    """Device of a mapping, and the usual node around it."""
    checked = _stated(given)
    name = checked.pop("name", f"{given['base']} changed" if "base" in given else "inline")
    if "base" in given:
        base = tables.canonical("device", given["base"])
        return _changed(catalog.device(base), base, {"name": name, **checked}), catalog.node(base)
    needed = ("memory", "memory_bandwidth", "peak_flops", "scale_up_bandwidth", "pcie_bandwidth")
    if missing := [key for key in needed if key not in checked]:
        raise VramsimError(f"an inline device without a base must state {', '.join(missing)}, got {', '.join(given)}")
    usable = checked["memory"] * 79.33 / 80
    return Device(name=name, **{"usable_memory": usable, **ASSUMED_OF_DEVICE, **checked}), catalog.node("rtx-4090-24gb")


def _changed(device: Device, base: str, stated: dict[str, Any]) -> Device:
    """A device of which a mapping states some fields; a power below the rated one slows what draws all of it."""
    if stated.get("power", device.power) < device.power:
        device = catalog.powered(device, stated["power"])
    return replace(device, source=f"{base}, changed inline", **stated)


def _stated(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a device that a mapping states, checked."""
    known = {field.name for field in fields(Device)} - {"source", "calibration", "measured", "sold_as"}
    for key in given:
        if key not in known | {"base"}:
            raise VramsimError(f"unknown key 'cluster.device.{key}': {tables.nearest(key, known | {'base'})}")
    stated = {key: value for key, value in given.items() if key not in ("base", "name", "peak_flops", "staged")}
    checked: dict[str, Any] = {key: _device_number(key, value) for key, value in stated.items()}
    if "name" in given:
        if not isinstance(given["name"], str):
            raise VramsimError(f"cluster.device.name must be a text, got {shown(given['name'])}")
        checked["name"] = given["name"]
    if "staged" in given:
        if not isinstance(given["staged"], bool):
            raise VramsimError(f"cluster.device.staged must be true or false, got {shown(given['staged'])}")
        checked["staged"] = given["staged"]
    if "peak_flops" in given:
        checked["peak_flops"] = _peaks(given["peak_flops"])
    return checked


def _device_number(key: str, value: Any) -> float:
    ratio = key.endswith("efficiency")
    try:
        checked = number(1e-6 if ratio else 0, 1 if ratio else 1e18)(value)
    except ValueError as error:
        raise VramsimError(f"cluster.device.{key} {error}") from None
    if not isinstance(checked, float):
        raise VramsimError(f"cluster.device.{key} must be one number, got {shown(value)}")
    return checked


def _peaks(given: Any) -> tuple[tuple[str, float], ...]:
    if not isinstance(given, dict) or not given:
        raise VramsimError(
            f"cluster.device.peak_flops must map dtypes to FLOP/s, such as bf16: 312e12, got {shown(given)}"
        )
    return tuple((str(dtype), _device_number(f"peak_flops.{dtype}", value)) for dtype, value in given.items())
