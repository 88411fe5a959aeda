"""A study's data as files: configurations.csv (and .parquet), cases.json, feasible*.csv, the study itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import vramsim
from vramsim.catalog.tables import fold, shown
from vramsim.errors import VramsimError
from vramsim.space import METRICS
from vramsim.study.running import Outcome, Row


def check_folder(out: Path) -> None:
    """Refuse a folder that cannot be made or written to, before a study is run.

    out : folder to make. [-]
    Raises VramsimError with the reason.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / "study.html"
        probe.touch()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VramsimError(f"--out must be a folder that can be written to, got {shown(str(out))}: {reason}") from None


def write_data(outcome: Outcome, out: Path) -> list[Path]:
    """Write the data of a study.

    outcome : of the study. [-]   out : folder, which exists. [-]
    Returns the files that were written.
    """
    import pandas as pd

    # Whole numbers stay whole where other rows have none.
    frame = pd.DataFrame([record(row) for row in outcome.rows]).convert_dtypes()
    written = [out / "configurations.csv"]
    frame.to_csv(written[0], index=False)
    if find_spec("pyarrow"):
        written.append(out / "configurations.parquet")
        mixed = [name for name in frame if frame[name].dtype == object]  # 2 and "full" in one column
        frame.astype(dict.fromkeys(mixed, str)).to_parquet(written[-1], index=False)
    written.append(out / "cases.json")
    written[-1].write_text(json.dumps(_finite(study_object(outcome)), indent=1, ensure_ascii=False), encoding="utf-8")
    for name, result in outcome.searched.items():
        written.append(out / (f"feasible_{fold(name)}.csv" if len(outcome.searched) > 1 else "feasible.csv"))
        result.to_csv(written[-1])
    written.append(out / f"study{outcome.study.path.suffix or '.yaml'}")
    written[-1].write_text(outcome.study.text, encoding="utf-8")
    return written


def record(row: Row) -> dict[str, Any]:
    """A configuration as one flat row: what was asked, and every metric in bytes, seconds and tokens per second.

    row : of an outcome. [-]
    """
    found: dict[str, Any] = {"number": row.number, "base": row.asked.base, "name": row.asked.name}
    found |= {
        key: value if isinstance(value, int | float | str) else json.dumps(value)
        for key, value in row.asked.values.items()
    }
    found |= {"possible": row.estimate is not None, "fits": row.fits, "refused": row.refused}
    if row.estimate is None:
        return found
    hbm, time = row.estimate.memory.hbm, row.estimate.time
    found |= {name: row.metric(name) for name in METRICS}
    found |= {"capacity_bytes": hbm.capacity_bytes, "peak_phase": hbm.peak_phase}
    low, high = row.estimate.memory_band()
    found |= {"used_bytes_low": low, "used_bytes_high": high}
    found |= {f"peak_{name}_bytes": value for name, value in row.estimate.by_category().items()}
    found |= {"step_seconds_low": row.step_band[0], "step_seconds_high": row.step_band[1]}
    found |= {f"{name}_seconds": float(value) for name, value in time.by_activity.items()}
    return found | {"bottleneck": time.bottleneck}


def study_object(outcome: Outcome) -> dict[str, Any]:
    """Everything of a study as JSON has it: cases as understood, each with its estimate.

    outcome : of the study. [-]
    """
    rows = []
    for row in outcome.rows:
        each: dict[str, Any] = {"number": row.number, "base": row.asked.base, "name": row.asked.name}
        each |= {"values": dict(row.asked.values)}
        if row.case is None or row.estimate is None:
            rows.append({**each, "refused": row.refused})
        else:
            rows.append({**each, "case": row.case.describe(), "estimate": row.estimate.to_dict()})
    best = {goal.name: best.number for goal in outcome.study.compare if (best := outcome.best(goal))}
    return {
        "title": outcome.study.title,
        "vramsim": vramsim.__version__,
        "configurations": len(outcome.rows),
        "possible": len(outcome.estimated),
        "fitting": len(outcome.fitting),
        "best": best,
        "answers": {
            name: [{"question": a.question, "value": a.value, "unit": a.unit, "binding": a.binding} for a in answers]
            for name, answers in outcome.answers.items()
        },
        "measured": [
            {
                "number": c.row.number,
                "what": c.what,
                "measured": c.measured,
                "estimated": c.estimated,
                "source": c.source,
            }
            for c in outcome.compared
        ],
        "rows": rows,
    }


def _finite(content: Any) -> Any:
    """The same content with null for what JSON has no number for."""
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if hasattr(content, "item"):
        content = content.item()
    return None if isinstance(content, float) and not math.isfinite(content) else content
