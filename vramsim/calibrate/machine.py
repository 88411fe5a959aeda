"""From runs to a calibrated machine.

Data flows one way: runs -> setups (validate's reading of a row, or a log's case) -> residuals of log factors on the
machine's parameters -> fit -> profile, a file that cases name as their device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vramsim.calibrate.fit import Array, Fit, fit, jacobian
from vramsim.calibrate.parameters import PARAMETERS, SCATTER, WEIGHT, Parameter, Quantity
from vramsim.calibrate.result import Calibration, Fitted, Half
from vramsim.calibrate.runs import Run, from_log, from_table, predictor
from vramsim.case import Case
from vramsim.errors import VramsimError
from vramsim.simulate import simulate

FAINT = 0.05
"""Information about a parameter, in units of what was known of it before, below which runs say nothing of it. [-]"""

One = Case | str | Path | Mapping[str, Any]
Cases = One | Iterable[One] | None


def calibrate(
    runs: str | Path | Iterable[str | Path], case: Cases = None, *, only: Mapping[str, str] | None = None
) -> Calibration:
    """Fit a machine's efficiencies and overheads to runs that were measured on it.

    runs : tables of runs (CSV) and training logs. [-]   case : what ran, one for each log or one for all of them. [-]
    only : column -> text that a table's row must hold to count. [-]
    Returns the Calibration, whose `save` writes a profile. Raises VramsimError for files that cannot be read, for logs
    without a case, and for runs of several devices.
    """
    paths = [Path(runs)] if isinstance(runs, str | Path) else [Path(path) for path in runs]
    cases = [case] if isinstance(case, Case | str | Path | Mapping) else list(case or ())
    logs = [path for path in paths if path.suffix.lower() != ".csv"]
    if logs and len(cases) not in (1, len(logs)):
        raise VramsimError(
            f"a log needs the case that produced it: give --case once for all or once for each of the {len(logs)} "
            f"logs, got {len(cases)} (a table of runs must end in .csv)"
        )
    if cases and not logs:
        raise VramsimError("--case goes with a training log; the rows of a .csv table say themselves what ran")
    of = dict(zip(logs, cases * len(logs) if len(cases) == 1 else cases, strict=True))
    found: list[Run] = []
    skipped: Counter[str] = Counter()
    for path in paths:
        if path in of:
            found.append(from_log(path, of[path]))
            continue
        rows, reasons = from_table(path, only)
        found += rows
        skipped += reasons
    return fitted(found, tuple(path.name for path in paths), skipped)


def fitted(runs: Sequence[Run], sources: tuple[str, ...] = (), skipped: Mapping[str, int] | None = None) -> Calibration:
    """The machine that explains measured runs.

    runs : of one device. [-]   sources : names of files that they came from. [-]
    skipped : rows that say nothing, by reason. [-]
    Raises VramsimError when there are no runs, or runs of several devices.
    """
    if not runs:
        reasons = "; ".join(f"{count} rows: {reason}" for reason, count in (skipped or {}).items())
        raise VramsimError(f"there is no run to learn from{': ' + reasons if reasons else ''}")
    counts = Counter(run.setup.cluster.device.name for run in runs)
    if len(counts) > 1:
        listed = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
        raise VramsimError(
            f"runs to calibrate with must be of one device, got {listed}; keep those of one with --only, such as "
            f"--only gpu_type=H100"
        )
    quantities: tuple[Quantity, ...] = ("throughput", "memory")
    halves = tuple(half for quantity in quantities if (half := _half(runs, quantity)) is not None)
    return Calibration(runs[0].device, halves, sources, dict(skipped or {}))


def _half(runs: Sequence[Run], quantity: Quantity) -> Half | None:
    """The fit of one quantity; None where no run measured it."""
    chosen = tuple(run for run in runs if run.measured(quantity) > 0.0)
    if not chosen:
        return None
    measured = np.log([run.measured(quantity) for run in chosen])
    noise = np.array([run.noise if quantity == "throughput" else 0.0 for run in chosen])
    candidates = [p for p in PARAMETERS if p.quantity == quantity and p.of(chosen[0].setup) > 0.0]
    slopes = jacobian(predictor(chosen, candidates, quantity), np.zeros(len(candidates)))
    free = _informed(candidates, slopes, np.hypot(SCATTER[quantity], noise))
    # Runs may have had other networks: the value that a factor is told by is that of the run that leans on it most.
    leaning = dict(zip(candidates, np.argmax(np.abs(slopes), axis=0), strict=True))
    values = {parameter: parameter.of(chosen[index].setup) for parameter, index in leaning.items()}
    found = fit(
        predictor(chosen, free, quantity),
        measured,
        np.array([parameter.spread for parameter in free]),
        np.array([np.log(parameter.most / values[parameter]) for parameter in free]),
        noise,
        SCATTER[quantity],
        WEIGHT,
    )
    parameters = tuple(_fitted(parameter, values[parameter], free, found) for parameter in candidates)
    return Half(quantity, chosen, found, parameters, _shares(chosen) if quantity == "throughput" else {})


def _informed(candidates: Sequence[Parameter], slopes: Array, errors: Array) -> tuple[Parameter, ...]:
    """Parameters of which the runs say anything, by their derivatives at the catalog's values."""
    spreads = np.array([parameter.spread for parameter in candidates])
    information = np.sum((slopes * spreads / errors[:, None]) ** 2, axis=0)
    return tuple(p for p, amount in zip(candidates, information, strict=True) if amount > FAINT)


def _fitted(parameter: Parameter, catalog: float, free: tuple[Parameter, ...], found: Fit) -> Fitted:
    if parameter not in free:
        return Fitted(parameter, catalog, catalog, parameter.spread, 0.0)
    index = free.index(parameter)
    error = float(found.errors[index])
    value = catalog * float(np.exp(found.factors[index]))
    learned = max(1.0 - (error / parameter.spread) ** 2, 1e-3)
    return Fitted(parameter, catalog, value, error, learned, value > 0.999 * parameter.most)


def _shares(runs: Sequence[Run]) -> dict[str, float]:
    """The largest share of a step that any of the runs spends on each activity."""
    shares: dict[str, float] = {}
    for run in runs:
        time = simulate(run.timed).time
        for name, seconds in time.by_activity.items():
            shares[name] = max(shares.get(name, 0.0), float(seconds / time.step_seconds))
    return shares
