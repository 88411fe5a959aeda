"""The laws: plain functions of a setup that raise AssertionError with the numbers that break them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vramsim import layout, rules
from vramsim.estimate import Estimate
from vramsim.graph import Graph, assemble
from vramsim.parts import DEFAULT, Part, sharding
from vramsim.simulate import simulate
from vramsim.spec import Category, Component, Link, Phase, Setup, Tier
from vramsim.units import Num

Parts = Sequence[Part]

STATES = (Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER_STATE)
SHARDED_UNITS = (2.0, 3.0)
STAGES = {
    "deepspeed": (0.0, 1.0, 2.0, 3.0),
    "fsdp1": SHARDED_UNITS,
    "fsdp2": SHARDED_UNITS,
    "ddp": (0.0,),
    "megatron": (0.0, 1.0),
    "torch": (0.0,),
}
"""ZeRO stages that an engine has."""
ELEMENT = 24.0
"""More bytes than any model states of one element take: weight, gradient, fp32 copies, two moments. [B]"""
ROUNDED = 1.0
"""Every component is rounded up to whole bytes, so an equality between components holds to one byte each. [B]"""


# Reading an estimate --------------------------------------------------------------------------------------------------


def numbers(estimate: Estimate) -> dict[str, Any]:
    """Every number of an estimate by its dotted name.

    estimate : of one case, or of a grid. [-]
    """
    hbm, time = estimate.memory.hbm, estimate.time
    found: dict[str, Any] = {"fits": estimate.fits}
    for name in ("allocated_bytes", "reserved_bytes", "used_bytes", "headroom_bytes", "peak_phase"):
        found[f"hbm.{name}"] = getattr(hbm, name)
    found |= {f"hbm.by_phase.{name}": value for name, value in hbm.by_phase.items()}
    found["host.used"] = estimate.memory.host.used_bytes_per_node
    found["nvme.used"] = estimate.memory.nvme.used_bytes_per_node
    for name in ("step_seconds", "lower_seconds", "upper_seconds", "tokens_per_second_per_device", "mfu", "hfu"):
        found[f"time.{name}"] = getattr(time, name)
    return found | {f"time.by_activity.{name}": value for name, value in time.by_activity.items()}


def placed(graph: Graph, categories: Sequence[Category], tier: Tier | None = None, phase: Phase = Phase.STEP) -> Num:
    """Bytes of some categories that one device keeps in a tier (in all tiers) during a phase. [B]

    graph : assembled run. [-]   categories : which. [-]   tier : where, None for anywhere. [-]   phase : when. [-]
    """
    return sum((c.nbytes for c in living(graph, categories, phase) if tier in (None, c.tier)), 0.0)


def living(graph: Graph, categories: Sequence[Category], phase: Phase) -> list[Component]:
    """Components of some categories that live in a phase.

    graph : assembled run. [-]   categories : which. [-]   phase : when. [-]
    """
    return [c for c in graph.components if c.category in categories and phase in c.live]


def changed(setup: Setup, **values: Num) -> Setup:
    """A setup with some numbers of its cluster, training or strategy set otherwise.

    setup : resolved run. [-]   values : field -> number or array. [as the field]
    """
    parts = {}
    for name in ("cluster", "training", "strategy"):
        record = getattr(setup, name)
        parts[name] = replace(record, **{key: value for key, value in values.items() if hasattr(record, key)})
    return replace(setup, **parts)


def _holds(condition: Any, law: str, **values: Any) -> None:
    if not np.all(condition):
        raise AssertionError(f"{law}: {', '.join(f'{name} = {value!r}' for name, value in values.items())}")


# Laws -----------------------------------------------------------------------------------------------------------------


def broadcast_is_map(grid: Setup, parts: Parts = DEFAULT) -> None:
    """A grid of cases equals the cases one by one, bit for bit.

    grid : setup with arrays. [-]   parts : generators to run. [-]
    """
    shape = rules.grid_shape(grid)
    together = {name: np.broadcast_to(value, shape).ravel() for name, value in numbers(simulate(grid, parts)).items()}
    for index in range(int(np.prod(shape))):
        alone = numbers(simulate(rules.element(grid, index), parts))
        for name, values in together.items():
            # An activity that takes no time anywhere is not listed.
            _holds(values[index] == alone.get(name, 0.0), name, grid=values[index], alone=alone.get(name, 0.0))
        _holds(not alone.keys() - together.keys(), "numbers that only the single case has", index=index)


def degree_one_changes_nothing(setup: Setup, axis: str, part: Part, parts: Parts = DEFAULT) -> None:
    """At degree 1 the part that belongs to an axis yields nothing: leaving it out changes no number.

    setup : resolved run. [-]   axis : tp, sp ... [-]   part : the axis's own part. [-]   parts : all parts. [-]
    """
    alone = changed(setup, **{axis: 1.0})
    without = numbers(simulate(alone, [each for each in parts if each is not part]))
    for name, value in numbers(simulate(alone, parts)).items():
        _holds(value == without.get(name, 0.0), f"{axis} of 1 changes {name}", got=value, without=without.get(name))


def one_device_is_silent(setup: Setup, parts: Parts = DEFAULT) -> None:
    """One device alone moves nothing over a network, and Megatron's sequence parallelism over one rank does nothing.

    setup : resolved run. [-]   parts : generators to run. [-]
    """
    degrees = dict.fromkeys(("num_devices", "devices_per_node", "tp", "pp", "cp", "sp", "ep"), 1.0) | {"etp": 0.0}
    alone = changed(setup, **degrees)
    for flow in assemble(alone, parts).flows:
        _holds(flow.link not in (Link.SCALE_UP, Link.SCALE_OUT), "one device", flow=flow.name, seconds=flow.seconds)
    split, whole = (numbers(simulate(changed(alone, megatron_sp=value), parts)) for value in (1.0, 0.0))
    _holds(split == whole, "megatron_sp at tp 1", on=split, off=whole)


def states_never_grow(setup: Setup, parts: Parts = DEFAULT) -> None:
    """Model states never grow with the number of GPUs; nor, beyond padding, with the ZeRO stage.

    Model states are the parameters, gradients and optimizer states alive in the step: gathered weights and gradients
    on their way are not among them. Copies of weights below ZeRO-3's persistence threshold are left out.

    setup : resolved run. [-]   parts : generators to run. [-]
    """
    setup = _plainly(setup)
    before: Num = np.inf
    for factor in (1.0, 2.0, 4.0) if setup.framework.engine != "torch" else ():
        now = placed(assemble(changed(setup, num_devices=setup.cluster.num_devices * factor), parts), STATES)
        _holds(now <= before, "model states against devices", factor=factor, before=before, now=now)
        before = now
    before = np.inf
    plain = changed(setup, offload_optimizer=0.0, offload_parameters=0.0)
    for stage in STAGES[setup.framework.engine]:
        now = placed(assemble(changed(plain, zero_stage=stage), parts), STATES)
        _holds(now <= before + _padding(plain), "model states against the stage", stage=stage, before=before, now=now)
        before = now


def states_shrink_as_shares(setup: Setup, parts: Parts = DEFAULT) -> None:
    """Each state is whole on every rank, or cut into N slices that cover it with no more than padding to spare.

    setup : resolved run. [-]   parts : generators to run. [-]
    """
    if setup.framework.engine == "torch":
        return
    setup = _plainly(setup)
    ranks = setup.shard_degree
    whole = changed(setup, num_devices=setup.cluster.num_devices / ranks)
    states = {(c.name, c.tier): c.nbytes for c in living(assemble(whole, parts), STATES, Phase.STEP)}
    for component in living(assemble(setup, parts), STATES, Phase.STEP):
        once, each = states.get((component.name, component.tier), 0.0), component.nbytes
        spare = ranks * each - once
        cut = np.greater_equal(spare, 0) & np.less_equal(spare, ranks * (_padding(setup) + ROUNDED))
        _holds(np.equal(each, once) | cut, f"slices of {component.name}", ranks=ranks, each=each, whole=once)


def _plainly(setup: Setup) -> Setup:
    """A setup in which small weights are kept once, adapters are cut as the rest is, and pinned buffers are as large as
    asked for."""
    knobs = {"param_persistence_threshold": 0.0, "pinned_rounding": False, "replicates_adapters": False}
    framework = replace(setup.framework, **knobs)  # type: ignore[arg-type]
    return replace(setup, framework=framework)


def _padding(setup: Setup) -> Num:
    """Bytes of states by which one rank's slices may exceed its share: one row (FSDP2) or element of each weight."""
    rows = setup.framework.engine.startswith("fsdp")
    elements = (e.count * (e.weight.numel / e.weight.first_dim if rows else 2.0) for e in layout.ledger_of(setup))
    return ELEMENT * sum(elements, 0.0)


