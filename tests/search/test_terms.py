"""Terms as a person states them: what differs from the usual ones reaches costs, and what is wrong gets a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim.errors import VramsimError
from vramsim.outcome import Terms
from vramsim.search import search
from vramsim.space import Space
from vramsim.space.terms import LIMITS, SECTIONS, USUAL, terms_of
from vramsim.units import DAY

USUALLY = Terms()
CASE: dict[str, Any] = {
    "model": "llama-3-8b",
    "cluster": {"device": "h100-sxm-80gb", "num_devices": 8},
    "framework": "torchtitan",
    "training": {"seq_len": 4096, "micro_batch_size": 1},
    "strategy": {"recompute": "full"},
}


@pytest.mark.parametrize("section", SECTIONS)
def test_usual_terms_are_inside_of_the_limits(section: str) -> None:
    said = asdict(getattr(USUALLY, section))
    assert terms_of({section: said}) == terms_of(None)
    assert set(LIMITS) <= {item.name for name in SECTIONS for item in fields(getattr(USUALLY, name))}


@given(st.data())
def test_one_field_changes_and_no_other(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(list(SECTIONS)))
    key = data.draw(st.sampled_from(SECTIONS[section]))
    value = data.draw(st.floats(*LIMITS.get(key, USUAL)))
    changed = replace(getattr(USUALLY, section), **{key: value})
    assert terms_of({section: {key: value}}, USUALLY) == replace(USUALLY, **{section: changed})


def test_times_may_have_units() -> None:
    assert terms_of({"reliability": {"device_mtbf": "500d"}}).reliability.device_mtbf == 500 * DAY


def test_energy_of_a_space_follows_its_terms(tmp_path: Path) -> None:
    (tmp_path / "terms.yaml").write_text("power: {pue: 2.6}\n", encoding="utf-8")
    (tmp_path / "space.yaml").write_text(
        json.dumps({"base": CASE, "search": {"micro_batch_size": [1]}, "tokens": 1e9, "terms": "terms.yaml"}),
        encoding="utf-8",
    )
    usual = Space(CASE, {"micro_batch_size": [1]}, tokens=1e9, objectives=["energy"])
    (twice,), (once,) = (
        search(space, objectives=["energy"]).frame["energy_kwh"]
        for space in (Space.load(tmp_path / "space.yaml"), usual)
    )
    assert twice == pytest.approx(once * 2.6 / USUALLY.power.pue)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (3, "terms must be a file or a mapping"),
        ({"energy": {}}, "unknown key 'energy' in terms"),
        ({"power": 1.1}, "terms: power must be a mapping"),
        ({"power": {"peu": 1.1}}, "did you mean pue?"),
        ({"power": {"pue": 0.9}}, "terms: power.pue must be a number from 1 to 10"),
        ({"power": {"pue": [1.1, 1.2]}}, "terms: power.pue must be one number"),
        ({"ownership": {"utilization": float("nan")}}, "ownership.utilization must be"),
        ({"reliability": {"device_mtbf": "soon"}}, "reliability.device_mtbf must be a time"),
        ("nowhere.yaml", "cannot read the terms file"),
    ],
)
def test_what_is_wrong_gets_a_sentence(given: Any, part: str) -> None:
    with pytest.raises(VramsimError) as caught:
        terms_of(given)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recommend_takes_a_file_of_terms(tmp_path: Path) -> None:
    def best(*more: str) -> dict[str, Any]:
        asked = ["recommend", "llama-3-8b", "--tokens", "1e8", "--devices", "h100-sxm-80gb", "--num-devices", "8"]
        command = [sys.executable, "-m", "vramsim", *asked, "--json", *more]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return dict(json.loads(run.stdout)["best"])

    (tmp_path / "terms.toml").write_text(
        "[power]\ncarbon = 0.0\n[reliability]\nstartup_seconds = 0\n", encoding="utf-8"
    )
    usual, own = best(), best("--terms", str(tmp_path / "terms.toml"))
    assert usual["co2_kg"] > 0 == own["co2_kg"]
    assert own["usd"] < usual["usd"]
