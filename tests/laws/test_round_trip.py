"""Round trip: a case written down as understood and read back is the same case, with the same estimate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vramsim import Case, catalog, simulate, testing
from vramsim.testing import numbers


@pytest.mark.parametrize("framework", catalog.names("framework"))
@given(data=st.data())
def test_described_and_loaded(framework: str, data: st.DataObject) -> None:
    case = data.draw(testing.cases(framework=framework))
    again = Case.load(json.loads(json.dumps(case.describe())))
    assert numbers(simulate(again)) == numbers(simulate(case))
    assert again == case
    assert again.describe() == case.describe()


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@settings(max_examples=10)
@given(data=st.data())
def test_through_a_file(tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject) -> None:
    case = data.draw(testing.cases())
    path = Path(tmp_path_factory.mktemp("round_trip")) / f"case.{suffix}"
    write = json.dumps if suffix == "json" else yaml.safe_dump
    path.write_text(write(case.describe()), encoding="utf-8")
    assert numbers(simulate(Case.load(path))) == numbers(simulate(case))
