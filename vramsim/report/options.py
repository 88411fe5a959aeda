"""Options that several commands share: each is explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

Positive = Annotated[int, Parameter(validator=validators.Number(gte=1))]
Many = Parameter(negative="", consume_multiple=True)
Json = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON object instead of text.")
]
Rents = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        consume_multiple=True,
        help="What a device rents for, such as H100=2.50 (US dollars per device and hour); may be repeated.",
    ),
]
PriceFile = Annotated[
    Path | None, Parameter(help="CSV file of your own prices, with the columns device, usd and date at least.")
]
TermsFile = Annotated[
    Path | None,
    Parameter(
        help="File of your own terms, as far as they differ: reliability (device_mtbf, ...), power (pue, usd_per_kwh, "
        "...) and ownership (horizon_years, utilization, ...)."
    ),
]
