"""The command line: `vramsim estimate`, `replay`, `search`, `catalog`, `validate`; others register their own.

Exit status 0 with an answer (fitting or not), 2 with one sentence on stderr for input that is wrong.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
from cyclopts import App, Parameter, validators
from cyclopts.exceptions import CycloptsError

import vramsim
from vramsim.calibrate import commands as calibration
from vramsim.convert import commands as conversion
from vramsim.convert.assignments import assigned, key_and_text
from vramsim.errors import VramsimError
from vramsim.procure import commands as procurement
from vramsim.study import commands as studies

if TYPE_CHECKING:
    from rich.console import RenderableType

app = App(
    name="vramsim",
    help="Predicts the memory and the time of LLM training runs.",
    version=vramsim.__version__,
    result_action="return_value",
)

procurement.register(app)
calibration.register(app)
conversion.register(app)
studies.register(app)

Kind = Literal["models", "devices", "frameworks", "optimizers", "quantizations"]
Sets = Annotated[
    list[str], Parameter(name="--set", negative="", help="Change a field of the case: key=value; may be repeated.")
]
Positive = Annotated[int, Parameter(validator=validators.Number(gte=1))]
Json = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON object instead of tables.")
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
        _print_json({**found, "advice": advice_object(changes), "case": asked.describe()})
    else:
        _print(estimate_report(answer, changes, understood))


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
            _check_folder(path, suffix)
    asked, _ = load(case, assigned(sets))
    found = vramsim.replay(asked, steps=steps)
    if trace is not None:
        write_trace(found, trace)
    if plot is not None:
        write_page(found, plot, title=case[0].stem)
    if as_json:
        _print_json({**found.to_dict(), "case": asked.describe()})
    else:
        _print(timeline_report(found, vramsim.simulate(asked)))


@app.command
def search(
    space: Path,
    /,
    *,
    method: Literal["auto", "exhaustive", "optuna"] = "auto",
    trials: Positive = 2000,
    seed: int = 0,
    sampler: str = "auto",
    storage: str | None = None,
    study_name: str | None = None,
    top: Positive = 10,
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """Search a space of configurations: all that are feasible, and those that no other beats.

    Parameters
    ----------
    space
        Space file: YAML, TOML or JSON.
    method
        auto is exhaustive up to ten million configurations that keep the rules, and asks Optuna beyond.
    trials
        Different configurations that the search with Optuna tries.
    seed
        Seed of Optuna's sampler.
    sampler
        auto | nsga2 | nsga3 | tpe | gp.
    storage
        Where Optuna's study is kept, to go on later, to share it among workers and to open it in optuna-dashboard: a
        journal file, or the URL of a database such as sqlite:///study.db.
    study_name
        Name of the study there.
    top
        Rows of the Pareto front to show.
    out
        File to write every feasible configuration to: .csv or .parquet.
    """
    if out is not None:
        _check_writable(out)
    with _progress() as progress:
        kept = {"sampler": sampler, "storage": storage, "study_name": study_name}
        found = vramsim.search(vramsim.Space.load(space), method, None, trials, seed, progress, **kept)
    if out is not None:
        found.to_csv(out) if out.suffix == ".csv" else found.to_parquet(out)
    from vramsim.report.search import search_object, search_report

    if as_json:
        _print_json(search_object(found, top))
    else:
        _print(search_report(found, top))


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
        _print_json({each: catalog_rows(each) for each in kinds})
    else:
        _print(catalog_report(kinds))


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
        _print_json(found)
        return
    from vramsim.report.validation import validation_report

    _print(validation_report(found))


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


def _check_writable(out: Path) -> None:
    """Refuse a file that could not be written, before a search is spent on it."""
    if out.suffix not in (".csv", ".parquet"):
        raise VramsimError(f"--out must be a .csv or .parquet file, got {str(out)!r}")
    if out.suffix == ".parquet" and not find_spec("pyarrow"):
        raise VramsimError(f"writing {str(out)!r} needs pyarrow: pip install 'vramsim[frames]', or write a .csv file")
    _check_folder(out, out.suffix)


def _check_folder(path: Path, suffix: str) -> None:
    """Refuse a file of another kind, or in a folder that is not there."""
    if path.suffix != suffix:
        raise VramsimError(f"expected a {suffix} file, got {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise VramsimError(f"a file can be written only in a folder that exists, got {str(path)!r}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while a person waits there; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("configurations", total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size)


def _print_json(content: object) -> None:
    print(json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False))


def _finite(content: Any) -> Any:
    """The same content with null for what JSON has no number for."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _print(content: RenderableType) -> None:
    from rich.console import Console

    Console(highlight=False).print(content)
