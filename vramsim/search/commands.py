"""The command `vramsim search`.

`register(app)` adds it to the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import vramsim
from vramsim.report.options import Json, Many, Positive, PriceFile, Rents, TermsFile
from vramsim.report.printing import check_table, print_json, progress_bar, show

if TYPE_CHECKING:
    from cyclopts import App


def register(app: App) -> None:
    """Add the command of this module to a command line.

    app : the command line. [-]
    """
    app.command(search)


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
    objectives: Annotated[list[str] | None, Many] = None,
    tokens: float | None = None,
    deadline: str | None = None,
    budget: float | None = None,
    acquire: str | None = None,
    price: Rents = None,
    prices: PriceFile = None,
    terms: TermsFile = None,
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
    objectives
        What to optimize, instead of the file's: names of metrics, such as headroom, throughput, cost, time_to_train,
        energy.
    tokens
        Tokens to train on, such as 1e9: what makes cost, time_to_train and energy of a rate.
    deadline
        Wall-clock time that the run may take, such as 7d, 12h or 90min.
    budget
        US dollars that the run may cost.
    acquire
        How the devices are come by: on-demand | reserved-1y | spot | buy.
    top
        Rows of the Pareto front to show.
    out
        File to write every feasible configuration to: .csv or .parquet.
    """
    from vramsim.catalog.prices import parse
    from vramsim.report.search import search_object, search_report

    if out is not None:
        check_table(out)
    stated_prices = dict(parse(text) for text in price or ())
    own = [each for each in (prices, stated_prices) if each]
    run = {"tokens": tokens, "acquire": acquire, "prices": own or None, "terms": terms}
    asked = vramsim.Space.load(space, **run)
    limits = {"deadline": deadline, "budget": budget}
    stated = {name: limit for name, limit in limits.items() if limit is not None}
    kept_limits = [each for each in asked.constraints if each.name not in stated]
    asked = asked.with_values(constraints=[*kept_limits, stated]) if stated else asked
    with progress_bar("configurations") as progress:
        kept: dict[str, Any] = {"sampler": sampler, "storage": storage, "study_name": study_name}
        found = vramsim.search(asked, method, objectives, trials, seed, progress, **kept)
    if out is not None:
        found.to_csv(out) if out.suffix == ".csv" else found.to_parquet(out)
    if as_json:
        print_json(search_object(found, top))
    else:
        show(search_report(found, top))
