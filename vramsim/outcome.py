"""What a run takes in the end: wall-clock time, dollars, energy. An estimate meets the terms on which it happens.

Everything broadcasts: the estimate may be a grid's, and so may the factors on what is uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import date as Date
from typing import Any

import numpy as np

from vramsim.catalog.prices import RENT, SPOT, Price, Prices
from vramsim.equations import cost, energy, goodput
from vramsim.estimate import Estimate
from vramsim.spec import Category, Cluster, Ownership, Phase, Power, Reliability, Setup
from vramsim.units import Num, minimum


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


def outcome(estimate: Estimate, tokens: float, price: Price, terms: Terms, factors: Factors = SURE) -> Outcome:
    """Time, cost and energy of a run, failures included.

    estimate : of the run, or of a grid of them. [-]   tokens : to train on. [-]   price : of its devices. [-]
    terms : on which it happens. [-]   factors : on what is uncertain. [-]
    """
    cluster = estimate.graph.setup.cluster
    share = progress(estimate, price.commitment, terms, factors)
    seconds = run_seconds(estimate, tokens, share, terms, factors)
    usd = cost.run_cost(cluster.num_devices, seconds, device_hour(price, cluster, terms, factors))
    kwh = run_kwh(estimate, seconds, terms)
    return Outcome(seconds, share, usd, kwh, energy.carbon_kg(kwh, terms.power.carbon))


def progress(estimate: Estimate, commitment: str, terms: Terms, factors: Factors = SURE) -> Num:
    """Goodput: the share of its time in which a run makes progress. [-]

    estimate : of the run. [-]   commitment : how its devices are had; a spot node may be taken back. [-]
    terms : on which it happens. [-]   factors : on what is uncertain. [-]
    """
    cluster, how = estimate.graph.setup.cluster, terms.reliability
    mtbf = how.device_mtbf * factors.mtbf
    if commitment == SPOT:
        mtbf = goodput.spot_mtbf(mtbf, how.node_preemption * factors.mtbf, cluster.devices_per_node)
    nodes = cluster.num_devices / cluster.devices_per_node
    written = goodput.checkpoint_seconds(checkpoint_bytes(estimate), nodes, how.storage_bandwidth)
    return goodput.goodput(written, goodput.job_mtbf(mtbf, cluster.num_devices), how.restart_seconds)


def run_seconds(estimate: Estimate, tokens: float, share: Num, terms: Terms, factors: Factors = SURE) -> Num:
    """Wall-clock time of a run. [s]

    estimate : of the run. [-]   tokens : to train on. [-]   share : of the time that is progress. [-]
    terms : on which it happens. [-]   factors : on what is uncertain. [-]
    """
    rate = estimate.time.tokens_per_second_per_device * factors.efficiency
    number = estimate.graph.setup.cluster.num_devices
    return goodput.time_to_train(tokens, number, rate, share, terms.reliability.startup_seconds)


def run_kwh(estimate: Estimate, seconds: Num, terms: Terms) -> Num:
    """Energy of a run. [kWh]

    estimate : of the run. [-]   seconds : wall-clock time. [s]   terms : on which it happens. [-]
    """
    cluster, power = estimate.graph.setup.cluster, terms.power
    return energy.energy_kwh(cluster.num_devices, seconds, _drawn(cluster, power), power.pue)


def device_hour(price: Price, cluster: Cluster, terms: Terms, factors: Factors = SURE) -> Num:
    """What one device costs in an hour in which it works: its rent, or its share of what owning it costs. [USD/hour]

    price : of the device. [-]   cluster : that it is part of. [-]   terms : of owning. [-]
    factors : on what is uncertain. [-]
    """
    if price.kind == RENT:
        return price.usd * factors.price
    own: Any = terms.ownership
    used = minimum(own.utilization * factors.utilization, 1.0)
    busy = electricity(cluster, terms, factors)
    return cost.owned_hour(owned_year(price, cluster, terms, factors), used, own.idle_load, busy)


def electricity(cluster: Cluster, terms: Terms, factors: Factors = SURE) -> Num:
    """Electricity of one device and hour while it trains. [USD/hour]

    cluster : that it is part of. [-]   terms : energy's. [-]   factors : on what is uncertain. [-]
    """
    power = terms.power
    return cost.busy_hour(_drawn(cluster, power), power.pue, power.usd_per_kwh * factors.power_price)


def capital(price: Price, cluster: Cluster, terms: Terms, factors: Factors = SURE) -> Num:
    """Price of a bought device with its share of server and network. [USD]

    price : of an accelerator or of a node. [-]   cluster : that it is part of. [-]   terms : of owning. [-]
    factors : on what is uncertain. [-]
    """
    own, usd = terms.ownership, price.usd * factors.price
    if price.unit == "node":
        return cost.capital(usd / cluster.devices_per_node, own.network_share)
    return cost.capital(usd, own.server_share)


def owned_year(price: Price, cluster: Cluster, terms: Terms, factors: Factors = SURE) -> Num:
    """What an owned device costs in a year, whether it works or not. [USD/year]

    price : of the device. [-]   cluster : that it is part of. [-]   terms : of owning. [-]
    factors : on what is uncertain. [-]
    """
    own = terms.ownership
    return cost.fixed_year(
        capital(price, cluster, terms, factors),
        own.residual,
        own.horizon_years,
        _drawn(cluster, replace(terms.power, load=1.0)),
        own.colo_usd_per_kw_month,
        own.staff_usd_per_device_year,
        own.idle_load,
        electricity(cluster, terms, factors),
    )


def _drawn(cluster: Cluster, power: Power) -> Num:
    return energy.drawn_power(cluster.device.power, power.server_factor, power.load)


FROZEN = ("frozen parameters", "quantized parameters", "quantization scales")
"""Components that a checkpoint leaves out: they are those of the base model."""

SHARDED_FROM = {Category.OPTIMIZER_STATE: 1.0, Category.PARAMETER: 3.0}
"""What a checkpoint keeps -> the ZeRO stage from which every rank holds another part of it."""


def checkpoint_bytes(estimate: Estimate) -> Num:
    """Bytes of a checkpoint that a run can go on from: trained weights, master weights, optimizer states.

    Replicas count once. A pipeline's fullest stage stands for all of its stages.

    B = N sum of what ranks hold of them, over how many hold the same                       (G3)

    estimate : of the run. [-]
    Returns bytes. [B]
    """
    setup = estimate.graph.setup
    kept: Num = 0.0
    for component in estimate.graph.components:
        if component.live & Phase.SAVE and component.name not in FROZEN and component.category in SHARDED_FROM:
            kept = kept + component.nbytes / _replicas(setup, SHARDED_FROM[component.category])
    return kept * setup.cluster.num_devices


def _replicas(setup: Setup, stage: float) -> Num:
    """Ranks that hold the same states: all that hold the same slice of the model, or one where they are sharded. [-]"""
    if setup.framework.engine.startswith("fsdp"):
        return 1.0
    return np.where(np.greater_equal(setup.strategy.zero_stage, stage), 1.0, setup.shard_degree)[()]
