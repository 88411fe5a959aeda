"""Rules of pipelines, of expert-parallel groups and of groups of ranks that share states."""

from __future__ import annotations

import numpy as np

from vramsim.equations.pipeline import virtual_layers
from vramsim.layout import expert_degree
from vramsim.rules.rule import Mask, Rule, show
from vramsim.spec import Setup
from vramsim.units import Num


def _pieces(setup: Setup) -> Num:
    """Layers that a split over stages counts. [-]"""
    return virtual_layers(float(setup.model.num_layers), setup.framework.balanced_ends)


def _chunks(setup: Setup) -> Num:
    """Runs of consecutive layers that devices hold, all together. [-]"""
    return setup.strategy.pp * setup.strategy.vpp * (2.0 if setup.strategy.schedule == "zb-v" else 1.0)


def _layers_split(setup: Setup) -> Mask:
    # Uneven splits are allowed: DeepSpeed makes them, Megatron takes a layout; the fullest stage counts.
    no_pipeline = np.equal(setup.strategy.pp, 1) & np.equal(setup.strategy.vpp, 1)
    return no_pipeline | np.less_equal(_chunks(setup), _pieces(setup))


def _explain_layers(setup: Setup) -> str:
    pieces, chunks, s = _pieces(setup), float(_chunks(setup)), setup.strategy
    ends = " and its ends" if setup.framework.balanced_ends else ""
    product = "pp" if chunks == float(s.pp) else "pp times the chunks of a device"
    return (
        f"{product} must be at most the layers of {setup.model.name}{ends}: {show(chunks)} > {show(pieces)}; set "
        f"{product} to {show(pieces)} or less"
    )


def _chunks_interleave(setup: Setup) -> Mask:
    strategy = setup.strategy
    interleaved = np.greater(strategy.pp, 1) & np.bool_(strategy.schedule in ("1f1b", "interleaved"))
    return np.equal(strategy.vpp, 1) | interleaved


def _explain_chunks(setup: Setup) -> str:
    strategy = setup.strategy
    return (
        f"vpp interleaves the stages of a pipeline: vpp is {show(strategy.vpp)}, pp is {show(strategy.pp)}, "
        f"schedule is {strategy.schedule}; set vpp to 1, or pp to 2 or more and schedule to interleaved"
    )


def _batches_interleave(setup: Setup) -> Mask:
    steps = setup.training.gradient_accumulation_steps
    return np.equal(setup.strategy.vpp, 1) | np.equal(np.mod(steps, setup.strategy.pp), 0)


def _explain_batches(setup: Setup) -> str:
    steps, pp = float(setup.training.gradient_accumulation_steps), float(setup.strategy.pp)
    return (
        f"micro-batches of an interleaved pipeline must be a multiple of pp: {show(steps)} % {show(pp)} = "
        f"{show(steps % pp)}; set gradient_accumulation_steps to {show(np.ceil(steps / pp) * pp)} or vpp to 1"
    )


def _pairs_of_stages(setup: Setup) -> Mask:
    pp = setup.strategy.pp
    return setup.strategy.schedule != "dualpipe" or np.equal(pp, 1) | np.equal(np.mod(pp, 2), 0)


def _explain_pairs(setup: Setup) -> str:
    pp = float(setup.strategy.pp)
    return f"schedule dualpipe pairs the stages, so pp must be even, got {show(pp)}; set it to {show(pp + 1)}"


def _batches_both_ways(setup: Setup) -> Mask:
    pp, steps = setup.strategy.pp, setup.training.gradient_accumulation_steps
    enough = np.equal(np.mod(steps, 2), 0) & np.greater_equal(steps, 2.0 * pp)
    return setup.strategy.schedule != "dualpipe" or np.equal(pp, 1) | enough


def _explain_both_ways(setup: Setup) -> str:
    steps, pp = float(setup.training.gradient_accumulation_steps), float(setup.strategy.pp)
    return (
        f"schedule dualpipe sends an even number of micro-batches, 2 pp or more, from both ends: "
        f"gradient_accumulation_steps is {show(steps)}, pp is {show(pp)}; set it to "
        f"{show(max(2.0 * pp, 2.0 * np.ceil(steps / 2.0)))}"
    )


def _gradients_stay_whole(setup: Setup) -> Mask:
    if setup.framework.engine != "deepspeed":
        return True
    return np.equal(setup.strategy.pp, 1) | np.less_equal(setup.strategy.zero_stage, 1)


def _explain_gradients(setup: Setup) -> str:
    return (
        f"DeepSpeed's pipeline keeps whole gradients, so zero_stage must be 0 or 1: zero_stage is "
        f"{show(setup.strategy.zero_stage)}, pp is {show(setup.strategy.pp)}; set zero_stage to 1 or pp to 1"
    )


