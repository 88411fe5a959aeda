"""The machine that a measured run names in words: the card as it was, and the network cards of one node."""

from __future__ import annotations

import re
from dataclasses import replace

from vramsim import catalog
from vramsim.spec import Device
from vramsim.units import GB, GiB

CAPPED = {"h100-sxm-80gb": "h100-sxm-96gb"}
"""Cards of Meta's platform, where torchtitan's and torchao's tables were measured: 500 W and slower memory
(pytorch/torchtitan benchmarks: "96GB HBM2e with 2.4 TB/sec", "default 500W power limit")."""

NAMED = {"hdr": 25.0, "ndr": 50.0, "edr": 12.5, "omni-path": 12.5}
"""Rate of one link of a named generation. [GB/s]"""


def scale_out(text: str) -> float | None:
    """Rate of all NICs of a node, or None where the text does not say. [B/s]

    text : such as "1600 Gbps/node RoCE", "NVLink3 + 4x100Gb RoCE per node" or "8x HDR IB". [-]

    >>> scale_out("NVLink3 + 4x100Gb RoCE per node")
    50000000000.0
    """
    words = text.lower()
    if found := re.search(r"(\d+)\s*gbps\s*/\s*node", words):
        return float(found[1]) / 8.0 * GB
    if found := re.search(r"(\d+)\s*x\s*(\d+)\s*gb", words):
        return float(found[1]) * float(found[2]) / 8.0 * GB
    if found := re.search(r"(\d+)\s*x?\s*(hdr|ndr|edr|omni-path)", words):
        return float(found[1]) * NAMED[found[2]] * GB
    return None


def capped(device: Device) -> Device:
    """The same card with the power and memory of Meta's platform.

    device : one of CAPPED. [-]
    """
    slower = catalog.device(CAPPED[device.name])
    return replace(slower, memory=device.memory, usable_memory=device.usable_memory)


def sized(device: Device, memory_gib: float) -> Device:
    """The device with the memory that the row states, where the catalog's has another.

    device : of the catalog. [-]   memory_gib : stated. [GiB]
    """
    if abs(memory_gib * GiB / device.memory - 1.0) < 0.1:
        return device
    return replace(
        device, memory=memory_gib * GiB, usable_memory=memory_gib * GiB * device.usable_memory / device.memory
    )
