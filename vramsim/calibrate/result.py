"""What a calibration found: parameters with their errors, how far off estimates were and are, and the profile of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from vramsim.calibrate.fit import Array, Fit
from vramsim.calibrate.parameters import Parameter, Quantity
from vramsim.calibrate.runs import Run
from vramsim.case.profile import FEW, Accuracy, Learnt, Profile
from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError

SUFFIXES = (".yaml", ".yml")
STRANGE = np.log(2.0)
"""Log error before the fit beyond which a run is more likely misdescribed than a machine that slow or fast. [-]"""
MOST_ASSUMED = 6
TRADING = 0.8
"""Correlation of two parameters' errors beyond which only their combination is known. [-]"""


@dataclass(frozen=True, slots=True)
class Fitted:
    """One parameter after the fit: values in its own unit, `error` the standard error of its logarithm.

    `learned` is the share of what was unknown that the runs took away: 0 where they say nothing of it, and `value` is
    the catalog's then. `at_limit` says that it stopped at the largest value that makes sense.
    """

    parameter: Parameter
    catalog: float
    value: float
    error: float
    learned: float
    at_limit: bool = False

    @property
    def informed(self) -> bool:
        """Whether the runs say anything of it."""
        return self.learned > 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """The fit of one quantity: throughput, or memory. `shares` are the most that its runs' steps spend on anything."""

    quantity: Quantity
    runs: tuple[Run, ...]
    fit: Fit
    parameters: tuple[Fitted, ...]
    shares: Mapping[str, float]

    @property
    def accuracy(self) -> Accuracy:
        """Mean errors |predicted / measured - 1| by the catalog, by the fit, and by fits to the other runs."""
        return Accuracy(
            runs=len(self.runs),
            error_before=_digits(_mean(self.fit.before)),
            error_after=_digits(_mean(self.fit.after)),
            error_left_out=_digits(_mean(self.fit.left_out)),
            band=_digits(self.fit.half_width()),
            shares={name: round(share, 3) for name, share in self.shares.items()},
        )

    @property
    def trading(self) -> list[tuple[str, str]]:
        """Pairs of parameters of which the runs know the combination better than either."""
        names = [fitted.parameter.name for fitted in self.parameters if fitted.informed]
        errors = self.fit.errors
        related = self.fit.covariance / np.outer(errors, errors) if names else np.zeros((0, 0))
        pairs = zip(*np.nonzero(np.triu(np.abs(related) > TRADING, 1)), strict=True)
        return [(names[one], names[other]) for one, other in pairs]

    @property
    def differing(self) -> list[str]:
        """Fitted parameters of the node that were not the same for all runs."""
        fitted = [each.parameter for each in self.parameters if each.informed and each.parameter.section == "node"]
        return [parameter.name for parameter in fitted if len({parameter.of(run.setup) for run in self.runs}) > 1]


