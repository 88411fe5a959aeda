"""The oracle of the closed form: peaks equal to the byte, times within 3 % and inside of the bounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings

import vramsim
from vramsim import Case, VramsimError, testing
from vramsim.cli import main
from vramsim.report.timeline import figure, write_page, write_trace
from vramsim.spec import Category, Setup

FEW_LAYERS = 4
"""With fewer layers the first and the last are not small against the whole."""


def deep(setup: Setup) -> bool:
    return setup.model.num_layers >= FEW_LAYERS


@settings(max_examples=max(20, settings.default.max_examples // 4))
@given(setup=testing.setups().filter(deep))
def test_replay_is_simulate(setup: Setup) -> None:
    estimate, timeline = vramsim.simulate(setup), vramsim.replay(setup)
    hbm, time = estimate.memory.hbm, estimate.time
    assert timeline.allocated_bytes == hbm.allocated_bytes
    assert timeline.used_bytes == pytest.approx(float(hbm.used_bytes), rel=1e-12)
    assert timeline.step_seconds == pytest.approx(float(time.step_seconds), rel=0.03)
    assert float(time.lower_seconds) * (1 - 1e-9) <= timeline.step_seconds
    assert timeline.step_seconds <= float(time.upper_seconds) * (1 + 1e-9)


def pipe(model: str = "llama-3-8b", **strategy: object) -> Case:
    steps = strategy.pop("steps", 8)
    return Case(
        model=model,
        cluster={"device": "h100-sxm-80gb", "num_devices": 32},
        framework="megatron",
        training={"seq_len": 4096, "gradient_accumulation_steps": steps},
        strategy={"tp": 2, "pp": 4, **strategy},
    )


TOLERANCES = dict.fromkeys(("gpipe", "1f1b", "interleaved"), 0.03) | {"zb-h1": 0.05, "zb-h2": 0.05}
TOLERANCES |= {"zb-v": 0.12, "dualpipe": 0.12}
"""Of the step time. A folded pipeline fills the wait for its slowest device in ways that P3 does not follow."""


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("steps", [4, 8, 32])
@pytest.mark.parametrize("schedule", TOLERANCES)
def test_pipelines(schedule: str, steps: int, recompute: str) -> None:
    steps = max(steps, 8) if schedule == "dualpipe" else steps  # it takes two micro-batches a stage
    case = pipe(schedule=schedule, vpp=2 if schedule == "interleaved" else 1, steps=steps, recompute=recompute)
    estimate, timeline = vramsim.simulate(case), vramsim.replay(case)
    assert timeline.allocated_bytes == estimate.memory.hbm.allocated_bytes
    assert timeline.step_seconds == pytest.approx(float(estimate.time.step_seconds), rel=TOLERANCES[schedule])


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
def test_pipelines_whose_gradients_come_and_go(schedule: str) -> None:
    """FSDP2 keeps whole gradients until a stage's last backward. Chunk by chunk they come while most activations are
    there: with few micro-batches less than the closed form counts, which takes all or nothing."""
    for steps in (4, 8, 16):
        case = pipe(schedule=schedule, vpp=2 if schedule == "interleaved" else 1, steps=steps).with_values(
            {"framework": "fsdp2"}
        )
        peak = vramsim.simulate(case).memory.hbm.allocated_bytes
        share = 0.9 if schedule == "interleaved" and steps == 4 else 1.0
        assert share * float(peak) <= vramsim.replay(case).allocated_bytes <= float(peak)


def test_dualpipe_runs_each_micro_batch_once() -> None:
    """A device holds two stages, and a micro-batch visits one of them: as long as 1F1B, not twice."""
    both_ways, plain = (vramsim.simulate(pipe(schedule=each, steps=32)).time for each in ("dualpipe", "1f1b"))
    assert both_ways.by_activity["compute"] == pytest.approx(plain.by_activity["compute"], rel=0.15)


def test_streams_never_overlap_themselves() -> None:
    timeline = vramsim.replay(pipe(schedule="1f1b"))
    last: dict[tuple[int, str], float] = {}
    for span in sorted(timeline.spans, key=lambda each: (each.start, each.end)):
        key = span.device, span.stream
        assert span.start >= last.get(key, 0.0) - 1e-12
        last[key] = span.end


def test_the_first_step_has_no_moments() -> None:
    timeline = vramsim.replay(pipe(pp=1, tp=2), steps=2)
    device = [moment for moment in timeline.memory if moment.doing == "forward"]
    states = [moment.by_category.get(Category.OPTIMIZER_STATE, 0.0) for moment in device]
    assert states[0] < states[-1]


def test_trace_and_page(tmp_path: Path) -> None:
    timeline = vramsim.replay(pipe(schedule="1f1b"))
    write_trace(timeline, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == len(timeline.spans)
    assert all(event["dur"] > 0 and event["ts"] >= 0 for event in spans)
    most = max(sum(event["args"].values()) for event in events if event["ph"] == "C")
    assert most >= timeline.allocated_bytes
    pytest.importorskip("plotly")
    write_page(timeline, tmp_path / "page.html")
    assert "plotly" in (tmp_path / "page.html").read_text(encoding="utf-8")[:20_000].lower()
    drawn = figure(timeline)
    stacked = [trace for trace in drawn.data if getattr(trace, "stackgroup", None)]
    assert max(map(sum, zip(*(trace.y for trace in stacked), strict=True))) * 2**30 >= timeline.allocated_bytes


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = tmp_path / "case.yaml"
    case.write_text(
        "model: llama-3-8b\ncluster: {device: h100-sxm-80gb, num_devices: 8}\nframework: fsdp2\n"
        "training: {seq_len: 4096}\nstrategy: {recompute: full}\n"
    )
    assert main(["replay", str(case), "--json", "--trace", str(tmp_path / "t.json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["estimate", str(case), "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert found["memory"]["allocated_bytes"] == estimate["memory"]["hbm"]["allocated_bytes"]
    assert (tmp_path / "t.json").exists()
    assert main(["replay", str(case), "--plot", str(tmp_path / "page.pdf")]) == 2
    assert ".html" in capsys.readouterr().err
    assert main(["replay", str(case), "--set", "gradient_accumulation_steps=1000000"]) == 2
    assert "gradient_accumulation_steps" in capsys.readouterr().err


def test_a_replay_follows_one_case() -> None:
    import numpy as np

    setup = testing.changed(pipe(pp=1).resolve(), seq_len=np.array([1024.0, 2048.0]))
    with pytest.raises(VramsimError, match="one case"):
        vramsim.replay(setup)
    with pytest.raises(VramsimError, match="one optimizer step"):
        vramsim.replay(pipe(), steps=0)


@pytest.mark.parametrize(
    ("framework", "devices", "recompute"),
    [("torch", 1, "none"), ("ddp", 8, "full"), ("fsdp2", 8, "none"), ("fsdp2", 8, "full"), ("deepspeed", 8, "full")],
)
def test_the_peak_is_made_of_the_same(framework: str, devices: int, recompute: str) -> None:
    """Category by category, whichever of a phase's moments is its fullest."""
    case = Case(
        model="llama-3-8b",
        cluster={"device": "h100-sxm-80gb", "num_devices": devices},
        framework=framework,
        training={"seq_len": 512, "optimizer": "adamw_fused"},
        strategy={"recompute": recompute},
    )
    found = {category.value: nbytes for category, nbytes in vramsim.replay(case).peak.by_category.items()}
    assert found == {name: nbytes for name, nbytes in vramsim.simulate(case).by_category().items() if name in found}
