"""Energy and carbon of a run: what its nodes draw while it lasts, and what the building adds.

These are equations G7 to G9 of docs/equations/procure.md. Everything broadcasts.
"""

from __future__ import annotations

from dataclasses import dataclass

from vramsim.units import Num

KWH = 3.6e6
"""Joules of a kilowatt-hour. [J]"""

SERVER_FACTOR = 10.2 / (8.0 * 0.7)
"""Rated power of a DGX H100 over that of its eight devices: processors, fans, network cards. [-]"""


@dataclass(frozen=True, slots=True)
class Power:
    """What turns devices and hours into energy and carbon. Ratios, USD/kWh and kg/kWh.

    `load` is drawn over rated power: 0.76 while training on nodes of eight H100 (arXiv 2506.14551). `carbon` is the US
    average of eGRID2023. `server_factor` is rated power of a node over that of its devices.
    """

    pue: float = 1.3
    usd_per_kwh: float = 0.09
    carbon: float = 0.348
    load: float = 0.76
    server_factor: float = SERVER_FACTOR


def drawn_power(device_power: Num, power: Power) -> Num:
    """Power that one device and its share of a node draw from the building while training (G7). [W]

    device_power : rated, of the device alone. [W]   power : what turns it into energy. [-]

    >>> round(8 * drawn_power(700.0, Power()))
    7752
    """
    return device_power * power.server_factor * power.load


def rated_power(device_power: Num, power: Power) -> Num:
    """Power that a data center must provide for one device and its share of a node. [W]

    device_power : rated, of the device alone. [W]   power : what turns it into energy. [-]
    """
    return device_power * power.server_factor


def energy_kwh(num_devices: Num, seconds: Num, device_power: Num, power: Power) -> Num:
    """Energy of a run, with what the building adds to it (G8). [kWh]

    num_devices : devices. [-]   seconds : how long it runs. [s]   device_power : rated, of one device. [W]
    power : what turns it into energy. [-]
    """
    return num_devices * seconds * drawn_power(device_power, power) * power.pue / KWH


def carbon_kg(kwh: Num, power: Power) -> Num:
    """Carbon dioxide of the grid for an amount of energy (G9). [kg]

    kwh : energy. [kWh]   power : what turns it into carbon. [-]
    """
    return kwh * power.carbon
