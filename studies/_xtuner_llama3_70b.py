"""The seed case of xtuner_llama3_70b.py: its variants, what is read off their estimates, and the report's tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import _render as render

from vramsim import Case, Estimate, simulate
from vramsim.spec import Category, Phase, Tier
from vramsim.units import GB, GiB, Num

SEED = Case.load(Path(__file__).parent / "cases" / "llama3_70b_16xa100.yaml")
SEQUENCES, LENGTH = 64, 8192
"""Every comparison has so many sequences of so many tokens in one optimizer step, or as many tokens. [-]"""

PHASES = {
    Phase.INIT: "init",
    Phase.FORWARD: "forward",
    Phase.HEAD: "loss",
    Phase.BACKWARD: "backward",
    Phase.REDUCE: "end of backward",
    Phase.STEP: "step",
}
"""Phases in order, as the report calls them: `loss` is the head and its loss, both passes."""

STORY = {
    "first": "first forward and backward",
    "step": "first step",
    "forward": "second forward",
    "loss": "second loss",
    "backward": "second backward",
}
GROUPS = {
    "parameters": Category.PARAMETER,
    "gradients": Category.GRADIENT,
    "optimizer states": Category.OPTIMIZER_STATE,
    "activations": Category.ACTIVATION,
    "temporaries": Category.TEMPORARY,
    "CUDA context, NCCL": Category.OVERHEAD,
}
GRADIENTS = "gradient partition, allocated for good"
OFFLOAD = {"offload_optimizer": "cpu"}
BOTH = {**OFFLOAD, "offload_parameters": "cpu"}
CPU_ADAM = {"framework.cpu_optimizer": "cpu_adam"}
LORA = {"method": "lora", "lora": {"rank": 64, "alpha": 16}}
QLORA = {**LORA, "method": "qlora", "quantization": "nf4_dq"}
LIGER = {"framework.loss": "liger"}
SQUEEZED = {"sp": 4, **LIGER, "framework.sub_group_size": 1e8, "framework.reduce_bucket_size": 5e7}


class Way(NamedTuple):
    """A way out: its name, the number of GPUs, and what else changes against the seed case."""

    name: str
    gpus: int = 16
    changes: Mapping[str, Any] = {}


WAYS = (
    Way("as asked"),
    Way("sequences of 4096", 16, {"seq_len": 4096}),
    Way("sequences of 2048", 16, {"seq_len": 2048}),
    Way("accumulation halved, micro-batch 2", 16, {"micro_batch_size": 2}),
    Way("sequence parallel 2", 16, {"sp": 2}),
    Way("sequence parallel 4", 16, {"sp": 4}),
    Way("sequence parallel 8", 16, {"sp": 8}),
    Way("sp 4, Liger loss, small buffers", 16, SQUEEZED),
    Way("8-bit AdamW", 16, {"optimizer": "adamw_8bit"}),
    Way("more GPUs", 32),
    Way("more GPUs", 64),
    Way("CPU offload of the optimizer, torch AdamW", 16, OFFLOAD),
    Way("CPU offload of the optimizer, CPUAdam", 16, {**OFFLOAD, **CPU_ADAM}),
    Way("CPU offload of both, torch AdamW", 16, BOTH),
    Way("CPU offload of both, CPUAdam", 16, {**BOTH, **CPU_ADAM}),
    Way("CPU offload of both, CPUAdam", 8, {**BOTH, **CPU_ADAM}),
    Way("LoRA, rank 64", 16, LORA),
    Way("LoRA, rank 64", 8, LORA),
    Way("QLoRA, rank 64, nf4_dq", 16, QLORA),
    Way("QLoRA, rank 64, nf4_dq", 8, QLORA),
)


def run(gpus: int = 16, changes: Mapping[str, Any] | None = None) -> Estimate:
    """Estimate of a variant of the seed case; the tokens of a step stay as they are unless it says otherwise."""
    values = dict(changes or {})
    if "gradient_accumulation_steps" not in values:
        values["global_batch_size"] = SEQUENCES * LENGTH // values.get("seq_len", LENGTH)
    return simulate(SEED.with_values({"num_devices": gpus, **values}))


# Reading an estimate --------------------------------------------------------------------------------------------------


def gib(nbytes: Num) -> str:
    return f"{float(nbytes) / GiB:,.1f}"


def gb(nbytes: Num) -> str:
    return f"{float(nbytes) / GB:,.1f}"


def chance(probability: Num) -> str:
    return "> 99 %" if probability > 0.99 else "< 1 %" if probability < 0.01 else f"{100 * probability:.0f} %"


def phase_word(label: str) -> str:
    return {**{phase.label: word for phase, word in PHASES.items()}, "first_step": "first iteration"}[label]


def peak(estimate: Estimate) -> str:
    return gib(estimate.memory.hbm.used_bytes)


def yes(estimate: Estimate) -> str:
    return "yes" if estimate.fits else "no"


def held(estimate: Estimate, phase: Phase, *names: str, of: tuple[Category, ...] = tuple(Category)) -> float:
    """Bytes in device memory during a phase: of the named components, or all; of some categories, or all. [B]"""
    living = estimate.components(phase)
    return sum(float(c.nbytes) for c in living if c.category in of and (not names or c.name in names))


def states(estimate: Estimate) -> float:
    """Bytes of parameters, gradients and optimizer states that stay on one GPU. [B]"""
    return held(estimate, Phase.SAVE, of=(Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER_STATE))


def first_iteration(estimate: Estimate, phase: Phase) -> float:
    """Used bytes in a phase of the first iteration: Adam's moments do not exist before the step. [B]"""
    lazy = sum(float(c.nbytes) for c in estimate.components(phase) if c.lazy and phase is not Phase.STEP)
    return float(estimate.memory.hbm.by_phase[phase.label]) - lazy * (1 + estimate.graph.setup.framework.fragmentation)


