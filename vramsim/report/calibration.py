"""A calibration as tables for a terminal: what the runs taught, and how far off estimates were and are."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vramsim.calibrate.result import Calibration, Fitted, Half
from vramsim.report.shapes import bullets, plain_table, stacked
from vramsim.report.words import gib, percent
from vramsim.units import GB

MOST = 12
"""Runs and reasons that are listed by name. [-]"""


def calibration_report(found: Calibration, out: Path | None = None) -> RenderableType:
    """What was fitted and to what; errors before, after and on runs left out; what to be wary of.

    found : calibration. [-]   out : file that the profile was written to. [-]
    """
    sections: list[RenderableType] = [_headline(found)]
    sections += [_parameters(half) for half in found.halves]
    sections += [_errors(found), *(_worst(half) for half in found.halves)]
    if found.skipped:
        sections.append(_skipped(found))
    if found.notes:
        sections.append(bullets("Notes", found.notes))
    sections.append(_written(out))
    return stacked(sections)


def _headline(found: Calibration) -> RenderableType:
    counts = " and ".join(f"{len(half.runs)} of {half.quantity}" for half in found.halves)
    device = found.device.get("base", found.device.get("name", "the device of the case"))
    return Text.assemble(("CALIBRATED: ", "bold green"), (f"{device}, by {counts}", "bold"))


def _parameters(half: Half) -> RenderableType:
    title = f"What the runs say of {half.quantity}"
    table = plain_table(title, "parameter", "catalog", "fitted", "change", "standard error", "learned")
    for fitted in half.parameters:
        if fitted.informed:
            change = f"{fitted.value / fitted.catalog - 1.0:+.0%}" + (", its limit" if fitted.at_limit else "")
            values = (_shown(fitted, value) for value in (fitted.catalog, fitted.value))
            error = f"± {_shown(fitted, fitted.error * fitted.value)}"
            table.add_row(fitted.parameter.name, *values, change, error, percent(fitted.learned))
    left = [fitted.parameter.name for fitted in half.parameters if not fitted.informed]
    words = ["Learned is the share of what was uncertain before that the runs took away."] if table.row_count else []
    words += [f"Not informed by these runs, and left as the catalog has it: {', '.join(left)}."] if left else []
    return Group(*([table] if table.row_count else [Text(title, style="bold")]), *(Text(w, style="dim") for w in words))


def _shown(fitted: Fitted, value: float) -> str:
    if fitted.parameter.unit:
        return f"{value / GB:,.2f} G{fitted.parameter.unit}"
    return f"{value:.3f}"


def _errors(found: Calibration) -> RenderableType:
    table = plain_table("Mean error of estimates", "", "runs", "catalog", "fitted", "left out", "9 of 10 within")
    for half in found.halves:
        seen = half.accuracy
        errors = (f"{error:.1%}" for error in (seen.error_before, seen.error_after, seen.error_left_out))
        table.add_row(half.quantity, f"{seen.runs:g}", *errors, f"± {seen.band:.0%}")
    words = "A run left out is estimated by the fit to the others: that is what to expect of runs like these."
    return Group(table, Text(words, style="dim"))


def _worst(half: Half) -> Table:
    order = sorted(range(len(half.runs)), key=lambda index: -abs(half.fit.left_out[index]))[:MOST]
    which = "all runs" if len(order) == len(half.runs) else f"the {MOST} most off"
    table = plain_table(
        f"{half.quantity.capitalize()}, measured over estimated: {which}",
        "run",
        "measured",
        "catalog",
        "fitted",
        "left out",
    )
    for index in order:
        run, fit = half.runs[index], half.fit
        ratios = (f"{math.exp(log[index]):.3f}" for log in (fit.before, fit.after, fit.left_out))
        measured = run.measured(half.quantity)
        unit = f"{measured:,.0f} tokens/s" if half.quantity == "throughput" else gib(measured)
        table.add_row(Text(run.id), unit, *ratios)
    return table


def _skipped(found: Calibration) -> Table:
    table = plain_table("What rows do not tell", "reason", "rows")
    for reason, count in sorted(found.skipped.items(), key=lambda item: -item[1])[:MOST]:
        table.add_row(Text(reason), str(count))
    return table


def _written(out: Path | None) -> RenderableType:
    if out is None:
        return Text(
            "Nothing was written: --out my-machine.yaml keeps this as a profile that cases can name.", style="dim"
        )
    return Text(f"Written to {out}. A case names it as its device: cluster: {{device: {out}, num_devices: ...}}")
