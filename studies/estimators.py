"""vramsim beside other estimators of training memory, on the rows that each can express: docs/estimators.md.

Run `python studies/estimators.py` from a checkout; it takes well under a minute. DeepSpeed's and accelerate's formulas
are written out here; llm-analysis has an environment of its own, and its answers are kept in
studies/estimators/llm_analysis.csv. `--llm-analysis-python PATH` asks the llm-analysis of that interpreter anew.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from vramsim.blocks import num_parameters
from vramsim.spec import Attention, Category, Model, Phase, Setup
from vramsim.units import GiB
from vramsim.validate import Comparison, Row, compare, measured_memory, memory_kind, predicted_memory, read
from vramsim.validate.architecture import Inexpressible, architecture
from vramsim.validate.lengths import DEFAULT_SEQ_LEN
from vramsim.validate.metrics import Verdict, verdicts
from vramsim.validate.stacks import stack_of

HERE = Path(__file__).parent
TABLES = {"published": HERE / "validation/measurements.csv", "traced": HERE / "validation/traces.csv"}
STORE = HERE / "estimators/llm_analysis.csv"
ADAPTER = HERE / "estimators/llm_analysis_adapter.py"
STAGES = {"none": 0, "ddp": 0, "zero1": 1, "distopt": 1, "zero2": 2, "zero3": 3, "fsdp": 3}
KINDS = {
    "torch_allocated": "allocated",
    "torch_reserved": "reserved",
    "nvidia_smi": "driver",
    "unknown": "not stated",
    "traced": "traced",
}
STATES = (Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER_STATE)
DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
DEEPSPEED_VERSION = "0.19.8"
ACCELERATE_VERSION = "1.15.0"


# --- Formulas of others ------------------------------------------------------------------------------------------


def deepspeed_zero2(parameters: float, devices: float, *, offload: bool = False) -> float:
    """Device memory of DeepSpeed's `estimate_zero2_model_states_mem_needs`. [B]

    parameters : of the model. [-]   devices : GPUs of all nodes. [-]   offload : optimizer on the host. [-]
    """
    return 2.0 * parameters + (0 if offload else int(18 * parameters / devices))


def deepspeed_zero3(
    parameters: float, largest: float, devices: float, *, offload: bool = False, offload_parameters: bool = False
) -> float:
    """Device memory of DeepSpeed's `estimate_zero3_model_states_mem_needs`. [B]

    parameters : of the model. [-]   largest : parameters of the largest module. [-]   devices : of all nodes. [-]
    offload : optimizer on the host. [-]   offload_parameters : parameters too; counts with `offload` only. [-]
    """
    if not offload:
        return 4.0 * largest + int(18 * parameters / devices)
    return 4.0 * largest + (0 if offload_parameters else int(2 * parameters / devices))


def accelerate(parameters: float, dtype: str) -> float:
    """What `accelerate estimate-memory` prints under "Training using Adam": the largest of four parts. [B]

    parameters : of the model without its head, as AutoModel makes it. [-]   dtype : of its table: fp32 | bf16. [-]
    """
    whole = 4.0 * parameters
    if dtype == "fp32":
        return max(whole, whole, 2.0 * whole, 4.0 * whole)
    return max(whole, whole + whole // 2, 2.0 * whole, 2.0 * whole)


def sixteen_bytes(parameters: float, devices: float, stage: int) -> float:
    """Sixteen bytes a parameter for mixed-precision Adam, divided as the ZeRO paper (arXiv:1910.02054) does. [B]

    parameters : on one model-parallel rank. [-]   devices : data-parallel ranks. [-]   stage : of ZeRO. [-]
    """
    whole, cut = {0: (16.0, 0.0), 1: (4.0, 12.0), 2: (2.0, 14.0), 3: (0.0, 16.0)}[stage]
    return parameters * (whole + cut / devices)


# --- Measured runs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A measured run in the terms that other estimators take; bytes per parameter of weight, gradient, optimizer."""

    table: str
    row: Row
    comparison: Comparison
    model: Model | None
    devices: int
    stage: int
    tp: int
    pp: int
    cp: int
    ep: int
    weight: int
    gradient: int
    optimizer: int
    compute: int
    adam: bool
    capacity: float

    @property
    def kind(self) -> str:
        """What was measured; "traced" for steps traced on fake tensors. [-]"""
        return "traced" if self.table == "traced" else self.row.text("mem_kind", "unknown")

    @property
    def died(self) -> bool:
        """Whether the run ran out of memory. [-]"""
        return self.row.text("oom").lower() == "true"

    @property
    def measured(self) -> float | None:
        """Peak that the row reports. [B]"""
        return measured_memory(self.row)

    @property
    def offload(self) -> str:
        """What the row says is offloaded; blank for nothing. [-]"""
        return self.row.text("offload", "none").replace("none", "")

    @property
    def fsdp(self) -> bool:
        """Whether PyTorch shards, rather than DeepSpeed. [-]"""
        return self.row.text("framework") == "fsdp2" or (
            (self.row.text("sharding") or stack_of(self.row).sharding) == "fsdp"
        )

    @property
    def data_parallel(self) -> int:
        """Ranks over which model states may be sharded. [-]"""
        return max(1, self.devices // (self.tp * self.pp))

    @property
    def states(self) -> float | None:
        """Model states that a trace shows: what outlives the last backward, less inputs and buffers. [B]

        None where outputs outlive it too, and for FSDP2 without resharding, whose stage changes within a step.
        """
        outputs = self.tp > 1 or self.row.text("keep_outputs") == "true"
        if self.table != "traced" or self.row.text("sharding") == "zero2" or outputs:
            return None
        return self.row.number("backward_end_bytes") - self.row.number("peak_input") - self.row.number("peak_buffer")


PLAIN_ADAM = re.compile(r"(adamw?(_(foreach|fused|single|fp32states))?)?")


def _precision(row: Row, setup: Setup | None) -> tuple[int, int, int, int, bool]:
    """Bytes of weight, gradient and optimizer states a parameter, of a computed number, and whether it is Adam.

    Rows that vramsim cannot express are taken as Megatron's mixed precision.
    """
    if setup is None:
        return 2, 4, 12, 2, bool(PLAIN_ADAM.fullmatch(row.text("optimizer").lower()))
    precision, optimizer = setup.training.precision, setup.training.optimizer
    sizes = [DTYPE_BYTES.get(name, 2) for name in (precision.param, precision.grad, precision.moments)]
    plain = len(optimizer.states) == 2 and all(state.dtype == "moments" for state in optimizer.states)
    master = 4 if precision.master else 0
    compute = DTYPE_BYTES.get(precision.compute, 2)
    return sizes[0], sizes[1], 2 * sizes[2] + master, compute, plain and optimizer.name.startswith("adam")


def _run(table: str, each: Comparison) -> Run:
    row = each.row
    try:
        model: Model | None = architecture(row)[0]
    except Inexpressible:
        model = None
    setup = each.expressed.setup if each.expressed else None
    weight, gradient, optimizer, compute, adam = _precision(row, setup)
    capacity = each.estimate.memory.hbm.capacity_bytes if each.estimate else row.number("gpu_mem_gib", 80.0) * GiB
    sharding = row.text("sharding") or stack_of(row).sharding
    return Run(
        table=table,
        row=row,
        comparison=each,
        model=model,
        devices=int(row.number("n_gpus", 1.0)),
        stage=STAGES.get(sharding, -1),
        tp=int(row.number("tp", 1.0)),
        pp=int(row.number("pp", 1.0)),
        cp=int(row.number("cp", 1.0) * row.number("ulysses_sp", 1.0)),
        ep=int(row.number("ep", 1.0)),
        weight=weight,
        gradient=gradient,
        optimizer=optimizer,
        compute=compute,
        adam=adam,
        capacity=float(capacity),
    )


def runs() -> list[Run]:
    """All rows of quality A and B that report memory or its end."""
    found = []
    for table, path in TABLES.items():
        rows = [row for row in read(path) if row.text("quality", "A") in ("A", "B")]
        told = [row for row in rows if row.text("mem_gib") or row.text("oom").lower() == "true"]
        found += [_run(table, each) for each in compare(told)]
    return found


# --- Estimators --------------------------------------------------------------------------------------------------


class Silent(Exception):
    """A run that an estimator cannot express; the message is the reason that the page counts."""


Answer = tuple[float, float]
"""Peak to hold against measurements, and model states. [B]"""


@dataclass(frozen=True, slots=True)
class Estimator:
    """One program or rule: its name, what it says it estimates, and what it answers of a run (or Silent)."""

    name: str
    claim: str
    takes: str
    answer: Callable[[Run], Answer]


def vramsim(run: Run) -> Answer:
    """Vramsim's peak of the kind that was measured, and its model states in the optimizer's step. [B]

    run : measured run. [-]
    """
    estimate = run.comparison.estimate
    if estimate is None:
        raise Silent(run.comparison.reason)
    alive = estimate.components(Phase.STEP) if run.states is not None else ()
    states = sum(float(each.nbytes) for each in alive if each.category in STATES)
    return predicted_memory(estimate, memory_kind(run.row)), states


def _trained(run: Run, *, mixed: bool) -> tuple[Model, float]:
    """The model and its parameters, when all of it is trained by Adam."""
    if run.model is None:
        raise Silent("the architecture is not given, or not modelled")
    if run.row.text("method", "full") != "full":
        raise Silent("trains adapters, not the model")
    if not run.adam:
        raise Silent("the optimizer is not Adam")
    if mixed and run.weight + run.optimizer < 12:
        raise Silent("weights and moments in 16 bits")
    if run.stage < 0:
        raise Silent("the sharding is not modelled")
    return run.model, float(num_parameters(run.model))


def _largest(model: Model) -> float:
    """Parameters of the largest module, by its own: the head, or one matrix of a layer."""
    matrices = [model.vocab * model.hidden]
    for block in model.blocks:
        matrices.append(block.hidden * block.mlp.ffn)
        if isinstance(block.attention, Attention):
            matrices.append(block.hidden * block.attention.heads * block.attention.head_dim)
    return float(max(matrices))


def deepspeed(run: Run) -> Answer:
    """DeepSpeed's own estimate, on runs of its ZeRO-2 and ZeRO-3. [B]

    run : measured run. [-]
    """
    if run.fsdp or run.stage < 2:
        raise Silent("neither ZeRO-2 nor ZeRO-3 of DeepSpeed")
    return _deepspeed(run)


def deepspeed_on_fsdp(run: Run) -> Answer:
    """DeepSpeed's ZeRO-3 estimate, on runs of FSDP. [B]

    run : measured run. [-]
    """
    if not run.fsdp or run.stage < 3:
        raise Silent("not FSDP with resharding")
    return _deepspeed(run)


def _deepspeed(run: Run) -> Answer:
    model, parameters = _trained(run, mixed=True)
    if run.tp * run.pp * run.ep > 1:
        raise Silent("tensor, pipeline or expert parallelism")
    offload, offload_parameters = "optimizer" in run.offload, "params" in run.offload
    if run.stage == 2:
        found = deepspeed_zero2(parameters, run.devices, offload=offload)
        return found, found
    states, peak = (
        deepspeed_zero3(parameters, largest, run.devices, offload=offload, offload_parameters=offload_parameters)
        for largest in (0.0, _largest(model))
    )
    return peak, states


def accelerate_estimate(run: Run) -> Answer:
    """`accelerate estimate-memory`, on runs that hold the whole model on each device. [B]

    run : measured run. [-]
    """
    model, parameters = _trained(run, mixed=False)
    if run.stage > 0 or run.tp * run.pp * run.ep > 1:
        raise Silent("the model is sharded")
    if run.offload:
        raise Silent("offload")
    head = 0.0 if model.tied_embeddings else float(model.vocab * model.hidden)
    found = accelerate(parameters - head, "fp32" if run.compute == 4 else "bf16")
    return found, found


def sixteen(run: Run) -> Answer:
    """Sixteen bytes a parameter, cut by ZeRO and model parallelism. [B]

    run : measured run. [-]
    """
    _, parameters = _trained(run, mixed=True)
    if run.offload or run.ep > 1:
        raise Silent("offload or expert parallelism")
    found = sixteen_bytes(parameters / (run.tp * run.pp), run.data_parallel, run.stage)
    return found, found


# --- llm-analysis ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """What llm-analysis is asked of a run: plain numbers, sent as JSON."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    gated: bool
    vocab: int
    experts: int
    top_k: int
    seq_len: int
    micro_batch: int
    tp: int
    pp: int
    dp: int
    ep: int
    sequence_parallel: bool
    stage: int
    recompute: str
    weight: int
    gradient: int
    optimizer: int
    activation: int
    flash: bool

    @property
    def digest(self) -> str:
        """Short name of the inputs: an answer stored for other inputs is not used. [-]"""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:10]