def story(estimate: Estimate) -> dict[str, float]:
    """Used bytes in the order in which a run meets them; keys as in STORY. [B]"""
    by = {name: float(value) for name, value in estimate.memory.hbm.by_phase.items()}
    used = (by["first_step"], by["step"], by["forward"], by["head"], max(by["backward"], by["reduce"]))
    return dict(zip(STORY, used, strict=True))


def end(estimate: Estimate) -> str:
    """Where a run first needs more than there is."""
    over = (STORY[key] for key, used in story(estimate).items() if used > estimate.memory.hbm.capacity_bytes)
    return next(over, "runs")


# Tables ---------------------------------------------------------------------------------------------------------------


def persistent_table(pair: tuple[Estimate, Estimate]) -> str:
    rows = (
        ("bf16 parameters", 2, ("trained parameters", "persistent parameters")),
        ("bf16 gradients", 2, (GRADIENTS,)),
        ("fp32 master weights", 4, ("fp32 master weights",)),
        ("Adam's two moments, fp32", 8, ("optimizer moments",)),
    )
    sums = [(name, size, [held(e, Phase.SAVE, *parts) for e in pair]) for name, size, parts in rows]
    sums.append(("together", 16, [states(e) for e in pair]))
    cells = [(name, size, *(show(b) for b in amounts for show in (gb, gib))) for name, size, amounts in sums]
    return render.table(["states", "B/parameter", "16 GPUs: GB", "GiB", "32 GPUs: GB", "GiB"], cells)


def phase_table(estimate: Estimate) -> str:
    order = list(GROUPS.values())
    found = [c for c in estimate.graph.components if c.tier is Tier.HBM and c.category in order]
    names = dict.fromkeys(c.name for c in sorted(found, key=lambda c: order.index(c.category)))
    amounts = {name: [held(estimate, phase, name) for phase in PHASES] for name in names}
    large = {name: row for name, row in amounts.items() if max(row) >= 0.05 * GiB}
    used = [float(estimate.memory.hbm.by_phase[phase.label]) for phase in PHASES]
    small = [held(estimate, phase) - sum(row[i] for row in large.values()) for i, phase in enumerate(PHASES)]
    slack = [total - held(estimate, phase) for total, phase in zip(used, PHASES, strict=True)]
    rows = [(name, *(gib(amount) if amount else "" for amount in row)) for name, row in large.items()]
    rows += [("all smaller ones", *map(gib, small)), ("allocator's rounding and gaps", *map(gib, slack))]
    rows.append(("**used**", *(f"**{gib(total)}**" for total in used)))
    rows.append(("used in the first iteration", *(gib(first_iteration(estimate, phase)) for phase in PHASES)))
    return render.table(["component", *PHASES.values()], rows)


def length_table() -> str:
    pairs = [(length, run(16, {"seq_len": length})) for length in (2048, 4096, LENGTH)]
    rows = [(n, *map(gib, story(e).values()), end(e), chance(e.fit_probability)) for n, e in pairs]
    return render.table(["tokens", *STORY.values(), "dies at", "chance to fit"], rows)


