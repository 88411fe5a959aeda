"""Offers: a configuration that trains the workload on some devices, and a way to come by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import date as Date
from typing import Any

import numpy as np

from vramsim.bands import band
from vramsim.case import Case
from vramsim.estimate import Estimate
from vramsim.procure import cost, goodput
from vramsim.procure.cost import Ownership
from vramsim.procure.energy import Power, carbon_kg, energy_kwh
from vramsim.procure.goodput import HOUR, Reliability
from vramsim.procure.prices import BUY, COMMITMENTS, RENT, Price, Prices
from vramsim.units import Num

SPOT = "spot"
ON_DEMAND = "on-demand"


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything about money, energy and failures that is not the workload's own. `today` dates the prices."""

    prices: Prices = field(default_factory=Prices.load)
    ownership: Ownership = field(default_factory=Ownership)
    power: Power = field(default_factory=Power)
    reliability: Reliability = field(default_factory=Reliability)
    today: Date = field(default_factory=Date.today)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Factors on what is uncertain, 1 being the estimate: price, efficiency (tokens/s), MTBF, utilization, power price.

    Numbers or arrays; price is the rent of what is rented and the purchase price of what is bought.
    """

    price: Num = 1.0
    efficiency: Num = 1.0
    mtbf: Num = 1.0
    utilization: Num = 1.0
    power_price: Num = 1.0


FACTORS = tuple(item.name for item in fields(Factors))
SURE = Factors()


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a run takes: wall-clock seconds, share of them that is progress, dollars, kWh, kg of CO2."""

    seconds: Num
    goodput: Num
    usd: Num
    kwh: Num
    carbon_kg: Num


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A case that fits, with its estimate and the tokens that it has to train."""

    case: Case
    estimate: Estimate
    tokens: float

    @property
    def device(self) -> str:
        """Name of the device."""
        return self.estimate.graph.setup.cluster.device.name

    @property
    def num_devices(self) -> float:
        """Number of devices. [-]"""
        return float(self.estimate.graph.setup.cluster.num_devices)

    @property
    def devices_per_node(self) -> float:
        """Devices of a node. [-]"""
        return float(self.estimate.graph.setup.cluster.devices_per_node)

    @property
    def busy_seconds(self) -> float:
        """Time that the steps of the whole run take together, without a failure. [s]"""
        rate = float(self.estimate.time.tokens_per_second_per_device) * self.num_devices
        return self.tokens / rate

    @property
    def slowness(self) -> tuple[float, float]:
        """Factors on `busy_seconds` between which nine of ten measured runs should lie. [-]"""
        low, high = self.estimate.throughput_band()
        rate = float(self.estimate.time.tokens_per_second_per_device)
        return rate / high, rate / low

    @property
    def usual_slowness(self) -> float:
        """Factor on `busy_seconds` below and above which equally many measured runs lie. [-]"""
        return float(np.exp(-band("throughput", self.estimate.graph.setup.framework.engine).quantile(0.5)))


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
        candidate, terms = self.candidate, self.terms
        device, number = candidate.estimate.graph.setup.cluster.device, candidate.num_devices
        share = self.goodput(factors)
        seconds = terms.reliability.startup_seconds + candidate.busy_seconds / factors.efficiency / share
        usd = number * seconds / HOUR * self.hourly_usd(factors)
        kwh = energy_kwh(number, seconds, device.power, terms.power)
        return Outcome(seconds, share, usd, kwh, carbon_kg(kwh, terms.power))

    def goodput(self, factors: Factors = SURE) -> Num:
        """Share of the time that is progress. [-]

        factors : on what is uncertain. [-]
        """
        candidate, how = self.candidate, self.terms.reliability
        mtbf = how.device_mtbf * factors.mtbf
        if self.acquisition == SPOT:
            mtbf = goodput.spot_mtbf(mtbf, how.node_preemption * factors.mtbf, candidate.devices_per_node)
        nodes = candidate.num_devices / candidate.devices_per_node
        written = goodput.checkpoint_bytes(candidate.estimate)
        seconds = goodput.checkpoint_seconds(written, nodes, how.storage_bandwidth)
        return goodput.goodput(seconds, goodput.job_mtbf(mtbf, candidate.num_devices), how.restart_seconds)

    def hourly_usd(self, factors: Factors = SURE) -> Num:
        """Cost of one device and hour. [USD/hour]

        factors : on what is uncertain. [-]
        """
        if self.price.kind == RENT:
            return self.price.usd * factors.price
        terms = self._ownership(factors)
        power = self._power(factors)
        watts = self.candidate.estimate.graph.setup.cluster.device.power
        return cost.owned_hour(self._fixed(factors), watts, power, terms)

    @property
    def outlay_usd(self) -> float:
        """What one commits to pay before the run is over: the devices, a year's rent, or the run's. [USD]"""
        number = self.candidate.num_devices
        if self.price.kind == BUY:
            return number * float(self._capex(SURE))
        if self.acquisition == "reserved-1y":
            return number * cost.YEAR_HOURS * self.price.usd
        return float(self.outcome().usd)

    def break_even(self, rent: Price) -> float:
        """Utilization above which this purchase is cheaper than a rent; infinite if it never is. [-]

        rent : of the same device. [-]
        """
        watts = self.candidate.estimate.graph.setup.cluster.device.power
        terms = self.terms
        share = float(cost.break_even_utilization(self._fixed(SURE), rent.usd, watts, terms.power, terms.ownership))
        return share if share > 0.0 else float("inf")

    def in_time(self, deadline_seconds: float) -> float:
        """Probability that the run is done by a deadline, from the errors of published rates. [-]

        deadline_seconds : wall-clock time. [s]
        """
        errors = band("throughput", self.candidate.estimate.graph.setup.framework.engine)
        slowest = float(np.log(self.outcome().seconds / deadline_seconds))
        return float(1.0 - errors.probability(slowest))

    def _capex(self, factors: Factors) -> Num:
        return cost.capex(self.price, self.candidate.devices_per_node, self.terms.ownership) * factors.price

    def _fixed(self, factors: Factors) -> Num:
        watts = self.candidate.estimate.graph.setup.cluster.device.power
        return cost.fixed_year(self._capex(factors), watts, self._power(factors), self.terms.ownership)

    def _power(self, factors: Factors) -> Power:
        power = self.terms.power
        changed: Any = power.usd_per_kwh * factors.power_price
        return Power(power.pue, changed, power.carbon, power.load, power.server_factor)

    def _ownership(self, factors: Factors) -> Ownership:
        own = self.terms.ownership
        used: Any = np.minimum(own.utilization * factors.utilization, 1.0)
        return Ownership(**{**{f.name: getattr(own, f.name) for f in fields(own)}, "utilization": used})


def offers(candidate: Candidate, terms: Terms) -> Iterator[Offer]:
    """The candidate at every price that is known for its device.

    candidate : a case that fits. [-]   terms : prices and all that goes with them. [-]
    """
    known = (terms.prices.rent(candidate.device, commitment) for commitment in COMMITMENTS)
    for price in (*known, terms.prices.buy(candidate.device)):
        if price is not None:
            yield Offer(candidate, price, terms)