def _experts_divide(setup: Setup) -> Mask:
    held: Mask = True
    for experts in {block.mlp.experts for block in setup.model.blocks if block.mlp.experts} or {1}:
        held = held & np.equal(np.mod(experts, setup.strategy.ep), 0)
    return held


def _explain_experts(setup: Setup) -> str:
    experts = max(block.mlp.experts for block in setup.model.blocks)
    return (
        f"experts must be divisible by ep: {setup.model.name} has {experts or 'no'} experts, ep is "
        f"{show(setup.strategy.ep)}; set ep to {f'a divisor of {experts}' if experts else '1'}"
    )


def _experts_fit(setup: Setup) -> Mask:
    return np.equal(np.mod(_expert_ranks(setup), setup.strategy.ep), 0)


def _expert_ranks(setup: Setup) -> Num:
    """Ranks that share out the experts of a stage: all of it, but for those among which one expert is cut. [-]"""
    return setup.shard_degree * setup.strategy.tp / expert_degree(setup)


def _explain_fit(setup: Setup) -> str:
    ep, found = float(setup.strategy.ep), float(_expert_ranks(setup))
    return (
        f"ep must divide the ranks that share out experts: num_devices/(etp*pp), etp being tp unless set, = "
        f"{show(found)}, {show(found)} % {show(ep)} = {show(found % ep)}; set ep to a divisor of {show(found)}"
    )


def _parts_divide(setup: Setup) -> Mask:
    strategy = setup.strategy
    return np.equal(strategy.etp, 0) | np.equal(np.mod(strategy.tp, np.maximum(strategy.etp, 1.0)), 0)


def _explain_parts(setup: Setup) -> str:
    tp, etp = float(setup.strategy.tp), float(setup.strategy.etp)
    return (
        f"etp must divide tp, whose ranks share an expert: {show(tp)} % {show(etp)} = {show(tp % etp)}; set etp to a "
        f"divisor of {show(tp)}, or to 0 for as many as tp"
    )


def _group_divides(setup: Setup, size: Num) -> Mask:
    return np.equal(size, 0) | np.equal(np.mod(setup.shard_degree, np.maximum(size, 1.0)), 0)


def _explain_group(setup: Setup, name: str) -> str:
    size, found = float(getattr(setup.strategy, name)), float(setup.shard_degree)
    return (
        f"{name} must divide the ranks that hold the same slice of the model: num_devices/(tp*pp) = {show(found)}, "
        f"{show(found)} % {show(size)} = {show(found % size)}; set {name} to a divisor of {show(found)}"
    )


def _shares_states(setup: Setup) -> Mask:
    """Whether the engine can share states in groups: HSDP, or MiCS in ZeRO's stage 3."""
    strategy, engine = setup.strategy, setup.framework.engine
    third = np.equal(strategy.zero_stage, 3)
    sharing = np.bool_(engine in ("fsdp1", "fsdp2")) | (np.bool_(engine == "deepspeed") & third)
    second = np.bool_(engine == "deepspeed") & third
    return (np.equal(strategy.shard_size, 0) | sharing) & (np.equal(strategy.secondary_shard_size, 0) | second)


def _explain_shares(setup: Setup) -> str:
    s = setup.strategy
    return (
        "shard_size needs fsdp2, or deepspeed at zero_stage 3, and secondary_shard_size the latter: shard_size is "
        f"{show(s.shard_size)}, secondary_shard_size is {show(s.secondary_shard_size)}, framework is "
        f"{setup.framework.name}, zero_stage is {show(s.zero_stage)}; set both to 0"
    )


RULES: tuple[Rule, ...] = (
    Rule("pp splits layers", _layers_split, _explain_layers),
    Rule("vpp interleaves", _chunks_interleave, _explain_chunks),
    Rule("pp divides interleaved micro-batches", _batches_interleave, _explain_batches),
    Rule("dualpipe pairs stages", _pairs_of_stages, _explain_pairs),
    Rule("dualpipe feeds both ends", _batches_both_ways, _explain_both_ways),
    Rule("pipeline keeps whole gradients", _gradients_stay_whole, _explain_gradients),
    Rule("ep divides experts", _experts_divide, _explain_experts),
    Rule("etp divides tp", _parts_divide, _explain_parts),
    Rule("ep divides ranks", _experts_fit, _explain_fit),
    Rule("groups share states", _shares_states, _explain_shares),
    Rule(
        "shard_size divides ranks",
        lambda s: _group_divides(s, s.strategy.shard_size),
        lambda s: _explain_group(s, "shard_size"),
    ),
    Rule(
        "secondary_shard_size divides ranks",
        lambda s: _group_divides(s, s.strategy.secondary_shard_size),
        lambda s: _explain_group(s, "secondary_shard_size"),
    ),
)
