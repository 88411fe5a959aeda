"""The commands `vramsim study ...`: a file that declares what to compare becomes data and a report.

`register(app)` adds them to the command line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from vramsim.convert.assignments import assigned
from vramsim.report.options import Json

if TYPE_CHECKING:
    from vramsim.study.running import Outcome

Sets = Annotated[
    list[str], Parameter(name="--set", negative="", help="Change a field of every base: key=value; may be repeated.")
]


def register(app: App) -> None:
    """Add the commands of this module to a command line.

    app : the command line. [-]
    """
    studies = App(name="study", help="Batch studies: cases that a file declares, compared in one report.")
    studies.command(run)
    app.command(studies)


def run(study: Path, /, *, out: Path, sets: Sets | None = None, as_json: Json = False) -> None:
    """Estimate all that a study file declares; write its data and a self-contained HTML report.

    Parameters
    ----------
    study
        Study file: YAML, TOML or JSON, with base, and vary, changes, space or questions.
    out
        Folder to write to: study.html, configurations.csv (and .parquet), cases.json, a copy of the study.
    """
    from vramsim.report.study import study_page
    from vramsim.study.definition import load_study
    from vramsim.study.running import run as ran
    from vramsim.study.writing import check_folder, study_object, write_data

    asked = load_study(study, assigned(sets))
    check_folder(out)
    outcome = ran(asked)
    page = out / "study.html"
    written = [page, *write_data(outcome, out)]
    page.write_text(study_page(outcome, written, assigned(sets)), encoding="utf-8")
    if as_json:
        summary = {key: value for key, value in study_object(outcome).items() if key != "rows"}
        print(json.dumps({**summary, "files": [str(path) for path in written]}, indent=2, ensure_ascii=False))
        return
    _tell(outcome, written)


def _tell(outcome: Outcome, written: list[Path]) -> None:
    from rich.console import Console

    from vramsim.report.study import headline

    console = Console(highlight=False)
    console.print(headline(outcome), style="bold")
    for path in written:
        console.print(f"wrote {path}")
