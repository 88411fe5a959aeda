"""Hardware: devices, and the nodes and network that join them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vramsim.units import Num


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a machine's rates from its owner's runs.

    `error` is their mean error by fits to the others. Nine of ten such runs lie within exp(-band) and exp(band) times
    the estimate; `shares` are the most that their steps spend on each activity. `origin` names the profile.
    """

    runs: float
    error: float
    band: float
    shares: tuple[tuple[str, float], ...]
    origin: str

    def beyond(self, shares: Mapping[str, float]) -> float:
        """Share of a step that is spent on what the runs hardly did. [-]

        shares : activity -> share of the step. [-]
        """
        seen = dict(self.shares)
        return min(sum(max(share - seen.get(name, 0.0), 0.0) for name, share in shares.items()), 1.0)


@dataclass(frozen=True, slots=True)
class Device:
    """Accelerator. Memory in bytes, bandwidths in B/s per direction, peaks in dense FLOP/s, efficiencies as ratios.

    `usable_memory` is what the driver exposes; `context` is taken by the runtime before the first tensor. The
    efficiencies are shares of the datasheet peak that large kernels reach (`attention_efficiency`: flash attention's
    forward under a causal mask, of heads of 128 elements, with FlashAttention-2; `cudnn_efficiency` with the vendor's
    kernel, 0 for the same); `calibration` says how they were obtained, `measured` what runs of its owner say.
    `network_efficiency` is the share of the scale-up link that collectives reach; `staged` devices do not reach each
    other's memory, so that what they exchange passes the host's. `processors` are the units that run one output tile
    each (streaming multiprocessors, compute units). `power_exponent` is that of C11. `sold_as` is the catalog's device
    that one rents or buys to have this one.
    """

    name: str
    memory: float
    usable_memory: float
    memory_bandwidth: float
    peak_flops: tuple[tuple[str, float], ...]
    scale_up_bandwidth: float
    pcie_bandwidth: float
    power: float
    context: float
    gemm_efficiency: float
    attention_efficiency: float
    memory_efficiency: float
    communicator_buffer: float
    all_to_all_buffer: float
    source: str = "inline"
    calibration: str = "assumed"
    processors: float = 108.0
    cudnn_efficiency: float = 0.0
    network_efficiency: float = 0.8
    staged: bool = False
    power_exponent: float = 0.45
    measured: Measured | None = None
    sold_as: str = ""

    def peak(self, dtype: str) -> float:
        """Dense peak for a compute dtype [FLOP/s]; 0 where the device has no such units.

        Formats that scale blocks run on the units of their elements.
        """
        return dict(self.peak_flops).get(dtype.removeprefix("mx").removeprefix("nv"), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """`num_devices` devices in nodes of `devices_per_node`, with what each node offers.

    Bandwidths in B/s: scale_up per device, scale_out per node (all NICs together), pcie per device, host memory and
    NVMe per node. Latencies in seconds per hop. Host memory and NVMe capacity in bytes per node.
    """

    device: Device
    num_devices: Num
    devices_per_node: Num
    scale_up_bandwidth: Num
    scale_out_bandwidth: Num
    pcie_bandwidth: Num
    host_memory: Num
    host_memory_bandwidth: Num
    cpu_cores: Num
    nvme_capacity: Num
    nvme_bandwidth: Num
    scale_up_latency: float = 4e-6
    scale_out_latency: float = 14e-6
    source: str = "inline"
