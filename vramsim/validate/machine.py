"""The machine that a measured run names in words: the card as it was, and the network cards of one node."""

from __future__ import annotations

import re
from dataclasses import replace

from vramsim import catalog
from vramsim.parts.network import SCALE_OUT_EFFICIENCY
from vramsim.spec import Device
from vramsim.units import GB, GiB

CAPPED = {"h100-sxm-80gb": "h100-sxm-96gb"}
"""Cards of Meta's platform, where torchtitan's and torchao's tables were measured: 500 W and slower memory
(pytorch/torchtitan benchmarks: "96GB HBM2e with 2.4 TB/sec", "default 500W power limit")."""

LIMITS = {"b200-sxm-180gb": 750.0}
"""Power of cards that a table of PyTorch's calls power limited without saying by how much: its benchmarks set it
(pytorch/helion pull request 347, facebookexperimental/triton denoise.sh: H100 500, B200 750, GB200 1,200). [W]"""

PCIE_4 = 32.0 * GB
"""Rate of sixteen lanes of PCIe 4.0. [B/s]"""

CLUSTERS = {"xtuner-v0.1": "1x100Gb"}
"""Network of a stack's home where a table leaves it out. Inferred from XTuner's own rows, not read: parameters gathered
and gradients scattered at 8k tokens (34 and 70 billion parameters: 12.2 and 11.0 GB/s a node), and all-to-alls of
groups of 16 and 64 over several nodes (11.6, 11.6 and 8.9), agree on one card of 100 Gb/s; four, as InternEvo's tables
name them, would hide the former and take a quarter for the latter. [-]"""

NAMED = {"hdr": 25.0, "ndr": 50.0, "edr": 12.5, "omni-path": 5.06 / SCALE_OUT_EFFICIENCY}
"""Rate of one link of a named generation, of which collectives reach SCALE_OUT_EFFICIENCY. NCCL, which has no transport
of its own for Omni-Path, gets 5.06 of its 12.5 GB/s: bigscience experiments/bandwidth/all_reduce_bench-a100-n4.txt, an
all-reduce of 4 GB whose channels all take one link. [GB/s]"""


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


def as_it_was(device: Device, card: str, network: str) -> Device:
    """A card as a table's words about it and its interconnect have it.

    device : of the catalog. [-]   card, network : columns of the table. [-]
    """
    held = catalog.powered(device, LIMITS.get(device.name, device.power)) if "power limited" in card.lower() else device
    return older_bus(held, network)


def older_bus(device: Device, text: str) -> Device:
    """The device behind PCIe of the third generation, which boards had that a table of fourth-generation cards calls
    old: half of the rate, and of what cards without another link exchange over it.

    device : of the catalog. [-]   text : interconnect of the table. [-]
    """
    if not re.search(r"pcie\s*(gen\s*)?3|old board", text.lower()):
        return device
    shared = device.scale_up_bandwidth <= PCIE_4
    return replace(
        device,
        pcie_bandwidth=device.pcie_bandwidth / 2.0,
        scale_up_bandwidth=device.scale_up_bandwidth * (0.5 if shared else 1.0),
    )


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
