"""Ring attention and ZeRO++: what travels, and what it takes to hold it."""

from __future__ import annotations

import pytest

from vramsim import Case, assemble, simulate
from vramsim.parts import communication, ring
from vramsim.spec import Link, Phase


def long_case(framework: str, cp: float) -> Case:
    return Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 8},
        framework=framework,
        training={"seq_len": 65536, "precision": "bf16"},
        strategy={"recompute": "full", "cp": cp},
    )


@pytest.mark.parametrize("framework", ["megatron", "fsdp2"])
def test_ring_buffers(framework: str) -> None:
    """None without a ring; with one, the keys and values of the whole sequence at least, however it is cut."""
    assert not any(each.nbytes for each in ring.buffers(long_case(framework, 1.0).resolve()))
    whole = 2 * 2 * 65536 * 8 * 128
    for cp in (2.0, 4.0, 8.0):
        forward = [c for c in ring.buffers(long_case(framework, cp).resolve()) if Phase.FORWARD in c.live]
        assert sum(float(c.nbytes) for c in forward) >= whole


def test_second_copy_keeps_backward_in_the_node() -> None:
    """ZeRO++ (hpZ): backward's gathers leave the wires between nodes, forward's do not, and fewer bytes move."""
    case = Case(
        model="llama-3-8b",
        cluster={"device": "a100-sxm-80gb", "num_devices": 32, "devices_per_node": 8},
        framework="deepspeed",
        training={"seq_len": 4096, "precision": "bf16"},
        strategy={"zero_stage": 3, "recompute": "full"},
    )

    def gathers(each: Case) -> dict[tuple[str, Link], float]:
        flows = [flow for flow in assemble(each).flows if flow.name.startswith("gather parameters")]
        return {(flow.name, flow.link): float(flow.nbytes) for flow in flows}

    plain, near = gathers(case), gathers(case.with_values({"strategy.secondary_shard_size": 8}))
    assert plain["gather parameters, backward", Link.SCALE_OUT] > 0
    assert ("gather parameters, backward", Link.SCALE_OUT) not in near
    assert near["gather parameters, forward", Link.SCALE_OUT] == plain["gather parameters, forward", Link.SCALE_OUT]
    inside = near["gather parameters, backward", Link.SCALE_UP]
    assert inside == pytest.approx(plain["gather parameters, backward", Link.SCALE_OUT] * (7 / 8) / (31 / 32))


@pytest.mark.parametrize("framework", ["fsdp2", "deepspeed"])
def test_shard_groups_stay_in_the_node_and_reduce_shards_between_nodes(framework: str) -> None:
    """HSDP and MiCS. Provenance: by hand: groups of 8 of 32 devices gather 7/8 of the weights over the fast links, and
    all-reduce an eighth of the gradients over four nodes, 2 x 3/4 of it."""
    case = Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": 32, "devices_per_node": 8},
        framework=framework,
        training={"seq_len": 4096, "precision": "bf16"},
        strategy={"zero_stage": 3, "recompute": "full", "shard_size": 8},
    )
    setup = case.resolve()
    flows = {flow.name: flow for flow in assemble(case).flows if flow.seconds}
    weights = communication.gathered_bytes(setup)
    assert flows["gather parameters, forward"].link is Link.SCALE_UP
    assert flows["gather parameters, forward"].nbytes == pytest.approx(7 / 8 * weights)
    shards = flows["reduce shards of gradients"]
    element = {"fsdp2": 4.0, "deepspeed": 2.0}[framework]
    assert shards.link is Link.SCALE_OUT
    assert shards.nbytes == pytest.approx(2 * 3 / 4 * element * 8_030_261_248 / 8)


@pytest.mark.parametrize("framework", ["fsdp2", "deepspeed"])
def test_one_shard_group_is_none(framework: str) -> None:
    case = long_case(framework, 1.0).with_values({"strategy.zero_stage": 3})
    one = case.with_values({"strategy.shard_size": 8})
    assert simulate(one).time.step_seconds == simulate(case).time.step_seconds
