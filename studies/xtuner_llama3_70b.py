"""Why full fine-tuning of LLaMA3-70B with XTuner v0.1 dies on 16 A100-80GB, and what helps: a report with two plots.

    python studies/xtuner_llama3_70b.py [--out DIR]

writes xtuner_llama3_70b.md and xtuner_llama3_70b_*.png beside this file, or into DIR. It needs the extras (`pip install
vramsim[all]`). vramsim computes every number while it runs; only XTuner's published rates are data.
The words are in xtuner_llama3_70b.template.md, cases and tables in _xtuner_llama3_70b.py. The output is committed:
after a change to the model run this again, and read what changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _render as render
import _xtuner_llama3_70b as study
from jinja2 import Environment, StrictUndefined

from vramsim import Estimate
from vramsim.search import Result, search
from vramsim.space import Constraint, Space
from vramsim.spec import Category, Phase
from vramsim.units import GB, GiB, Num

HERE = Path(__file__).parent
NAME = "xtuner_llama3_70b"


PUBLISHED = ((8192, 1, 216.8), (32768, 4, 300.9), (131072, 8, 144.7), (262144, 16, 63.8))
"""XTuner's benchmark of Llama-2-70B on 32 A100-80GB: sequence length, sequence parallel, tokens/s per GPU."""

OFFLOADED = {("none", "none"): "none", ("cpu", "none"): "optimizer", ("cpu", "cpu"): "both"}
SEARCH: dict[str, list[Any]] = {
    "num_devices": [8, 16, 32, 64],
    "micro_batch_size": [1, 2, 4],
    "sp": [1, 2, 4, 8],
    "offload_optimizer": ["none", "cpu"],
    "offload_parameters": ["none", "cpu"],
    "framework.cpu_optimizer": ["cpu_adam", "torch_adamw"],
}
CERTAIN = 0.9
"""Chance to fit that a configuration on the front must have. [-]"""


def main() -> None:
    """Write the report and its plots."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: this file's)")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    result = front()
    plot_phases(out / f"{NAME}_phases.png")
    plot_front(out / f"{NAME}_pareto.png", result)
    values = {**cases(), **tables(), **front_words(result), **constants()}
    (out / f"{NAME}.md").write_text(render.wrapped(words(values)), encoding="utf-8")


def words(values: dict[str, Any]) -> str:
    """The template with its numbers filled in."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    capacity = values["capacity"]

    def against(used: Num) -> str:
        return f"{study.gib(abs(capacity - used))} GiB {'over' if used > capacity else 'under'} the limit"

    environment.filters.update(gib=study.gib, gb=study.gb, chance=study.chance, phase=study.phase_word, against=against)
    template = (HERE / f"{NAME}.template.md").read_text(encoding="utf-8")
    return environment.from_string(template).render(values)


def cases() -> dict[str, Any]:
    """Estimates that the words refer to, and what is read off them."""
    run, held = study.run, study.held
    e16 = run(16)
    hbm = e16.memory.hbm
    tried: dict[str, Estimate] = {}
    for name, gpus, changes in study.WAYS[1:]:
        if gpus == 16:
            tried.setdefault(name.removesuffix(", CPUAdam").removesuffix(", torch AdamW"), run(gpus, changes))
    sure = {
        name: "" if e.fit_probability > CERTAIN else f" ({study.chance(e.fit_probability)})"
        for name, e in tried.items()
    }
    scratch = [held(run(16, c), Phase.STEP, "step scratch") for c in ({}, {"framework.sub_group_size": 1e8})]
    overhead = [held(run(16, {"sp": sp}), Phase.STEP, of=(Category.OVERHEAD,)) for sp in (1, 8)]
    fixed = [run(16, {"gradient_accumulation_steps": steps}) for steps in (1, 4, 16)]
    weights = ("quantized parameters", "quantization scales", "frozen parameters", "persistent parameters")
    rows = list(published())
    within = [low <= rate <= high for _, _, rate, e in rows for low, _, high in [rates(e)]]
    return {
        "e16": e16,
        "e32": run(32),
        "e64": run(64),
        "capacity": hbm.capacity_bytes,
        "fitting": "; ".join(f"{name}{sure[name]}" for name, e in tried.items() if e.fits),
        "failing": "; ".join(name for name, e in tried.items() if not e.fits),
        "offloaded": run(16, study.OFFLOAD),
        "both": run(16, study.BOTH),
        "lora": run(16, study.LORA),
        "lora8": run(8, study.LORA),
        "eight": run(16, {"optimizer": "adamw_8bit"}),
        "sp4": run(16, {"sp": 4}),
        "squeezed": run(16, study.SQUEEZED),
        "qlora_weights": held(run(16, study.QLORA), Phase.SAVE, *weights),
        "parameters": held(e16, Phase.SAVE, "trained parameters") / 2 * 16,
        "scratch": scratch[0],
        "small_scratch": scratch[1],
        "overhead1": overhead[0],
        "overhead8": overhead[1],
        "accumulated": list(dict.fromkeys(study.peak(estimate) for estimate in fixed)),
        "bracketed": sum(within),
        "published_rows": len(rows),
        "first_published": rows[0][3],
        "faster": f"{100 * (rows[1][2] / rows[0][2] - 1):.0f}",
        "states": study.states,
        "story": study.story,
        "accumulation": lambda e: f"{e.graph.setup.training.gradient_accumulation_steps:.0f}",
    }