def question(run: Run) -> Question:
    """A run as llm-analysis takes it: the same bytes per parameter, every knob that it has set to the row's.

    It takes weights of at most 16 bits: what is kept in 32 is given as a 16-bit weight and more optimizer bytes.

    run : measured run. [-]
    Raises Silent when llm-analysis has no words for the run.
    """
    model, _ = _trained(run, mixed=False)
    if run.offload or run.cp > 1:
        raise Silent("offload, context or Ulysses parallelism")
    if run.compute == 4:
        raise Silent("computes in 32 bits")
    recompute = run.row.text("act_ckpt", "none")
    if recompute not in ("none", "selective", "full"):
        raise Silent(f"recomputation {recompute}")
    block, row = model.blocks[0], run.row
    attention = block.attention
    if len(model.blocks) != 1 or not isinstance(attention, Attention):
        raise Silent("layers of several kinds")
    return Question(
        layers=block.count,
        hidden=model.hidden,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        ffn=block.mlp.ffn,
        gated=block.mlp.gated,
        vocab=model.vocab,
        experts=max(1, block.mlp.experts),
        top_k=max(1, block.mlp.top_k),
        seq_len=int(row.number("seq_len", DEFAULT_SEQ_LEN)),
        micro_batch=int(row.number("micro_batch", 1.0)),
        tp=run.tp,
        pp=run.pp,
        dp=run.data_parallel,
        ep=run.ep,
        sequence_parallel=row.text("megatron_sp").lower() in ("yes", "true", "1"),
        stage=run.stage,
        recompute=recompute,
        weight=2,
        gradient=run.gradient,
        optimizer=run.optimizer + run.weight - 2,
        activation=run.compute,
        flash=not re.search(r"eager|unfused|no flash", row.text("attention").lower()),
    )


