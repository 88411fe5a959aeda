"""Training logs: lines as programs print them (wording from their sources or from logs in public repositories)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vramsim import Case, VramsimError
from vramsim.calibrate.logs import read_log
from vramsim.calibrate.runs import from_log
from vramsim.units import GiB, MiB

CASE = {
    "model": "llama-3-8b",
    "cluster": {"device": "h100-sxm-80gb", "num_devices": 8},
    "framework": "fsdp2",
    "training": {"seq_len": 4096, "micro_batch_size": 1, "gradient_accumulation_steps": 4},
}
TOKENS = 4096 * 4
"""Tokens of one step of CASE, per device."""


def log(path: Path, *lines: str, name: str = "train.log") -> Path:
    (path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path / name


def torchtitan(step: int, rate: str, memory: str = "42.10") -> str:
    return (
        f"[rank0]:2025-03-01 13:16:22,571 - root - INFO - \x1b[31mstep: {step:2}  \x1b[32mloss:  7.1234  "
        f"\x1b[38;2;180;60;0mgrad_norm:  1.2000  \x1b[36mmemory: {memory}GiB(53.23%)  \x1b[34mtps: {rate}  "
        f"\x1b[36mtflops: 300.12  \x1b[35mmfu: 30.35%\x1b[39m"
    )


def test_torchtitan(tmp_path: Path) -> None:
    found = read_log(
        log(
            tmp_path,
            "CUDA capacity: NVIDIA H100 80GB HBM3 with 79.10GiB memory",
            torchtitan(1, "312", "40.00"),
            *(torchtitan(10 * i, f"5,{900 + i}") for i in range(1, 20)),
            "[rank0]:validate step: 190  loss:  7.0  memory: 70.00GiB(88.49%)  tps: 20,000",
        )
    )
    assert (found.format, found.measure, found.dropped, found.readings) == ("torchtitan", "rate", 2, 18)
    assert found.value == pytest.approx(5910.5, rel=1e-3)
    assert found.reserved == 42.10 * GiB
    assert 0.0 < found.noise < 0.01


def megatron(step: int, milliseconds: str) -> str:
    return (
        f" [2026-04-27 00:00:01] iteration {step:8d}/      20 | consumed samples:           32 | elapsed time per "
        f"iteration (ms): {milliseconds} | throughput per GPU (TFLOP/s/GPU): 103.7 | learning rate: 1.000000E-05 | "
        f"global batch size:    16 | lm loss: 1.191648E+01 | loss scale: 1.0 | grad norm: 2.772 |"
    )


def test_megatron(tmp_path: Path) -> None:
    memory = (
        "[Rank 0] (after 1 iterations) memory (MB) | allocated: 30974.689453125 | max allocated: 36133.79638671875 | "
        "reserved: 37672.0 | max reserved: 37672.0"
    )
    lines = [megatron(1, "41234.5"), memory, *(megatron(i, "8146.7") for i in range(2, 11))]
    found = read_log(log(tmp_path, *lines))
    assert (found.format, found.measure) == ("Megatron-LM", "step")
    assert found.value == pytest.approx(8.1467)
    assert found.reserved == 37672.0 * MiB
    assert found.allocated == pytest.approx(36133.79638671875 * MiB)
    # A fork that prints a running mean behind the slash.
    assert read_log(log(tmp_path, *(megatron(i, "8146.7/9999.9") for i in range(9)))).value == pytest.approx(8.1467)


def test_xtuner(tmp_path: Path) -> None:
    def line(rank: int, step: int, seconds: float, reserved: str = "22.20") -> str:
        return (
            f"[XTuner][RANK {rank}][2025-08-29 09:17:51][INFO] Step {step}/100 data_time: 0.0600 lr: 0.000020 time: "
            f"{seconds:.4f} text_tokens: 4077.0 total_loss: 1.686 reduced_llm_loss: 1.684 max_memory: 18.02 GB "
            f"reserved_memory: {reserved} GB grad_norm: 13.948 tgs: 818.1 e2e_tgs: 808.3 "
        )

    lines = [line(rank, step, 4.98 if step == 1 else 0.888) for step in range(1, 31) for rank in range(4)]
    found = read_log(log(tmp_path, *lines, line(0, 31, 0.888, "22.50")))
    assert (found.format, found.measure) == ("XTuner", "step")
    assert found.value == pytest.approx(0.888)
    assert (found.allocated, found.reserved) == (18.02 * GiB, 22.50 * GiB)


def test_mmengine_counts_micro_steps(tmp_path: Path) -> None:
    lines = (
        f"2025/02/09 07:47:19 - mmengine - INFO - Iter(train) [{step:5d}/96000]  lr: 9.7918e-06  eta: 18 days, 16:18:38"
        f"  time: {2.6851 if step > 10 else 9.0}  data_time: 0.0077  memory: 12762  loss: 0.0018  tflops: 4.8280"
        for step in range(10, 210, 10)
    )
    path = log(tmp_path, *lines)
    found = read_log(path)
    assert (found.format, found.measure) == ("XTuner v0.1 (mmengine)", "micro-step")
    assert found.allocated == 12762 * MiB
    run = from_log(path, Case(**CASE))
    assert run.rate == pytest.approx(4096 / 2.6851)
    assert (run.memory, run.kind) == (12762 * MiB, "torch_allocated")


# The Hugging Face Trainer and what is built on it -----------------------------------------------------------------


def test_trainer_state_with_times(tmp_path: Path) -> None:
    """Where tokens are counted, every record has the time since the start; an evaluation falls between two of them."""
    history = [{"step": 10 * i, "loss": 2.0, "train_runtime": 60.0 + 25.0 * i + 300.0 * (i > 7)} for i in range(1, 15)]
    path = log(tmp_path, json.dumps({"global_step": 140, "log_history": history}), name="trainer_state.json")
    found = read_log(path)
    assert (found.format, found.measure, found.note) == ("the Hugging Face Trainer", "step", "")
    assert found.value == pytest.approx(2.5)
    assert from_log(path, Case(**CASE)).rate == pytest.approx(TOKENS / 2.5)


def test_trainer_state_with_one_time(tmp_path: Path) -> None:
    history = [
        {"epoch": 0.5, "step": 100, "loss": 1.9, "learning_rate": 1e-5},
        {"epoch": 1.0, "step": 200, "train_loss": 1.8, "train_runtime": 505.6, "train_steps_per_second": 0.396},
    ]
    path = log(tmp_path, json.dumps({"log_history": history}), name="trainer_state.json")
    found = read_log(path)
    assert found.value == pytest.approx(505.6 / 200)
    assert "warm-up, evaluation and saving" in found.note


def test_llama_factory(tmp_path: Path) -> None:
    seconds = ["0:02:03", "0:04:02", "0:06:01", "0:08:00", "0:09:59"]
    rows = [{"current_steps": 5 * (i + 1), "total_steps": 93, "elapsed_time": text} for i, text in enumerate(seconds)]
    lines = [json.dumps(row) for row in rows]
    found = read_log(
        log(tmp_path, *lines, "not json", '{"current_steps": 25, "eval_loss": 1.2}', name="trainer_log.jsonl")
    )
    assert found.value == pytest.approx(119 / 5)


def test_swift(tmp_path: Path) -> None:
    rows = [
        {"loss": 0.04, "global_step/max_steps": f"{i}/500", "memory(GiB)": 22.46, "train_speed(s/it)": 5.0 + 10.0 / i}
        for i in range(1, 30)
    ]
    found = read_log(log(tmp_path, *map(json.dumps, rows), name="logging.jsonl"))
    assert found.value == pytest.approx(5.0)  # the ten seconds of warm-up are in every mean, and in no difference
    assert found.reserved == 22.46 * GiB


@pytest.mark.parametrize(("text", "seconds"), [("1 day, 1:00:30", 90030.0), ("21h 35m 49s", 77749.0), ("6s", 6.0)])
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    found = read_log(log(tmp_path, json.dumps({"step": 1, "elapsed_time": text}), name="log.jsonl"))
    assert found.value == pytest.approx(seconds)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "hello", "{", "[1, 2]", '{"log_history": 3}', "step: 3 tps: nan", "\x00\xff"])
def test_a_file_without_steps_is_refused_in_one_sentence(tmp_path: Path, content: str) -> None:
    with pytest.raises(VramsimError, match=r"holds no step times that can be read; known are .*torchtitan") as raised:
        read_log(log(tmp_path, content))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VramsimError, match=r"cannot read the log .*none\.log.*No such file"):
        read_log(tmp_path / "none.log")


def test_a_case_that_is_a_grid_is_refused(tmp_path: Path) -> None:
    path = log(tmp_path, *(torchtitan(i, "5,900") for i in range(9)))
    with pytest.raises(VramsimError, match="one case"):
        from_log(path, Case(**CASE).with_values({"seq_len": [1024, 2048]}))
