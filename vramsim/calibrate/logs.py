"""Training logs: step times, rates and memory that training programs print, each format by a reader of its own.

Formats were read in the sources that print them: pytorch/torchtitan components/metrics.py, NVIDIA/Megatron-LM
training/training.py and utils.py (report_memory), InternLM/xtuner v1/train/trainer.py, open-mmlab/mmengine
runner/log_processor.py (XTuner v0.1), huggingface/transformers trainer_utils.py (speed_metrics), hiyouga/LLaMA-Factory
train/callbacks.py, modelscope/ms-swift trainers (logging.jsonl).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vramsim.catalog.tables import shown
from vramsim.errors import VramsimError
from vramsim.units import GiB, MiB

LARGEST_LOG = 500_000_000
"""Bytes; a larger file is no log of one run."""
WARM_UP = 0.1
"""Share of the readings dropped as warm-up (compilation, allocator, communicators), at least LEAST of them. [-]"""
LEAST = 2

Measure = Literal["step", "micro-step", "rate"]


@dataclass(frozen=True, slots=True)
class Log:
    """What a log says: the median of its readings without warm-up, their standard error, and peak memory.

    `value` is seconds of a `step` or of a `micro-step`, or a `rate` in tokens/s per device. `noise` is the standard
    error of its logarithm. Memory in bytes, None where the log has none. `note` says what to be wary of.
    """

    format: str
    measure: Measure
    value: float
    noise: float
    readings: int
    dropped: int
    allocated: float | None = None
    reserved: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Found:
    """Readings in order, before warm-up is dropped."""

    measure: Measure
    values: list[float]
    allocated: list[float]
    reserved: list[float]
    note: str = ""


def read_log(path: str | Path) -> Log:
    """What a training log says about time and memory.

    path : text log of torchtitan, Megatron-LM or XTuner; trainer_state.json or JSON lines of Hugging Face's. [-]
    Raises VramsimError for a file that cannot be read, and for one in which no step time is found.
    """
    path = Path(path)
    text = _text(path)
    for name, reader in READERS.items():
        found = reader(text)
        if found is not None and found.values:
            return _summary(name, found)
    raise VramsimError(
        f"{shown(str(path))} holds no step times that can be read; known are a CSV table of runs, and logs of "
        f"{', '.join(READERS)}"
    )


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_LOG:
            raise VramsimError(f"the log {shown(str(path))} has {path.stat().st_size} bytes; at most {LARGEST_LOG}")
        content = path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        if isinstance(error, VramsimError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise VramsimError(f"cannot read the log {shown(str(path))}: {reason}") from None
    return re.sub(r"\x1b\[[0-9;]*m", "", content)


def _summary(name: str, found: _Found) -> Log:
    values = np.array(found.values)
    dropped = min(max(LEAST, math.ceil(WARM_UP * values.size)), values.size - 1)
    kept = np.log(values[dropped:])
    # The median absolute deviation: an evaluation or a checkpoint between two readings is no scatter of the step.
    deviation = 1.4826 * float(np.median(np.abs(kept - np.median(kept))))
    notes = [found.note] if found.note else []
    if values.size <= LEAST and not found.note:
        notes.append("too few readings to tell warm-up from the steps after it")
    return Log(
        format=name,
        measure=found.measure,
        value=float(np.exp(np.median(kept))),
        noise=1.2533 * deviation / math.sqrt(kept.size),
        readings=int(kept.size),
        dropped=dropped,
        allocated=max(found.allocated, default=None),
        reserved=max(found.reserved, default=None),
        note="; ".join(notes),
    )


def _numbers(pattern: str, text: str, scale: float = 1.0) -> list[float]:
    found = (float(match.replace(",", "")) * scale for match in re.findall(pattern, text))
    return [value for value in found if math.isfinite(value) and value > 0.0]


def _torchtitan(text: str) -> _Found:
    """Lines `step: 10 ... memory: 41.20GiB(52.01%)  tps: 3,480`; the memory is reserved, and its peak reset each time.

    Early versions called the rate wps. Validation has lines of its own, which are another kind of work.
    """
    lines = [line for line in text.splitlines() if re.search(r"(?<!validate )step:\s*\d+ .*\b[tw]ps:", line)]
    steps = "\n".join(lines)
    reserved = _numbers(r"\bmemory:\s*([\d.]+)GiB", steps, GiB)
    return _Found("rate", _numbers(r"\b[tw]ps:\s*([\d,.]*\d)", steps), [], reserved)


def _megatron(text: str) -> _Found:
    """Lines `iteration 10/ 100 | ... elapsed time per iteration (ms): 8146.7 |`, some forks with a mean after a slash.

    Memory is printed once, after the first iterations, in units of 2^20 bytes.
    """
    seconds = _numbers(r"elapsed time per iteration \(ms\):\s*([\d.]+)", text, 1e-3)
    allocated = _numbers(r"memory \(MB\) \|.*?max allocated:\s*([\d.]+)", text, MiB)
    reserved = _numbers(r"memory \(MB\) \|.*?max reserved:\s*([\d.]+)", text, MiB)
    return _Found("step", seconds, allocated, reserved)


def _xtuner(text: str) -> _Found:
    """Lines `Step 10/100 data_time: 0.06 lr: ... time: 0.8883 ... max_memory: 18.02 GB reserved_memory: 22.20 GB`.

    Its GB are 2^30 bytes, and its step time is without data loading. All ranks print.
    """
    steps = "\n".join(re.findall(r"Step \d+/\d+ .*?data_time: .*", text))
    seconds = _numbers(r"(?<!\w)time:\s*([\d.]+)", steps)
    allocated = _numbers(r"(?<!\w)max_memory:\s*([\d.]+) GB", steps, GiB)
    reserved = _numbers(r"reserved_memory:\s*([\d.]+) GB", steps, GiB)
    return _Found("step", seconds, allocated, reserved)


def _mmengine(text: str) -> _Found:
    """Lines `Iter(train) [ 10/720]  lr: ... time: 2.6851  data_time: 0.0077  memory: 12762`, means of an interval.

    An iteration is a micro-step; memory is allocated, in units of 2^20 bytes.
    """
    lines = "\n".join(re.findall(r"Iter\(train\) \[.*", text))
    seconds = _numbers(r"(?<!\w)time:\s*([\d.]+)", lines)
    return _Found("micro-step", seconds, _numbers(r"(?<!\w)memory:\s*(\d+)", lines, MiB), [])


def _trainer(text: str) -> _Found | None:
    """A Hugging Face Trainer's trainer_state.json, or JSON lines of LLaMA-Factory and ms-swift.

    Their times count from the start of the run, so that differences between two readings are those of the steps
    between them. A plain Trainer writes the run's whole time at its end only.
    """
    rows = list(_objects(text))
    points = sorted({point for row in rows if (point := _progress(row)) is not None})
    seconds = []
    for (step, elapsed), (later, then) in pairwise(points):
        if later > step and then > elapsed:
            seconds.append((then - elapsed) / (later - step))
    reserved = [float(row["memory(GiB)"]) * GiB for row in rows if _is_number(row.get("memory(GiB)"))]
    if len(seconds) > 1:
        return _Found("step", seconds, [], reserved)
    whole = [elapsed / step for step, elapsed in points[-1:] if step > 0]
    return _Found("step", whole, [], reserved, "a mean over the whole run, with warm-up, evaluation and saving")


def _objects(text: str) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and isinstance(content.get("log_history"), list):
        yield from (row for row in content["log_history"] if isinstance(row, dict))
        return
    for line in text.splitlines():
        if line.lstrip().startswith("{"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def _progress(row: dict[str, Any]) -> tuple[float, float] | None:
    """Steps done and seconds since the start, where a record of a log tells both."""
    step = row.get("step", row.get("current_steps", str(row.get("global_step/max_steps", "")).partition("/")[0]))
    if not _is_number(step) and not (isinstance(step, str) and step.isdigit()):
        return None
    done = float(step)
    if _is_number(row.get("train_speed(s/it)")):
        return done, done * float(row["train_speed(s/it)"])
    if _is_number(row.get("train_runtime")):
        return done, float(row["train_runtime"])
    elapsed = _duration(str(row.get("elapsed_time", "")))
    return (done, elapsed) if elapsed else None


def _duration(text: str) -> float:
    """Seconds of `1:02:03`, `1 day, 1:02:03` or `1h 2m 3s`; 0 for anything else."""
    if clock := re.fullmatch(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d)(?:\.\d+)?", text.strip()):
        days, hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        return ((days * 24.0 + hours) * 60.0 + minutes) * 60.0 + seconds
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(amount) * units[unit] for amount, unit in re.findall(r"([\d.]+)\s*([dhms])\b", text))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


READERS: dict[str, Callable[[str], _Found | None]] = {
    "torchtitan": _torchtitan,
    "Megatron-LM": _megatron,
    "XTuner": _xtuner,
    "XTuner v0.1 (mmengine)": _mmengine,
    "the Hugging Face Trainer": _trainer,
}
"""Name of a format -> what reads it; the first that finds readings counts."""
