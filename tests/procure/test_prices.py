"""Prices: dated, sourced, hidden by what a user states."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from vramsim import VramsimError, catalog
from vramsim.catalog.prices import ASKED_FOR, Prices, parse

CATALOG = Prices.load()


def test_every_row_has_a_source_and_a_known_device() -> None:
    for price in CATALOG.rows:
        assert price.source
        assert price.source != ASKED_FOR
        assert price.device in catalog.names("device")
        assert date(2025, 1, 1) <= price.date <= date.today()
        assert 0.5 < price.usd < (20 if price.kind == "rent" else 1e6)


@pytest.mark.parametrize(
    "device", ["a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb", "mi300x-192gb"]
)
def test_the_usual_devices_can_be_rented_and_bought(device: str) -> None:
    assert CATALOG.rent(device) is not None
    assert CATALOG.buy(device) is not None


def test_the_middle_one_is_taken() -> None:
    rows = sorted(p.usd for p in CATALOG.rows if (p.device, p.commitment) == ("h100-sxm-80gb", "on-demand"))
    chosen = CATALOG.rent("h100-sxm-80gb")
    assert chosen is not None
    assert chosen.usd == rows[(len(rows) - 1) // 2]


def test_what_is_stated_hides_the_catalog() -> None:
    stated = Prices.load(stated=dict([parse("H100=2.50")]))
    price, spot = stated.rent("h100-sxm-80gb"), stated.rent("h100-sxm-80gb", "spot")
    assert price is not None
    assert price.usd == 2.5
    assert spot == CATALOG.rent("h100-sxm-80gb", "spot")


def test_a_file_hides_the_catalog(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("# mine\ndevice,usd,date\nH100,1.99,2026-11-01\nL40S,0.80,2026-11-01\n", encoding="utf-8")
    prices = Prices.load(path)
    mine, new = prices.rent("h100-sxm-80gb"), prices.rent("l40s-48gb")
    assert mine is not None
    assert new is not None
    assert (mine.usd, new.usd) == (1.99, 0.8)


def test_only_an_old_price_warns() -> None:
    price = CATALOG.rows[0]
    assert price.warning(price.date + timedelta(days=90)) == ""
    assert "91 days old" in price.warning(price.date + timedelta(days=91))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("device,usd\nH100,2\n", "lacks date"),
        ("device,usd,date\nH100,2,yesterday\n", "2026-05-18"),
        ("device,usd,date\nH100,free,2026-01-01\n", "above 0"),
        ("device,usd,date\nH999,2,2026-01-01\n", "H999"),
        ("device,usd,date,kind\nH100,2,2026-01-01,lease\n", "kind"),
        ("device,usd,date,commitment\nH100,2,2026-01-01,weekly\n", "on-demand"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, content: str, match: str) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(VramsimError, match=match):
        Prices.load(path)


@pytest.mark.parametrize("text", ["H100", "H100=", "H100=-1", "H100=nan", "=2"])
def test_a_wrong_price_is_one_sentence(text: str) -> None:
    with pytest.raises(VramsimError):
        parse(text)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(VramsimError, match="cannot read"):
        Prices.load(tmp_path / "none.csv")
