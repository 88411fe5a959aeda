"""Prices of accelerators, rented by the hour or bought: a small dated table, and what a user knows better.

The catalog's prices are illustrative: published figures with a source and a date per row, no offers. A file of one's
own (the same columns; `device`, `usd` and `date` are enough for a rent) goes before them, and so does `H100=2.50`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date as Date
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from vramsim.catalog import tables
from vramsim.errors import VramsimError

RENT, BUY = "rent", "buy"
ON_DEMAND, RESERVED, SPOT = "on-demand", "reserved-1y", "spot"
COMMITMENTS = (ON_DEMAND, RESERVED, SPOT)
"""Ways to rent."""
WAYS = (*COMMITMENTS, BUY)
"""Ways to come by a device."""
UNITS = ("device_hour", "accelerator", "node")
FRESH_DAYS = 90
"""Age from which a price comes with a warning. [days]"""
ASKED_FOR = "stated by the user"


@dataclass(frozen=True, slots=True)
class Price:
    """What somebody asked for a device on a day: US dollars a device and hour, an accelerator, or a whole node."""

    device: str
    kind: str
    commitment: str
    usd: float
    unit: str
    provider: str
    date: Date
    source: str
    note: str = ""

    def age(self, today: Date) -> int:
        """Age of the price. [days]

        today : the day on which it is used. [-]
        """
        return (today - self.date).days

    def warning(self, today: Date) -> str:
        """Sentence that says so if the price is stale, nothing if it is fresh.

        today : the day on which it is used. [-]
        """
        age = self.age(today)
        if age <= FRESH_DAYS:
            return ""
        name = f"{self.commitment} price of {self.device} ({self.provider}, {self.usd:,.10g} USD)"
        return f"the {name} is {age} days old, of {self.date}: state a newer one"


@dataclass(frozen=True, slots=True)
class Prices:
    """Price rows. Those that a user states hide the catalog's of the same device, kind and commitment."""

    rows: tuple[Price, ...]

    @classmethod
    def load(
        cls,
        file: str | Path | None = None,
        stated: Mapping[str, float] | None = None,
        commitment: str = ON_DEMAND,
    ) -> Prices:
        """The catalog's prices, with a user's own before them.

        file : CSV with the catalog's columns, or None. [-]   stated : device -> rent. [USD/device/hour]
        commitment : of the rents that are stated. [-]
        Raises VramsimError for a file that cannot be read, and for unknown devices or prices that are no numbers.
        """
        if stated and commitment not in COMMITMENTS:
            raise VramsimError(
                "what a device is bought for must stand in a price file, with kind: buy; a price stated by itself is a "
                f"rent, as that of {next(iter(stated))}"
            )
        prices = cls(_catalog())
        if file is not None:
            prices = prices.with_rows(_read_file(Path(file)))
        own = (_rent(tables.canonical("device", name), usd, commitment) for name, usd in (stated or {}).items())
        return prices.with_rows(own)

    def with_rows(self, rows: Iterable[Price]) -> Prices:
        """The same prices, with some rows in the place of those that they stand for.

        rows : prices. [-]
        """
        rows = tuple(rows)
        hidden = {(row.device, row.kind, row.commitment) for row in rows}
        kept = (row for row in self.rows if (row.device, row.kind, row.commitment) not in hidden)
        return Prices((*rows, *kept))

    def of(self, device: str, way: str) -> Price | None:
        """The price of a device by a way to come by it. None if none is known.

        device : name in the catalog. [-]   way : on-demand | reserved-1y | spot | buy. [-]
        """
        return self.buy(device) if way == BUY else self.rent(device, way)

    def rent(self, device: str, commitment: str = ON_DEMAND) -> Price | None:
        """The middle one of the known rents (the lower of two): a row that has a source. None if none is known.

        device : name in the catalog. [-]   commitment : on-demand | reserved-1y | spot. [-]
        """
        return _middle(row for row in self.rows if (row.device, row.kind, row.commitment) == (device, RENT, commitment))

    def buy(self, device: str) -> Price | None:
        """The middle one of the known prices of the device itself. None if none is known.

        device : name in the catalog. [-]
        """
        return _middle(row for row in self.rows if (row.device, row.kind) == (device, BUY))


def parse(text: str) -> tuple[str, float]:
    """Device and rent of a text such as H100=2.50.

    text : what a user typed. [-]
    Raises VramsimError unless it is a known device, an equals sign and a number above 0.

    >>> parse("H100=2.50")
    ('h100-sxm-80gb', 2.5)
    """
    name, equals, amount = text.partition("=")
    if not equals:
        raise VramsimError(
            f"a price must be written as device=USD per device and hour, such as H100=2.50; got {text!r}"
        )
    return tables.canonical("device", name.strip()), _amount(amount, f"the price of {name.strip()}")


def _middle(rows: Iterable[Price]) -> Price | None:
    ordered = sorted(rows, key=lambda row: row.usd)
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def _rent(device: str, usd: float, commitment: str) -> Price:
    usd = _amount(str(usd), f"the price of {device}")
    return Price(device, RENT, commitment, usd, "device_hour", ASKED_FOR, Date.today(), ASKED_FOR)


@lru_cache(maxsize=1)
def _catalog() -> tuple[Price, ...]:
    text = files("vramsim.catalog").joinpath("prices.csv").read_text(encoding="utf-8")
    return tuple(_price(row, "prices.csv") for row in csv.DictReader(text.splitlines()))


def _read_file(path: Path) -> tuple[Price, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VramsimError(
            f"cannot read the price file {str(path)!r}: {getattr(error, 'strerror', 'no text')}"
        ) from None
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    if missing := [name for name in ("device", "usd", "date") if rows and name not in rows[0]]:
        raise VramsimError(f"a price file needs the columns device, usd and date; {path.name} lacks {missing[0]}")
    return tuple(_price(row, path.name) for row in rows)


def _price(row: Mapping[str, str | None], file: str) -> Price:
    given = {key: (value or "").strip() for key, value in row.items() if key}
    kind = given.get("kind") or RENT
    commitment = given.get("commitment") or (ON_DEMAND if kind == RENT else "new")
    unit = given.get("unit") or ("device_hour" if kind == RENT else "accelerator")
    for name, value, known in (("kind", kind, (RENT, BUY)), ("unit", unit, UNITS)):
        if value not in known:
            raise VramsimError(f"{name} in {file} must be one of {', '.join(known)}, got {value!r}")
    if (kind == RENT) != (unit == "device_hour") or (kind == RENT and commitment not in COMMITMENTS):
        raise VramsimError(
            f"{file} must rent by device_hour ({', '.join(COMMITMENTS)}) and buy by accelerator or node, "
            f"got {kind}, {commitment}, {unit}"
        )
    try:
        day = Date.fromisoformat(given["date"])
    except ValueError:
        raise VramsimError(f"a date in {file} must be written as 2026-05-18, got {given['date']!r}") from None
    return Price(
        tables.canonical("device", given["device"]),
        kind,
        commitment,
        _amount(given["usd"], f"the price of {given['device']} in {file}"),
        unit,
        given.get("provider") or ASKED_FOR,
        day,
        given.get("source") or ASKED_FOR,
        given.get("note", ""),
    )


def _amount(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e9:
        raise VramsimError(f"{what} must be a number of US dollars above 0, got {text!r}")
    return value