def tables() -> dict[str, str]:
    """The report's tables."""
    e16, e32 = study.run(16), study.run(32)
    return {
        "persistent_table": study.persistent_table((e16, e32)),
        "phase_table": study.phase_table(e16),
        "length_table": study.length_table(),
        "offload_table": study.offload_table(),
        "qlora_table": study.qlora_table(),
        "sequence_table": study.sequence_table(),
        "all_table": study.all_table(),
        "accumulation_table": study.accumulation_table(),
        "logit_table": study.logit_table(),
        "residual_table": study.residual_table(),
        "published_table": published_table(),
    }


def front() -> Result:
    """Search of full fine-tuning as asked. Results must be likely to fit; parameters leave only with the optimizer."""
    together = Constraint(
        "parameters are offloaded with the optimizer",
        lambda e: e.graph.setup.strategy.offload_parameters - e.graph.setup.strategy.offload_optimizer,
    )
    return search(
        Space(
            study.SEED.with_values({"global_batch_size": study.SEQUENCES}),
            SEARCH,
            constraints=[together, "fits", {"min_fit_probability": CERTAIN}],
        )
    )


def front_words(result: Result) -> dict[str, Any]:
    """The front as a table, and what stands out in it."""
    order = ["num_devices", "headroom_bytes"]
    found: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()} for row in result.pareto.sort_values(order).to_dict("records")
    ]
    rows = []
    for row in found:
        where = OFFLOADED[row["offload_optimizer"], row["offload_parameters"]]
        sizes = (*(row[key] for key in ("num_devices", "micro_batch_size", "sp")), where)
        steps, host = f"{row['gradient_accumulation_steps']:.0f}", f"{row['host_bytes_per_node'] / GiB:,.0f}"
        memory = (f"{row['used_gib']:.1f}", f"{row['headroom_gib']:.1f}", host if where != "none" else "")
        speed = (f"{row['tokens_per_second']:,.0f}", f"{row['tokens_per_second_per_device']:.0f}")
        rows.append((*sizes[:3], steps, where, *memory, *speed))
    head = ["GPUs", "micro-batch", "sp", "accumulation", "offload", "peak GiB", "headroom GiB", "host GiB/node"]
    frame = result.frame
    rates: dict[int, list[float]] = {}
    for gpus, rate in zip(frame["num_devices"], frame["tokens_per_second_per_device"], strict=True):
        rates.setdefault(int(gpus), []).append(float(rate))
    return {
        "pareto_table": render.table([*head, "tokens/s", "tokens/s per GPU"], rows),
        "pareto_size": result.space.size,
        "pareto_feasible": len(frame),
        "pareto_front": len(rows),
        "pareto_removed": [(name, int(count)) for name, count in result.removed.items()],
        "without_offload": int(frame["num_devices"][frame["offload_optimizer"] == "none"].min()),
        "fewest": int(frame["num_devices"].min()),
        "best_rates": {gpus: f"{max(reached):.0f}" for gpus, reached in sorted(rates.items())},
        "certain": CERTAIN,
    }


