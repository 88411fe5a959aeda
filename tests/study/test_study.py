"""Studies: what a file declares is what is estimated; the page holds it all and needs nothing else; wrong files."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vramsim
from vramsim.case import Case
from vramsim.cli import main
from vramsim.errors import VramsimError
from vramsim.report.study import headline, study_page
from vramsim.report.svg import Bar, bars, ticks
from vramsim.study.definition import KEYS, load_study
from vramsim.study.running import run
from vramsim.units import GiB

ROOT = Path(__file__).parents[2]
WAYS_OUT = ROOT / "studies/reports/llama3_70b_ways_out.yaml"

BASE: dict[str, Any] = {
    "model": "qwen2.5-7b",
    "cluster": {"device": "h100-sxm-80gb", "num_devices": 8},
    "framework": "fsdp2",
    "training": {"seq_len": 4096},
    "strategy": {"recompute": "full"},
}
GRID: dict[str, Any] = {
    "title": "A <grid> & more",
    "base": BASE,
    "vary": {"seq_len": [4096, 131072], "tp": [1, 3], "offload_optimizer": ["none", "cpu"]},
}


def write(folder: Path, content: Any, name: str = "study.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


class Checked(HTMLParser):
    """Reads a page: what is opened is closed, in order; texts; and addresses of anything beyond the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.beyond: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "line", "rect", "circle"):
            self.open.append(tag)
        self.beyond += [str(value) for name, value in attrs if name in ("src", "href", "action", "srcset")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(page: str) -> Checked:
    checked = Checked()
    checked.feed(page)
    assert checked.open == []
    return checked


# What is estimated ----------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    outcome = run(load_study(write(tmp_path, GRID)))
    assert len(outcome.rows) == 8
    impossible = [row for row in outcome.rows if row.estimate is None]
    assert {row.asked.values["strategy.tp"] for row in impossible} == {3}
    assert all("tp" in row.refused for row in impossible)
    for row in outcome.estimated:
        alone = vramsim.simulate(Case.load(BASE).with_values(row.asked.values))
        assert row.estimate is not None
        assert row.estimate.memory.hbm.used_bytes == alone.memory.hbm.used_bytes
        assert row.estimate.time.step_seconds == alone.time.step_seconds


def test_best_is_the_best_that_fits(tmp_path: Path) -> None:
    outcome = run(load_study(write(tmp_path, GRID | {"compare": ["tokens_per_second", "used_bytes"]})))
    assert 0 < len(outcome.fitting) < len(outcome.estimated)
    fastest, smallest = (outcome.best(goal) for goal in outcome.study.compare)
    assert fastest is not None
    assert smallest is not None
    assert fastest.metric("tokens_per_second") == max(row.metric("tokens_per_second") for row in outcome.fitting)
    assert smallest.metric("used_bytes") == min(row.metric("used_bytes") for row in outcome.fitting)


def test_bands_hold_the_estimate(tmp_path: Path) -> None:
    for row in run(load_study(write(tmp_path, GRID))).estimated:
        low, high = row.step_band
        assert low < row.metric("step_seconds") < high


def test_changes_stand_beside_the_base(tmp_path: Path) -> None:
    study = {"base": BASE, "changes": {"longer": {"seq_len": 8192}, "8-bit": {"optimizer": "adamw_8bit"}}}
    outcome = run(load_study(write(tmp_path, study)))
    assert [row.asked.name for row in outcome.rows] == ["as it is", "longer", "8-bit"]
    assert outcome.rows[1].case == Case.load(BASE).with_values({"seq_len": 8192})


def test_several_bases(tmp_path: Path) -> None:
    own = write(tmp_path, BASE, "own.yaml")
    args = {
        "model_name_or_path": "Qwen/Qwen2.5-7B",
        "per_device_train_batch_size": 1,
        "output_dir": "o",
        "max_length": 512,
    }
    write(tmp_path, args, "args.yaml")
    write(tmp_path, "distributed_type: FSDP\nnum_processes: 8\nmixed_precision: bf16\n", "accelerate.yaml")
    study = {
        "base": own.name,
        "set": {"micro_batch_size": 2, "device": "h200"},
        "cases": {"longer": {"set": {"seq_len": 8192}}, "theirs": ["args.yaml", "accelerate.yaml"]},
        "vary": {"recompute": ["none", "full"]},
    }
    found = load_study(write(tmp_path, study))
    assert list(found.bases) == ["base", "longer", "theirs"]
    assert [case.training.micro_batch_size for case in found.bases.values()] == [2, 2, 2]
    assert found.bases["longer"].training.seq_len == 8192
    assert found.bases["theirs"].framework == "hf-trainer-fsdp1"
    assert len(run(found).rows) == 6


def test_measurements_find_their_configuration(tmp_path: Path) -> None:
    measured = [
        {"where": {"seq_len": 4096, "tp": 1, "offload_optimizer": "none"}, "used_gib": 20.0, "source": "ours <1>"},
        {"where": {"seq_len": 777}, "step_seconds": 1.0},
    ]
    outcome = run(load_study(write(tmp_path, GRID | {"measured": measured})))
    (one,) = outcome.compared
    assert one.row.estimate is not None
    assert one.estimated == float(one.row.estimate.memory.hbm.used_bytes) / GiB
    assert one.error == pytest.approx(one.estimated / 20.0 - 1.0)
    assert [each.where for each in outcome.unmatched] == [{"training.seq_len": 777}]
    page = read(study_page(outcome, [], {}))
    assert "ours <1>" in page.texts
    assert any("no configuration of this study is that" in text for text in page.texts)


def test_questions_and_space(tmp_path: Path) -> None:
    study = {"base": BASE, "questions": ["seq-len"], "space": {"search": {"micro_batch_size": [1, 2, 4], "tp": [1, 2]}}}
    outcome = run(load_study(write(tmp_path, study)))
    (answer,) = outcome.answers["base"]
    assert answer.value is not None
    result = outcome.searched["base"]
    assert result.space.size == 6
    page = read(study_page(outcome, [], {}))
    assert any(f"{answer.value:,.10g} tokens" in text for text in page.texts)


# The files ------------------------------------------------------------------------------------------------------------


def test_the_example_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ways out: the base's verdict is that of the page about it, the others' what each case gives alone."""
    out = tmp_path / "out"
    assert main(["study", "run", str(WAYS_OUT), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all(Path(path).is_file() for path in told["files"])
    cases = json.loads((out / "cases.json").read_text(encoding="utf-8"))
    fits = {row["name"]: row["estimate"]["fits"] for row in cases["rows"]}
    assert told["fitting"] == sum(fits.values())
    declared = yaml.safe_load(WAYS_OUT.read_text(encoding="utf-8"))
    base = Case.load(WAYS_OUT.parent / declared["base"])
    for name, values in {"as it is": {}, **declared["changes"]}.items():
        assert fits[name] == vramsim.simulate(base.with_values(values)).fits, name
    used = next(row["estimate"]["memory"]["hbm"]["used_bytes"] for row in cases["rows"] if row["name"] == "as it is")
    with (out / "configurations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["used_bytes"]) == used
    page = (ROOT / "studies/xtuner_llama3_70b.md").read_text(encoding="utf-8")
    assert f"Each of 16 GPUs needs {used / GiB:.1f} GiB" in page
    # Every case is written as understood, and read back gives the same estimate.
    again = vramsim.simulate(Case.load(cases["rows"][3]["case"]))
    assert float(again.memory.hbm.used_bytes) == cases["rows"][3]["estimate"]["memory"]["hbm"]["used_bytes"]
    assert (out / "study.yaml").read_text(encoding="utf-8") == WAYS_OUT.read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    outcome = run(load_study(WAYS_OUT))
    text = study_page(outcome, [tmp_path / "configurations.csv"], {"seq_len": 4096})
    page = read(text)
    assert page.beyond == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)
    assert re.findall(r"https?://[^\s\"'<]+", text.replace("http://www.w3.org/2000/svg", "")) == []
    told = " ".join(page.texts)
    for part in (
        outcome.study.title,
        vramsim.__version__,
        "configurations.csv",
        "--set seq_len=4096",
        " does not fit",
    ):
        assert part in told
    assert WAYS_OUT.read_text(encoding="utf-8") in page.texts


def test_texts_are_escaped(tmp_path: Path) -> None:
    study = GRID | {"about": "<script>alert(1)</script>", "changes": {"<b>x</b>": {"seq_len": 512}}}
    text = study_page(run(load_study(write(tmp_path, study))), [], {})
    assert "<script>alert" not in text
    assert "<b>x</b>" not in text
    assert "A <grid> & more" in read(text).texts


def test_set_changes_every_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GRID)
    assert main(["study", "run", str(path), "--out", str(tmp_path / "o"), "--set", "model=llama-3-8b"]) == 0
    assert "of 8 configurations" in capsys.readouterr().out
    assert "llama-3-8b, full fine-tune" in (tmp_path / "o/study.html").read_text(encoding="utf-8")


# Wrong files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["must be a mapping", "nothing"]),
        ("[1]", ["must be a mapping", "list"]),
        ({"vary": {"sp": [1]}}, ["must have a base"]),
        ({"base": BASE, "varry": {}}, ["unknown key 'varry'", "vary"]),
        ({"base": BASE, "vary": [1]}, ["vary of a study must be a mapping"]),
        ({"base": BASE, "vary": {"seqlen": [1]}}, ["seqlen", "seq_len"]),
        ({"base": BASE, "vary": {"seq_len": [0]}}, ["seq_len", "got 0"]),
        ({"base": BASE, "vary": {"seq_len": {"min": 1, "max": 3000}}}, ["at most 2000", "3000", "space:"]),
        ({"base": BASE, "changes": {"x": 1}}, ["the change 'x'", "map keys to values"]),
        ({"base": BASE, "changes": {"x": {"nonsense": 1}}}, ["nonsense"]),
        ({"base": BASE, "space": {"searching": {}}}, ["unknown key 'searching'"]),
        ({"base": BASE, "space": {"objectives": ["mfu"]}}, ["must have search"]),
        ({"base": BASE, "questions": ["meaning"]}, ["questions", "seq-len", "'meaning'"]),
        ({"base": BASE, "compare": ["beauty"]}, ["beauty"]),
        ({"base": BASE, "measured": [{"where": {"tp": 1}}]}, ["used_gib"]),
        ({"base": BASE, "measured": [{"used_gib": "much"}]}, ["used_gib", "'much'"]),
        ({"base": BASE, "measured": [{"used_gib": 1, "case": "other"}]}, ["'other'", "base"]),
        ({"base": BASE, "vary": {"tp": [3]}}, ["no configuration", "possible", "tp"]),
        ({"base": "none.yaml"}, ["none.yaml"]),
        ({"base": 3}, ["base of a study"]),
        ({"cases": {"x": {"seq_len": 5}}}, ["needs a base"]),
    ],
)
def test_wrong_studies_get_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, parts: list[str]
) -> None:
    assert main(["study", "run", str(write(tmp_path, content)), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert all(part in captured.err for part in parts), captured.err


def test_the_folder_must_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GRID)
    assert main(["study", "run", str(path), "--out", str(path)]) == 2
    assert "--out must be a folder" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--help"]) == 0
    assert "run" in capsys.readouterr().out
    assert main(["study", "run", "--help"]) == 0
    assert "--out" in capsys.readouterr().out


def test_grids_of_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VramsimError, match="arrays"):
        run(load_study(write(tmp_path, {"base": BASE | {"training": {"seq_len": [512, 1024]}}})))


# Charts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1e-3, 0.7, 1.0, 7.0, 96.0, 12345.0])
def test_ticks_are_few_and_within(most: float) -> None:
    found = ticks(most)
    assert found[0] == 0
    assert 3 <= len(found) <= 7
    assert found[-1] <= most


def test_segments_are_as_long_as_what_they_show() -> None:
    drawn = bars(
        [Bar("a", (("x", 10.0, "#000"), ("y", 30.0, "#111")), "40"), Bar("b", (("x", 80.0, "#000"),), "80")], "GiB"
    )
    widths = [float(each) for each in re.findall(r'width="([\d.]+)"', drawn)]
    assert widths == pytest.approx([widths[2] / 8, widths[2] * 3 / 8, widths[2]], abs=0.11)


# Anything at all ------------------------------------------------------------------------------------------------------

ODD = st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=6)
ODD |= st.sampled_from(
    ["seq_len", "tp", "none.yaml", "qwen2.5-7b", "cpu", {"seq_len": 512}, {"seq_len": [256, 512]}, BASE]
)
NESTED = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(st.sampled_from(KEYS), NESTED, max_size=4), with_base=st.booleans())
def test_arbitrary_studies_get_an_answer_or_a_sentence(tmp_path: Path, content: Any, with_base: bool) -> None:
    content = {**content, "base": BASE} if with_base else content
    try:
        outcome = run(load_study(write(tmp_path, json.dumps(content))))
    except VramsimError as error:
        told = str(error)
    else:
        told = headline(outcome)
        read(study_page(outcome, [], {}))
    assert told
    assert "\n" not in told


def test_tables_hold_mixed_values(tmp_path: Path) -> None:
    """A field that is 0.5 in one row, "full" in another and as in the base in a third."""
    pd, parquet = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    study = {"base": BASE, "vary": {"recompute": [0.5, "full", "selective"]}, "changes": {"longer": {"seq_len": 8192}}}
    path = write(tmp_path, study)
    assert main(["study", "run", str(path), "--out", str(tmp_path / "out")]) == 0
    frame = pd.read_csv(tmp_path / "out/configurations.csv")
    assert list(frame["strategy.recompute"][:3]) == ["0.5", "full", "selective"]
    assert frame["strategy.recompute"].isna()[3]
    assert parquet.read_table(tmp_path / "out/configurations.parquet").num_rows == 4
