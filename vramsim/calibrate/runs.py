"""Measured runs, as setups with what was measured: rows of a table, or a training log and its case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vramsim import catalog
from vramsim.calibrate.fit import Array, Predict
from vramsim.calibrate.logs import Log, read_log
from vramsim.calibrate.parameters import Parameter, Quantity, scaled
from vramsim.case import Case
from vramsim.case.profile import is_profile
from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.simulate import simulate
from vramsim.spec import Device, Setup
from vramsim.units import Num
from vramsim.validate import express, measured_memory
from vramsim.validate.architecture import Inexpressible
from vramsim.validate.rows import Row, read

KINDS = {"torch_allocated": "allocated_bytes", "torch_reserved": "reserved_bytes", "nvidia_smi": "used_bytes"}
"""Kind of a memory reading -> what it compares with."""
OF_A_READING = ("id", "mem_kind", "mem_gib", "quality", "note")
"""Columns in which two rows of one run differ, each with another kind of memory."""
NEARLY_FULL = 0.95
"""Share of the device's usable bytes above which a reading of what is held bounds the need, and is no measure of it."""
FULL = "its memory reading fills the card, and tells no more than that"


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One measured run.

    `setup` is what ran, `timed` the same with sequences of their mean length where that differs from the longest, and
    `device` its device as a case names it. `rate` is in tokens/s per device with the standard error `noise` of its
    logarithm, `memory` in bytes of a `kind` (KINDS); 0 where it was not measured. `assumed` is what was made of blank
    columns: (column, value).
    """

    id: str
    setup: Setup
    timed: Setup
    device: Mapping[str, Any]
    rate: float = 0.0
    noise: float = 0.0
    memory: float = 0.0
    kind: str = "torch_reserved"
    note: str = ""
    assumed: tuple[tuple[str, str], ...] = ()

    def measured(self, quantity: Quantity) -> float:
        """What was measured. [tokens/s or B]

        quantity : throughput | memory. [-]
        """
        return self.rate if quantity == "throughput" else self.memory

    def predicted(self, quantity: Quantity, factors: Mapping[Parameter, Num]) -> Num:
        """What the model says on a machine with other parameters. [tokens/s or B]

        quantity : throughput | memory. [-]   factors : parameter -> factor on its value; arrays broadcast. [-]
        """
        if quantity == "throughput":
            return simulate(scaled(self.timed, factors)).time.tokens_per_second_per_device
        found: Num = getattr(simulate(scaled(self.setup, factors)).memory.hbm, KINDS[self.kind])
        return found


def predictor(runs: Sequence[Run], parameters: Sequence[Parameter], quantity: Quantity) -> Predict:
    """The model as a fit sees it: log predictions of runs at points of log factors.

    runs : measured runs. [-]   parameters : those that change. [-]   quantity : throughput | memory. [-]
    """

    def predict(points: Array) -> Array:
        factors = {parameter: np.exp(points[:, index]) for index, parameter in enumerate(parameters)}
        one = {parameter: float(values[0]) for parameter, values in factors.items()}
        chosen: Mapping[Parameter, Num] = factors if len(points) > 1 else one
        columns = [np.broadcast_to(run.predicted(quantity, chosen), (len(points),)) for run in runs]
        return np.asarray(np.log(np.stack(columns, axis=1)), dtype=np.float64)

    return predict


def from_table(
    source: str | Path | Iterable[Row], only: Mapping[str, str] | None = None
) -> tuple[list[Run], Counter[str]]:
    """Runs of a table of measurements, and how many of its rows say nothing, by reason.

    source : CSV file with the columns of studies/validation/measurements.csv, or rows of one. [-]
    only : column -> text that it must hold, whatever the case; all rows if left out. [-]
    Raises VramsimError when the table cannot be read.
    """
    rows = read(source) if isinstance(source, str | Path) else list(source)
    for column in only or {}:
        if rows and column not in rows[0].columns:
            raise VramsimError(f"--only names the column {shown(column)}; known are {', '.join(rows[0].columns)}")
    chosen = [row for row in rows if all(text.lower() in row.text(key).lower() for key, text in (only or {}).items())]
    runs: list[Run] = []
    skipped: Counter[str] = Counter()
    timed: set[tuple[str, ...]] = set()
    for row in chosen:
        try:
            run = _of_row(row)
        except Inexpressible as reason:
            skipped[str(reason)] += 1
            continue
        # One run may have a row for each kind of memory: its rate is one measurement.
        same = tuple(text for name, text in row.columns.items() if name not in OF_A_READING)
        if same in timed:
            run = replace(run, rate=0.0)
        timed.add(same)
        if _fills(run.setup, run.memory, run.kind):
            skipped[FULL] += 1
            run = replace(run, memory=0.0)
            if not run.rate:
                continue
        if run.rate or run.memory:
            runs.append(run)
        else:
            skipped["neither a rate nor memory of a stated kind"] += 1
    return runs, skipped


def _of_row(row: Row) -> Run:
    expressed = express(row)
    setup, timed = expressed.setup, expressed.timed
    # A rate counts mean tokens, the step has those of the slowest rank.
    rate = row.number("tokens_per_s_per_gpu", 0.0) * expressed.slowest
    if not rate and row.number("step_time_s", 0.0) > 0.0:
        rate = step_tokens(timed) / row.number("step_time_s")
    kind = row.text("mem_kind", "unknown")
    memory = measured_memory(row) if kind in KINDS else None
    return Run(
        id=row.id,
        setup=setup,
        timed=timed,
        device=_named(setup.cluster.device),
        rate=max(rate, 0.0),
        memory=max(memory or 0.0, 0.0),
        kind=kind if kind in KINDS else "torch_reserved",
        assumed=expressed.assumptions,
    )


def _fills(setup: Setup, memory: float, kind: str) -> bool:
    """Whether the allocator took what there was rather than what it needed."""
    return kind != "torch_allocated" and memory > NEARLY_FULL * setup.cluster.device.usable_memory


def _named(device: Device) -> dict[str, Any]:
    """A device of the catalog as a case writes it, with the memory of the card at hand."""
    usual = catalog.device(device.name)
    sizes = {name: getattr(device, name) for name in ("memory", "usable_memory")}
    return {"base": device.name, **{name: size for name, size in sizes.items() if size != getattr(usual, name)}}


def from_log(path: str | Path, case: Case | str | Path | Mapping[str, Any]) -> Run:
    """The run that a training log tells of.

    path : log (calibrate.logs.read_log). [-]   case : what ran, or the file that says so. [-]
    Raises VramsimError for a log or a case that cannot be read, and for a case that is many.
    """
    asked = case if isinstance(case, Case) else Case.load(case)
    setup = asked.resolve()
    device = asked.cluster.device
    named = device if isinstance(device, str) else device.get("base", "")
    if isinstance(named, str) and is_profile(named):
        raise VramsimError("the case of a log must name a device of the catalog, not one that is already a profile")
    if np.ndim(simulate(setup).time.step_seconds):
        raise VramsimError("the case of a log must be one case, but this one holds a grid: give one value per field")
    log = read_log(path)
    memory, kind = log.reserved or log.allocated or 0.0, "torch_reserved" if log.reserved else "torch_allocated"
    full = _fills(setup, memory, kind)
    return Run(
        id=str(path),
        setup=setup,
        timed=setup,
        device={"base": setup.cluster.device.name} if isinstance(device, str) else device,
        rate=_rate(log, setup),
        noise=log.noise,
        memory=0.0 if full else memory,
        kind=kind,
        note=_told(log) + (f"; {FULL}" if full else ""),
    )


def step_tokens(setup: Setup) -> float:
    """Tokens of one optimizer step, per device. [tokens]

    setup : resolved run. [-]
    """
    return float(setup.training.seq_len * setup.global_batch_size / setup.cluster.num_devices)


def _rate(log: Log, setup: Setup) -> float:
    if log.measure == "rate":
        return log.value
    steps = float(setup.training.gradient_accumulation_steps) if log.measure == "micro-step" else 1.0
    return step_tokens(setup) / (log.value * steps)


def _told(log: Log) -> str:
    what = {"step": "s a step", "micro-step": "s a micro-step", "rate": "tokens/s per device"}[log.measure]
    told = (
        f"{log.format}: {log.value:,.4g} {what}, the median of {log.readings} readings after {log.dropped} of warm-up"
    )
    return told + (f" ({log.note})" if log.note else "")
