"""The command line: `vramsim estimate`, `replay`, `catalog`, `validate`; others register their own.

Exit status 0 with an answer (fitting or not), 2 with one sentence on stderr for input that is wrong.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError

import vramsim
from vramsim.calibrate import commands as calibration
from vramsim.convert import commands as conversion
from vramsim.convert.assignments import assigned, key_and_text
from vramsim.errors import VramsimError
from vramsim.procure import commands as procurement
from vramsim.report.options import Json, Positive
from vramsim.report.printing import check_file, print_json, show
from vramsim.search import commands as searching
from vramsim.study import commands as studies

app = App(
    name="vramsim",
    help="Predicts the memory and the time of LLM training runs.",
    version=vramsim.__version__,
    result_action="return_value",
)

searching.register(app)
procurement.register(app)
calibration.register(app)
conversion.register(app)
studies.register(app)

Kind = Literal["models", "devices", "frameworks", "optimizers", "quantizations"]
Sets = Annotated[
    list[str], Parameter(name="--set", negative="", help="Change a field of the case: key=value; may be repeated.")
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    arguments : words after the program's name; those of the process if None. [-]
    Returns the exit status: 0 with an answer, 2 for input that is wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(list(_one_set_each(words)), exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe (head, say) has seen enough; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (VramsimError, CycloptsError, OSError) as error:
        print(f"vramsim: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


@app.command
def estimate(case: list[Path], /, *, sets: Sets | None = None, as_json: Json = False) -> None:
    """Predict the memory and the time of one case.

    Parameters
    ----------
    case
        Case file (YAML, TOML or JSON), or configurations of other programs together, as `vramsim convert` takes them.
    """
    from vramsim.convert.conversion import load
    from vramsim.report.advice import advice_object
    from vramsim.report.tables import estimate_report
    from vramsim.search.advice import advise

    asked, understood = load(case, assigned(sets))
    answer = vramsim.simulate(asked)
    if shape := np.shape(answer.memory.hbm.used_bytes) or np.shape(answer.time.step_seconds):
        grid = " x ".join(str(size) for size in shape)
        raise VramsimError(f"estimate answers one case, but {case[0]} holds a grid of {grid}: give one value per field")
    changes = advise(asked)
    if as_json:
        found = answer.to_dict()
        found["notes"] = [*understood, *found["notes"]]
        print_json({**found, "advice": advice_object(changes), "case": asked.describe()})
    else:
        show(estimate_report(answer, changes, understood))


@app.command
def replay(
    case: list[Path],
    /,
    *,
    sets: Sets | None = None,
    steps: Positive = 2,
    trace: Path | None = None,
    plot: Path | None = None,
    as_json: Json = False,
) -> None:
    """Run one case event by event: what every stream does, and what is alive, layer by layer.

    Parameters
    ----------
    case
        Case file (YAML, TOML or JSON), or configurations of other programs together, as `vramsim convert` takes them.
    steps
        Optimizer steps; the first has no optimizer states yet.
    trace
        File to write a trace to, for ui.perfetto.dev: .json.
    plot
        File to write an interactive plot of memory over time to: .html.
    """
    from vramsim.convert.conversion import load
    from vramsim.report.timeline import timeline_report, write_page, write_trace

    for path, suffix in ((trace, ".json"), (plot, ".html")):
        if path is not None:
            check_file(path, suffix)
    asked, _ = load(case, assigned(sets))
    found = vramsim.replay(asked, steps=steps)
    if trace is not None:
        write_trace(found, trace)
    if plot is not None:
        write_page(found, plot, title=case[0].stem)
    if as_json:
        print_json({**found.to_dict(), "case": asked.describe()})
    else:
        show(timeline_report(found, vramsim.simulate(asked)))


@app.command
def catalog(kind: Kind | None = None, /, *, as_json: Json = False) -> None:
    """List what the catalog knows by name.

    Parameters
    ----------
    kind
        What to list; everything if left out.
    """
    from vramsim.report.listing import catalog_report, catalog_rows

    kinds = [kind] if kind else list(get_args(Kind))
    if as_json:
        print_json({each: catalog_rows(each) for each in kinds})
    else:
        show(catalog_report(kinds))


@app.command
def validate(table: Path, /, *, quality: str = "AB", as_json: Json = False) -> None:
    """Compare a table of measured runs with estimates.

    Parameters
    ----------
    table
        CSV file with the columns of studies/validation/measurements.csv.
    quality
        Grades of rows that count, such as A or AB.
    """
    from vramsim.validate import validate as compared

    found = compared(table, tuple(quality.upper()))
    if as_json:
        print_json(found)
        return
    from vramsim.report.validation import validation_report

    show(validation_report(found))


def _one_set_each(words: Iterable[str]) -> Iterator[str]:
    """Put `--set` before each assignment: `--set a=1 b=2` means the same as `--set a=1 --set b=2`."""
    earlier = ""
    for word in words:
        assigned = re.match(r"[A-Za-z_][\w.]*=", word)
        if assigned and "=" in earlier:
            yield "--set"
        yield word
        if earlier == "--set":
            key_and_text(word)  # complains here, while what was given is still in one piece
        earlier = word if word == "--set" or (assigned and earlier) else ""
