"""Offers: a configuration that trains the workload on some devices, and a way to come by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vramsim.case import Case
from vramsim.catalog.prices import BUY, RENT, RESERVED, WAYS, Price
from vramsim.equations import cost
from vramsim.estimate import Estimate
from vramsim.outcome import SURE, Factors, Outcome, Terms, capital, device_hour, electricity, outcome, owned_year
from vramsim.spec import Cluster
from vramsim.units import Num


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A case that fits, with its estimate and the tokens that it has to train."""

    case: Case
    estimate: Estimate
    tokens: float

    @property
    def cluster(self) -> Cluster:
        """The devices."""
        return self.estimate.graph.setup.cluster

    @property
    def device(self) -> str:
        """Name of the device."""
        return self.cluster.device.name

    @property
    def num_devices(self) -> float:
        """Number of devices. [-]"""
        return float(self.cluster.num_devices)

    @property
    def devices_per_node(self) -> float:
        """Devices of a node. [-]"""
        return float(self.cluster.devices_per_node)

    @property
    def slowness(self) -> tuple[float, float]:
        """Factors on the time that steps take between which nine of ten measured runs should lie. [-]"""
        errors = self.estimate.rate_errors()
        return float(np.exp(-errors.quantile(0.95))), float(np.exp(-errors.quantile(0.05)))

    @property
    def usual_slowness(self) -> float:
        """Factor on the time that steps take below and above which equally many measured runs lie. [-]"""
        return float(np.exp(-self.estimate.rate_errors().quantile(0.5)))


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A candidate and the price at which its devices are rented or bought."""

    candidate: Candidate
    price: Price
    terms: Terms

    @property
    def acquisition(self) -> str:
        """How one comes by the devices: on-demand | reserved-1y | spot | buy."""
        return self.price.commitment if self.price.kind == RENT else BUY

    @property
    def name(self) -> str:
        """Devices and how one comes by them, in words."""
        how = "bought" if self.price.kind == BUY else f"rented {self.acquisition}"
        return f"{self.candidate.num_devices:.0f} x {self.candidate.device}, {how}"

    def outcome(self, factors: Factors = SURE) -> Outcome:
        """Time, cost and energy of the run, failures included.

        factors : on what is uncertain. [-]
        """
        return outcome(self.candidate.estimate, self.candidate.tokens, self.price, self.terms, factors)

    def hourly_usd(self, factors: Factors = SURE) -> Num:
        """Cost of one device and hour. [USD/hour]

        factors : on what is uncertain. [-]
        """
        return device_hour(self.price, self.candidate.cluster, self.terms, factors)

    @property
    def outlay_usd(self) -> float:
        """What one commits to pay before the run is over: the devices, a year's rent, or the run's. [USD]"""
        number = self.candidate.num_devices
        if self.price.kind == BUY:
            return number * float(capital(self.price, self.candidate.cluster, self.terms))
        if self.acquisition == RESERVED:
            return number * cost.YEAR_HOURS * self.price.usd
        return float(self.outcome().usd)

    def break_even(self, rent: Price) -> float:
        """Utilization above which this purchase is cheaper than a rent; infinite if it never is. [-]

        rent : of the same device. [-]
        """
        cluster, terms = self.candidate.cluster, self.terms
        fixed, busy = owned_year(self.price, cluster, terms), electricity(cluster, terms)
        share = float(cost.break_even_utilization(fixed, rent.usd, terms.ownership.idle_load, busy))
        return share if share > 0.0 else float("inf")

    def in_time(self, deadline_seconds: float) -> float:
        """Probability that the run is done by a deadline, from the errors of measured rates. [-]

        deadline_seconds : wall-clock time. [s]
        """
        slowest = float(np.log(self.outcome().seconds / deadline_seconds))
        return float(1.0 - self.candidate.estimate.rate_errors().probability(slowest))


def offers(candidate: Candidate, terms: Terms) -> Iterator[Offer]:
    """The candidate at every price that is known for its device.

    candidate : a case that fits. [-]   terms : prices and all that goes with them. [-]
    """
    for way in WAYS:
        price = terms.prices.of(candidate.cluster.device.sold_as, way)
        if price is not None:
            yield Offer(candidate, price, terms)