def offload_conserves_bytes(setup: Setup, parts: Parts = DEFAULT) -> None:
    """What leaves the device arrives in the host's memory or on NVMe, to the byte.

    With DeepSpeed and Megatron the gradient's fp32 copy, which the CPU's step reads, comes on top: 4 B for each
    offloaded element. Rounding of pinned buffers is left out.

    setup : resolved run. [-]   parts : generators to run. [-]
    """
    strategy = setup.strategy
    setup = _plainly(setup)
    here = assemble(changed(setup, offload_optimizer=0.0, offload_parameters=0.0), parts)
    away = assemble(setup, parts)
    fp32 = 4.0 * sharding.optimizer_elements(setup) * strategy.offload_optimizer
    for category in STATES:
        copied = setup.framework.engine in ("deepspeed", "megatron")
        more = fp32 if category is Category.GRADIENT and copied else 0.0
        before, after = placed(here, [category]), placed(away, [category])
        slack = ROUNDED * len(living(away, [category], Phase.STEP))
        lost = np.abs(after - before - more)
        _holds(np.less_equal(lost, slack), f"offloaded {category}", before=before, after=after, more=more)
    for tier in (Tier.HOST, Tier.NVME):
        _holds(placed(here, STATES, tier) == 0.0, f"nothing offloaded, but in {tier}", bytes=placed(here, STATES, tier))


def time_is_bracketed(setup: Setup, parts: Parts = DEFAULT) -> None:
    """Lower bound <= estimate <= upper bound, and 0 < MFU <= HFU <= 1.

    setup : resolved run. [-]   parts : generators to run. [-]
    """
    time = simulate(setup, parts).time
    lower, best, upper = time.lower_seconds, time.step_seconds, time.upper_seconds
    # The three are sums of the same terms in different orders.
    rounding = 1e-12 * upper
    held = np.less(0, lower) & np.less_equal(lower, best + rounding) & np.less_equal(best, upper + rounding)
    _holds(held, "time bracket", lower=lower, best=best, upper=upper)
    _holds((time.mfu > 0) & (time.mfu <= time.hfu) & (time.hfu <= 1), "utilisation", mfu=time.mfu, hfu=time.hfu)


LAWS: tuple[Callable[[Setup, Parts], None], ...] = (
    one_device_is_silent,
    states_never_grow,
    states_shrink_as_shares,
    offload_conserves_bytes,
    time_is_bracketed,
)
"""Laws that every valid setup keeps."""


def conforms(setup: Setup, parts: Parts = DEFAULT) -> None:
    """All of `LAWS`.

    setup : resolved run. [-]   parts : generators to run. [-]
    """
    for law in LAWS:
        law(setup, parts)
