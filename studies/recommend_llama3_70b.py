"""Where to fine-tune Llama 3 70B on a billion tokens within a week: A100, H100, H200, B200, MI300X, rented and bought.

    python studies/recommend_llama3_70b.py [--out DIR]

writes recommend_llama3_70b.md and two plots beside this file, or into DIR. It needs the extras (`pip install
vramsim[all]`). Prices are those of the catalog, used on the date below: illustrative, dated, each with its source. The
output is committed: after a change to the model or to prices run this again, and read what changed.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import _procurement

from vramsim.outcome import Terms
from vramsim.procure.recommend import Recommendation, recommend
from vramsim.units import DAY

HERE = Path(__file__).parent
NAME = "recommend_llama3_70b"
MODEL, TOKENS, WEEK = "llama-3-70b", 1e9, 7.0 * DAY
TODAY = date(2026, 11, 24)
"""Day on which prices are used; fixed, so that the page changes only when something else does."""


def main() -> None:
    """Write the report and its plots."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: this file's)")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    given = ask()
    _procurement.plot_offers(out / f"{NAME}_offers.png", given)
    _procurement.plot_tornado(out / f"{NAME}_tornado.png", given)
    text = given.report()
    text = _procurement.after(text, "## 3. ", f"![Time and cost of every device and count]({NAME}_offers.png)")
    text = _procurement.after(text, "## 7. ", f"![What the cost depends on]({NAME}_tornado.png)")
    (out / f"{NAME}.md").write_text(_procurement.wrapped(text), encoding="utf-8")


def ask() -> Recommendation:
    """The recommendation that the page is about."""
    return recommend(MODEL, TOKENS, WEEK, terms=Terms(today=TODAY))


if __name__ == "__main__":
    main()
