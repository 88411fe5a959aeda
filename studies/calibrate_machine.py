"""What calibrating does to the errors of runs left out, and what the priors of `vramsim calibrate` rest on.

Run `python studies/calibrate_machine.py` from a checkout; it takes some minutes. Published runs are grouped by source,
device and software, as if each group were one user's. Printed first: how far groups lie from the catalog and how far
runs scatter within one (vramsim/calibrate/parameters.py: SCATTER, and the spreads as a whole). Then, for a few runs
drawn from a group: the mean error on the group's other runs, with the catalog and calibrated, and how many of them lie
in the band that is stated for nine of ten.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from vramsim.calibrate.fit import jacobian
from vramsim.calibrate.machine import fitted
from vramsim.calibrate.parameters import PARAMETERS, Quantity
from vramsim.calibrate.result import Half
from vramsim.calibrate.runs import Run, from_table, predictor
from vramsim.validate.rows import read

TABLE = Path(__file__).parent / "validation/measurements.csv"
FEWEST = 9
MOST = 30
"""Runs of a group that count, drawn at random from a larger one."""
DRAWS = 5
TAKEN = (1, 3, 8)

Group = list[Run]


def groups(quantity: Quantity) -> dict[str, Group]:
    """Runs of one source, device and software; allocated bytes teach nothing of a machine and are left out."""
    found: dict[str, Group] = defaultdict(list)
    rows = {row.id: row for row in read(TABLE) if row.text("quality", "A") in ("A", "B")}
    for run in from_table(rows.values())[0]:
        if run.measured(quantity) and not (quantity == "memory" and run.kind == "torch_allocated"):
            source, setup = rows[run.id].source.split("/")[-1], run.setup
            found[f"{source}, {setup.cluster.device.name}, {setup.framework.name}"].append(run)
    rng = np.random.default_rng(0)
    large = {name: runs for name, runs in sorted(found.items()) if len(runs) >= FEWEST}
    return {name: [runs[index] for index in rng.permutation(len(runs))[:MOST]] for name, runs in large.items()}


def half_of(runs: Group, quantity: Quantity) -> Half:
    return next(half for half in fitted(runs).halves if half.quantity == quantity)


def spreads(quantity: Quantity) -> None:
    """Scatter within groups and between them, and how far the priors let a group lie off."""
    means, within, implied = [], [], []
    parameters = [parameter for parameter in PARAMETERS if parameter.quantity == quantity]
    for name, runs in groups(quantity).items():
        known = [parameter for parameter in parameters if parameter.of(runs[0].setup) > 0.0]
        predict = predictor(runs, known, quantity)
        measured = np.log([run.measured(quantity) for run in runs])
        residuals = measured - predict(np.zeros((1, len(known))))[0]
        slopes = jacobian(predict, np.zeros(len(known))).mean(axis=0)
        means.append(residuals.mean())
        within.append(residuals.std(ddof=1))
        implied.append(float(np.linalg.norm(slopes * [parameter.spread for parameter in known])))
        print(f"  {name:58s} {len(runs):3d} runs, mean {means[-1]:+.3f}, scatter {within[-1]:.3f}")
    off, allowed = (float(np.sqrt(np.mean(np.square(values)))) for values in (means, implied))
    print(f"  groups lie off by {off:.3f} (rms), the priors let them by {allowed:.3f};")
    print(f"  scatter within, median {np.median(within):.3f}, from {min(within):.3f} to {max(within):.3f}")


def left_out(quantity: Quantity) -> None:
    """Errors on a group's runs that the calibration did not see."""
    rng = np.random.default_rng(1)
    print(f"  {'':58s} catalog" + "".join(f"   {taken} run{'s' if taken > 1 else ' '} (in band)" for taken in TAKEN))
    totals: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    for name, runs in groups(quantity).items():
        shown = []
        for taken in TAKEN:
            found = []
            for _ in range(DRAWS):
                order = [runs[index] for index in rng.permutation(len(runs))]
                seen, others = order[:taken], order[taken:]
                half = half_of(seen, quantity)
                free = [each.parameter for each in half.parameters if each.informed]
                predict = predictor(others, free, quantity)
                measured = np.log([run.measured(quantity) for run in others])
                before = measured - predict(np.zeros((1, len(free))))[0]
                after = measured - predict(half.fit.factors[None])[0]
                inside = float(np.mean(np.abs(after) <= half.fit.half_width()))
                found.append((_error(before), _error(after), inside))
            before, after, inside = (float(value) for value in np.mean(found, axis=0))
            totals[taken].append((before, after, inside))
            shown.append(f"   {after:6.1%} ({inside:4.0%})   ")
        print(f"  {name:58s} {before:6.1%}" + "".join(shown))
    for taken, found in totals.items():
        before, after, inside = (float(value) for value in np.mean(found, axis=0))
        print(
            f"  {taken} runs, mean over groups: {before:.1%} -> {after:.1%}; {inside:.0%} in the band for nine of ten"
        )


def _error(logs: np.ndarray) -> float:
    return float(np.mean(np.abs(np.expm1(-logs))))


def main() -> None:
    """Print both, for throughput and memory."""
    quantities: tuple[Quantity, ...] = ("throughput", "memory")
    for quantity in quantities:
        print(f"{quantity}: what the priors rest on")
        spreads(quantity)
    for quantity in quantities:
        print(f"{quantity}: error on runs left out")
        left_out(quantity)


if __name__ == "__main__":
    main()