@cache
def stored() -> list[dict[str, str]]:
    """Answers of llm-analysis that are kept in the repository."""
    if not STORE.exists():
        return []
    with STORE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def llm_analysis(version: str) -> Callable[[Run], Answer]:
    """Estimator that answers from the stored answers of a version.

    version : of llm-analysis. [-]
    """
    answers = {(each["table"], each["id"]): each for each in stored() if each["version"] == version}

    def answer(run: Run) -> Answer:
        asked = question(run)
        found = answers.get((run.table, run.row.id))
        if found is None or found["inputs"] != asked.digest:
            raise Silent("not asked yet: run with --llm-analysis-python")
        if not found["peak_bytes"]:
            raise Silent("llm-analysis refuses the run")
        return float(found["peak_bytes"]), float(found["states_bytes"])

    return answer


def ask(python: Path, found: Sequence[Run]) -> None:
    """Ask llm-analysis of every run that it can express, and store what it says.

    python : interpreter of an environment with llm-analysis. [-]   found : measured runs. [-]
    """
    asked = []
    for run in found:
        try:
            asked.append((run, question(run)))
        except Silent:
            continue
    lines = "".join(json.dumps(asdict(each)) + "\n" for _, each in asked)
    output = subprocess.run([str(python), str(ADAPTER)], input=lines, capture_output=True, text=True, check=True).stdout
    version, *answers = (json.loads(line) for line in output.splitlines() if line.startswith("{"))
    kept = [each for each in stored() if each["version"] != version["version"]]
    today = datetime.date.today().isoformat()
    for (run, each), answer in zip(asked, answers, strict=True):
        sizes = {name: f"{answer[name]:.0f}" if name in answer else "" for name in ("peak", "states")}
        kept.append(
            {
                "version": version["version"],
                "made": today,
                "table": run.table,
                "id": run.row.id,
                "inputs": each.digest,
                "peak_bytes": sizes["peak"],
                "states_bytes": sizes["states"],
            }
        )
    with STORE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(kept[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept, key=lambda each: each["version"]))
    stored.cache_clear()


