"""What a table's words about machines and software amount to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vramsim import Case, catalog, simulate
from vramsim.spec import Setup
from vramsim.units import GB
from vramsim.validate import express, machine
from vramsim.validate.rows import Row


def row(**columns: str) -> Row:
    """A row of a table with some columns filled."""
    plain = {"id": "x", "source": "x/x", "model": "llama2-7b", "gpu_type": "A100-80GB", "n_gpus": "8"}
    plain |= {"framework": "Megatron-Core", "seq_len": "4096", "tp": "8", "compute_dtype": "bf16", "method": "full"}
    return Row(plain | columns)


def test_omni_path_reaches_what_was_measured_on_it() -> None:
    """Provenance: bigscience experiments/bandwidth/all_reduce_bench-a100-n4.txt, 40.5 Gb/s over one link of 100."""
    found = machine.scale_out("NVLink + 4 Omni-Path links per node (Jean Zay)")
    assert found is not None
    assert found * 0.9 == pytest.approx(4 * 40.5 / 8.0 * GB, rel=0.01)


def test_an_old_board_halves_the_bus_and_what_shares_it() -> None:
    bus, link = catalog.device("rtx-3090-24gb"), catalog.device("a100-sxm-80gb")
    old = machine.as_it_was(bus, "RTX3090-24GB", "PCIe (old board), no NVLink")
    assert (old.pcie_bandwidth, old.scale_up_bandwidth) == (bus.pcie_bandwidth / 2, bus.scale_up_bandwidth / 2)
    third = machine.as_it_was(link, "A100-80GB", "NVLink3, PCIe gen 3")
    assert (third.pcie_bandwidth, third.scale_up_bandwidth) == (link.pcie_bandwidth / 2, link.scale_up_bandwidth)
    assert machine.as_it_was(bus, "RTX3090-24GB", "PCIe4 x16 each") == bus


def test_a_power_limit_costs_rate() -> None:
    """Provenance: PyTorch's benchmarks hold B200 at 750 W (pytorch/helion pull request 347)."""
    free = catalog.device("b200-sxm-180gb")
    held = machine.as_it_was(free, "B200-180GB-SXM (power limited)", "")
    assert held == catalog.powered(free, 750.0)
    assert held.gemm_efficiency / free.gemm_efficiency == held.attention_efficiency / free.attention_efficiency < 1.0


def test_a_rack_on_one_link_is_a_node_whatever_its_trays_hold() -> None:
    """Provenance: NVIDIA's tables count four devices a tray, and name the NVLink domain of 72."""
    columns = {"gpu_type": "GB200-192GB", "n_gpus": "256", "gpus_per_node": "4", "tp": "1"}
    trays, rack = (
        express(row(**columns, interconnect=words)).setup.cluster for words in ("NVLink5 + IB", "NVL72 NVLink5 + IB")
    )
    assert (float(trays.devices_per_node), float(rack.devices_per_node)) == (4.0, 64.0)


def test_a_run_that_states_its_global_batch_alone_is_taken_for_tuned() -> None:
    """The chosen micro-batch fits, keeps the global batch, and no other that fits is faster."""
    expressed = express(row(global_batch_seqs="64", megatron_sp="yes"))
    assert ("micro_batch", "the fastest that fits") in expressed.assumptions
    setup = expressed.setup
    assert float(setup.global_batch_size) == 64.0

    def rate(size: float) -> float:
        training = replace(
            setup.training, micro_batch_size=size, gradient_accumulation_steps=64.0 / size / setup.data_parallel
        )
        estimate = simulate(replace(setup, training=training))
        return float(estimate.time.tokens_per_second_per_device) * bool(estimate.fits)

    assert rate(float(setup.training.micro_batch_size)) == max(rate(size) for size in (1.0, 2.0, 4.0, 8.0))
    assert express(row(micro_batch="1", global_batch_seqs="64")).setup.training.micro_batch_size == 1.0


def test_full_fine_tuning_beside_peft_runs_deepspeed() -> None:
    full = express(row(source="QwenLM/Qwen", tp="1", n_gpus="1", sharding="none", micro_batch="1")).setup
    assert (full.framework.engine, full.strategy.zero_stage) == ("deepspeed", 3.0)


def _unfused(**changes: float) -> Setup:
    setup = Case(
        model="llama-2-7b",
        cluster={"device": "a100-sxm-80gb", "num_devices": 8},
        framework="megatron",
        training={"seq_len": changes.pop("seq_len", 2048), "micro_batch_size": changes.pop("micro_batch_size", 1)},
        strategy={"tp": 8},
    ).resolve()
    return replace(setup, framework=replace(setup.framework, attention="unfused"))


@pytest.mark.parametrize(("micro_batch_size", "seq_len", "fused"), [(1, 2048, True), (1, 8192, False), (3, 2048, True)])
def test_the_fused_softmax_takes_four_matrices_at_once(micro_batch_size: int, seq_len: int, fused: bool) -> None:
    """Provenance: Megatron-DeepSpeed fused_softmax.py, is_kernel_available; 32 heads on 8 ranks are 4."""
    from vramsim.parts.kernels import fused_softmax

    setup = _unfused(micro_batch_size=micro_batch_size, seq_len=seq_len)
    assert bool(fused_softmax(setup, setup.model.blocks[0])) is fused
    odd = replace(setup, strategy=replace(setup.strategy, tp=16.0))
    assert bool(fused_softmax(odd, setup.model.blocks[0])) is (fused and micro_batch_size % 2 == 0)
