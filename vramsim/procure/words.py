"""How reports of procurement say things: durations, money, strategies, assumptions, tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vramsim.procure.offers import Candidate
from vramsim.units import DAY, Num

if TYPE_CHECKING:
    from vramsim.procure.recommend import Recommendation

METHODS = {"full": "A full fine-tune", "lora": "A LoRA fine-tune", "qlora": "A QLoRA fine-tune"}


def percent(share: Num) -> str:
    """A share in percent.

    share : from 0 to 1, or more. [-]

    Nothing here is certain: what rounds to none or all of it is said to be less than 1 % or more than 99 %.

    >>> percent(0.5), percent(1.0)
    ('50 %', '> 99 %')
    """
    value = float(share)
    if 0.99 < value <= 1.0:
        return "> 99 %"
    if value < 0.01:
        return "< 1 %"
    return f"{100.0 * value:.0f} %" if value < 100.0 else "never"


PHASES = {
    "init": "before the first step",
    "forward": "at the end of forward",
    "head": "while computing the loss",
    "backward": "in backward",
    "reduce": "at the end of backward",
    "step": "in the optimizer step",
    "save": "while saving",
    "first_step": "in the first step",
}


def phase(name: object) -> str:
    """When memory peaks, in words.

    name : label of a phase. [-]

    >>> phase("head")
    'while computing the loss'
    """
    return PHASES.get(str(name), f"in {name}")


def model(given: Recommendation) -> str:
    """Name of the model.

    given : what is reported. [-]
    """
    return given.offers[0].candidate.estimate.graph.setup.model.name


def strategy(candidate: Candidate) -> str:
    """Strategy in a few words, such as `deepspeed zero 3, sp 2, micro-batch 1, recompute full`.

    candidate : whose. [-]
    """
    setup = candidate.estimate.graph.setup
    given = candidate.case.strategy
    degrees = [
        f"{name} {value:.0f}" for name in ("tp", "pp", "cp", "sp", "ep") if (value := _of(setup.strategy, name)) > 1
    ]
    recompute = given.recompute if isinstance(given.recompute, str) else f"{given.recompute:g}"
    said = [f"{setup.framework.name} zero {_of(setup.strategy, 'zero_stage'):.0f}", *degrees]
    said += [f"micro-batch {float(setup.training.micro_batch_size):.0f}", f"recompute {recompute}"]
    if _of(setup.strategy, "offload_optimizer") > 0:
        said.append("optimizer on the host")
    return ", ".join(said)


def _of(record: Any, name: str) -> float:
    return float(getattr(record, name))


def assumptions(given: Recommendation) -> Iterator[str]:
    """What the numbers rest on.

    given : what is reported. [-]
    """
    terms = given.terms
    own, power, how = terms.ownership, terms.power, terms.reliability
    items = [
        f"Configurations must fit with a probability of {percent(given.workload.likely)} or more.",
        f"A bought device costs its price and {percent(own.server_share)} more for server and network (an accelerator) "
        f"or {100.0 * own.network_share:g} % more for switches and cables (a node), written off to "
        f"{percent(own.residual)} in "
        f"{own.horizon_years:g} years; {own.colo_usd_per_kw_month:g} USD per kW and month of room; "
        f"{own.staff_usd_per_device_year:,.0f} USD of staff per device and year; it is busy "
        f"{percent(own.utilization)} of all hours.",
        f"A node draws {percent(power.load)} of its rated power while training, which is {power.server_factor:.2f} "
        f"times its devices'; PUE {power.pue:g}, {power.usd_per_kwh:g} USD/kWh, {power.carbon:g} kg CO2/kWh.",
        f"One device in {how.device_mtbf / DAY / 365.0:.1f} years stops a job, a spot node is taken back every "
        f"{how.node_preemption / DAY:g} days, a restart takes {how.restart_seconds / 60:g} minutes, a node writes "
        f"{how.storage_bandwidth / 1e9:g} GB/s of a checkpoint, and starting up takes {how.startup_seconds / 60:g} "
        "minutes.",
        "Not counted: storage and egress, support, taxes, the wait for capacity, engineers' time to port a code base.",
    ]
    items += [note[0].upper() + note[1:] + "." for note in given.best.candidate.estimate.notes]
    yield "\n".join(f"- {item}" for item in items)


def prices(given: Recommendation) -> Iterator[str]:
    """The prices that were used, with date and source.

    given : what is reported. [-]
    """
    used = dict.fromkeys(offer.price for offer in given.offers)
    ordered = sorted(used, key=lambda price: (price.device, price.kind, price.commitment))
    rows = [
        (
            price.device,
            f"{price.kind} {price.commitment}",
            f"{price.usd:,.10g}",
            price.unit.replace("_", "-"),
            price.provider,
            price.date.isoformat(),
            price.source,
        )
        for price in ordered
    ]
    yield (
        f"Illustrative list prices, the middle one of those known, used on {given.terms.today}; state your own with a "
        "price file or `--price`."
    )
    yield table(["device", "how", "USD", "per", "provider", "of", "source"], rows)
    old = [price for price in ordered if price.warning(given.terms.today)]
    if old:
        oldest = max(price.age(given.terms.today) for price in old)
        yield f"**{len(old)} of {len(ordered)} prices are older than 90 days (up to {oldest}): ask for new ones.**"
    if given.missing:
        yield "Left out: " + "; ".join(f"{name} ({why})" for name, why in given.missing.items()) + "."


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown table whose columns are as wide as their widest cell: words to the left, numbers to the right.

    head : column names. [-]   rows : cells. [-]
    """
    body = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(*body, strict=True)) if body else [()] * len(head)
    left = [
        any(re.search("[A-Za-z]{2}", cell) and not re.match(r"[<>\d]", cell) for cell in column) for column in columns
    ]
    widths = [max(map(len, (name, *column)), default=3) for name, column in zip(head, columns, strict=True)]
    rule = ["-" * width if text else "-" * (width - 1) + ":" for width, text in zip(widths, left, strict=True)]
    lines = []
    for row in [list(head), rule, *body]:
        cells = (c.ljust(w) if text else c.rjust(w) for c, w, text in zip(row, widths, left, strict=True))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
