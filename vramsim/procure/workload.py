"""The workload of a procurement, and the configurations worth considering for it on one kind of device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vramsim import catalog
from vramsim.case import Case
from vramsim.case.machine import device_of
from vramsim.outcome import Terms
from vramsim.procure.offers import Candidate
from vramsim.search import search
from vramsim.simulate import simulate
from vramsim.space import Space

DEVICES = ("a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb", "mi300x-192gb")
"""Devices that are considered if nobody says otherwise: SXM (OAM) ones in nodes of eight."""

KERNELS = {"loss": "liger", "norm": "fused", "activation": "fused"}
FRAMEWORKS: tuple[Any, ...] = ({"name": "deepspeed", **KERNELS}, {"name": "fsdp2", **KERNELS})
"""Frameworks that are considered, both with fused kernels for loss, norms and activations."""

STRATEGIES: Mapping[str, Sequence[Any]] = {
    "zero_stage": (1, 2, 3),
    "micro_batch_size": (1, 2, 4, 8),
    "sp": (1, 2, 4, 8),
    "recompute": ("none", "selective", 0.25, 0.5, 0.75, "full"),
    "offload_optimizer": ("none", "cpu"),
}
"""Strategies that are considered on every count of devices."""

TOKENS_PER_STEP = 2.0**20
"""Tokens of an optimizer step if nobody says otherwise: usual for fine-tuning at this scale. [-]"""

COUNTS = 6
"""Powers of two of a node that are considered as counts."""

LIKELY_MFU = 0.4
"""MFU by which the range of counts is laid out; the search itself does not use it. [-]"""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be trained: a model on some tokens, by when and for how much at most (None: no limit).

    `likely` is the probability to fit that a configuration must have to be considered.
    """

    model: str | Mapping[str, Any]
    tokens: float
    deadline_seconds: float | None = None
    budget: float | None = None
    method: str = "full"
    seq_len: int = 8192
    global_batch_size: int | None = None
    precision: str = "bf16"
    optimizer: str = "adamw"
    quantization: str = "none"
    likely: float = 0.9

    @property
    def sequences(self) -> int:
        """Sequences of an optimizer step. [-]"""
        if self.global_batch_size is not None:
            return self.global_batch_size
        return int(2.0 ** max(0, round(math.log2(TOKENS_PER_STEP / self.seq_len))))

    def case(self, device: str, num_devices: int, framework: Any = "deepspeed") -> Case:
        """A case of this workload that the search starts from.

        device : name in the catalog, or a profile's path. [-]   num_devices : how many. [-]
        framework : name or mapping. [-]
        """
        return Case(
            model=self.model if isinstance(self.model, str) else dict(self.model),
            cluster={"device": device, "num_devices": num_devices},
            framework=framework,
            training={
                "method": self.method,
                "seq_len": self.seq_len,
                "global_batch_size": self.sequences,
                "precision": self.precision,
                "optimizer": self.optimizer,
            },
            strategy={"zero_stage": 3, "recompute": "full", "quantization": self.quantization},
        )


def counts(workload: Workload, device: str) -> list[int]:
    """Counts of devices worth considering: powers of two of a node, around what the deadline asks for.

    workload : what is to be trained. [-]   device : name in the catalog, or a profile's path. [-]
    """
    per_node = int(catalog.node(device_of(device).sold_as)["devices_per_node"])
    first = 0
    if workload.deadline_seconds is not None:
        estimate = simulate(workload.case(device, per_node))
        flops = float(estimate.time.model_tflops_per_device) * 1e12
        rate = float(estimate.time.tokens_per_second_per_device)
        peak = estimate.graph.setup.cluster.device.peak(estimate.graph.setup.training.precision.linear)
        needed = workload.tokens * flops / rate / (LIKELY_MFU * peak * workload.deadline_seconds)
        first = max(0, math.floor(math.log2(max(needed / per_node, 1.0))) - 2)
    return [per_node * 2**power for power in range(first, first + COUNTS)]


def candidates(
    workload: Workload,
    device: str,
    numbers: Sequence[int] | None = None,
    frameworks: Sequence[Any] = FRAMEWORKS,
    strategies: Mapping[str, Sequence[Any]] = STRATEGIES,
    keep: int = 3,
    terms: Terms | None = None,
) -> tuple[list[Candidate], str]:
    """The configurations that fit and are done first, for every count of a device: they cost least, too.

    workload : what is to be trained. [-]   device : name in the catalog, or a profile's path. [-]
    numbers : counts of devices, those of `counts` if left out. [-]   frameworks : names or mappings. [-]
    strategies : key -> values to try. [as the field]   keep : configurations of a count. [-]
    terms : on which the run happens, the usual ones if left out. [-]
    Returns the candidates, and why there are none if there are none.
    """
    numbers = counts(workload, device) if numbers is None else numbers
    space = Space(
        workload.case(device, numbers[0], frameworks[0]),
        {"framework": list(frameworks), "num_devices": list(numbers), **{k: list(v) for k, v in strategies.items()}},
        constraints=["fits", {"min_fit_probability": workload.likely}],
        objectives=["time_to_train", "headroom"],
        tokens=workload.tokens,
        terms=terms,
    )
    found = search(space, "exhaustive")
    if not len(found):
        most = max(found.removed, key=lambda name: found.removed[name])
        listed = ", ".join(str(number) for number in numbers)
        return [], f"no configuration on {listed} devices is likely to fit; most fail for: {most}"
    frame = found.frame.sort_values("time_to_train_seconds", kind="stable")
    chosen: list[Candidate] = []
    for _, rows in frame.groupby("num_devices", sort=True):
        cases = [found.case(int(row)) for row in rows.index[:keep]]
        chosen += [Candidate(case, simulate(case), workload.tokens) for case in cases]
    return chosen, ""
