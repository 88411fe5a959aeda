"""From runs to a machine: simulated runs give back the machine that they were simulated on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vramsim
from vramsim import Case, VramsimError
from vramsim.calibrate.machine import fitted
from vramsim.calibrate.parameters import PARAMETERS, Parameter, scaled
from vramsim.calibrate.result import Calibration, Fitted
from vramsim.calibrate.runs import FULL, Run, from_table, predictor
from vramsim.units import GiB
from vramsim.validate.rows import Row

BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}
TABLE = Path(__file__).parents[2] / "studies/validation/measurements.csv"
BASE: dict[str, Any] = {
    "model": "llama-3-8b",
    "cluster": {"device": "h100-sxm-80gb", "num_devices": 8},
    "framework": "fsdp2",
    "training": {"seq_len": 4096, "micro_batch_size": 2},
    "strategy": {"recompute": "full"},
}
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"seq_len": 32768, "micro_batch_size": 1},
    {"seq_len": 131072, "micro_batch_size": 1},
    {"seq_len": 1024, "micro_batch_size": 1},
    {"seq_len": 2048, "micro_batch_size": 8},
    {"tp": 8, "seq_len": 8192, "framework": "megatron", "megatron_sp": 1},
    {"tp": 4, "seq_len": 2048, "framework": "megatron"},
    {"num_devices": 32, "seq_len": 1024, "micro_batch_size": 1},
    {"num_devices": 64, "seq_len": 512, "micro_batch_size": 2},
    {"num_devices": 256, "seq_len": 1024, "micro_batch_size": 1},
    {"framework": "deepspeed", "zero_stage": 3, "num_devices": 16, "seq_len": 1024},
    {"framework.activation": "fused", "framework.norm": "fused", "seq_len": 16384, "micro_batch_size": 1},
)


def simulated(factors: dict[Parameter, float], scatter: float = 0.0, memory: str = "") -> list[Run]:
    """Runs on a machine that is other than the catalog's by known factors."""
    rng = np.random.default_rng(4)
    runs = []
    for index, changes in enumerate(CHANGES):
        setup = Case(**BASE).with_values(changes).resolve()
        run = Run(f"run-{index}", setup, setup, {"base": "h100-sxm-80gb"}, kind=memory or "torch_reserved")
        quantity: Any = "memory" if memory else "throughput"
        value = float(run.predicted(quantity, factors)) * float(np.exp(scatter * rng.standard_normal()))
        runs.append(replace(run, memory=value) if memory else replace(run, rate=value))
    return runs


def of(found: Calibration, name: str) -> Fitted:
    return next(fitted for fitted in found.parameters if fitted.parameter.name == name)


TRUTH = {
    BY_NAME["gemm_efficiency"]: 0.85,
    BY_NAME["attention_efficiency"]: 1.25,
    BY_NAME["network_efficiency"]: 0.75,
    BY_NAME["scale_out_bandwidth"]: 0.6,
}


def test_a_machine_is_recovered_from_its_runs() -> None:
    found = fitted(simulated(TRUTH))
    for parameter, factor in TRUTH.items():
        seen = of(found, parameter.name)
        assert abs(np.log(seen.value / seen.catalog / factor)) < 2.0 * seen.error, parameter.name
        assert seen.error < parameter.spread
    (half,) = found.halves
    assert half.accuracy.error_before > 0.1
    assert half.accuracy.error_after < 0.02
    assert half.accuracy.error_left_out < 0.04


def test_scatter_in_the_runs_shows_in_the_errors() -> None:
    quiet, loud = fitted(simulated(TRUTH)), fitted(simulated(TRUTH, scatter=0.3))
    assert of(loud, "gemm_efficiency").error > 1.5 * of(quiet, "gemm_efficiency").error
    assert loud.halves[0].accuracy.band > 1.5 * quiet.halves[0].accuracy.band
    for parameter, factor in TRUTH.items():
        seen = of(loud, parameter.name)
        assert abs(np.log(seen.value / seen.catalog / factor)) < 3.0 * seen.error, parameter.name


def test_what_no_run_does_is_not_informed() -> None:
    found = fitted(simulated(TRUTH)[:5])  # one node, nothing offloaded
    for name in ("scale_out_bandwidth", "pcie_bandwidth", "host_memory_bandwidth", "cudnn_efficiency"):
        assert not of(found, name).informed, name
        assert of(found, name).value == of(found, name).catalog
    assert set(found.profile().node.model_dump(exclude_none=True)) == set()


def test_a_network_is_that_of_the_run_that_leans_on_it() -> None:
    runs = simulated(TRUTH)
    slow = {BY_NAME["scale_out_bandwidth"]: 0.5}
    changed = [replace(run, setup=scaled(run.setup, slow), timed=scaled(run.timed, slow)) for run in runs[7:10]]
    measured = [replace(run, rate=float(run.predicted("throughput", TRUTH))) for run in changed]
    found = fitted([*runs[:7], *measured])
    seen = of(found, "scale_out_bandwidth")
    assert seen.catalog == changed[0].setup.cluster.scale_out_bandwidth
    assert abs(np.log(seen.value / seen.catalog / 0.6)) < 2.0 * seen.error
    assert any(note.startswith("scale_out_bandwidth differs among the runs") for note in found.notes)


def test_offload_informs_the_host() -> None:
    setup = Case(**BASE).with_values({"framework": "deepspeed", "zero_stage": 3, "offload_optimizer": "cpu"}).resolve()
    factors = {BY_NAME["pcie_bandwidth"]: 0.5, BY_NAME["host_memory_bandwidth"]: 0.5}
    run = Run("offloaded", setup, setup, {"base": "h100-sxm-80gb"})
    found = fitted([replace(run, rate=float(run.predicted("throughput", factors)))])
    assert of(found, "host_memory_bandwidth").value < 0.9 * of(found, "host_memory_bandwidth").catalog


