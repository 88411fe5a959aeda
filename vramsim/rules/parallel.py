"""Rules of parallelism: which degrees, stages and lengths go together."""

from __future__ import annotations

import numpy as np

from vramsim.rules.rule import Mask, Rule, show
from vramsim.spec import Setup
from vramsim.units import Num


def _degree(setup: Setup) -> Num:
    """Ranks that work on the same sequences. [-]"""
    strategy = setup.strategy
    return strategy.tp * strategy.pp * strategy.cp * strategy.sp


def _degrees(setup: Setup) -> str:
    s = setup.strategy
    return f"{show(s.tp)}*{show(s.pp)}*{show(s.cp)}*{show(s.sp)} = {show(_degree(setup))}"


def _stage_exists(setup: Setup) -> Mask:
    stage = setup.strategy.zero_stage
    return np.equal(stage, np.floor(stage)) & np.greater_equal(stage, 0) & np.less_equal(stage, 3)


def _stage_fits_engine(setup: Setup) -> Mask:
    stage, engine = setup.strategy.zero_stage, setup.framework.engine
    if engine in ("ddp", "torch"):
        return np.equal(stage, 0)
    if engine == "megatron":
        return np.less_equal(stage, 1)
    return np.greater_equal(stage, 2) if engine in ("fsdp1", "fsdp2") else True


def _explain_stage(setup: Setup) -> str:
    name, stage = setup.framework.name, show(setup.strategy.zero_stage)
    if setup.framework.engine in ("fsdp1", "fsdp2"):
        return f"framework {name} shards gradients at least, so zero_stage must be 2 or 3, got {stage}; set it to 3"
    if setup.framework.engine == "megatron":
        return f"framework {name} shards optimizer states only, so zero_stage must be 0 or 1, got {stage}; set it to 1"
    return f"framework {name} does not shard: zero_stage must be 0, got {stage}; set it to 0 or use deepspeed or fsdp2"


def _world_divides(setup: Setup) -> Mask:
    return np.equal(np.mod(setup.cluster.num_devices, _degree(setup)), 0)


def _explain_world(setup: Setup) -> str:
    devices, degree = float(setup.cluster.num_devices), float(_degree(setup))
    return (
        f"num_devices must be a multiple of tp*pp*cp*sp: {show(devices)} % ({_degrees(setup)}) = "
        f"{show(devices % degree)}; set num_devices to {show(np.ceil(devices / degree) * degree)} or lower a degree"
    )


def _one_process(setup: Setup) -> Mask:
    if setup.framework.engine != "torch":
        return True
    strategy = setup.strategy
    return np.equal(setup.cluster.num_devices, strategy.tp * strategy.pp * strategy.cp)


def _explain_one_process(setup: Setup) -> str:
    strategy = setup.strategy
    degree = strategy.tp * strategy.pp * strategy.cp
    return (
        f"framework {setup.framework.name} has no data parallelism, so num_devices must be tp*pp*cp: "
        f"{show(setup.cluster.num_devices)} != {show(degree)}; set num_devices to {show(degree)} or use ddp, fsdp2 "
        "or deepspeed"
    )


def _nodes_are_full(setup: Setup) -> Mask:
    return np.equal(np.mod(setup.cluster.num_devices, setup.cluster.devices_per_node), 0)


def _explain_nodes(setup: Setup) -> str:
    devices, per_node = int(setup.cluster.num_devices), int(setup.cluster.devices_per_node)
    fitting = max(n for n in range(1, min(per_node, 4096) + 1) if devices % n == 0)
    filled = (devices // per_node + 1) * per_node
    return (
        f"num_devices must be at most devices_per_node or a multiple of it: {devices} % {per_node} = "
        f"{devices % per_node}; set devices_per_node to {fitting} or num_devices to {filled}"
    )


def _heads_divide_tp(setup: Setup) -> Mask:
    held: Mask = True
    tp = setup.strategy.tp
    for attention in {block.attention for block in setup.model.blocks}:
        held = held & np.equal(np.mod(attention.heads, tp), 0)
        held = held & (np.equal(np.mod(attention.kv_heads, tp), 0) | np.equal(np.mod(tp, attention.kv_heads), 0))
    return held


def _explain_heads_tp(setup: Setup) -> str:
    attention, tp = setup.model.blocks[0].attention, show(setup.strategy.tp)
    return (
        f"attention heads must be divisible by tp: {attention.heads} query and {attention.kv_heads} key/value heads of "
        f"{setup.model.name} against tp {tp}; set tp to a divisor of {attention.heads}"
    )


def _heads_divide_sp(setup: Setup) -> Mask:
    # XTuner splits heads further along head_dim where they do not divide; the others assert.
    if setup.framework.name.startswith("xtuner"):
        return True
    heads = {block.attention.heads for block in setup.model.blocks}
    held: Mask = True
    for count in heads:
        held = held & np.equal(np.mod(count, setup.strategy.tp * setup.strategy.sp), 0)
    return held


def _explain_heads_sp(setup: Setup) -> str:
    heads, s = setup.model.blocks[0].attention.heads, setup.strategy
    return (
        f"attention heads of {setup.model.name} must be divisible by tp*sp: {heads} % ({show(s.tp)}*{show(s.sp)} = "
        f"{show(s.tp * s.sp)}) = {show(heads % float(s.tp * s.sp))}; set sp to a divisor of {heads}"
    )


def _sequence_divides(setup: Setup) -> Mask:
    return np.equal(np.mod(setup.training.seq_len, setup.strategy.cp * setup.strategy.sp), 0)


def _explain_sequence(setup: Setup) -> str:
    length, s = float(setup.training.seq_len), setup.strategy
    share = float(s.cp * s.sp)
    return (
        f"seq_len must be a multiple of cp*sp: {show(length)} % ({show(s.cp)}*{show(s.sp)} = {show(share)}) = "
        f"{show(length % share)}; set seq_len to {show(np.ceil(length / share) * share)}"
    )


def _positions_suffice(setup: Setup) -> Mask:
    return np.less_equal(setup.training.seq_len, setup.model.positions) if setup.model.positions else True


def _explain_positions(setup: Setup) -> str:
    return (
        f"seq_len must be at most the learned positions of {setup.model.name}: {show(setup.training.seq_len)} > "
        f"{setup.model.positions}; set seq_len to {setup.model.positions} or less"
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "zero_stage exists",
        _stage_exists,
        lambda s: f"zero_stage must be 0, 1, 2 or 3, got {show(s.strategy.zero_stage)}",
    ),
    Rule("zero_stage fits framework", _stage_fits_engine, _explain_stage),
    Rule("degrees divide num_devices", _world_divides, _explain_world),
    Rule("one process", _one_process, _explain_one_process),
    Rule("nodes are full", _nodes_are_full, _explain_nodes),
    Rule("tp divides heads", _heads_divide_tp, _explain_heads_tp),
    Rule("sp divides heads", _heads_divide_sp, _explain_heads_sp),
    Rule("cp and sp divide seq_len", _sequence_divides, _explain_sequence),
    Rule("seq_len within positions", _positions_suffice, _explain_positions),
)
