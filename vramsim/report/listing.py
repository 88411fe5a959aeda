"""The catalog as tables for a terminal, and as rows of plain numbers and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vramsim import catalog
from vramsim.report.shapes import plain_table, stacked

Row = Mapping[str, Any]

SINGULAR = {
    "models": "model",
    "devices": "device",
    "frameworks": "framework",
    "optimizers": "optimizer",
    "quantizations": "quantization",
}
"""Kind as it is asked for -> the catalog's name of it."""


def catalog_rows(kind: str) -> list[dict[str, Any]]:
    """All that the catalog holds of one kind, with numbers as numbers and None for what is not stated.

    kind : plural, such as devices. [-]
    Raises VramsimError for an unknown kind.
    """
    rows = catalog.describe(SINGULAR.get(kind, kind))
    return [{key: _value(value) for key, value in row.items()} for row in rows]


def catalog_report(kinds: Iterable[str]) -> RenderableType:
    """One table a kind, with the columns that people choose by.

    kinds : plural, such as devices. [-]
    """
    return stacked(_listing(kind) for kind in kinds)


def _listing(kind: str) -> Table:
    columns = COLUMNS[kind]
    rows = catalog_rows(kind)
    table = plain_table(f"{len(rows)} {kind}", "name", *columns, words=WORDS)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(Text(text) for text in (row["name"], *(cell(row) for cell in columns.values()))))
    return table


def _value(value: Any) -> Any:
    """A cell of a CSV file as the number that it shows, or None if it is empty; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value else None
    except ValueError:
        return value


def _shown(key: str, shape: str = "{:,g}") -> Callable[[Row], str]:
    """How to show one field of a row: a number in the given shape, `-` if there is none."""

    def cell(row: Row) -> str:
        value = row.get(key)
        return "-" if value is None else shape.format(value) if isinstance(value, int | float) else str(value)

    return cell


def _billions(row: Row) -> str:
    return f"{row['num_parameters'] / 1e9:,.2f}"


def _states(row: Row) -> str:
    """What an optimizer keeps per trained weight."""
    states = [
        " ".join(
            [
                "moment" if state["dtype"] == "moments" else state["dtype"],
                *([state["layout"]] if state.get("layout", "full") != "full" else []),
                *([f"in blocks of {state['block']}"] if state.get("block") else []),
                *([f"of the {state['scope']}"] if state.get("scope", "all") != "all" else []),
            ]
        )
        for state in row["states"]
    ]
    counted = {state: states.count(state) for state in states}
    return ", ".join(f"{count} x {state}" for state, count in counted.items()) or "none"


def _bits(row: Row) -> str:
    bits = 8 * (row.get("packed", 0.0) + row.get("scale", 0.0))
    return f"{bits:.3g}" if bits else "-"


WORDS = {"states", "engine", "rates", "type", "source"}
"""Columns that hold texts."""

COLUMNS: Mapping[str, Mapping[str, Callable[[Row], str]]] = {
    "models": {
        "type": _shown("model_type"),
        "parameters, 1e9": _billions,
        "layers": _shown("num_hidden_layers"),
        "hidden": _shown("hidden_size", "{:g}"),
        "vocabulary": _shown("vocab_size", "{:g}"),
    },
    "devices": {
        "usable GiB": _shown("usable_gib", "{:.2f}"),
        "HBM GB/s": _shown("memory_gbs"),
        "bf16 TFLOP/s": _shown("bf16_tflops", "{:,.0f}"),
        "link GB/s": _shown("scale_up_gbs", "{:,.0f}"),
        "per node": _shown("devices_per_node"),
        "W": _shown("power_w"),
        "rates": _shown("calibration"),
    },
    "frameworks": {"engine": _shown("engine"), "source": _shown("source")},
    "optimizers": {"states": _states, "source": _shown("source")},
    "quantizations": {"bits per weight": _bits, "source": _shown("source")},
}
"""Kind -> column -> what it shows of a row."""
