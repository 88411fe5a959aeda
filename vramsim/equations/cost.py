"""What a device-hour costs, rented at a price, or owned and used some share of the time; and what a run costs.

Equations G10 to G14 and G16 of docs/equations/procure.md.
"""

from __future__ import annotations

from vramsim.units import HOUR, Num

YEAR_HOURS = 8760.0
"""Hours of a year. [h]"""
MONTHS = 12.0


def capital(price: Num, added: Num) -> Num:
    """Price of one device with its share of what it needs around it.

    K = p (1 + a)                                                                           (G10)

    price : of one device, p. [USD]   added : servers and network, or network alone, over the price, a. [-]
    Returns dollars. [USD]
    Source: definition.

    >>> capital(350_000 / 8, 0.125)
    49218.75
    """
    return price * (1.0 + added)


def fixed_year(
    capital: Num, residual: Num, horizon_years: Num, rated: Num, room: Num, staff: Num, idle_load: Num, busy: Num
) -> Num:
    """Yearly cost of one owned device whether it works or not: capital, room, staff, idle power.

    F = K (1 - r) / Y + 12 TDP s room + staff + 8760 i h                                    (G11)

    capital : of G10, K. [USD]   residual : share of it that is left at the end, r. [-]
    horizon_years : until then, Y. [year]   rated : power of a device and its share of a node, TDP s. [W]
    room : without electricity. [USD/kW/month]   staff : who looks after it. [USD/year]
    idle_load : power while no job runs over that while one does, i. [-]   busy : electricity of G12, h. [USD/hour]
    Returns dollars a year. [USD/year]
    Source: sum of what is paid; no interest is charged.

    >>> fixed_year(30_000.0, 0.5, 3.0, 1000.0, 100.0, 1000.0, 0.0, 0.1)
    7200.0
    """
    written_off = capital * (1.0 - residual) / horizon_years
    return written_off + rated / 1000.0 * room * MONTHS + staff + idle_load * busy * YEAR_HOURS


def busy_hour(drawn: Num, pue: Num, usd_per_kwh: Num) -> Num:
    """Electricity of one device and hour while it trains.

    h = P / 1000 PUE tariff                                                                 (G12)

    drawn : by a device and its share of a node, P. [W]   pue : power of the building over its computers'. [-]
    usd_per_kwh : tariff. [USD/kWh]
    Returns dollars an hour. [USD/hour]
    Source: definition.

    >>> busy_hour(1000.0, 1.5, 0.1)
    0.15000000000000002
    """
    return drawn / 1000.0 * pue * usd_per_kwh


def owned_hour(fixed: Num, utilization: Num, idle_load: Num, busy: Num) -> Num:
    """Cost of one device-hour that does work: idle hours are paid for by busy ones.

    o = F / (8760 u) + (1 - i) h                                                            (G13)

    fixed : yearly cost of G11, F. [USD/year]   utilization : share of all hours in which a job runs, u. [-]
    idle_load : power while no job runs over that while one does, i. [-]   busy : electricity of G12, h. [USD/hour]
    Returns dollars an hour. [USD/hour]
    Source: the build-or-rent model of ai-infrastructure.net, with idle power added.

    >>> owned_hour(8760.0, 0.5, 0.25, 0.5)
    2.375
    """
    return fixed / (YEAR_HOURS * utilization) + (1.0 - idle_load) * busy


def break_even_utilization(fixed: Num, rent: Num, idle_load: Num, busy: Num) -> Num:
    """Utilization above which owning is cheaper than a rent; above 1 it never is.

    u* = F / (8760 (rent - (1 - i) h))                                                      (G14)

    fixed : yearly cost of G11, F. [USD/year]   rent : of a device. [USD/hour]
    idle_load : power while no job runs over that while one does, i. [-]   busy : electricity of G12, h. [USD/hour]
    Returns a share. [-]
    Source: G13 solved for the utilization.

    >>> break_even_utilization(8760.0, 2.375, 0.25, 0.5)
    0.5
    """
    return fixed / (YEAR_HOURS * (rent - (1.0 - idle_load) * busy))


def run_cost(num_devices: Num, seconds: Num, usd_per_hour: Num) -> Num:
    """Cost of a run: every device is paid for as long as it lasts.

    U = N T / 3600 p                                                                        (G16)

    num_devices : devices, N. [-]   seconds : wall-clock time, T. [s]   usd_per_hour : of one device, p. [USD/hour]
    Returns dollars. [USD]
    Source: definition.

    >>> run_cost(8.0, 7200.0, 2.5)
    40.0
    """
    return num_devices * usd_per_hour / HOUR * seconds
