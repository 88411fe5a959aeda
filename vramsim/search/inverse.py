"""Inverse queries: not what a case needs, but the most it can do with what there is, or the least that it can do with.

Each moves one number in the direction in which need grows, everything else as in the case, and says what stands in the
way one step further. They take milliseconds: a case is estimated about thirty times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vramsim.case import Case
from vramsim.catalog import tables
from vramsim.errors import VramsimError
from vramsim.estimate import Estimate
from vramsim.layout import ledger_of
from vramsim.search.binding import binding, why
from vramsim.search.bisection import first_true, last_of, last_true
from vramsim.search.trial import Fits, breaks, fitting, last_allowed, one_setup, tried, valid_values
from vramsim.simulate import simulate
from vramsim.spec import Block, Link, Setup
from vramsim.units import GB, GiB

MOST_TOKENS = 2**30
MOST_BATCH = 2**20
MOST_DEVICES = 2**17
MOST_LAYERS = 2**11
MOST_BYTES = 2**46
HIDDEN_SHARE = 0.01
"""Share of a step below which waiting for offloaded data counts as hidden. [-]"""
WIDEST_PCIE = 1e15
"""Bandwidth beyond which more of it changes nothing. [B/s]"""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The number asked for, and what keeps it from being better.

    `value` is None if no value will do; `binding` then says why. `estimate` is that of the case at `value` (at the
    case's own value if there is none), `values` what `Case.with_values` takes to get there, `note` what else to know.
    `further` says with which other value `binding` stands in the way.
    """

    question: str
    value: float | None
    unit: str
    binding: str
    estimate: Estimate | None
    values: Mapping[str, Any]
    note: str = ""
    further: str = ""

    def __str__(self) -> str:
        whole = self.value is not None and float(self.value).is_integer()
        found = "none" if self.value is None else f"{self.value:,.{0 if whole else 2}f} {self.unit}"
        lead = f"{self.further}: " if self.further else ""
        return f"{self.question}: {found}; {lead}{self.binding}" + (f" ({self.note})" if self.note else "")


def longest_seq_len(case: Case, chance: float | None = None) -> Answer:
    """Longest sequence that fits, in steps of the ranks that share one (cp times sp).

    case : one case. [-]   chance : probability to fit that is asked for; None for the best estimate. [-]
    """
    setup = one_setup(case)
    step = int(setup.strategy.cp * setup.strategy.sp)
    return _largest(case, "longest seq_len", "seq_len", "tokens", step, MOST_TOKENS, fitting(chance))


def largest_micro_batch(case: Case, chance: float | None = None) -> Answer:
    """Largest micro-batch that fits; with a global batch, of those that divide it.

    case : one case. [-]   chance : probability to fit that is asked for; None for the best estimate. [-]
    """
    one_setup(case)
    question, key, unit = "largest micro_batch_size", "micro_batch_size", "sequences"
    if case.training.global_batch_size is None:
        return _largest(case, question, key, unit, 1, MOST_BATCH, fitting(chance))
    valid = valid_values(case, key, int(float(case.training.global_batch_size)))
    return _among(case, question, key, unit, valid, fitting(chance), up=True)


def fewest_devices(case: Case, chance: float | None = None) -> Answer:
    """Fewest devices on which the case fits, of the numbers that its degrees and full nodes allow.

    case : one case. [-]   chance : probability to fit that is asked for; None for the best estimate. [-]
    """
    one_setup(case)
    valid = valid_values(case, "num_devices", MOST_DEVICES)
    return _among(case, "fewest num_devices", "num_devices", "devices", valid, fitting(chance), up=False)


