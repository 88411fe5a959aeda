"""Fit of the caching allocator's three constants, with the error on sources that had no part in it.

Run `python studies/fit_allocator.py`. It prints what each constant would be if it were fitted today, the error that the
constants of `spec.Framework` leave, and the error on each source when it alone is left out. Equation M7: what comes and
goes loses a share e of its bytes, and a base s is lost anyway; M9: a share k of the gaps cannot be returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from vramsim.spec import TRAINING, Category, Framework, Tier
from vramsim.units import GB, GiB
from vramsim.validate import Comparison, compare, read

TABLE = Path(__file__).parent / "validation/measurements.csv"
KINDS = ("nvidia_smi", "torch_reserved")
FULL = 0.93
"""Share of the device above which the allocator returns blocks, so that a reading says little about gaps. [-]"""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Runs whose held bytes were read: source, measured, alive (and outside the allocator), changing. [B]"""

    source: NDArray[np.str_]
    measured: Array
    alive: Array
    changing: Array

    def without(self, source: str) -> Sample:
        """The sample without one source.

        source : its name. [-]
        """
        kept = self.source != source
        return Sample(self.source[kept], self.measured[kept], self.alive[kept], self.changing[kept])

    def errors(self, share: float, slack: float) -> Array:
        """Relative errors of held bytes under equation M7. [-]

        share : e. [-]   slack : s. [B]
        """
        return (self.alive + share * self.changing + slack) / self.measured - 1.0


def sample() -> Sample:
    """Published runs that state what they held and how long their sequences were, below a nearly full device."""
    rows = [row for row in read(TABLE) if row.text("mem_kind") in KINDS and row.text("mem_gib") and row.text("seq_len")]
    found = [one for one in map(_one, compare(rows)) if one]
    sources, numbers = [one[0] for one in found], np.array([one[1:] for one in found])
    return Sample(np.array(sources), *numbers.T)


def _one(each: Comparison) -> tuple[str, float, float, float] | None:
    if each.estimate is None:
        return None
    hbm, components = each.estimate.memory.hbm, each.estimate.graph.components
    measured = each.row.number("mem_gib") * GiB
    if measured > FULL * hbm.capacity_bytes:
        return None
    on_device = [c for c in components if c.tier is Tier.HBM]
    outside = sum(float(c.nbytes) for c in on_device if c.category is Category.OVERHEAD)
    resident = sum(
        float(c.nbytes) for c in on_device if c.category is not Category.OVERHEAD and c.live & TRAINING == TRAINING
    )
    allocated = float(hbm.allocated_bytes)
    counted = outside if each.row.text("mem_kind") == "nvidia_smi" else 0.0
    return each.row.source, measured, allocated + counted, max(allocated - resident, 0.0)


def fit(runs: Sample) -> tuple[float, float]:
    """Share and slack with the least absolute log error; each source weighs as the root of its rows.

    runs : what to fit. [-]
    """
    counts = {source: np.sum(runs.source == source) for source in set(runs.source)}
    weights = np.array([1.0 / np.sqrt(counts[source]) for source in runs.source])

    def loss(constants: Array) -> float:
        share, slack = np.abs(constants)
        return float(np.sum(weights * np.abs(np.log1p(runs.errors(share, slack * GB)))))

    share, slack = np.abs(minimize(loss, [0.1, 1.0], method="Nelder-Mead", options={"maxiter": 4000}).x)
    return float(share), float(slack) * GB


def verdicts() -> list[tuple[float, int, int, int]]:
    """Right verdicts, wrong fits and wrong deaths for several rigid shares k."""
    rows = [row for row in read(TABLE) if row.text("mem_gib") or row.text("oom") == "true"]
    judged = []
    for each in compare(rows):
        if each.estimate is not None:
            hbm, framework = each.estimate.memory.hbm, each.estimate.graph.setup.framework
            alive = max(float(value) for value in hbm.alive_by_phase.values())
            gaps = (float(hbm.needed_bytes) - alive) / framework.rigid_gaps
            judged.append((each.row.text("oom") == "true", alive, gaps, hbm.capacity_bytes))
    died, alive_, gaps_, capacity = (np.array(column) for column in zip(*judged, strict=True))
    result = []
    for rigid in (0.0, 0.25, 0.5, 0.75, 1.0):
        said = alive_ + rigid * gaps_ > capacity
        result.append((rigid, int(np.sum(said == died)), int(np.sum(died & ~said)), int(np.sum(~died & said))))
    return result


def main() -> None:
    """Print the fit, what is in use, and the errors on what was left out."""
    runs, used = sample(), Framework(name="", engine="torch")
    share, slack = fit(runs)
    print(f"{len(runs.measured)} runs of {len(set(runs.source))} sources")
    print(f"fitted: e = {share:.3f}, s = {slack / GB:.2f} GB")
    print(f"in use: e = {used.fragmentation}, s = {used.allocator_slack / GB} GB")
    error = np.abs(runs.errors(used.fragmentation, used.allocator_slack))
    print(f"in use: mean error {error.mean():.1%}, median {np.median(error):.1%}")
    print("left out, with the constants of the others:")
    for source in sorted(set(runs.source)):
        rest = fit(runs.without(source))
        left = np.abs(runs.errors(*rest))[runs.source == source]
        print(f"  {source:42} {left.size:4} runs, mean {left.mean():6.1%}, median {np.median(left):6.1%}")
    print(f"verdicts by the share of gaps that cannot be returned; in use: {used.rigid_gaps}")
    for rigid, right, wrong_fits, wrong_deaths in verdicts():
        print(
            f"  k = {rigid:4}: {right} right, {wrong_fits} died though said to fit, {wrong_deaths} the other way round"
        )


if __name__ == "__main__":
    main()
