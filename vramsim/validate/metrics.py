"""Errors of predictions against measurements, in the shape that `vramsim validate --json` prints."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WORST = 10
"""Rows that a report lists as worst. [-]"""


@dataclass(frozen=True, slots=True)
class Pair:
    """One prediction beside its measurement. `group` is what rows must share for their order to mean something."""

    id: str
    source: str
    kind: str
    predicted: float
    measured: float
    within_band: bool
    group: tuple[str, ...]
    note: str

    @property
    def error(self) -> float:
        """Relative error, signed. [-]"""
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One prediction of fits or not beside what happened."""

    id: str
    source: str
    predicted: bool
    happened: bool


def errors(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Summary of the errors of some pairs; errors are fractions, None where there is nothing to say.

    pairs : predictions and measurements. [-]
    """
    if not pairs:
        return {"rows": 0}
    absolute = np.array([abs(pair.error) for pair in pairs])
    return {
        "rows": len(pairs),
        "mape": float(absolute.mean()),
        "median_ape": float(np.median(absolute)),
        "p90_ape": float(np.quantile(absolute, 0.9)),
        "p95_ape": float(np.quantile(absolute, 0.95)),
        "bias": float(np.mean([pair.error for pair in pairs])),
        "within_band": float(np.mean([pair.within_band for pair in pairs])),
        "kendall_tau": kendall(pairs),
    }


def kendall(pairs: Sequence[Pair]) -> float | None:
    """Mean Kendall rank correlation over groups of at least four rows of one source, model and hardware. [-]

    pairs : predictions and measurements. [-]
    """
    from scipy.stats import kendalltau

    groups: dict[tuple[str, ...], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.group].append(pair)
    taus = []
    for group in groups.values():
        if len(group) >= 4 and len({pair.measured for pair in group}) > 1:
            tau = kendalltau([pair.predicted for pair in group], [pair.measured for pair in group]).statistic
            # A prediction that is the same for all rows orders none of them.
            taus.append(0.0 if np.isnan(tau) else float(tau))
    return float(np.mean(taus)) if taus else None


def verdicts(found: Iterable[Verdict]) -> dict[str, Any]:
    """How often fits and does-not-fit were said of runs that fitted and died.

    found : verdicts. [-]
    """
    counts = Counter(
        f"{'true' if v.predicted == v.happened else 'false'}_{'fit' if v.predicted else 'oom'}" for v in found
    )
    table = {name: counts.get(name, 0) for name in ("true_fit", "false_fit", "true_oom", "false_oom")}
    total = sum(table.values())
    right = table["true_fit"] + table["true_oom"]
    return {"verdict_accuracy": right / total if total else None, "verdicts": table}


def report(pairs: Sequence[Pair], skipped: Counter[str], assumed: dict[str, Counter[str]]) -> dict[str, Any]:
    """One of the two halves of the contract: memory or throughput.

    pairs : predictions and measurements. [-]   skipped : rows by the reason they were left out. [-]
    assumed : assumptions by column and value. [-]
    """
    by_source, by_kind = _split(pairs, "source"), _split(pairs, "kind")
    result = errors(pairs) | {"skipped": dict(skipped.most_common())}
    if pairs:
        result["macro_mape"] = float(np.mean([part["mape"] for part in by_source.values()]))
    worst = sorted(pairs, key=lambda pair: -abs(pair.error))[:WORST]
    return result | {
        "by_source": by_source,
        "by_kind": by_kind,
        "worst": [{"id": p.id, "predicted": p.predicted, "measured": p.measured, "note": p.note} for p in worst],
        "assumptions": {column: dict(values.most_common()) for column, values in sorted(assumed.items())},
    }


def _split(pairs: Sequence[Pair], key: str) -> dict[str, Any]:
    parts: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        parts[getattr(pair, key)].append(pair)
    return {name: errors(part) for name, part in sorted(parts.items())}
