"""What stands in the way: the phase and component, the memory, or the rule that an estimate fails by."""

from __future__ import annotations

from vramsim.estimate import Estimate
from vramsim.spec import Phase
from vramsim.units import GiB


def binding(fitting: Estimate | None, beyond: Estimate | None, sentence: str = "") -> str:
    """What fails one step further.

    fitting : estimate of the last step that fits, None if none does. [-]   beyond : of the one that fails. [-]
    sentence : of the rule that the one further breaks, if it breaks one. [-]
    """
    if beyond is None:
        return f"rule: {sentence}"
    hbm = beyond.memory.hbm
    if float(hbm.used_bytes) > float(hbm.capacity_bytes):
        short = (float(hbm.used_bytes) - float(hbm.capacity_bytes)) / GiB
        return f"device memory, {short:.2g} GiB short: {why(beyond, fitting)}"
    for name, store in (("host memory", beyond.memory.host), ("NVMe", beyond.memory.nvme)):
        missing = float(store.used_bytes_per_node) - float(store.capacity_bytes_per_node)
        if missing > 0.0:
            return f"{name} of a node, {missing / GiB:,.0f} GiB short"
    return f"the chance to fit, {100.0 * float(beyond.fit_probability):.0f} %: {why(beyond, fitting)}"


def why(estimate: Estimate, before: Estimate | None = None) -> str:
    """The phase in which memory peaks, and the component that fills it: the one that grew most, if a smaller is given.

    estimate : what fails. [-]   before : what did not. [-]
    """
    peak = str(estimate.memory.hbm.peak_phase)
    sizes = _sizes(estimate, peak)
    earlier = _sizes(before, peak) if before is not None else {}
    grown = {name: size - earlier.get(name, 0.0) for name, size in sizes.items()}
    name = max(grown, key=lambda each: grown[each])
    phase = peak.replace("_", " ")
    most = f"most of it {name}" if before is None else f"and most of the growth is in {name}"
    return f"memory peaks in {phase}, {most}"


def _sizes(estimate: Estimate, peak: str) -> dict[str, float]:
    phase = Phase[peak.upper()] if peak.upper() in Phase.__members__ else None
    sizes: dict[str, float] = {}
    for component in estimate.components(phase):
        sizes[component.name] = sizes.get(component.name, 0.0) + float(component.nbytes)
    return sizes
