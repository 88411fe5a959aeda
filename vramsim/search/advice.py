"""What to change in one case: so that it fits, or, where it fits already, so that it runs faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from vramsim.case import Case
from vramsim.errors import VramsimError
from vramsim.estimate import Estimate
from vramsim.search.moves import FASTER, SMALLER, Move
from vramsim.simulate import simulate
from vramsim.spec import Phase
from vramsim.units import GiB

NOTICEABLE = 5e-3
"""Share of its throughput that a case must gain for a change to count as one that makes it faster. [-]"""

Estimator = Callable[[Case], Estimate]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a case, or two together, and what comes of it.

    `values` is what `Case.with_values` takes. `saved_bytes` is device memory no longer used (negative: more of it),
    `throughput_ratio` tokens per second and device relative to the case as it is. `same_training` is false for a change
    that trains something else: adapters, shorter sequences, an optimizer with other numerics.
    """

    name: str
    values: Mapping[str, Any]
    fits: bool
    headroom_bytes: float
    saved_bytes: float
    step_seconds: float
    throughput_ratio: float
    same_training: bool
    why: str


def advise(case: Case, limit: int = 8, simulator: Estimator = simulate) -> tuple[Change, ...]:
    """Changes worth making: those first that train the same, then those that keep most throughput.

    For a case that does not fit: single changes that make it fit; if none does that trains the same, pairs, too; if
    nothing does, what saves most. For a case that fits: changes that make it faster, still fit and train the same.

    case : one case. [-]   limit : largest number of changes. [-]   simulator : what estimates a case. [-]
    Raises VramsimError for a case that holds arrays.
    """
    before = simulator(case)
    if np.ndim(before.memory.hbm.used_bytes) or np.ndim(before.time.step_seconds):
        raise VramsimError("advice is about one case, but this one holds arrays; give one value per field")
    if before.fits:
        tried = [_change([move], case, before, simulator) for move in (*FASTER, *SMALLER) if not move.alters]
        faster = [c for c in tried if c and c.fits and c.throughput_ratio > 1.0 + NOTICEABLE]
        return tuple(sorted(faster, key=_rank)[:limit])
    singles = {move: change for move in SMALLER if (change := _change([move], case, before, simulator))}
    fitting = [change for change in singles.values() if change.fits]
    if any(change.same_training for change in fitting):
        return tuple(sorted(fitting, key=_rank)[:limit])
    saving = [move for move, change in singles.items() if change.saved_bytes > 0.0 and not change.fits]
    pairs = [_change(pair, case, before, simulator) for pair in combinations(saving, 2) if _go_together(pair)]
    fitting += [pair for pair in pairs if pair and pair.fits]
    if fitting:
        return tuple(sorted(fitting, key=_rank)[:limit])
    everything = [*singles.values(), *(pair for pair in pairs if pair)]
    return tuple(sorted(everything, key=lambda change: -change.saved_bytes)[:limit])


def _rank(change: Change) -> tuple[bool, float]:
    return not change.same_training, -change.throughput_ratio


def _go_together(moves: Iterable[Move]) -> bool:
    """Whether no field is changed twice."""
    first, second = moves
    return not set(first.fields) & set(second.fields)


def _change(moves: Sequence[Move], case: Case, before: Estimate, simulator: Estimator) -> Change | None:
    """What comes of some moves, one after the other; None if one does not apply or breaks a rule."""
    values: dict[str, Any] = {}
    changed = case
    try:
        for move in moves:
            found = move.values(changed)
            if found is None:
                return None
            values |= found
            changed = changed.with_values(found)
        after = simulator(changed)
    except VramsimError:
        return None
    memory, time = after.memory.hbm, after.time
    return Change(
        name=" + ".join(move.name for move in moves),
        values=values,
        fits=after.fits,
        headroom_bytes=float(memory.headroom_bytes),
        saved_bytes=float(before.memory.hbm.used_bytes - memory.used_bytes),
        step_seconds=float(time.step_seconds),
        throughput_ratio=float(time.tokens_per_second_per_device / before.time.tokens_per_second_per_device),
        same_training=not any(move.alters for move in moves),
        why=_time_saved(before, after) if before.fits else _memory_saved(before, after, moves),
    )


def _memory_saved(before: Estimate, after: Estimate, moves: Sequence[Move]) -> str:
    """The component that shrinks most, where memory peaked before."""
    peak, new_peak = str(before.memory.hbm.peak_phase), str(after.memory.hbm.peak_phase)
    phase = Phase[peak.upper()] if peak.upper() in Phase.__members__ else None
    sizes, new_sizes = _sizes(before, phase), _sizes(after, phase)
    shrunk = {name: size - new_sizes.get(name, 0.0) for name, size in sizes.items()}
    name = max(shrunk, key=lambda each: shrunk[each])
    if shrunk[name] <= 0.0:
        return "nothing shrinks where memory peaks"
    smaller = _gib(new_sizes.get(name, 0.0))
    sentence = f"{name}: {_gib(sizes[name])} GiB down to {smaller} GiB where memory peaked ({_words(peak)})"
    if peak != new_peak:
        sentence += f"; it now peaks in {_words(new_peak)}"
    notes = [move.note for move in moves if move.note]
    if (short := _short(after)) and not after.fits:
        notes.append(short)
    return "; ".join([sentence, *notes])


def _words(phase: str) -> str:
    return phase.replace("_", " ")


def _short(estimate: Estimate) -> str:
    """Which other memory is too small."""
    for name, store in (("host memory", estimate.memory.host), ("NVMe", estimate.memory.nvme)):
        missing = store.used_bytes_per_node - store.capacity_bytes_per_node
        if missing > 0.0:
            return f"a node's {name} is {_gib(float(missing))} GiB short"
    return ""


def _time_saved(before: Estimate, after: Estimate) -> str:
    """The activity that gets shorter by most, for the same tokens."""
    tokens = after.time.tokens_per_second_per_device * after.time.step_seconds
    old_tokens = before.time.tokens_per_second_per_device * before.time.step_seconds
    times = {name: float(seconds) for name, seconds in before.time.by_activity.items()}
    new_times = {name: float(after.time.by_activity.get(name, 0.0) * old_tokens / tokens) for name in times}
    name = max(times, key=lambda each: times[each] - new_times[each])
    used = float(after.memory.hbm.used_bytes - before.memory.hbm.used_bytes)
    memory = f"{_gib(abs(used))} GiB {'more' if used > 0.0 else 'less'} memory"
    return f"{name} takes {new_times[name]:.3g} instead of {times[name]:.3g} s for the same tokens; {memory}"


def _sizes(estimate: Estimate, phase: Phase | None) -> dict[str, float]:
    sizes: dict[str, float] = {}
    for component in estimate.components(phase):
        sizes[component.name] = sizes.get(component.name, 0.0) + float(component.nbytes)
    return sizes


def _gib(nbytes: float) -> str:
    return f"{nbytes / GiB:.1f}"
