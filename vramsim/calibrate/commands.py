"""The command `vramsim calibrate`: a profile of your machine from runs that you measured.

`register(app)` adds it to the command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from vramsim.errors import VramsimError
from vramsim.report.options import Json

if TYPE_CHECKING:
    from cyclopts import App

Many = Parameter(negative="", consume_multiple=False)


def register(app: App) -> None:
    """Add the command of this module to a command line.

    app : the command line. [-]
    """
    app.command(calibrate)


def calibrate(
    runs: list[Path],
    /,
    *,
    case: Annotated[list[Path] | None, Many] = None,
    out: Path | None = None,
    only: Annotated[list[str] | None, Many] = None,
    as_json: Json = False,
) -> None:
    """Fit your machine's efficiencies and overheads to runs that you measured on it.

    Parameters
    ----------
    runs
        CSV tables with the columns of studies/validation/measurements.csv, or training logs: torchtitan, Megatron-LM,
        XTuner, trainer_state.json or JSON lines of a Hugging Face Trainer.
    case
        Case file of what produced a log: one for all logs, or one for each, in order.
    out
        File to write the profile to (.yaml); a case names it as its device.
    only
        Rows of a table to use: column=text that it must hold, such as gpu_type=H100; may be repeated.
    """
    import json

    from vramsim.calibrate.machine import calibrate as fit
    from vramsim.calibrate.result import check_writable

    if out is not None:
        check_writable(out)
    found = fit(runs, case, only=dict(_conditions(only or [])))
    if out is not None:
        found.save(out)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False, ensure_ascii=False))
        return
    from rich.console import Console

    from vramsim.report.calibration import calibration_report

    Console(highlight=False).print(calibration_report(found, out))


def _conditions(texts: list[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column.strip():
            raise VramsimError(f"--only must be followed by column=text, such as --only gpu_type=H100; got {text!r}")
        yield column.strip(), value.strip()