def offload_table() -> str:
    rows = []
    for what, changes in (("optimizer", OFFLOAD), ("optimizer and parameters", BOTH)):
        for adam, more in (("torch AdamW", {}), ("CPUAdam", CPU_ADAM)):
            for gpus in (16, 8):
                e = run(gpus, {**changes, **more})
                spent = (f"{e.time.by_activity[name]:.1f}" for name in ("cpu_optimizer", "offload"))
                host = f"{e.memory.host.used_bytes_per_node / GiB:,.0f}"
                rate = f"{e.time.tokens_per_second_per_device:.0f}"
                rows.append((what, adam, gpus, peak(e), host, *spent, f"{e.time.step_seconds:.1f}", rate))
    head = [
        "on the host",
        "CPU step by",
        "GPUs",
        "peak GiB",
        "host GiB/node",
        "CPU step s",
        "PCIe s",
        "step s",
    ]
    return render.table([*head, "tokens/s per GPU"], rows)


QLORA_PARTS = (
    ("4-bit weights of the blocks", "sharded", ("quantized parameters",)),
    ("their scales", "**whole on every GPU**", ("quantization scales",)),
    ("embedding and head, bf16", "sharded", ("frozen parameters",)),
    ("small weights, kept gathered", "whole on every GPU", ("persistent parameters",)),
    (
        "adapters, gradients, Adam",
        "sharded",
        ("trained parameters", GRADIENTS, "fp32 master weights", "optimizer moments"),
    ),
)


def qlora_table() -> str:
    pair = (run(8, QLORA), run(16, QLORA))
    rows = [(what, how, *(gib(held(e, Phase.SAVE, *names)) for e in pair)) for what, how, names in QLORA_PARTS]
    rows += [("together", "", *(gib(states(e)) for e in pair)), ("peak", "", *map(peak, pair))]
    return render.table(["QLoRA, rank 64, nf4_dq", "", "8 GPUs", "16 GPUs"], rows)


def sequence_table() -> str:
    rows = []
    for sp in (1, 2, 4, 8):
        pair = (run(16, {"sp": sp}), run(32, {"sp": sp, "seq_len": 32768, "gradient_accumulation_steps": 1}))
        rows.append((sp, *(x for e in pair for x in (peak(e), phase_word(e.memory.hbm.peak_phase), yes(e)))))
    head = ["sp", "16 GPUs, 8192 tokens: peak GiB", "in", "fits", "32 GPUs, 32768 tokens: peak GiB", "in", "fits"]
    return render.table(head, rows)


def all_table() -> str:
    rows = []
    for name, gpus, changes in WAYS:
        e = run(gpus, changes)
        hbm, time, host = e.memory.hbm, e.time, e.memory.host.used_bytes_per_node
        rate = float(time.tokens_per_second_per_device)
        seconds = f"{time.step_seconds:.1f} [{time.lower_seconds:.1f}, {time.upper_seconds:.1f}]"
        memory = (peak(e), gib(hbm.headroom_bytes), phase_word(hbm.peak_phase), f"{host / GiB:,.0f}" if host else "")
        speed = (seconds, f"{rate:.0f}", f"{1e9 / rate / 3600:,.0f}")
        rows.append((name, gpus, yes(e), chance(e.fit_probability), *memory, *speed))
    head = ["way", "GPUs", "fits", "chance", "peak GiB", "headroom GiB", "peak in", "host GiB/node", "step s [bounds]"]
    return render.table([*head, "tokens/s per GPU", "GPU-hours per 10^9 tokens"], rows)


def accumulation_table() -> str:
    rows = []
    for micro in (4, 2, 1):
        cells: list[object] = []
        for gpus in (16, 32):
            steps = SEQUENCES // (gpus * micro)
            e = run(gpus, {"micro_batch_size": micro}) if steps else None
            cells += [steps, peak(e), yes(e)] if e else ["", "", ""]
        rows.append((micro, *cells))
    head = ["micro-batch", "16 GPUs: accumulation", "peak GiB", "fits", "32 GPUs: accumulation", "peak GiB", "fits"]
    return render.table(head, rows)


def logit_table() -> str:
    rows = []
    for length in (2048, 4096, LENGTH, 16384):
        pair = [run(32, {"seq_len": length, **loss}) for loss in ({}, LIGER)]
        parts = [gib(held(e, Phase.HEAD, "logits and loss")) for e in pair]
        rows.append((length, *parts, *map(peak, pair), *(phase_word(e.memory.hbm.peak_phase) for e in pair)))
    head = ["tokens", "loss GiB", "with Liger", "32 GPUs: peak GiB", "with Liger", "peak in", "with Liger"]
    return render.table(head, rows)


def residual_table() -> str:
    rows = []
    for gpus in (16, 32, 64):
        e = run(gpus)
        rows.append((gpus, gib(states(e)), gib(e.memory.hbm.used_bytes - states(e)), peak(e)))
    return render.table(["GPUs", "states GiB", "all else GiB", "peak GiB"], rows)
