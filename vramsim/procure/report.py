"""A recommendation as Markdown that one can send: what, why, how sure, and what would change it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vramsim.case.numbers import plain
from vramsim.catalog.prices import BUY, ON_DEMAND
from vramsim.outcome import checkpoint_bytes
from vramsim.procure import words
from vramsim.procure.offers import Offer
from vramsim.procure.sensitivity import RANGES, WORDS, chance_cheaper, flips, sobol, tornado
from vramsim.procure.words import percent, table
from vramsim.report.words import amount, days, usd
from vramsim.units import DAY, GB, HOUR, GiB

if TYPE_CHECKING:
    from vramsim.procure.recommend import Recommendation


def report(given: Recommendation) -> str:
    """Markdown of a recommendation.

    given : what to report. [-]
    """
    sections = (
        (_title(given), _answer(given)),
        ("The workload", _workload(given)),
        ("Shortlist", _shortlist(given)),
        ("Renting and buying", _acquisitions(given)),
        ("The configuration", _configuration(given)),
        ("What would flip the decision", _flips(given)),
        ("Sensitivity", _sensitivity(given)),
        ("Before signing", _pilot(given)),
        ("Assumptions", words.assumptions(given)),
        ("Prices", words.prices(given)),
    )
    parts = []
    for number, (title, body) in enumerate(sections):
        head = f"# {title}" if number == 0 else f"## {number}. {title}"
        parts.append("\n\n".join([head, *body]))
    return "\n\n".join(parts) + "\n"


def _title(given: Recommendation) -> str:
    return f"Where to train {words.model(given)} on {amount(given.workload.tokens)} tokens"


def _answer(given: Recommendation) -> Iterator[str]:
    best = given.best
    outcome, candidate = best.outcome(), best.candidate
    (quick, slow), usual = candidate.slowness, candidate.usual_slowness
    seconds, cost = float(outcome.seconds), float(outcome.usd)
    yield (
        f"**{best.name}: {days(seconds)} and {usd(cost)} USD.** As far as {_runs(best)} lay from their estimates, "
        f"nine of ten such runs take from {days(seconds * quick)} to {days(seconds * slow)} ({days(seconds * usual)} "
        f"in the middle) and cost {usd(cost * quick)} to {usd(cost * slow)} USD ({usd(cost * usual)}). The chance "
        f"that it fits is {percent(candidate.estimate.fit_probability)}"
        + (
            f", and that it meets the deadline {percent(best.in_time(given.workload.deadline_seconds))}."
            if given.workload.deadline_seconds
            else "."
        )
    )
    cheaper = [o for o in given.offers if given.feasible(o) and float(o.outcome().usd) < cost]
    by_way: dict[str, Offer] = {}
    for offer in cheaper:
        by_way.setdefault(offer.acquisition, offer)
    if by_way:
        listed = "; ".join(f"{o.name}, {usd(o.outcome().usd)} USD" for o in by_way.values())
        yield (
            f"Cheaper, but bound to more than this run or liable to be interrupted: {listed}. Section 3 says what "
            "they bind you to."
        )


def _runs(offer: Offer) -> str:
    """Whose measured runs say how sure a time is."""
    return "published runs" if offer.candidate.cluster.device.measured is None else "your own runs"


def _workload(given: Recommendation) -> Iterator[str]:
    asked = given.workload
    limits = []
    if asked.deadline_seconds:
        limits.append(f"within {days(asked.deadline_seconds)}")
    if asked.budget:
        limits.append(f"for at most {usd(asked.budget)} USD")
    steps = asked.tokens / (asked.sequences * asked.seq_len)
    best = given.best
    taken = float(best.outcome().seconds) * best.candidate.slowness[1]
    yield (
        f"{words.METHODS[asked.method]} of {words.model(given)} on {amount(asked.tokens)} "
        f"tokens{' ' + ' and '.join(limits) if limits else ''}: sequences of {asked.seq_len:,} tokens, "
        f"{asked.sequences:,} of them a step, {steps:,.0f} steps, {asked.precision}, {asked.optimizer}."
    )
    if asked.deadline_seconds and taken < asked.deadline_seconds / 2.0:
        yield (
            f"The deadline does not bind: the choice is done after {days(best.outcome().seconds)}, {days(taken)} if "
            "it goes badly. What decides is what the work costs on each device; start-up costs keep the count low."
        )


def _shortlist(given: Recommendation) -> Iterator[str]:
    best = given.best
    front = given.pareto
    leaders = [ways[ON_DEMAND] for ways in given.by_device.values() if ON_DEMAND in ways]
    shown = {id(offer): offer for offer in (*front[:SHOWN], *leaders, *given.smallest)}.values()
    rows = []
    for offer in sorted(shown, key=lambda offer: float(offer.outcome().usd)):
        outcome, candidate = offer.outcome(), offer.candidate
        chance = "" if offer is best else percent(chance_cheaper(offer, best))
        rows.append(
            (
                f"{'**' if offer is best else ''}{candidate.num_devices:.0f} x "
                f"{candidate.device}{'**' if offer is best else ''}",
                "front" if offer in front else "",
                words.strategy(candidate),
                days(outcome.seconds),
                usd(outcome.usd),
                chance,
                f"{float(outcome.usd) / candidate.tokens * 1e6:.3f}",
                f"{candidate.estimate.time.mfu:.2f}",
                percent(candidate.estimate.fit_probability),
                f"{candidate.estimate.memory.hbm.headroom_bytes / GiB:.0f}",
                f"{outcome.kwh:,.0f}",
            )
        )
    yield (
        "Rented on demand. `front`: no other is both faster and cheaper. `cheaper?` is the chance that the row turns "
        "out cheaper than the choice, from how far measured runs lay from their estimates. The fewest devices of "
        "each kind are listed, too."
    )
    head = ["devices", "", "strategy", "time", "USD", "cheaper?", "USD/Mtoken", "MFU", "fits", "free GiB", "kWh"]
    yield table(head, rows)


SHOWN = 4
"""Offers of the front that the shortlist has room for."""


def _acquisitions(given: Recommendation) -> Iterator[str]:
    yield (
        "The cheapest count of each device. `outlay` is what is committed before the run is over: the run's rent, a "
        "year of rent, or the purchase with servers and network. `break-even` is the share of all hours that bought "
        "devices must be busy to beat the on-demand rent."
    )
    rows = []
    for device, ways in sorted(given.by_device.items(), key=lambda item: _rented(item[1])):
        for offer in ways.values():
            outcome = offer.outcome()
            rent = given.terms.prices.rent(offer.candidate.cluster.device.sold_as)
            even = percent(offer.break_even(rent)) if offer.price.kind == BUY and rent else ""
            rows.append(
                (
                    f"{offer.candidate.num_devices:.0f} x {device}",
                    offer.acquisition,
                    f"{offer.hourly_usd():.2f}",
                    days(outcome.seconds),
                    usd(outcome.usd),
                    usd(offer.outlay_usd),
                    even,
                    f"{100.0 * outcome.goodput:.1f} %",
                    f"{outcome.kwh:,.0f}",
                    f"{outcome.carbon_kg:,.0f}",
                )
            )
    yield table(
        ["devices", "how", "USD/h each", "time", "USD", "outlay USD", "break-even", "goodput", "kWh", "kg CO2"], rows
    )


def _rented(ways: Mapping[str, Offer]) -> float:
    """What the run costs on demand; devices that nobody rents out come last. [USD]"""
    return float(ways[ON_DEMAND].outcome().usd) if ON_DEMAND in ways else float("inf")


def _configuration(given: Recommendation) -> Iterator[str]:
    import yaml

    candidate = given.best.candidate
    estimate = candidate.estimate
    hbm, host = estimate.memory.hbm, estimate.memory.host
    low, high = estimate.memory_band()
    held = checkpoint_bytes(estimate)
    nodes = candidate.num_devices / candidate.devices_per_node
    link = float(estimate.graph.setup.cluster.scale_out_bandwidth) * 8.0 / GB
    yield (
        f"Each device uses {hbm.used_bytes / GiB:.1f} of {hbm.capacity_bytes / GiB:.1f} GiB (nine of ten: "
        f"{low / GiB:.1f} to {high / GiB:.1f}), most of it {words.phase(hbm.peak_phase)}. A node needs "
        f"{host.used_bytes_per_node / GiB:,.0f} GiB of host memory. A step takes {estimate.time.step_seconds:.3g} s, "
        f"MFU is {estimate.time.mfu:.2f}, and most of the step is {estimate.time.bottleneck}. A checkpoint is "
        f"{held / GB:,.0f} GB."
        + (
            f" The estimate counts on {link:,.0f} Gb/s of network a node."
            if nodes > 1
            else " One node needs no network."
        )
    )
    described: Any = plain(candidate.case.model_dump(exclude_unset=True))
    yield "```yaml\n" + yaml.safe_dump(described, sort_keys=False, default_flow_style=None).rstrip() + "\n```"


def _flips(given: Recommendation) -> Iterator[str]:
    best = given.best
    rivals = [
        ways[ON_DEMAND]
        for device, ways in given.by_device.items()
        if device != best.candidate.device and ON_DEMAND in ways
    ]
    found: dict[str, dict[str, float]] = {}
    for flip in flips(best, rivals):
        found.setdefault(flip.rival.candidate.device, {})[flip.name] = flip.factor
    items = []
    for rival in rivals:
        by = found.get(rival.candidate.device, {})
        name = f"{rival.candidate.num_devices:.0f} x {rival.candidate.device}"
        if "price" in by:
            price = rival.price.usd
            text = (
                f"{name} wins below {price * by['price']:.2f} USD/h (now {price:.2f}, {100 * (by['price'] - 1):+.0f} %)"
            )
            if "efficiency" in by:
                text += f", or if it is {100 * (by['efficiency'] - 1):.0f} % faster than estimated"
            items.append(text)
    ways = given.by_device[best.candidate.device]
    if BUY in ways:
        even = ways[BUY].break_even(best.price)
        text = f"buying {best.candidate.device} beats renting it once the devices are busy {percent(even)} of all hours"
        items.append(
            text if even <= 1.0 else f"buying {best.candidate.device} never beats this rent, however busy it is"
        )
    if given.workload.deadline_seconds:
        items.append(_deadline(given))
    yield "\n".join(f"- {item}" for item in items)


def _deadline(given: Recommendation) -> str:
    """What a shorter deadline changes."""
    best = given.best
    taken = float(best.outcome().seconds)
    quicker = [o for o in given.pareto if float(o.outcome().seconds) < taken]
    sure = days(taken * best.candidate.slowness[1])
    text = f"a deadline under {days(taken)} ({sure} to be sure) asks for another choice"
    if not quicker:
        return text + ", and none of these offers is faster"
    return (
        text + f": {quicker[0].name} next, {days(quicker[0].outcome().seconds)} for {usd(quicker[0].outcome().usd)} USD"
    )


def _sensitivity(given: Recommendation) -> Iterator[str]:
    best = given.best
    bought = given.by_device[best.candidate.device].get(BUY)
    yield (
        "Cost with one input at either end of its range, and Sobol indices: the share of the cost's variance that an "
        "input explains alone, and together with the others, if all vary at once."
    )
    for offer in (best, bought) if bought else (best,):
        yield f"{offer.name}: {usd(offer.outcome().usd)} USD."
        yield _bars(offer)


def _bars(offer: Offer) -> str:
    shares = sobol(offer)
    rows: list[Sequence[str]] = []
    for bar in tornado(offer):
        low, high = RANGES[bar.name]
        alone, together = (max(0.0, share) for share in shares[bar.name])
        ends = (f"x {low:g}", usd(bar.at_low), f"x {high:g}", usd(bar.at_high))
        rows.append((WORDS[bar.name], *ends, f"{alone:.2f}", f"{together:.2f}"))
    return table(["input", "from", "USD", "to", "USD", "alone", "with others"], rows)


def _pilot(given: Recommendation) -> Iterable[str]:
    best = given.best
    estimate = best.candidate.estimate
    rate = float(estimate.time.tokens_per_second_per_device)
    low, high = estimate.throughput_band()
    hours = 2.0
    yield (
        f"Rent the {best.candidate.num_devices:.0f} devices for {hours:g} hours (about "
        f"{usd(hours * best.candidate.num_devices * float(best.hourly_usd()))} USD) and run the configuration above. "
        f"Expect {rate:,.0f} tokens/s on each device ({low:,.0f} to {high:,.0f}), and "
        f"{estimate.memory.hbm.used_bytes / GiB:.1f} GiB in nvidia-smi or rocm-smi after the second step. Outside of "
        "these, come back before paying for the rest."
    )
    start = best.terms.reliability.startup_seconds
    yield (
        f"Of the {days(best.outcome().seconds)}, {days(start)} are start-up and "
        f"{percent(1.0 - float(best.outcome().goodput))} of the rest is lost to failures and checkpoints; devices are "
        f"assumed to interrupt a job once in {best.terms.reliability.device_mtbf / DAY / 365.0:.1f} years each, and a "
        f"restart to take {best.terms.reliability.restart_seconds / HOUR * 60:.0f} minutes."
    )
