"""Fit of the caching allocator's constants, with the error on sources that had no part in it.

Run `python studies/fit_allocator.py`. It prints what each constant would be if it were fitted today, the error that the
constants of `spec.Framework` leave, and the error on each source when it alone is left out. Equation M7: what comes and
goes loses a share e of its bytes, a share u of large buffers that are free again stays unused, and a base s is lost
anyway; M14: where batches differ in length, shorter ones leave b times their longest's activations; M9: a share k of
the gaps cannot be returned.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from vramsim.parts import lengths
from vramsim.spec import Framework
from vramsim.units import GB, GiB
from vramsim.validate import Comparison, compare, read

TABLE = Path(__file__).parent / "validation/measurements.csv"
KINDS = ("nvidia_smi", "torch_reserved")
FULL = 0.93
"""Share of the device above which the allocator returns blocks, so that a reading says little about gaps. [-]"""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Runs whose held bytes were read: source, measured; and of each phase, alive (with what lies outside the
    allocator), changing, free again, and as long as a batch where batches differ in length. [B]"""

    source: NDArray[np.str_]
    measured: Array
    alive: Array
    changing: Array
    free: Array
    by_tokens: Array

    def take(self, kept: NDArray[np.bool_]) -> Sample:
        """Some of the runs.

        kept : which. [-]
        """
        return replace(self, **{field.name: getattr(self, field.name)[kept] for field in fields(self)})

    def errors(self, constants: Array) -> Array:
        """Relative errors of held bytes under equation M7. [-]

        constants : e, s in GB, u, b. [mixed]
        """
        share, slack, unfit, shorter = constants
        free = self.free + shorter * self.by_tokens
        held = self.alive + share * self.changing + unfit * free + slack * GB
        return np.asarray(held.max(axis=1) / self.measured - 1.0)


def sample() -> Sample:
    """Published runs that state what they held and how long their sequences were, below a nearly full device."""
    rows = [row for row in read(TABLE) if row.text("mem_kind") in KINDS and row.text("mem_gib")]
    found = [one for one in map(_one, compare(row for row in rows if row.text("seq_len") or row.mean_tokens)) if one]
    source, measured, *phases = zip(*found, strict=True)
    return Sample(np.array(source), np.array(measured), *map(np.array, phases))


def _one(each: Comparison) -> tuple[str, float, list[float], list[float], list[float], list[float]] | None:
    if each.estimate is None:
        return None
    hbm, row = each.estimate.memory.hbm, each.row
    measured = row.number("mem_gib") * GiB
    if measured > FULL * hbm.capacity_bytes:
        return None
    stage = max(hbm.stages, key=lambda found: float(found.peak()[2]))
    outside = 1.0 if row.text("mem_kind") == "nvidia_smi" else 0.0
    phases = list(stage.allocated)
    alive = [float(stage.allocated[phase] + outside * stage.outside[phase]) for phase in phases]
    changing = [max(float(stage.allocated[phase] - stage.resident), 0.0) for phase in phases]
    setup = each.estimate.graph.setup
    left_behind = list(lengths.shorter(setup))
    shorter = [sum(float(one.nbytes) for one in left_behind if one.live & phase) for phase in phases]
    free = [float(stage.cached[phase]) - left for phase, left in zip(phases, shorter, strict=True)]
    by_tokens = [left / setup.framework.shorter_batches for left in shorter]
    return row.source, measured, alive, changing, free, by_tokens


def in_use() -> Array:
    """The constants of `spec.Framework`. [mixed]"""
    used = Framework(name="", engine="torch")
    return np.array([used.fragmentation, used.allocator_slack / GB, used.unfit_buffers, used.shorter_batches])


def fit(runs: Sample) -> Array:
    """Constants with the least absolute log error; each source weighs as the root of its rows.

    runs : what to fit. [-]
    """
    counts = {source: np.sum(runs.source == source) for source in set(runs.source)}
    weights = np.array([1.0 / np.sqrt(counts[source]) for source in runs.source])

    def loss(constants: Array) -> float:
        return float(np.sum(weights * np.abs(np.log1p(runs.errors(np.abs(constants))))))

    return np.abs(minimize(loss, [0.1, 1.0, 0.5, 1.0], method="Nelder-Mead", options={"maxiter": 4000}).x)


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
    runs = sample()
    uneven = int(np.sum(runs.by_tokens.max(axis=1) > 0.0))
    print(f"{len(runs.measured)} runs of {len(set(runs.source))} sources, {uneven} of uneven lengths")
    for name, constants in (("fitted", fit(runs)), ("in use", in_use())):
        share, slack, unfit, shorter = constants
        error = np.abs(runs.errors(constants))
        print(f"{name}: e = {share:.3f}, s = {slack:.2f} GB, u = {unfit:.2f}, b = {shorter:.2f}")
        print(f"{name}: mean error {error.mean():.1%}, median {np.median(error):.1%}")
    print("left out, with the constants of the others:")
    for source in sorted(set(runs.source)):
        here = runs.source == source
        left = np.abs(runs.take(here).errors(fit(runs.take(~here))))
        print(f"  {source:42} {left.size:4} runs, mean {left.mean():6.1%}, median {np.median(left):6.1%}")
    print(f"verdicts by the share of gaps that cannot be returned; in use: {Framework(name='', engine='').rigid_gaps}")
    for rigid, right, wrong_fits, wrong_deaths in verdicts():
        print(
            f"  k = {rigid:4}: {right} right, {wrong_fits} died though said to fit, {wrong_deaths} the other way round"
        )


if __name__ == "__main__":
    main()