def estimators() -> list[Estimator]:
    """All that are compared, vramsim first."""
    found = [
        Estimator("vramsim", "peak by kind: allocated, reserved, used", "the whole setup", vramsim),
        Estimator("DeepSpeed", "model states, largest module", "parameters, GPUs, stage, offload", deepspeed),
        Estimator("DeepSpeed on FSDP", "the same; not offered for FSDP by its authors", "the same", deepspeed_on_fsdp),
        Estimator("accelerate", "training with Adam at batch size 1", "model, dtype", accelerate_estimate),
        Estimator("16 bytes / N", "model states", "parameters, devices, ZeRO stage", sixteen),
    ]
    takes = "model shape, dtypes, batch, TP, PP, EP, ZeRO, recomputation"
    for version in sorted({each["version"] for each in stored()}):
        more = ", prefetched weights, the loss" if version.startswith("git") else ""
        claim = f"model states, activations{more}"
        found.append(Estimator(f"llm-analysis {version}", claim, takes, llm_analysis(version)))
    return found


# --- The page ----------------------------------------------------------------------------------------------------


def percent(value: float | None) -> str:
    """A fraction as a percentage.

    value : fraction, or None where there is none. [-]
    """
    return "" if value is None else f"{100.0 * value:.1f} %"


WORDS = ("estimator", "kind", "source", "says it estimates", "takes", "most frequent reasons for silence")
"""Columns that hold words rather than figures."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table, line by line.

    header : names of the columns. [-]   rows : cells. [-]
    """
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join(" --- " if name in WORDS else " ---: " for name in header) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def summary(pairs: Sequence[tuple[float, float]]) -> list[str]:
    """Mean, median and 90th percentile of absolute errors, and the mean of signed ones, as cells.

    pairs : (predicted, measured). [B]
    """
    if not pairs:
        return [""] * 4
    errors = np.array([predicted / measured - 1.0 for predicted, measured in pairs])
    size = np.abs(errors)
    figures = (size.mean(), np.median(size), np.quantile(size, 0.9), errors.mean())
    return [percent(float(figure)) for figure in figures]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one estimator says of all runs: answers, or reasons for silence, in the order of the runs."""

    estimator: Estimator
    of: list[Answer | str]

    @classmethod
    def collect(cls, estimator: Estimator, found: Sequence[Run]) -> Answers:
        """Ask an estimator of all runs.

        estimator : which. [-]   found : measured runs. [-]
        """
        answers: list[Answer | str] = []
        for run in found:
            try:
                answers.append(estimator.answer(run))
            except Silent as reason:
                answers.append(str(reason))
        return cls(estimator, answers)


def _both(own: Answers, other: Answers, found: Sequence[Run]) -> Iterator[tuple[Run, Answer, Answer | None]]:
    """Runs that an estimator expresses, with its answer and vramsim's (None where vramsim is silent)."""
    for run, ours, theirs in zip(found, own.of, other.of, strict=True):
        if not isinstance(theirs, str):
            yield run, theirs, None if isinstance(ours, str) else ours


