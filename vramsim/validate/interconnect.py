"""The network that a measured run names in words: rates of the NICs of one node."""

from __future__ import annotations

import re

from vramsim.units import GB

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
