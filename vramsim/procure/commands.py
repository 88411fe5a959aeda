"""Commands that ask the other way round: `vramsim recommend` (what to rent or buy) and `vramsim solve`.

`register(app)` adds them to the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from vramsim.errors import VramsimError
from vramsim.report.options import Json, Many, PriceFile, Rents, TermsFile
from vramsim.report.printing import check_table, print_json

if TYPE_CHECKING:
    from cyclopts import App

Question = Literal["seq-len", "micro-batch", "devices", "model", "device-memory", "host-memory", "pcie"]
Method = Literal["full", "lora", "qlora"]


def register(app: App) -> None:
    """Add the commands of this module to a command line.

    app : the command line. [-]
    """
    app.command(recommend)
    app.command(solve)


def recommend(
    model: str,
    /,
    *,
    tokens: float,
    deadline: str | None = None,
    budget: float | None = None,
    devices: Annotated[list[str] | None, Many] = None,
    num_devices: Annotated[list[int] | None, Many] = None,
    method: Method = "full",
    seq_len: int = 8192,
    global_batch_size: int | None = None,
    price: Rents = None,
    prices: PriceFile = None,
    terms: TermsFile = None,
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """Recommend devices, their number and a strategy for a workload, rented and bought.

    Parameters
    ----------
    model
        Name in the catalog, or path of a config.json.
    tokens
        Tokens to train on, such as 1e9.
    deadline
        Wall-clock time, such as 7d, 12h or 90min.
    budget
        US dollars that the run may cost.
    devices
        Devices to consider: names in the catalog, or profiles that `vramsim calibrate` wrote; A100, H100, H200, B200
        and MI300X nodes if left out.
    num_devices
        Numbers of devices to consider; powers of two of a node if left out.
    method
        What trains.
    seq_len
        Tokens of a sequence.
    global_batch_size
        Sequences of a step; about a million tokens if left out.
    out
        File to write every offer to: .csv or .parquet.
    """
    from vramsim.case.numbers import duration
    from vramsim.catalog.prices import Prices, parse
    from vramsim.outcome import Terms
    from vramsim.procure.recommend import recommend as ask
    from vramsim.space.terms import terms_of

    if out is not None:
        check_table(out)
    found = ask(
        model,
        tokens,
        None if deadline is None else duration(deadline),
        budget,
        devices,
        method,
        num_devices=num_devices,
        terms=terms_of(terms, Terms(Prices.load(prices, dict(parse(text) for text in price or ())))),
        seq_len=seq_len,
        global_batch_size=global_batch_size,
    )
    if out is not None:
        found.frame.to_csv(out, index=False) if out.suffix == ".csv" else found.frame.to_parquet(out)
    if as_json:
        rows = [{str(key): value for key, value in row.items()} for row in found.frame.to_dict("records")]
        best = found.offers.index(found.best)
        print_json({"best": rows[best], "case": found.case.describe(), "offers": rows, "notes": list(found.notes)})
    else:
        print(found.report(), end="")


def solve(
    case: Path,
    question: Question,
    /,
    *,
    chance: float | None = None,
    sets: Annotated[
        list[str] | None, Parameter(name="--set", negative="", help="Change a field of the case: key=value.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Solve one number of a case: the longest sequence that fits, the fewest devices, and the like.

    Parameters
    ----------
    case
        Case file: YAML, TOML or JSON.
    question
        The number to solve for: longest seq-len, largest micro-batch, fewest devices, largest (deepest) model, smallest
        device-memory, host-memory that a node needs, pcie bandwidth that hides offload.
    chance
        Probability to fit that is asked for, such as 0.9; the best estimate must fit if left out.
    """
    import yaml

    from vramsim.case import Case
    from vramsim.search import inverse

    values = {}
    for text in sets or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise VramsimError(f"--set must be followed by key=value, such as --set seq_len=4096; got {text!r}")
        values[key.strip()] = yaml.safe_load(value)
    if chance is not None and not 0.0 < chance < 1.0:
        raise VramsimError(f"--chance must be a probability between 0 and 1, got {chance}")
    if chance is not None and question in ("device-memory", "host-memory", "pcie"):
        raise VramsimError(f"{question} has no chance to ask for; leave --chance out")
    options = {} if chance is None else {"chance": chance}
    answer = inverse.solve(Case.load(case).with_values(values), question, **options)
    if as_json:
        estimate = answer.estimate.to_dict() if answer.estimate is not None else None
        print_json(
            {
                "question": answer.question,
                "value": answer.value,
                "unit": answer.unit,
                "binding": answer.binding,
                "further": answer.further,
                "note": answer.note,
                "values": dict(answer.values),
                "estimate": estimate,
            }
        )
    else:
        print(answer)