def coverage(all_answers: Sequence[Answers], found: Sequence[Run]) -> Iterator[str]:
    """How many rows each estimator expresses, and why not the others.

    all_answers : of every estimator. [-]   found : measured runs. [-]
    """
    rows = []
    for each in all_answers:
        expressed = [run.table for run, answer in zip(found, each.of, strict=True) if not isinstance(answer, str)]
        reasons = Counter(answer for answer in each.of if isinstance(answer, str)).most_common(2)
        why = "; ".join(f"{reason} ({number})" for reason, number in reasons)
        rows.append((each.estimator.name, *(str(expressed.count(name)) for name in TABLES), why))
    totals = [str(sum(run.table == name for run in found)) for name in TABLES]
    rows.append(("all rows", *totals, ""))
    yield from table(("estimator", "published runs", "traced steps", "most frequent reasons for silence"), rows)


def peaks(all_answers: Sequence[Answers], found: Sequence[Run]) -> Iterator[str]:
    """Errors of peak memory by kind, with vramsim's on the same rows.

    all_answers : of every estimator, vramsim first. [-]   found : measured runs. [-]
    """
    rows = []
    own = all_answers[0]
    for other in all_answers:
        for kind, name in KINDS.items():
            told = [each for each in _both(own, other, found) if each[0].kind == kind and each[0].measured]
            if not told:
                continue
            theirs = [(answer[0], run.measured or 0.0) for run, answer, _ in told]
            ours = [(mine[0], run.measured or 0.0) for run, _, mine in told if mine]
            beside = [""] * 4 if other is own else [str(len(ours)), *summary(ours)[:3]]
            rows.append((other.estimator.name, name, str(len(told)), *summary(theirs), *beside))
    header = ("estimator", "kind", "rows", "mean error", "median", "90th percentile", "bias")
    beside_header = ("vramsim: rows", "mean error", "median", "90th percentile")
    yield from table((*header, *beside_header), rows)


