"""What a device-hour costs: rented at a price, or owned and used some share of the time.

These are equations G10 to G14 of docs/equations/procure.md. Everything broadcasts.
"""

from __future__ import annotations

from dataclasses import dataclass

from vramsim.procure.energy import Power, drawn_power, rated_power
from vramsim.procure.prices import Price
from vramsim.units import Num

YEAR_HOURS = 8760.0
MONTHS = 12.0

CHIP_SHARE = 1.0 - 0.185 - 0.11 - 0.04
"""Share of an owned cluster's cost that is accelerators, the rest being servers, network and energy (Epoch AI,
arXiv 2405.21015: middles of 15-22, 9-13 and 2-6 %). [-]"""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Terms of owning. Shares, years, dollars; what has no source is assumed and meant to be edited.

    `server_share` is servers and network over accelerators (Epoch AI), `network_share` switches and cables over a node
    (10 to 15 % are usual). `utilization` is the share of all hours in which somebody's job runs. `residual` is what is
    left of the price at the end of `horizon_years`, `colo_usd_per_kw_month` the room without electricity (150 to 250
    are usual), `staff_usd_per_device_year` who looks after it, `idle_load` power while no job runs over that while one
    does.
    """

    horizon_years: float = 3.0
    residual: float = 0.3
    utilization: float = 0.7
    server_share: float = (0.185 + 0.11) / CHIP_SHARE
    network_share: float = 0.125
    colo_usd_per_kw_month: float = 150.0
    staff_usd_per_device_year: float = 1500.0
    idle_load: float = 0.3


def capex(price: Price, devices_per_node: Num, terms: Ownership) -> Num:
    """Price of one device with its share of server and network (G10). [USD]

    price : of an accelerator or of a node. [-]   devices_per_node : devices of a node. [-]   terms : of owning. [-]
    """
    if price.unit == "node":
        return price.usd / devices_per_node * (1.0 + terms.network_share)
    return price.usd * (1.0 + terms.server_share) + 0.0 * devices_per_node


def fixed_year(capital: Num, device_power: Num, power: Power, terms: Ownership) -> Num:
    """Yearly cost of one owned device whether it works or not: capital, room, staff, idle power (G11). [USD/year]

    capital : price of a device with its share of server and network. [USD]   device_power : rated, of a device. [W]
    power : energy terms. [-]   terms : of owning. [-]
    """
    written_off = capital * (1.0 - terms.residual) / terms.horizon_years
    room = rated_power(device_power, power) / 1000.0 * terms.colo_usd_per_kw_month * MONTHS
    idle = terms.idle_load * busy_hour(device_power, power) * YEAR_HOURS
    return written_off + room + terms.staff_usd_per_device_year + idle


def busy_hour(device_power: Num, power: Power) -> Num:
    """Electricity of one device and hour while it trains (G12). [USD/hour]

    device_power : rated, of a device. [W]   power : energy terms. [-]
    """
    return drawn_power(device_power, power) / 1000.0 * power.pue * power.usd_per_kwh


def owned_hour(fixed: Num, device_power: Num, power: Power, terms: Ownership) -> Num:
    """Cost of one device-hour that does work (G13). [USD/hour]

    fixed : yearly cost whether it works or not. [USD/year]   device_power : rated, of a device. [W]
    power : energy terms. [-]   terms : of owning. [-]
    """
    return fixed / (YEAR_HOURS * terms.utilization) + (1.0 - terms.idle_load) * busy_hour(device_power, power)


def break_even_utilization(fixed: Num, rent: Num, device_power: Num, power: Power, terms: Ownership) -> Num:
    """Utilization above which owning is cheaper than a rent (G14); above 1 it never is. [-]

    fixed : yearly cost whether it works or not. [USD/year]   rent : of a device. [USD/hour]
    device_power : rated, of a device. [W]   power : energy terms. [-]   terms : of owning. [-]
    """
    return fixed / (YEAR_HOURS * (rent - (1.0 - terms.idle_load) * busy_hour(device_power, power)))