def largest_model(case: Case, chance: float | None = None) -> Answer:
    """Deepest model of the same layers that fits. Width stays: scaling depth changes nothing else about a layer.

    Where layers come in several kinds, all grow in proportion if their numbers have a common divisor, and the most
    frequent kind alone otherwise.

    case : one case. [-]   chance : probability to fit that is asked for; None for the best estimate. [-]
    """
    setup, fits = one_setup(case), fitting(chance)
    blocks = setup.model.blocks
    shared = int(np.gcd.reduce([block.count for block in blocks]))
    most_frequent = max(blocks, key=lambda block: block.count)

    def deeper(n: int) -> Setup:
        def grown(block: Block) -> Block:
            if shared > 1 or len(blocks) == 1:
                return replace(block, count=block.count // shared * n)
            return replace(block, count=n) if block is most_frequent else block

        return replace(setup, model=replace(setup.model, blocks=tuple(grown(block) for block in blocks)))

    def test(n: int) -> bool:
        return tried(lambda: deeper(n), fits)[0]

    found = last_allowed(test, lambda n: breaks(lambda: deeper(n)), MOST_LAYERS)
    beyond = tried(lambda: deeper(found + 1), fits)
    estimate = simulate(deeper(found)) if found else None
    layers = float(deeper(found).model.num_layers) if found else None
    size = sum(entry.count * entry.weight.numel for entry in ledger_of(deeper(max(found, 1)))) / 1e9
    note = f"{size:,.3g} billion parameters; only depth is scaled" if found else "only depth is scaled"
    limit = binding(estimate, beyond[1], beyond[2])
    further = f"with {deeper(found + 1).model.num_layers:,.0f}"
    return Answer(
        "largest model", layers, "layers", limit, estimate, {"model.num_hidden_layers": layers}, note, further
    )


def smallest_device_memory(case: Case) -> Answer:
    """Least memory that a device must expose for the case to fit, however much its own exposes.

    What an allocator holds depends on how much there is, so this too is found by trying.

    case : one case. [-]
    """
    setup = one_setup(case)

    def sized(nbytes: int) -> dict[str, Any]:
        return {"cluster.device": {**_device_of(case), "usable_memory": nbytes}}

    def enough(nbytes: int) -> bool:
        hbm = simulate(case.with_values(sized(nbytes + 1))).memory.hbm
        return bool(hbm.used_bytes <= hbm.capacity_bytes)

    needed = first_true(enough, MOST_BYTES) + 1
    estimate = simulate(case.with_values(sized(needed)))
    holding = sorted((float(row["usable_gib"]), name) for name, row in tables.rows("device").items())
    large = [(size, name) for size, name in holding if size * GiB >= needed]
    note = f"{large[0][1]} has the least in the catalog that is enough, {large[0][0]:.1f} GiB" if large else ""
    device = setup.cluster.device
    limit = f"{why(estimate)}; {device.name} exposes {device.usable_memory / GiB:.1f} GiB"
    return Answer("smallest device memory", needed / GiB, "GiB usable", limit, estimate, sized(needed), note)


def host_memory_needed(case: Case) -> Answer:
    """Host memory that a node needs for what is offloaded, and for loading and saving.

    case : one case. [-]
    """
    one_setup(case)
    estimate = simulate(case)
    store = estimate.memory.host
    needed = float(store.used_bytes_per_node)
    parts = sorted((c for c in estimate.graph.components if c.tier.value == "host"), key=lambda c: -float(c.nbytes))
    share = needed and float(parts[0].nbytes) * float(estimate.graph.setup.cluster.devices_per_node) / needed
    limit = f"mostly {parts[0].name} ({100.0 * share:.0f} %)" if parts else "nothing is kept on the host"
    note = f"the case's nodes have {float(store.capacity_bytes_per_node) / GiB:,.0f} GiB"
    values = {"cluster.host_memory": max(needed, 1.0)}
    return Answer("host memory of a node", needed / GiB, "GiB", limit, estimate, values, note)


def pcie_bandwidth(case: Case, share: float = HIDDEN_SHARE) -> Answer:
    """PCIe bandwidth of a device from which a step hardly waits for offloaded data.

    case : one case that offloads. [-]   share : of the step that waiting may take. [-]
    """
    setup = one_setup(case)
    if not any(flow.link is Link.PCIE for flow in simulate(case).graph.flows):
        raise VramsimError("nothing crosses PCIe in this case; offload_optimizer: cpu, for example, would")

    def waiting(bandwidth: float) -> float:
        time = simulate(case.with_values({"cluster.pcie_bandwidth": bandwidth})).time
        return float(time.by_activity.get("offload", 0.0)) / float(time.step_seconds) - share

    question, unit = "PCIe bandwidth that hides offload", "GB/s"
    waits = 100.0 * (waiting(_pcie(setup)) + share)
    now = f"it has {_pcie(setup) / GB:.0f} GB/s, and waits {waits:.1f} %"
    if waiting(WIDEST_PCIE) > 0.0:
        limit = "no bandwidth hides it: host memory or NVMe keeps the step waiting"
        return Answer(question, None, unit, limit, simulate(case), {}, now)
    from scipy.optimize import brentq

    low = 1e6
    enough = low if waiting(low) <= 0.0 else 10 ** float(brentq(lambda x: waiting(10.0**x), 6.0, 15.0, xtol=1e-6))
    values = {"cluster.pcie_bandwidth": enough * (1.0 + 1e-5)}
    estimate = simulate(case.with_values(values))
    flows = [flow for flow in estimate.graph.flows if flow.link is Link.PCIE]
    largest = max(flows, key=lambda flow: float(flow.seconds) * (1.0 - float(flow.hidden)))
    limit = f"below it, a step waits more than {100.0 * share:.0f} % of its time, most for {largest.name}"
    return Answer(question, enough / GB, unit, limit, estimate, values, now)


QUESTIONS: Mapping[str, Callable[..., Answer]] = {
    "seq-len": longest_seq_len,
    "micro-batch": largest_micro_batch,
    "devices": fewest_devices,
    "model": largest_model,
    "device-memory": smallest_device_memory,
    "host-memory": host_memory_needed,
    "pcie": pcie_bandwidth,
}
"""Name of a question -> what answers it."""


def solve(case: Case, question: str, **options: Any) -> Answer:
    """Answer an inverse query by its name.

    case : one case. [-]   question : one of QUESTIONS. [-]   options : of the function that answers it. [-]
    Raises VramsimError for an unknown question and for a case that holds arrays or breaks a rule.
    """
    if question not in QUESTIONS:
        raise VramsimError(f"unknown question {question!r}: {tables.nearest(question, QUESTIONS)}")
    return QUESTIONS[question](case, **options)


def _pcie(setup: Setup) -> float:
    return float(setup.cluster.pcie_bandwidth)


def _device_of(case: Case) -> dict[str, Any]:
    device = case.cluster.device
    return {"base": device} if isinstance(device, str) else dict(device)


def _largest(case: Case, question: str, key: str, unit: str, step: int, most: int, fits: Fits) -> Answer:
    """Largest multiple of a step that fits."""

    def at(n: int) -> tuple[bool, Estimate | None, str]:
        return tried(case.with_values({key: n * step}).resolve, fits)

    found = last_true(lambda n: at(n)[0], most // step)
    _, beyond, sentence = at(found + 1)
    estimate = at(found)[1] if found else None
    limit = binding(estimate, beyond, sentence) if found < most // step else f"nothing, up to {most:,} {unit}"
    value = float(found * step) if found else None
    further = f"with {(found + 1) * step:,}" if found < most // step else ""
    return Answer(question, value, unit, limit, estimate, {key: found * step} if found else {}, further=further)


def _among(case: Case, question: str, key: str, unit: str, valid: list[int], fits: Fits, *, up: bool) -> Answer:
    """Largest or smallest of some values that fits."""

    def at(value: int) -> tuple[bool, Estimate | None, str]:
        return tried(case.with_values({key: value}).resolve, fits)

    if up:
        best = last_of(valid, lambda value: at(value)[0])
        further, none = best + 1, best < 0
    else:
        best = first_true(lambda index: at(valid[index])[0], len(valid))
        further, none = best - 1, best == len(valid)
    if none:
        _, estimate, sentence = at(valid[0 if up else -1])
        lead = f"with {valid[0 if up else -1]:,}"
        return Answer(question, None, unit, binding(None, estimate, sentence), estimate, {}, further=lead)
    value, estimate = float(valid[best]), at(valid[best])[1]
    if 0 <= further < len(valid):
        _, beyond, sentence = at(valid[further])
        limit, lead = binding(estimate, beyond, sentence), f"with {valid[further]:,}"
    else:
        lead = ""
        limit = f"no {'larger' if up else 'smaller'} number keeps the rules"
    return Answer(question, value, unit, limit, estimate, {key: int(value)}, further=lead)