def verdict_table(all_answers: Sequence[Answers], found: Sequence[Run]) -> Iterator[str]:
    """How often each says fits and does-not-fit of runs that fitted and died.

    all_answers : of every estimator, vramsim first. [-]   found : measured runs. [-]
    """
    rows = []
    own = all_answers[0]
    for other in all_answers:
        told = [each for each in _both(own, other, found) if each[0].table == "published" and each[2]]
        if not told:
            continue
        theirs = [(run, _fits(other, run, answer)) for run, answer, _ in told]
        ours = [(run, _fits(own, run, mine)) for run, _, mine in told if mine]
        died = sum(run.died for run, _ in theirs)
        beside = [""] * 3 if other is own else _judged(ours)
        rows.append((other.estimator.name, str(len(told)), str(died), *_judged(theirs), *beside))
    header = ("estimator", "rows", "of which died", "right", "died though said to fit", "fitted though said to die")
    yield from table((*header, "vramsim: right", "died though said to fit", "fitted though said to die"), rows)


def _fits(answers: Answers, run: Run, answer: Answer) -> bool:
    estimate = run.comparison.estimate
    if answers.estimator.answer is vramsim and estimate is not None:
        return bool(estimate.fits)
    return answer[0] <= run.capacity


def _judged(said: Iterable[tuple[Run, bool]]) -> list[str]:
    found = verdicts(Verdict(run.row.id, run.row.source, fits, not run.died) for run, fits in said)
    counts = found["verdicts"]
    return [percent(found["verdict_accuracy"]), str(counts["false_fit"]), str(counts["false_oom"])]


def states_table(all_answers: Sequence[Answers], found: Sequence[Run]) -> Iterator[str]:
    """Errors of model states, on traced steps.

    all_answers : of every estimator, vramsim first. [-]   found : measured runs. [-]
    """
    rows = []
    own = all_answers[0]
    for other in all_answers:
        told = [each for each in _both(own, other, found) if each[0].states]
        if not told:
            continue
        theirs = [(answer[1], run.states or 0.0) for run, answer, _ in told]
        ours = [(mine[1], run.states or 0.0) for run, _, mine in told if mine]
        beside = [""] * 3 if other is own else summary(ours)[:3]
        rows.append((other.estimator.name, str(len(told)), *summary(theirs), *beside))
    header = ("estimator", "rows", "mean error", "median", "90th percentile", "bias")
    yield from table((*header, "vramsim: mean error", "median", "90th percentile"), rows)


