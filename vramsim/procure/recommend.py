"""The recommendation: which devices, how many, with which strategy, rented or bought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vramsim.case import Case
from vramsim.case.machine import device_of
from vramsim.case.profile import is_profile
from vramsim.catalog import tables
from vramsim.catalog.prices import ON_DEMAND, RENT
from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.outcome import Terms
from vramsim.procure.offers import Offer, offers
from vramsim.procure.workload import DEVICES, FRAMEWORKS, STRATEGIES, Workload, candidates
from vramsim.units import DAY, GiB

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class Recommendation:
    """Offers for a workload, the best first: those that keep deadline and budget before those that do not.

    `missing` are devices for which nothing fits, or for which no price is known.
    """

    workload: Workload
    terms: Terms
    offers: tuple[Offer, ...]
    missing: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Recommendation: {self.best.name}, out of {len(self.offers)} offers"

    def feasible(self, offer: Offer) -> bool:
        """Whether an offer keeps deadline and budget, by the best estimate.

        offer : one of the offers. [-]
        """
        outcome, limit = offer.outcome(), self.workload
        in_time = limit.deadline_seconds is None or float(outcome.seconds) <= limit.deadline_seconds
        return in_time and (limit.budget is None or float(outcome.usd) <= limit.budget)

    @property
    def best(self) -> Offer:
        """The best offer that binds one to nothing beyond the run: rented on demand.

        Raises VramsimError if no such offer keeps deadline and budget.
        """
        for offer in self.offers:
            if offer.acquisition == ON_DEMAND and self.feasible(offer):
                return offer
        for offer in self.offers:
            if self.feasible(offer):
                return offer
        nearest = min(self.offers, key=lambda offer: float(offer.outcome().seconds))
        outcome = nearest.outcome()
        raise VramsimError(
            f"no offer keeps the deadline and the budget; the fastest is {nearest.name}: "
            f"{float(outcome.seconds) / DAY:.3g} days for {float(outcome.usd):,.0f} USD; "
            "allow more time or money, or more devices"
        )

    @property
    def case(self) -> Case:
        """The configuration of the best offer."""
        return self.best.candidate.case

    @property
    def by_device(self) -> dict[str, dict[str, Offer]]:
        """Device -> acquisition -> its best offer."""
        found: dict[str, dict[str, Offer]] = {}
        for offer in self.offers:
            found.setdefault(offer.candidate.device, {}).setdefault(offer.acquisition, offer)
        return found

    @property
    def smallest(self) -> list[Offer]:
        """The fewest devices of each kind that do, rented on demand, at their cheapest."""
        found: dict[str, Offer] = {}
        for offer in self.offers:
            name, number = offer.candidate.device, offer.candidate.num_devices
            if offer.acquisition != ON_DEMAND or not self.feasible(offer):
                continue
            if name not in found or number < found[name].candidate.num_devices:
                found[name] = offer
        return list(found.values())

    @property
    def pareto(self) -> list[Offer]:
        """Rents on demand that no other beats in both time and cost, the cheapest first."""
        front: list[Offer] = []
        fastest = float("inf")
        rents = [offer for offer in self.offers if offer.acquisition == ON_DEMAND and self.feasible(offer)]
        for offer in sorted(rents, key=lambda offer: (float(offer.outcome().usd), float(offer.outcome().seconds))):
            if float(offer.outcome().seconds) < fastest:
                fastest = float(offer.outcome().seconds)
                front.append(offer)
        return front

    @cached_property
    def frame(self) -> DataFrame:
        """Every offer, ranked: devices, strategy, days, dollars, energy, and how sure they are."""
        import pandas as pd

        return pd.DataFrame([row(offer, self) for offer in self.offers])

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings: stale prices, devices left out."""
        prices = dict.fromkeys(offer.price for offer in self.offers)
        stale = (price.warning(self.terms.today) for price in prices)
        return (*(text for text in stale if text), *(f"{name}: {why}" for name, why in self.missing.items()))

    def report(self) -> str:
        """The recommendation as Markdown, ready to send."""
        from vramsim.procure.report import report

        return report(self)

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.frame.head(20).to_html()}"


