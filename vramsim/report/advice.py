"""What would change the answer, as a table for a terminal and as plain objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vramsim.estimate import Estimate
from vramsim.report.shapes import plain_table
from vramsim.report.words import assignment
from vramsim.search.advice import Change
from vramsim.units import GiB


def advice_report(estimate: Estimate, changes: Sequence[Change]) -> list[Table]:
    """A table of changes with what each costs and why it helps; none if there are none.

    estimate : of the case as it is. [-]   changes : from the best to the worst. [-]
    """
    if not changes:
        return []
    if estimate.fits:
        title = "What would make it faster and still fit"
    elif any(change.fits for change in changes):
        title = "What would make it fit"
    else:
        title = "Nothing tried makes it fit; what saves most"
    table = plain_table(title, "--set", "GiB to spare", "tokens/s\nper GPU")
    for change in changes:
        table.add_row(_what(change), f"{change.headroom_bytes / GiB:,.1f}", f"x {change.throughput_ratio:.2f}")
    return [table]


def advice_object(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Changes as `vramsim estimate --json` prints them. Bytes and seconds.

    changes : from the best to the worst. [-]
    """
    return [asdict(change) for change in changes]


def _what(change: Change) -> Group:
    """Assignments that `--set` takes, and under them why they help."""
    words = Text(" ".join(assignment(key, value) for key, value in change.values.items()))
    why = Text(change.why, style="dim")
    if not change.same_training:
        why = Text.assemble(("trains something else; ", "yellow"), why)
    return Group(words, Padding(why, (0, 0, 0, 2)))