def report(found: Sequence[Run]) -> Iterator[str]:
    """The page, line by line.

    found : measured runs. [-]
    """
    answers = [Answers.collect(estimator, found) for estimator in estimators()]
    made = sorted({f"{each['version']} on {each['made']}" for each in stored()})
    yield from (
        "# Other estimators",
        "",
        "Written by `python studies/estimators.py`. Rows are those of the",
        "[validation](../studies/validation/README.md) that report memory or an out-of-memory error. Each estimator is",
        "asked only about rows that it has words for, and stands beside vramsim on the same rows. What they claim to",
        "estimate differs; the last table compares model states alone.",
        "",
        "## What each estimates",
        "",
    )
    claims = ((each.estimator.name, each.estimator.claim, each.estimator.takes) for each in answers)
    yield from table(("estimator", "says it estimates", "takes"), claims)
    yield from (
        "",
        "- DeepSpeed: `estimate_zero2_model_states_mem_needs` and `estimate_zero3_model_states_mem_needs`, device",
        "  memory. Its 18 bytes a parameter count a 16-bit and a 32-bit gradient. The formulas here give what those of",
        f"  release {DEEPSPEED_VERSION} give.",
        '- accelerate: `accelerate estimate-memory`, column "Training using Adam": the largest of model, gradients,',
        "  optimizer and step, not their sum, of the model without its head (it builds an `AutoModel`). Its float16",
        "  figure is used where kernels compute in 16 bits, else float32. The formula here gives what that of release",
        f"  {ACCELERATE_VERSION} gives. Rows of any batch size are counted.",
        "- 16 bytes / N: mixed-precision Adam as the ZeRO paper counts it; stages 1 and 2 divide what they shard.",
        "- llm-analysis: `LLMAnalysis.training`, with bytes of weights, gradients and optimizer states as the row has",
        "  them. It counts one embedding matrix, tied or not; git refuses heads that do not add up to the hidden size.",
        f"  Its answers are stored: {'; '.join(made) or 'none yet'}.",
        "- Where a row leaves a column blank, all are given what vramsim assumes for it; rows that vramsim cannot",
        "  express are taken as Megatron's mixed precision.",
        "",
        "## Rows that each can express",
        "",
    )
    yield from coverage(answers, found)
    yield from (
        "",
        "## Peak memory",
        "",
        "Errors are relative to measurements. An estimate of model states alone is a lower bound of a peak: its bias",
        "shows what it leaves out, not a mistake. Kinds: tensors alive (allocated), held by the allocator (reserved),",
        "shown by the driver, not stated by the source, or tensors alive in a traced step.",
        "",
    )
    yield from peaks(answers, found)
    yield from (
        "",
        "## Fits or not",
        "",
        "Published runs that vramsim expresses too. vramsim compares what the driver would show with the device's",
        "usable bytes; the others' one number is compared with the same bytes. From model states alone only \"does not",
        'fit" follows; their "fits" is shown because it is how such numbers are read.',
        "",
    )
    yield from verdict_table(answers, found)
    yield from (
        "",
        "## Model states alone",
        "",
        "Traced steps: parameters, gradients and optimizer states that outlive the last backward pass. Steps in which",
        "outputs outlive it too, and FSDP2 without resharding, are left out. DeepSpeed's largest module, which is",
        "gathered and let go, is not counted here.",
        "",
    )
    yield from states_table(answers, found)


def main() -> None:
    """Write the page; with --llm-analysis-python ask llm-analysis first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs")
    parser.add_argument("--llm-analysis-python", type=Path, help="interpreter of an environment with llm-analysis")
    arguments = parser.parse_args()
    found = runs()
    if arguments.llm_analysis_python:
        ask(arguments.llm_analysis_python, found)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "estimators.md").write_text("\n".join(report(found)).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