def recommend(
    model: str | Mapping[str, Any],
    tokens: float,
    deadline_seconds: float | None = None,
    budget: float | None = None,
    devices: Sequence[str] | None = None,
    method: str = "full",
    *,
    num_devices: Sequence[int] | None = None,
    frameworks: Sequence[Any] = FRAMEWORKS,
    strategies: Mapping[str, Sequence[Any]] = STRATEGIES,
    terms: Terms | None = None,
    keep: int = 3,
    **workload: Any,
) -> Recommendation:
    """Rank devices, their number, strategies, and ways to come by them, for a workload.

    Offers that keep deadline and budget come first, the cheapest of them before the others; with a budget and no
    deadline, the fastest.

    model : name in the catalog, path of a config.json, or mapping. [-]   tokens : to train on. [-]
    deadline_seconds : wall-clock time, None for none. [s]   budget : for the run, None for none. [USD]
    devices : names in the catalog or profiles' paths, the usual five if left out. [-]
    method : full | lora | qlora. [-]
    num_devices : counts to consider, powers of two of a node if left out. [-]
    frameworks : names or mappings. [-]   strategies : key -> values to try. [as the field]
    terms : prices, ownership, power, reliability. [-]   keep : strategies of each count. [-]
    workload : fields of `Workload`: seq_len, global_batch_size, precision, optimizer, likely ... [as the field]
    Raises VramsimError if nothing fits at a known price.
    """
    for name, value in (("tokens", tokens), ("deadline_seconds", deadline_seconds), ("budget", budget)):
        if value is not None and not 0.0 < value < 1e18:
            raise VramsimError(f"{name} must be a number above 0, got {value!r}")
    if method == "qlora":
        workload = {"quantization": "nf4_dq", **workload}
    try:
        wanted = Workload(model, tokens, deadline_seconds, budget, method, **workload)
    except TypeError as error:
        known = ", ".join(Workload.__dataclass_fields__)
        raise VramsimError(f"a workload has the fields {known}; {str(error).partition('() ')[2]}") from None
    terms = terms or Terms()
    found: list[Offer] = []
    missing: dict[str, str] = {}
    names = list(dict.fromkeys(_device(each) for each in devices or DEVICES))
    # A search takes what cannot be resolved for one more configuration that is impossible: ask for the reason first.
    wanted.case(names[0], 1).with_values({"gradient_accumulation_steps": 1}).resolve()
    for name in names:
        fitting, why = candidates(wanted, name, num_devices, frameworks, strategies, keep, terms)
        priced = [offer for candidate in fitting for offer in offers(candidate, terms)]
        found += priced
        if not priced:
            missing[name] = why or f"no price is known; state one, such as {device_of(name).sold_as}=2.50"
    if not found:
        raise VramsimError("; ".join(f"{name}: {why}" for name, why in missing.items()))
    result = Recommendation(wanted, terms, (), missing)
    hurry = budget is not None and deadline_seconds is None

    def rank(offer: Offer) -> tuple[bool, float]:
        outcome = offer.outcome()
        return not result.feasible(offer), float(outcome.seconds if hurry else outcome.usd)

    return replace(result, offers=tuple(sorted(found, key=rank)))


def _device(given: str) -> str:
    """Name in the catalog, or path of a profile that is based on a device of the catalog."""
    if not (isinstance(given, str) and is_profile(given)):
        return tables.canonical("device", given)
    if not device_of(given).sold_as:
        raise VramsimError(
            f"the profile {shown(given)} is based on no device of the catalog, as which it would be priced; give its "
            "device a base"
        )
    return given


def row(offer: Offer, given: Recommendation) -> dict[str, Any]:
    """One offer as a row of the frame.

    offer : which. [-]   given : the recommendation that it belongs to. [-]
    """
    candidate, outcome = offer.candidate, offer.outcome()
    estimate, setup = candidate.estimate, candidate.estimate.graph.setup
    strategy, hbm = setup.strategy, candidate.estimate.memory.hbm
    quick, slow = candidate.slowness
    start = given.terms.reliability.startup_seconds
    seconds, usd = float(outcome.seconds), float(outcome.usd)
    band = [(start + (seconds - start) * factor) / seconds for factor in (quick, slow)]
    rent = given.terms.prices.rent(candidate.cluster.device.sold_as)
    limit = given.workload.deadline_seconds
    return {
        "device": candidate.device,
        "num_devices": int(candidate.num_devices),
        "acquisition": offer.acquisition,
        "feasible": given.feasible(offer),
        "framework": setup.framework.name,
        "zero_stage": int(strategy.zero_stage),
        "sp": int(strategy.sp),
        "micro_batch_size": int(setup.training.micro_batch_size),
        "gradient_accumulation_steps": int(setup.training.gradient_accumulation_steps),
        "recompute": candidate.case.strategy.recompute,
        "offload_optimizer": candidate.case.strategy.offload_optimizer,
        "days": seconds / DAY,
        "days_low": seconds * band[0] / DAY,
        "days_high": seconds * band[1] / DAY,
        "in_time_probability": offer.in_time(limit) if limit else 1.0,
        "goodput": float(outcome.goodput),
        "usd": usd,
        "usd_low": usd * band[0],
        "usd_high": usd * band[1],
        "usd_per_million_tokens": usd / candidate.tokens * 1e6,
        "usd_per_device_hour": float(offer.hourly_usd()),
        "outlay_usd": offer.outlay_usd,
        "break_even_utilization": offer.break_even(rent) if rent and offer.price.kind != RENT else float("nan"),
        "kwh": float(outcome.kwh),
        "co2_kg": float(outcome.carbon_kg),
        "fit_probability": float(estimate.fit_probability),
        "used_gib": float(hbm.used_bytes) / GiB,
        "headroom_gib": float(hbm.headroom_bytes) / GiB,
        "host_gib_per_node": float(estimate.memory.host.used_bytes_per_node) / GiB,
        "tokens_per_second": float(estimate.time.tokens_per_second_per_device) * candidate.num_devices,
        "mfu": float(estimate.time.mfu),
        "price_date": offer.price.date.isoformat(),
        "price_source": offer.price.source,
    }
