"""Which machines files mean together, and which engine runs on them."""

from __future__ import annotations

from math import prod
from typing import Any

from vramsim.convert.known import Known


def cluster_of(known: Known) -> dict[str, Any]:
    """The cluster, as far as files give it.

    known : merged facts; notes are added to it. [-]
    """
    cluster = known.within("cluster")
    nodes, mesh = known.get("nodes"), _mesh(known)
    if known.get("engine") == "single":
        if cluster.get("num_devices", 1) != 1:
            known.notes.append("one process is launched, whatever number of processes is written down")
        cluster["num_devices"] = 1
    elif "num_devices" not in cluster:
        world = known.get("world_size")
        per_node = cluster.get("devices_per_node")
        if per_node is not None and (nodes is not None or (world is None and mesh is None)):
            cluster["num_devices"] = per_node * (nodes or 1)
            if nodes is None:
                known.notes.append(f"no file says how many nodes there are: one of {per_node} devices")
        elif world or mesh:
            cluster["num_devices"] = world or mesh
    devices = cluster.get("num_devices")
    if nodes and devices and "devices_per_node" not in cluster and devices % nodes == 0 and nodes > 1:
        cluster["devices_per_node"] = devices // nodes
    return cluster


def _mesh(known: Known) -> int | None:
    """Devices of a mesh of which every degree is written down."""
    shard, replicate = known.get("dp_shard"), known.get("dp_replicate", 1)
    if shard is None:
        return None
    return int(prod([shard, replicate, *(known.get(f"strategy.{axis}", 1) for axis in ("tp", "pp", "cp", "sp"))]))


def engine_of(known: Known, devices: Any) -> str:
    """What shards: deepspeed | fsdp | ddp | single | megatron, or nothing where no file gives a hint.

    known : merged facts. [-]   devices : their number, if it is known. [-]
    """
    program, stated = known.get("program"), known.get("engine")
    if program == "megatron":
        return "deepspeed" if known.get("megatron_deepspeed") or known.get("deepspeed_file") else "megatron"
    if known.get("megatron_mesh"):
        return "megatron"
    if stated == "ddp" and devices == 1:
        return "single"
    if stated:
        return str(stated)
    if known.get("deepspeed_file") or known.get("strategy.zero_stage"):
        return "deepspeed"
    if known.get("fsdp_sharding") or known.get("dp_shard", 1) > 1:
        return "fsdp"
    if program is None:
        return ""
    if program == "torchtune":
        return "fsdp" if (devices or 1) > 1 or known.get("fsdp_offload") else "single"
    return "single" if devices == 1 else "ddp"