def published() -> Iterator[tuple[int, int, float, Estimate]]:
    """Published rows, each with its estimate."""
    for length, sp, rate in PUBLISHED:
        changes = {"model": "llama-2-70b", "seq_len": length, "sp": sp, "gradient_accumulation_steps": 1}
        yield length, sp, rate, study.run(32, changes)


def rates(estimate: Estimate) -> tuple[float, float, float]:
    """Tokens/s per GPU: with nothing overlapped, the estimate, with everything overlapped. [1/s]"""
    time = estimate.time
    tokens = float(time.tokens_per_second_per_device * time.step_seconds)
    return tokens / float(time.upper_seconds), tokens / float(time.step_seconds), tokens / float(time.lower_seconds)


def published_table() -> str:
    rows = []
    for length, sp, rate, estimate in published():
        low, best, high = rates(estimate)
        rows.append(
            (
                length,
                sp,
                f"{rate:.1f}",
                f"{best:.1f}",
                f"{low:.1f} to {high:.1f}",
                f"{round(100 * (best / rate - 1)):+d} %",
            )
        )
    head = ["tokens", "sp", "published tokens/s per GPU", "vramsim", "bounds", "difference"]
    return render.table(head, rows)


def constants() -> dict[str, Any]:
    """What was assumed, for the last section."""
    setup = study.SEED.resolve()
    cluster, device = setup.cluster, setup.cluster.device
    states = study.states(study.run(16))
    return {
        "tokens": study.SEQUENCES * study.LENGTH,
        "sequences": study.SEQUENCES,
        "vocab": setup.model.vocab,
        "node": cluster.host_memory,
        "dram": f"{cluster.host_memory_bandwidth / GB:.0f}",
        "pcie": f"{cluster.pcie_bandwidth / GB:.0f}",
        "scale_out": f"{cluster.scale_out_bandwidth / GB:.0f}",
        "devices_per_node": f"{cluster.devices_per_node:.0f}",
        "gemm": device.gemm_efficiency,
        "attention": device.attention_efficiency,
        "fragmentation": setup.framework.fragmentation,
        "gib_error": f"{states / GB - states / GiB:.1f}",
    }


def plot_phases(path: Path) -> None:
    """Stacked bars of device memory over the phases, on 16 and on 32 GPUs."""
    panels = []
    for gpus in (16, 32):
        estimate = study.run(gpus)
        by = {
            name: [study.held(estimate, phase, of=(category,)) / GiB for phase in study.PHASES]
            for name, category in study.GROUPS.items()
        }
        sums = [study.held(estimate, phase) for phase in study.PHASES]
        used = [float(estimate.memory.hbm.by_phase[phase.label]) for phase in study.PHASES]
        by["allocator's gaps"] = [(total - known) / GiB for total, known in zip(used, sums, strict=True)]
        marks = [study.first_iteration(estimate, phase) / GiB for phase in study.PHASES]
        panels.append(render.Panel(f"{gpus} GPUs", by, marks))
    limit = study.run(16).memory.hbm.capacity_bytes / GiB
    bars = [word.replace("end of ", "end of\n") for word in study.PHASES.values()]
    render.stacked_bars(
        path, bars, panels, (limit, f"{limit:.1f} GiB usable"), "memory per GPU [GiB]", "in the first iteration"
    )


def plot_front(path: Path, result: Result) -> None:
    """Headroom against throughput: the front of each number of GPUs, and what it beats."""
    axes = ["headroom_gib", "tokens_per_second_per_device"]
    lines = []
    for gpus in SEARCH["num_devices"]:
        best = result.pareto[result.pareto["num_devices"] == gpus]
        points = [(float(x), float(y)) for x, y in best[axes].to_numpy()]
        hollow = [str(place) == "cpu" for place in best["offload_optimizer"]]
        notes = {point: f"sp {sp}" for point, sp in zip(points, best["sp"], strict=True) if sp > 1}
        lines.append(render.Curve(f"{gpus} GPUs", points, hollow, notes if gpus == min(SEARCH["num_devices"]) else {}))
    words = {
        "x": "headroom per GPU [GiB]",
        "y": "throughput per GPU [tokens/s]",
        "solid": "nothing offloaded",
        "hollow": "offloaded to the CPU",
        "others": "fits, but beaten",
    }
    render.curves(path, lines, result.frame[axes].to_numpy().tolist(), words)


if __name__ == "__main__":
    main()
