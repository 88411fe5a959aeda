"""What a machine's runs can teach: the efficiencies and sizes that may be fitted, and how far they may lie off.

A fit changes none of them by itself: it changes factors on them, so that a datasheet's value is a factor of 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vramsim.spec import Setup
from vramsim.units import Num

Quantity = Literal["throughput", "memory"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number of the machine that runs can correct.

    `section` is the record that holds it: device, node (spec.Cluster) or framework (the allocator's constants).
    `spread` is how far the catalog's value is off where nobody measured it, as a standard deviation of its logarithm,
    and `most` the largest value that makes sense.
    """

    name: str
    section: Literal["device", "node", "framework"]
    quantity: Quantity
    spread: float
    most: float = math.inf
    unit: str = ""

    def of(self, setup: Setup) -> float:
        """Its value in a setup. [as the field]

        setup : resolved run. [-]
        """
        record: Any = {"device": setup.cluster.device, "node": setup.cluster, "framework": setup.framework}[
            self.section
        ]
        return float(getattr(record, self.name))


PARAMETERS = (
    Parameter("gemm_efficiency", "device", "throughput", 0.15, 1.0),
    Parameter("attention_efficiency", "device", "throughput", 0.25, 1.0),
    Parameter("cudnn_efficiency", "device", "throughput", 0.25, 1.0),
    Parameter("memory_efficiency", "device", "throughput", 0.15, 1.0),
    Parameter("network_efficiency", "device", "throughput", 0.3, 1.0),
    Parameter("scale_out_bandwidth", "node", "throughput", 0.4, unit="B/s"),
    Parameter("pcie_bandwidth", "node", "throughput", 0.3, unit="B/s"),
    Parameter("host_memory_bandwidth", "node", "throughput", 0.3, unit="B/s"),
    Parameter("context", "device", "memory", 0.3, unit="B"),
    Parameter("communicator_buffer", "device", "memory", 0.5, unit="B"),
    Parameter("all_to_all_buffer", "device", "memory", 0.5, unit="B"),
    Parameter("fragmentation", "framework", "memory", 0.5),
    Parameter("allocator_slack", "framework", "memory", 0.5, unit="B"),
)
"""All that can be fitted. The spreads are judgements, checked as a whole by studies/calibrate_machine.py: they let a
machine's mean rate lie 0.11 (log) off the catalog's estimate, and published sources lie 0.11 off."""

SCATTER: dict[Quantity, float] = {"throughput": 0.15, "memory": 0.1}
"""Standard deviation of log(measured / estimated) that no parameter takes away: the median over published sources of
the scatter about their own mean (studies/calibrate_machine.py). [-]"""
WEIGHT = 3.0
"""How many runs SCATTER counts for, against the scatter that the user's own runs show. Published sources differ from it
by a factor of two either way, which is what a variance estimated from three runs does. [rows]"""


def scaled(setup: Setup, factors: Mapping[Parameter, Num]) -> Setup:
    """The same run on a machine whose parameters are larger or smaller.

    setup : resolved run. [-]   factors : parameter -> factor on its value; arrays broadcast. [-]
    """
    changes: dict[str, dict[str, Num]] = {"device": {}, "node": {}, "framework": {}}
    for parameter, factor in factors.items():
        changes[parameter.section][parameter.name] = parameter.of(setup) * factor
    cluster, framework = setup.cluster, setup.framework
    device = replace(cluster.device, **changes["device"])  # type: ignore[arg-type]
    cluster = replace(cluster, device=device, **changes["node"])  # type: ignore[arg-type]
    return replace(setup, cluster=cluster, framework=replace(framework, **changes["framework"]))  # type: ignore[arg-type]
