"""The run behind a space: tokens and terms, which make time, money and energy of what a step takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vramsim.case.numbers import number
from vramsim.catalog.prices import COMMITMENTS, ON_DEMAND, WAYS, Price, Prices
from vramsim.catalog.tables import nearest, shown
from vramsim.equations.cost import run_cost
from vramsim.equations.energy import carbon_kg
from vramsim.errors import VramsimError
from vramsim.estimate import Estimate
from vramsim.outcome import Terms, device_hour, progress, run_kwh, run_seconds
from vramsim.space.metrics import METRICS, Known
from vramsim.space.terms import terms_of
from vramsim.spec import Device
from vramsim.units import Num

MOST_TOKENS = 1e18


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What every configuration of a space has to do, and on what terms.

    `tokens` to train on; `acquire` how the devices are come by, and `prices` the price of each by that way, as far as
    one is known: looked up once, handed to objectives as data.
    """

    tokens: float
    acquire: str
    prices: Mapping[str, Price]
    terms: Terms

    def seconds(self, estimate: Estimate) -> Num:
        """Wall-clock time of the run. [s]

        estimate : of a configuration. [-]
        """
        return run_seconds(estimate, self.tokens, self.goodput(estimate), self.terms)

    def goodput(self, estimate: Estimate) -> Num:
        """Share of that time which is progress. [-]

        estimate : of a configuration. [-]
        """
        return progress(estimate, self.acquire, self.terms)

    def usd(self, estimate: Estimate) -> Num:
        """Cost. [USD]

        estimate : of a configuration. [-]
        """
        cluster = estimate.graph.setup.cluster
        hour = device_hour(self.prices[cluster.device.sold_as], cluster, self.terms)
        return run_cost(cluster.num_devices, self.seconds(estimate), hour)

    def kwh(self, estimate: Estimate) -> Num:
        """Energy. [kWh]

        estimate : of a configuration. [-]
        """
        return run_kwh(estimate, self.seconds(estimate), self.terms)

    def carbon(self, estimate: Estimate) -> Num:
        """Carbon dioxide. [kg]

        estimate : of a configuration. [-]
        """
        return carbon_kg(self.kwh(estimate), self.terms.power.carbon)


def run_of(devices: Iterable[Device], tokens: Any, prices: Any = None, acquire: Any = None, terms: Any = None) -> Run:
    """The run that a user describes.

    devices : that a space chooses among. [-]   tokens : to train on. [-]
    prices : file of the user's prices, device -> rent, or both in a list; the terms' if left out. [USD/device/hour]
    acquire : on-demand | reserved-1y | spot | buy; on-demand if left out. [-]
    terms : Terms, or what differs from the usual ones, as a file or mapping. [-]
    Raises VramsimError for what is wrong in them.
    """
    way = ON_DEMAND if acquire is None else acquire
    if way not in WAYS:
        raise VramsimError(f"acquire must be one of {', '.join(WAYS)}, got {shown(acquire)}: {nearest(str(way), WAYS)}")
    try:
        checked = number(1, MOST_TOKENS)(tokens)
    except ValueError as error:
        raise VramsimError(f"tokens {error}") from None
    if not isinstance(checked, float):
        raise VramsimError(f"tokens must be one number, got {shown(tokens)}")
    terms = terms_of(terms)
    if prices is not None:
        terms = replace(terms, prices=_prices(prices, way))
    names = dict.fromkeys(device.sold_as for device in devices)
    found = ((name, terms.prices.of(name, way)) for name in names)
    return Run(checked, way, {name: price for name, price in found if price is not None}, terms)


def _prices(given: Any, way: str) -> Prices:
    if isinstance(given, Prices):
        return given
    items = given if isinstance(given, list | tuple) else [given]
    file = next((item for item in items if isinstance(item, str | Path)), None)
    stated = {name: usd for item in items if isinstance(item, Mapping) for name, usd in item.items()}
    if wrong := [item for item in items if not isinstance(item, str | Path | Mapping)]:
        raise VramsimError(
            f"prices must be a CSV file, or map devices to USD per device and hour, got {shown(wrong[0])}"
        )
    return Prices.load(file, stated, way)


def known_of(run: Run | None, devices: Iterable[Device]) -> Known:
    """The metrics of a space: those of a step, and those of a run if there is one.

    run : of the space, if it has one. [-]   devices : that it chooses among. [-]
    """
    if run is None:
        return Known()
    measures = {
        **METRICS,
        "time_to_train_seconds": run.seconds,
        "cost_usd": run.usd,
        "energy_kwh": run.kwh,
        "carbon_kg": run.carbon,
        "goodput": run.goodput,
    }
    unpriced = {device.sold_as: device.name for device in devices if device.sold_as not in run.prices}
    if not unpriced:
        return Known(measures, {})
    del measures["cost_usd"]
    return Known(measures, {"cost_usd": _why(unpriced, run.acquire)})


def _why(unpriced: Mapping[str, str], way: str) -> str:
    """What to do about devices without a price."""
    if "" in unpriced:
        return f"devices of the catalog, but {unpriced['']} is none: give it a base, as which it is priced"
    names = ", ".join(unpriced)
    example = next(iter(unpriced))
    if way not in COMMITMENTS:
        return f"a price to buy {names} for, and none is known: state one in a price file, with kind: buy"
    return f"a price of {names} ({way}), and none is known: state one, such as prices: {{{example}: 2.50}}"
