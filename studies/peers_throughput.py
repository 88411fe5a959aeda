"""vramsim beside calculon, llm-analysis and a rule of thumb, on published rates: docs/peers_throughput.md.

Run `python studies/peers_throughput.py` from a checkout; it takes well under a minute. The others have environments of
their own, and their answers are kept in studies/peers/answers.csv. `--llm-analysis-python PATH` (an interpreter with
llm-analysis; may be given twice) and `--calculon PATH` (a checkout of calculon) ask them anew.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from estimators import STAGES, Silent, percent, summary, table

from vramsim.blocks import num_parameters
from vramsim.spec import Attention, Setup
from vramsim.units import TFLOP
from vramsim.validate import Comparison, compare, read
from vramsim.validate.stacks import stack_of

HERE = Path(__file__).parent
TABLE = HERE / "validation/measurements.csv"
STORE = HERE / "peers/answers.csv"
ADAPTERS = {"calculon": HERE / "peers/calculon_adapter.py", "llm-analysis": HERE / "peers/llm_analysis_adapter.py"}
DEVICES = {"A100-80GB-SXM4": "a100", "A100-80GB": "a100", "A100-40GB-SXM4": "a100", "H100-80GB-SXM": "h100"}
"""Devices that the peers describe -> their short name; the smaller A100 computes as the larger one does."""

PEAK = {"a100": 312 * TFLOP, "h100": 989 * TFLOP}
"""FLOP/s of dense 16-bit products, from the datasheets."""


# --- What is asked -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """A measured run as plain numbers, sent as JSON."""

    device: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    gated: bool
    vocab: int
    experts: int
    top_k: int
    seq_len: int
    micro_batch: int
    accumulation: int
    tp: int
    pp: int
    vpp: int
    dp: int
    ep: int
    sequence_parallel: bool
    stage: int
    recompute: str
    flash: bool

    @property
    def digest(self) -> str:
        """Short name of the inputs: an answer stored for other inputs is not used. [-]"""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:10]


def question(each: Comparison) -> Question:
    """A run in the words that both peers have, every knob set to what vramsim takes the row to mean.

    each : measured row with its estimate. [-]
    Raises Silent where neither has words for it.
    """
    row = each.row
    if each.expressed is None:
        raise Silent(each.reason)
    setup = each.expressed.setup
    device = DEVICES.get(row.text("gpu_type"))
    if device is None:
        raise Silent("the device is not among theirs")
    if setup.training.lora is not None or row.text("base_quant", "none") != "none":
        raise Silent("adapters or quantized weights")
    if row.text("offload", "none") != "none":
        raise Silent("offload")
    if float(setup.strategy.cp) * float(setup.strategy.sp) > 1:
        raise Silent("context or Ulysses parallelism")
    model = setup.model
    if len(model.blocks) != 1 or not isinstance(model.blocks[0].attention, Attention):
        raise Silent("layers of several kinds")
    recompute = _recompute(setup, row.text("act_ckpt"))
    block, strategy, training = model.blocks[0], setup.strategy, setup.training
    attention = block.attention
    assert isinstance(attention, Attention)
    sharding = row.text("sharding") or stack_of(row).sharding
    degrees = float(strategy.tp) * float(strategy.pp)
    return Question(
        device=device,
        layers=block.count,
        hidden=model.hidden,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        ffn=block.mlp.ffn,
        gated=block.mlp.gated,
        vocab=model.vocab,
        experts=max(1, block.mlp.experts),
        top_k=max(1, block.mlp.top_k),
        seq_len=int(training.seq_len),
        micro_batch=int(training.micro_batch_size),
        accumulation=int(training.gradient_accumulation_steps),
        tp=int(strategy.tp),
        pp=int(strategy.pp),
        vpp=int(strategy.vpp),
        dp=max(1, int(float(setup.cluster.num_devices) / degrees)),
        ep=int(strategy.ep),
        sequence_parallel=bool(strategy.megatron_sp),
        stage=max(0, STAGES.get(sharding, 0)),
        recompute=recompute,
        flash=not re.search(r"eager|unfused|no flash", row.text("attention").lower()),
    )


def _recompute(setup: Setup, told: str) -> str:
    """None | selective | full: what the row says, else what vramsim assumes for it."""
    if told in ("none", "selective", "full"):
        return told
    share = float(setup.strategy.recompute)
    if share not in (0.0, 1.0):
        raise Silent("recomputes some layers only")
    return "full" if share else "none"


# --- Who is asked ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimator:
    """One program or rule: its name, and the tokens per second and device that it gives for a run (or Silent)."""

    name: str
    rate: Callable[[Comparison], float]


def vramsim(each: Comparison) -> float:
    """Vramsim's rate. [tokens/s/device]

    each : measured row with its estimate. [-]
    """
    if each.estimate is None:
        raise Silent(each.reason)
    return float(each.estimate.time.tokens_per_second_per_device)


def half_of_peak(each: Comparison) -> float:
    """Eight FLOPs a parameter and token, recomputation included, at half of the device's peak. [tokens/s/device]

    each : measured row with its estimate. [-]
    """
    asked = question(each)
    if asked.experts > 1:
        raise Silent("counts all experts")
    assert each.expressed is not None
    return 0.5 * PEAK[asked.device] / (8.0 * float(num_parameters(each.expressed.setup.model)))


def for_calculon(asked: Question) -> None:
    """Refuse what calculon has no words for.

    asked : a run. [-]
    Raises Silent with the reason.
    """
    if asked.experts > 1 or asked.ep > 1:
        raise Silent("experts")
    if asked.kv_heads != asked.heads:
        raise Silent("grouped queries")
    if asked.stage > 1:
        raise Silent("shards gradients or weights (ZeRO-2, ZeRO-3, FSDP)")


def for_llm_analysis(asked: Question) -> None:
    """Refuse what llm-analysis has no words for: a pipeline it has, an interleaved one it times as a plain one.

    asked : a run. [-]
    """


WORDS = {"calculon": for_calculon, "llm-analysis": for_llm_analysis}


@cache
def stored() -> list[dict[str, str]]:
    """Answers of the peers that are kept in the repository."""
    if not STORE.exists():
        return []
    with STORE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def peer(name: str, version: str) -> Callable[[Comparison], float]:
    """What a peer's stored answers say.

    name : calculon | llm-analysis. [-]   version : of it. [-]
    """
    answers = {each["id"]: each for each in stored() if (each["peer"], each["version"]) == (name, version)}

    def rate(each: Comparison) -> float:
        asked = question(each)
        WORDS[name](asked)
        found = answers.get(each.row.id)
        if found is None or found["inputs"] != asked.digest:
            raise Silent("not asked yet")
        if not found["step_seconds"]:
            raise Silent(f"refuses the run: {found['reason']}")
        tokens = asked.seq_len * asked.micro_batch * asked.accumulation / (asked.tp * asked.pp)
        return tokens / float(found["step_seconds"])

    return rate


def estimators() -> list[Estimator]:
    """All that are compared, vramsim first."""
    versions = sorted({(each["peer"], each["version"]) for each in stored()})
    peers = [Estimator(f"{name} {version}", peer(name, version)) for name, version in versions]
    return [Estimator("vramsim", vramsim), *peers, Estimator("half of peak", half_of_peak)]


def talk(name: str, questions: Sequence[Question], python: Path, checkout: Path | None = None) -> list[dict[str, Any]]:
    """What a peer answers in its own process, its version first.

    name : calculon | llm-analysis. [-]   questions : runs. [-]   python : interpreter that has it. [-]
    checkout : of calculon. [-]
    Raises OSError or CalledProcessError where it does not start.
    """
    lines = "".join(json.dumps(asdict(each)) + "\n" for each in questions)
    command = [str(python), str(ADAPTERS[name])]
    environment = dict(os.environ)
    if checkout is not None:
        command.append(str(checkout))
        environment["PYTHONPATH"] = str(checkout)
    run = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def ask(name: str, found: Sequence[Comparison], python: Path, checkout: Path | None = None) -> None:
    """Ask a peer of every run that it can express, and store what it says.

    name : calculon | llm-analysis. [-]   found : measured runs. [-]   python : interpreter that has it. [-]
    checkout : of calculon. [-]
    """
    asked = []
    for each in found:
        try:
            made = question(each)
            WORDS[name](made)
        except Silent:
            continue
        asked.append((each.row.id, made))
    first, *answers = talk(name, [made for _, made in asked], python, checkout)
    kept = [each for each in stored() if (each["peer"], each["version"]) != (name, first["version"])]
    for (row_id, made), answer in zip(asked, answers, strict=True):
        seconds = f"{answer['step_seconds']:.6g}" if "step_seconds" in answer else ""
        kept.append(
            {
                "peer": name,
                "version": first["version"],
                "made": datetime.date.today().isoformat(),
                "id": row_id,
                "inputs": made.digest,
                "step_seconds": seconds,
                "reason": re.sub(r"\s+", " ", answer.get("reason", ""))[:80],
            }
        )
    STORE.parent.mkdir(exist_ok=True)
    with STORE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(kept[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept, key=lambda each: (each["peer"], each["version"])))
    stored.cache_clear()


# --- The page ----------------------------------------------------------------------------------------------------


def runs() -> list[Comparison]:
    """All rows of quality A and B that report a rate."""
    rows = [row for row in read(TABLE) if row.text("quality", "A") in ("A", "B")]
    return list(compare(row for row in rows if row.number("tokens_per_s_per_gpu", 0.0)))


Answers = dict[str, float]
"""Row -> predicted rate."""


def collect(estimator: Estimator, found: Sequence[Comparison]) -> tuple[Answers, Counter[str]]:
    """What an estimator answers, and how often which reason keeps it silent.

    estimator : which. [-]   found : measured runs. [-]
    """
    answers: Answers = {}
    silent: Counter[str] = Counter()
    for each in found:
        try:
            answers[each.row.id] = estimator.rate(each)
        except Silent as reason:
            silent[str(reason)] += 1
    return answers, silent


def source_name(each: Comparison) -> str:
    """A source, split where it measured one node and several.

    each : measured row. [-]
    """
    row = each.row
    node = row.number("gpus_per_node", 8.0)
    name = "Korthikanti et al., table 5" if row.id.startswith("korthikanti") else row.source
    return f"{name}, {'several nodes' if row.number('n_gpus', 1.0) > node else 'one node'}"


def pairs(answers: Answers, found: Sequence[Comparison]) -> list[tuple[float, float]]:
    """(predicted, measured) of the runs that were answered. [tokens/s/device]

    answers : of an estimator. [-]   found : measured runs. [-]
    """
    return [(answers[each.row.id], each.row.number("tokens_per_s_per_gpu")) for each in found if each.row.id in answers]


def mean_error(found: Sequence[tuple[float, float]]) -> str:
    """Mean absolute error with the number of rows, as a cell.

    found : (predicted, measured). [any]
    """
    if not found:
        return ""
    return f"{percent(float(np.mean([abs(one / other - 1.0) for one, other in found])))} ({len(found)})"


def report(found: Sequence[Comparison]) -> Iterator[str]:
    """The page, line by line.

    found : measured runs. [-]
    """
    everyone = estimators()
    said = {each.name: collect(each, found) for each in everyone}
    names = [each.name for each in everyone]
    made = sorted({f"{each['peer']} {each['version']} on {each['made']}" for each in stored()})
    yield from (
        "# Other estimators of throughput",
        "",
        "Written by `python studies/peers_throughput.py`. Rows are those of the",
        "[validation](../studies/validation/README.md) that report a rate. Each estimator is asked only about rows",
        "that it has words for, and stands beside vramsim on the same rows.",
        "",
        "- calculon: `Llm.compile` and `run` with its own systems `a100_80g` and `h100_80g_nvl8`, which its validation",
        "  and studies use, and the switches of its `validation/seqsel/tab5` for what rows do not tell (no overlap of",
        "  tensor- and data-parallel communication). It has no head and no loss, two matrices an MLP (a gated one is",
        "  given as one of the same size), and no grouped queries, experts, context parallelism, ZeRO-2 and ZeRO-3.",
        "- llm-analysis: `LLMAnalysis.training` with its own `a100-sxm-80gb` and `h100-sxm-80gb`, and the efficiencies",
        "  that its README names: 0.5 of the FLOPs, 0.9 of the memory bandwidth. It has no interleaved schedule and",
        "  no pipeline bubble.",
        "- Both are given room: a run that was measured did fit, whatever they count.",
        "- half of peak: 8 FLOPs a parameter and token, recomputation included, at half of the datasheet's peak.",
        "- What a row leaves blank is for all of them what vramsim assumes.",
        "- vramsim's constants of kernels and links were calibrated on public measurements, some of them of these",
        "  sources ([studies/calibrate_hardware.py](../studies/calibrate_hardware.py)); calculon's efficiencies were",
        "  set by its authors with Selene, on which Korthikanti et al. measured.",
        f"- Stored answers: {'; '.join(made) or 'none yet'}.",
        "",
        "## Rows that each can express",
        "",
    )
    coverage = []
    for name in names:
        answers, silent = said[name]
        why = "; ".join(f"{reason} ({number})" for reason, number in silent.most_common(4))
        coverage.append((name, str(len(answers)), why))
    coverage.append(("all rows", str(len(found)), ""))
    yield from table(("estimator", "rows", "most frequent reasons for silence"), coverage)
    yield from ("", "## Errors, and vramsim's on the same rows", "", "Errors of tokens per second and device.", "")
    own = said["vramsim"][0]
    rows = []
    for name in names:
        answers = said[name][0]
        common = [each for each in found if each.row.id in answers]
        beside = [""] * 3 if name == "vramsim" else summary(pairs(own, common))[:3]
        rows.append((name, str(len(answers)), *summary(pairs(answers, found)), *beside))
    header = ("estimator", "rows", "mean error", "median", "90th percentile", "bias")
    yield from table((*header, "vramsim: mean error", "median", "90th percentile"), rows)
    yield from (
        "",
        "## By source, on the rows that all of a table's estimators can express",
        "",
        "Mean error (rows). Most rows are of one source, hence the last line, in which sources count alike.",
        "",
    )
    yield from _by_source(names, {name: said[name][0] for name in names}, found, common_to=names)
    yield from (
        "",
        "## By source, each on the rows that it can express",
        "",
        "Mean error (rows).",
        "",
    )
    yield from _by_source(names, {name: said[name][0] for name in names}, found, common_to=())


def _by_source(
    names: Sequence[str], said: dict[str, Answers], found: Sequence[Comparison], common_to: Sequence[str]
) -> Iterator[str]:
    groups: dict[str, list[Comparison]] = {}
    for each in found:
        if all(each.row.id in said[name] for name in common_to):
            groups.setdefault(source_name(each), []).append(each)
    rows = []
    for group, members in sorted(groups.items()):
        cells = [mean_error(pairs(said[name], members)) for name in names]
        if any(cells[1:]):
            rows.append((group, *cells))
    everywhere = [each for members in groups.values() for each in members]
    rows.append(("all rows", *(mean_error(pairs(said[name], everywhere)) for name in names)))
    macro = []
    for name in names:
        means = [
            np.mean([abs(one / other - 1.0) for one, other in found])
            for found in (pairs(said[name], members) for members in groups.values())
            if found
        ]
        macro.append(f"{percent(float(np.mean(means)))} ({len(means)} sources)" if means else "")
    rows.append(("mean of sources", *macro))
    yield from table(("source", *names), rows)


def main() -> None:
    """Write the page; with --calculon or --llm-analysis-python ask them first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs")
    parser.add_argument("--llm-analysis-python", type=Path, action="append", default=[])
    parser.add_argument("--calculon", type=Path, help="checkout of calculon")
    parser.add_argument("--calculon-python", type=Path, default=Path(sys.executable))
    arguments = parser.parse_args()
    found = runs()
    for python in arguments.llm_analysis_python:
        ask("llm-analysis", found, python)
    if arguments.calculon:
        ask("calculon", found, arguments.calculon_python, arguments.calculon)
    arguments.out.mkdir(parents=True, exist_ok=True)
    page = "\n".join(report(found)).rstrip() + "\n"
    (arguments.out / "peers_throughput.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
