"""On what terms a run happens: how often devices fail, what they draw, what owning them takes."""

from __future__ import annotations

from dataclasses import dataclass

from vramsim.units import DAY

DEVICE_MTBF = 54.0 * DAY * 16384.0 / 419.0
"""Mean time between interruptions of a job by one device: 419 in 54 days on 16,384 H100 (arXiv 2407.21783). [s]"""

SERVER_FACTOR = 10.2 / (8.0 * 0.7)
"""Rated power of a DGX H100 over that of its eight devices: processors, fans, network cards. [-]"""

CHIP_SHARE = 1.0 - 0.185 - 0.11 - 0.04
"""Share of an owned cluster's cost that is accelerators, the rest being servers, network and energy (Epoch AI,
arXiv 2405.21015: middles of 15-22, 9-13 and 2-6 %). [-]"""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often a job stops and what that costs. Seconds and bytes per second; all but the first are assumed.

    `device_mtbf` is per device and of any cause. `startup_seconds` is paid for once, before the first step: machines,
    weights, data, compilation. `storage_bandwidth` is what one node writes of a checkpoint.
    `node_preemption` is how long a provider leaves a spot node to its renter, on average.
    """

    device_mtbf: float = DEVICE_MTBF
    startup_seconds: float = 1800.0
    restart_seconds: float = 600.0
    storage_bandwidth: float = 2e9
    node_preemption: float = 7.0 * DAY


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