def _mean(errors: Array) -> float:
    return float(np.mean(np.abs(np.expm1(-errors))))


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A machine as its owner's runs show it. `skipped` counts rows that say nothing, by reason."""

    device: Mapping[str, Any]
    halves: tuple[Half, ...]
    sources: tuple[str, ...]
    skipped: Mapping[str, int]

    @property
    def parameters(self) -> tuple[Fitted, ...]:
        """All parameters that apply to the machine, moved or not."""
        return tuple(fitted for half in self.halves for fitted in half.parameters)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to be wary of."""
        runs = _all_runs(self.halves)
        found = [f"{run.id}: {run.note}" for run in runs if run.note]
        found += _assumed(runs)
        for half in self.halves:
            count = len(half.runs)
            if count < FEW:
                few = "one run" if count == 1 else f"{count} runs"
                found.append(
                    f"{half.quantity} rests on {few}: most of what is stated is what was known before, and errors on "
                    f"runs left out say little"
                )
            strange = [i for i in np.argsort(-np.abs(half.fit.before)) if abs(half.fit.before[i]) > STRANGE][:3]
            for index in strange:
                off = f"a factor of {np.exp(abs(half.fit.before[index])):.1f}"
                found.append(f"{half.runs[index].id}: {half.quantity} is off by {off}; is what ran what was stated?")
            if half.fit.scatter > 0.25:
                found.append(
                    f"{half.quantity} of the runs scatters by a factor of {np.exp(half.fit.scatter):.2f} still"
                )
            found += [
                f"{one} and {other} cannot be told apart by these runs: one may be lower if the other is higher"
                for one, other in half.trading
            ]
            found += [
                f"{name} differs among the runs: the profile has that of the run that leans on it most, times the "
                f"factor; state it in cases with another network"
                for name in half.differing
            ]
            limited = [fitted.parameter.name for fitted in half.parameters if fitted.at_limit]
            found += [f"{name} stopped at its limit: something else is faster than modelled" for name in limited]
        return tuple(found)

    def profile(self) -> Profile:
        """The machine as a file that cases can name (`cluster: {device: my-machine.yaml}`)."""
        sections: dict[str, dict[str, Any]] = {"device": dict(self.device), "node": {}, "framework": {}}
        for fitted in self.parameters:
            if fitted.informed:
                sections[fitted.parameter.section][fitted.parameter.name] = _digits(fitted.value)
        accuracies = {half.quantity: half.accuracy for half in self.halves}
        from vramsim import __version__

        return Profile(
            **sections,
            throughput=accuracies.get("throughput"),
            memory=accuracies.get("memory"),
            parameters={
                fitted.parameter.name: Learnt(
                    catalog=_digits(fitted.catalog),
                    fitted=_digits(fitted.value),
                    relative_error=_digits(fitted.error),
                    learned=round(fitted.learned, 3),
                )
                for fitted in self.parameters
                if fitted.informed
            },
            runs=[run.id for run in _all_runs(self.halves)],
            sources=list(self.sources),
            date=date.today().isoformat(),
            vramsim=__version__,
        )

    def save(self, path: str | Path) -> None:
        """Write the profile.

        path : file that ends in .yaml. [-]
        Raises VramsimError for another suffix or a folder that is not there.
        """
        check_writable(Path(path))
        Path(path).write_text(self.profile().text(), encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """The object that `vramsim calibrate --json` prints; errors as fractions."""
        return {
            "device": dict(self.device),
            "parameters": [
                {
                    "name": fitted.parameter.name,
                    "section": fitted.parameter.section,
                    "unit": fitted.parameter.unit,
                    "catalog": fitted.catalog,
                    "fitted": fitted.value,
                    "standard_error": fitted.error * fitted.value,
                    "learned": fitted.learned,
                    "informed": fitted.informed,
                    "at_limit": fitted.at_limit,
                }
                for fitted in self.parameters
            ],
            **{half.quantity: _half_object(half) for half in self.halves},
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "profile": self.profile().to_dict(),
        }


def check_writable(path: Path) -> None:
    """Refuse a file that a profile cannot be written to.

    path : file to write. [-]
    Raises VramsimError for another suffix than .yaml, or a folder that is not there.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise VramsimError(f"a profile must be written to a .yaml file, got {shown(str(path))}")
    if not path.absolute().parent.is_dir():
        raise VramsimError(f"a profile must be written to a folder that exists, got {shown(str(path))}")


def _assumed(runs: list[Run]) -> list[str]:
    """What was assumed for blank columns, the most frequent first."""
    counts = Counter(assumption for run in runs for assumption in dict.fromkeys(run.assumed))
    if not counts:
        return []
    listed = ", ".join(f"{column}: {value} ({count})" for (column, value), count in counts.most_common(MOST_ASSUMED))
    rest = f" and {len(counts) - MOST_ASSUMED} more" if len(counts) > MOST_ASSUMED else ""
    return [f"assumed where columns are blank, with the number of runs: {listed}{rest}"]


def _half_object(half: Half) -> dict[str, Any]:
    fit = half.fit
    rows = zip(half.runs, fit.before, fit.after, fit.left_out, strict=True)
    return {
        **half.accuracy.model_dump(),
        "scatter": fit.scatter,
        "rows": [
            {
                "id": run.id,
                "measured": run.measured(half.quantity),
                "error_before": float(np.expm1(-before)),
                "error_after": float(np.expm1(-after)),
                "error_left_out": float(np.expm1(-left_out)),
            }
            for run, before, after, left_out in rows
        ],
    }


def _all_runs(halves: tuple[Half, ...]) -> list[Run]:
    return list(dict.fromkeys(run for half in halves for run in half.runs))


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