@pytest.mark.parametrize(("kind", "name"), [("torch_reserved", "fragmentation"), ("nvidia_smi", "communicator_buffer")])
def test_memory_teaches_what_lies_beyond_the_tensors(kind: str, name: str) -> None:
    truth = {BY_NAME["fragmentation"]: 1.6, BY_NAME["communicator_buffer"]: 1.8, BY_NAME["context"]: 1.2}
    found = fitted(simulated(truth, memory=kind))
    assert of(found, name).value > 1.05 * of(found, name).catalog
    assert of(found, "context").informed == (kind == "nvidia_smi")
    accuracy = found.halves[0].accuracy
    assert accuracy.error_after < accuracy.error_before


def test_allocated_bytes_teach_nothing() -> None:
    found = fitted(simulated({}, memory="torch_allocated"))
    assert not any(parameter.informed for parameter in found.parameters)
    assert found.halves[0].accuracy.error_before == pytest.approx(0.0, abs=1e-9)


def test_points_side_by_side_are_points_one_by_one() -> None:
    runs, parameters = simulated({})[::3], [p for p in PARAMETERS if p.quantity == "throughput"]
    points = 0.2 * np.random.default_rng(2).standard_normal((4, len(parameters)))
    predict = predictor(runs, parameters, "throughput")
    assert predict(points) == pytest.approx(np.concatenate([predict(point[None]) for point in points]), rel=1e-12)


def test_few_runs_are_said_to_be_few() -> None:
    assert any("rests on one run" in note for note in fitted(simulated({})[:1]).notes)
    assert not any("rests on" in note for note in fitted(simulated({})).notes)


def test_a_run_that_is_off_by_a_factor_is_doubted() -> None:
    runs = simulated({})[:4]
    runs[2] = replace(runs[2], rate=3.0 * runs[2].rate)
    (note,) = (note for note in fitted(runs).notes if "is what ran what was stated" in note)
    assert note.startswith("run-2: throughput is off by a factor of 3.0")


# Tables ---------------------------------------------------------------------------------------------------------------


def test_published_rows_of_one_machine_get_nearer_when_left_out() -> None:
    """One node of B200: the catalog is off by one factor, which eight kinds of runs agree on."""
    found = vramsim.calibrate(TABLE, only={"source": "MooreThreads/SimuMax"})
    accuracy = found.halves[0].accuracy
    assert accuracy.runs > 20
    assert accuracy.error_left_out < 0.5 * accuracy.error_before
    assert accuracy.error_after <= accuracy.error_left_out


def test_rows_without_a_rate_have_their_step_time() -> None:
    columns = {"id": "mine", "source": "me", "model": "llama-3-8b", "framework": "torchtitan", "seq_len": "8192"}
    columns |= {"gpu_type": "H100", "n_gpus": "8", "micro_batch": "1", "grad_accum": "2", "step_time_s": "4"}
    (run,), _ = from_table([Row(columns)])
    assert run.rate == pytest.approx(8192 * 2 / 4)
    assert any("optimizer: adamw (1)" in note for note in fitted([run]).notes)
    assert from_table([Row(columns | {"step_time_s": ""})]) == ([], {"neither a rate nor memory of a stated kind": 1})


def test_one_run_with_two_kinds_of_memory_has_one_rate() -> None:
    columns = {"id": "a", "source": "me", "model": "llama-3-8b", "framework": "torchtitan", "gpu_type": "H100"}
    columns |= {"n_gpus": "8", "seq_len": "8192", "tokens_per_s_per_gpu": "5000", "mem_gib": "50"}
    one, other = {"mem_kind": "nvidia_smi"}, {"id": "b", "mem_kind": "torch_allocated", "mem_gib": "40"}
    runs, _ = from_table([Row(columns | one), Row(columns | other)])
    assert [(run.rate, run.memory / GiB) for run in runs] == [(5000.0, 50.0), (0.0, 40.0)]
    repeated, _ = from_table([Row(columns | one), Row(columns | {"id": "c", "tokens_per_s_per_gpu": "5100"})])
    assert [run.rate for run in repeated] == [5000.0, 5100.0]


def test_a_reading_that_fills_the_card_is_no_measure_of_need() -> None:
    columns = {"id": "mine", "source": "me", "model": "llama-3-8b", "framework": "torchtitan", "gpu_type": "H100"}
    columns |= {"n_gpus": "8", "seq_len": "8192", "mem_kind": "nvidia_smi", "mem_gib": "78.5"}
    assert from_table([Row(columns)]) == ([], {FULL: 1})
    (run,), skipped = from_table([Row(columns | {"tokens_per_s_per_gpu": "5000"})])
    assert (run.memory, skipped) == (0.0, {FULL: 1})
    (run,), _ = from_table([Row(columns | {"mem_gib": "60"})])
    assert run.memory == 60 * GiB


# What is refused ------------------------------------------------------------------------------------------------------


def test_runs_of_two_devices_are_refused() -> None:
    with pytest.raises(VramsimError, match=r"one device, got .*a100-sxm-80gb \(\d+\).*--only gpu_type"):
        vramsim.calibrate(TABLE, only={"source": "mosaicml/llm-foundry"})


def test_no_runs_are_refused_with_what_was_skipped() -> None:
    with pytest.raises(VramsimError, match="no run to learn from"):
        vramsim.calibrate(TABLE, only={"source": "nobody"})
    with pytest.raises(VramsimError, match="--only names the column 'gpu'"):
        vramsim.calibrate(TABLE, only={"gpu": "H100"})
