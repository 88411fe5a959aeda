"""Changes that people make to a run to save memory or time; each keeps the sequences per optimizer step if it can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vramsim.case import Case
from vramsim.spec import Setup

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Move:
    """A change of a case: the fields it is about, and the values it would give them (None: it does not apply).

    `alters` says that it trains something else: other weights, other data, or with other numerics.
    """

    name: str
    fields: tuple[str, ...]
    values: Callable[[Case], Values | None]
    note: str = ""
    alters: bool = False


def _to(
    name: str,
    *,
    unless: Callable[[Setup], bool] = lambda setup: False,
    note: str = "",
    alters: bool = False,
    **values: Any,
) -> Move:
    """Move to fixed values."""
    keys = {_DOTTED.get(key, key): value for key, value in values.items()}
    return Move(name, tuple(keys), lambda case: None if unless(case.resolve()) else dict(keys), note, alters)


_DOTTED = {
    "loss": "framework.loss",
    "norm": "framework.norm",
    "activation": "framework.activation",
}


def _accumulating(case: Case, factor: float) -> Values | None:
    """What keeps the sequences per step when each rank's micro-steps must grow by a factor; None if nothing does."""
    if case.training.global_batch_size is not None:
        return {}
    steps = float(case.resolve().training.gradient_accumulation_steps) * factor
    return {"gradient_accumulation_steps": int(steps)} if steps >= 1.0 and steps.is_integer() else None


def _sequence_parallel(factor: float) -> Move:
    def values(case: Case) -> Values | None:
        degree = float(case.resolve().strategy.sp) * factor
        kept = _accumulating(case, factor)
        return None if kept is None or degree < 1.0 else {"sp": int(degree), **kept}

    return Move(f"sp {'x' if factor > 1 else '/'}{max(factor, 1 / factor):g}", ("sp",), values)


def _micro_batch(factor: float) -> Move:
    def values(case: Case) -> Values | None:
        size = float(case.resolve().training.micro_batch_size) * factor
        kept = _accumulating(case, 1.0 / factor)
        return {"micro_batch_size": int(size), **kept} if kept is not None and size.is_integer() else None

    note = "more accumulation alone would save nothing: the smaller micro-batch does" if factor < 1.0 else ""
    return Move(f"micro_batch_size {'halved' if factor < 1.0 else 'doubled'}", ("micro_batch_size",), values, note)


def _more_devices(factor: float) -> Move:
    def values(case: Case) -> Values | None:
        setup = case.resolve()
        if setup.framework.engine == "torch":
            return None
        # Where accumulation cannot shrink by as much, the step has more sequences.
        kept = _accumulating(case, 1.0 / factor) or {}
        return {"num_devices": int(float(setup.cluster.num_devices) * factor), **kept}

    return Move(f"num_devices x{factor:g}", ("num_devices",), values)


def _zero_stage(stage: float, *, up: bool) -> Move:
    def values(case: Case) -> Values | None:
        now = float(case.resolve().strategy.zero_stage)
        return {"zero_stage": int(stage)} if (stage > now if up else stage < now) else None

    return Move(f"zero_stage {stage:g}", ("zero_stage",), values)


def _half_length(case: Case) -> Values | None:
    half = float(case.resolve().training.seq_len) / 2.0
    return {"seq_len": int(half)} if half.is_integer() else None


def _recomputes(setup: Setup) -> bool:
    strategy = setup.strategy
    return float(strategy.recompute + strategy.recompute_selective + strategy.recompute_op) > 0.0


ADAPTERS = "only adapters train"

SMALLER: tuple[Move, ...] = (
    _to("recompute full", recompute="full", unless=lambda s: float(s.strategy.recompute) == 1.0),
    _to("recompute selective", recompute="selective", unless=_recomputes),
    *(_zero_stage(stage, up=True) for stage in (1.0, 2.0, 3.0)),
    *(_sequence_parallel(factor) for factor in (2.0, 4.0, 8.0)),
    _micro_batch(0.5),
    *(_more_devices(factor) for factor in (2.0, 4.0)),
    _to(
        "offload_optimizer cpu",
        offload_optimizer="cpu",
        unless=lambda s: float(s.strategy.offload_optimizer) == 1.0,
    ),
    _to(
        "offload_optimizer and offload_parameters cpu",
        offload_optimizer="cpu",
        offload_parameters="cpu",
        unless=lambda s: float(s.strategy.offload_parameters) == 1.0,
    ),
    _to("loss liger", loss="liger", unless=lambda s: s.framework.loss == "liger"),
    _to("loss chunked", loss="chunked", unless=lambda s: s.framework.loss in ("liger", "chunked")),
    _to("lora", method="lora", unless=lambda s: s.training.method != "full", note=ADAPTERS, alters=True),
    _to(
        "qlora nf4_dq",
        method="qlora",
        quantization="nf4_dq",
        unless=lambda s: s.training.method == "qlora",
        note=ADAPTERS,
        alters=True,
    ),
    _to("8-bit AdamW", optimizer="adamw_8bit", unless=lambda s: "8bit" in s.training.optimizer.name, alters=True),
    Move("seq_len halved", ("seq_len",), _half_length, "longer sequences are cut", alters=True),
)
"""What saves memory."""

FASTER: tuple[Move, ...] = (
    _to("recompute none", recompute="none", unless=lambda s: not _recomputes(s)),
    _to("recompute selective", recompute="selective", unless=lambda s: float(s.strategy.recompute) == 0.0),
    _to("recompute half of the layers", recompute=0.5, unless=lambda s: float(s.strategy.recompute) <= 0.5),
    _to(
        "offload_parameters none",
        offload_parameters="none",
        unless=lambda s: float(s.strategy.offload_parameters) == 0.0,
    ),
    _to(
        "offload_optimizer and offload_parameters none",
        offload_optimizer="none",
        offload_parameters="none",
        unless=lambda s: float(s.strategy.offload_optimizer) == 0.0,
    ),
    *(_zero_stage(stage, up=False) for stage in (2.0, 1.0)),
    *(_sequence_parallel(factor) for factor in (0.5, 0.25)),
    _micro_batch(2.0),
    _to(
        "fused norm and activation",
        norm="fused",
        activation="fused",
        unless=lambda s: s.framework.norm == s.framework.activation == "fused",
    ),
    _to("fused AdamW", optimizer="adamw_fused", unless=lambda s: s.training.optimizer.temporary == "fused"),
)
"""What saves time."""
