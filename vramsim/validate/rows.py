"""Tables of measurements: reading them, and which of their rows count.

The columns are those of studies/validation/measurements.csv; columns that a table lacks are blank.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vramsim.errors import VramsimError

REQUIRED = ("id", "source", "model", "framework")
"""Columns without which a file is not a table of measurements."""

UNEVEN = r"unpacked|dynamic padding|samples mean"
"""How notes say that samples are neither packed nor padded to one length."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One measured run: its columns as text, by name."""

    columns: dict[str, str]

    def text(self, name: str, default: str = "") -> str:
        """A column's text, stripped; the default where it is blank or missing.

        name : column. [-]   default : text of a blank. [-]
        """
        return (self.columns.get(name) or "").strip() or default

    def number(self, name: str, default: float = float("nan")) -> float:
        """A column's number; the default where it is blank.

        name : column. [-]   default : number of a blank. [-]
        Raises VramsimError when the column holds something else.
        """
        text = self.text(name)
        if not text:
            return default
        try:
            return float(text)
        except ValueError:
            raise VramsimError(f"row {self.text('id', '?')}: {name} must be a number, got {text!r}") from None

    @property
    def id(self) -> str:
        """Identifier of the row."""
        return self.text("id")

    @property
    def source(self) -> str:
        """Where the row was published."""
        return self.text("source", "unknown")

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of a sample of unpacked data, where the note gives it; else 0. [tokens]"""
        found = re.search(r"mean tokens/sample ~?(\d+)", self.text("note"))
        return float(found[1]) if found else 0.0

    @property
    def uneven(self) -> bool:
        """Whether the note says that batches differ in length: nothing is packed, or padded beyond a batch."""
        return bool(self.mean_tokens or re.search(UNEVEN, self.text("note")))

    @property
    def capacity(self) -> float:
        """Tokens that an expert takes over the mean, where the note gives it and routing is not forced; else 1. [-]"""
        found = re.search(r"capacity=(\d+)", self.text("note"))
        return float(found[1]) if found else 1.0

    @property
    def longest_first(self) -> bool:
        """Whether the note says that the longest sample goes first: nothing has been accumulated yet at the peak."""
        return bool(re.search(r"longest .*first iteration", self.text("note")))


class Reader:
    """Reads columns of one row and keeps the assumptions made for blank ones."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.assumed: list[tuple[str, str]] = []

    def text(self, column: str, default: str) -> str:
        """A column, or an assumed default.

        column : name. [-]   default : text of a blank, noted as an assumption. [-]
        """
        found = self.row.text(column)
        if not found:
            self.assumed.append((column, default))
        return found or default

    def number(self, column: str, default: float) -> float:
        """A column's number, or an assumed default.

        column : name. [-]   default : number of a blank, noted as an assumption. [-]
        """
        if not self.row.text(column):
            self.assumed.append((column, f"{default:g}"))
        return self.row.number(column, default)


def read(path: str | Path) -> list[Row]:
    """All rows of a table of measurements.

    path : CSV file. [-]
    Raises VramsimError when the file cannot be read or lacks needed columns.
    """
    return list(_rows(Path(path)))


def _rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
            if missing:
                raise VramsimError(f"{path} must have the columns {', '.join(REQUIRED)}: {', '.join(missing)} missing")
            for columns in reader:
                yield Row(
                    {key: value for key, value in columns.items() if isinstance(key, str) and isinstance(value, str)}
                )
    except OSError as error:
        raise VramsimError(f"cannot read the table {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise VramsimError(f"{path} must be a CSV file in UTF-8: {error}") from None
