"""Energy and carbon of a run: what its nodes draw while it lasts, and what the building adds.

Equations G7 to G9 of docs/equations/procure.md.
"""

from __future__ import annotations

from vramsim.units import Num

KWH = 3.6e6
"""Joules of a kilowatt-hour. [J]"""


def drawn_power(device_power: Num, server_factor: Num, load: Num) -> Num:
    """Power that one device and its share of a node draw from the building while training.

    P = TDP s l                                                                             (G7)

    device_power : rated, of the device alone, TDP. [W]
    server_factor : rated power of a node over that of its devices, s. [-]   load : drawn over rated power, l. [-]
    Returns watts; with a load of 1, what a data center must provide. [W]
    Source: definition.

    >>> round(8 * drawn_power(700.0, 10.2 / 5.6, 0.76))
    7752
    """
    return device_power * server_factor * load


def energy_kwh(num_devices: Num, seconds: Num, drawn: Num, pue: Num) -> Num:
    """Energy of a run, with what the building adds to it.

    E = N T P PUE / 3.6e6                                                                   (G8)

    num_devices : devices, N. [-]   seconds : how long it runs, T. [s]   drawn : by one device, of G7. [W]
    pue : power of the building over that of its computers. [-]
    Returns kilowatt-hours. [kWh]
    Source: definition.

    >>> energy_kwh(8.0, 3600.0, 1000.0, 1.25)
    10.0
    """
    return num_devices * drawn * pue / KWH * seconds


def carbon_kg(kwh: Num, intensity: Num) -> Num:
    """Carbon dioxide of the grid for an amount of energy.

    CO2 = c E                                                                               (G9)

    kwh : energy, E. [kWh]   intensity : of the grid, c. [kg/kWh]
    Returns kilograms. [kg]
    Source: definition.

    >>> carbon_kg(10.0, 0.5)
    5.0
    """
    return kwh * intensity
