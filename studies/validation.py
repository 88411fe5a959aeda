"""The validation study: measured runs beside estimates, written to docs/validation.md with its plots.

Run `python studies/validation.py` from a checkout with the `report` extra installed; it takes about half a minute.
`--out DIR` writes elsewhere.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from vramsim import bands
from vramsim.units import GiB
from vramsim.validate import compare, measured_memory, memory_kind, predicted_memory, read, residuals, validate

HERE = Path(__file__).parent
TABLES = {
    "published runs": HERE / "validation/measurements.csv",
    "torchtitan's benchmarks": HERE / "validation/torchtitan.csv",
    "pre-training runs": HERE / "validation/pretraining.csv",
    "fine-tuning runs": HERE / "validation/finetuning.csv",
    "PyTorch traces": HERE / "validation/traces.csv",
}
ABOUT = {
    "torchtitan": (
        "These were gathered when the model was done, and no constant or band has seen them. The first comparison was "
        "19 % off in rate and 37 % in memory. What it taught was then read in PyTorch and torchtitan: pipelines keep "
        "weights and gradients whole and hold something of every micro-batch, logits stay cut over tensor-parallel "
        "ranks and their loss has a tensor more, complex rotary embeddings are not compiled, FSDP2 copies what it "
        "gathers and reduces. What is left: with context parallelism over 4 and 8 ranks the estimates are 47 and 55 % "
        "fast. Ring attention without load balancing would be 10 and 14 % slow there, but 2 ranks took what they "
        "take with it, and PyTorch balances by default, as the model does. Unexplained."
    ),
    "pretraining": (
        "No constant or band has seen these either: they were gathered after torchtitan's, from thirteen sources of "
        "2019 to 2026. The first comparison was 8.9 % off in rate (15.0 % over sources) and 18.4 % in memory (over "
        "sources). What it taught was then read in the sources' code, not fitted: tables that state fused attention "
        "ran it whatever their stack does else, and five more stacks' kernels. What is left: software of early 2024 on "
        "H100 is 10 to 17 % slower than the same configuration a few months later, FP8 gains 7 % less over BF16 than "
        "estimated, PyTorch and Paddle on A100 are 8 to 12 % slower than their fused kernels would let them be, and "
        "what TP ranks of FlagPerf's Megatron hold is 5 to 10 GiB more than estimated."
    ),
    "finetuning": (
        "Nor these, gathered then from fourteen sources. The first comparison was 28.7 % off in memory. Part "
        "of what is gone since were rows read wrongly, the rest was in the sources' code: Lightning Fabric unpacks "
        "weights by way of fp16 and its loops hold the last graph, cut cross-entropy writes no logits, transformers' "
        "Llama 4 runs every expert on every token, accelerate accumulates under FSDP2 only since September 2025. "
        "Lengths of samples are often guesses of their sources. What is left: ms-swift's Megatron mixtures hold 23 to "
        "44 % more than estimated and are slower, ZeRO-3 over experts that are modules of their own takes a minute a "
        "step for its hooks, PEFT's adapters on L40S are 20 % faster, eager QLoRA in Unsloth's table holds 27 to 43 % "
        "more. Bands hold 80 % of the memory rows here and 67 % of the pre-training runs': they are counted on runs "
        "whose configuration is better known."
    ),
}
"""What a reader should know of a table."""
NARROW = 10.0
"""Ratio of the ends of an axis below which its minor ticks have room for numbers. [-]"""

NEAREST = (
    *(f"mem-fms-acceleration-{n:04}" for n in (50, 54, 86, 123, 211, 216, 287, 436, 631)),
    "mem-litgpt-0011",
)
"""Runs nearest to what most people do: 7 and 8 billion parameters, full, LoRA and QLoRA, on one and two GPUs."""
IN_FULL = (
    (
        "XTuner's speed page",
        "InternLM/xtuner",
        "benchmark.rst",
        "All runs of XTuner's own page: full fine-tuning on A100s, with layers recomputed.",
    ),
    (
        "Korthikanti et al.",
        "calculon-ai/calculon",
        "",
        "All runs of arXiv 2205.05198, table 5, as calculon keeps them: GPT-3's architecture on Selene's A100s.",
    ),
)
"""Tables shown row by row: title, source, part of its location, and what it is."""
TRACES_EXPLAINED = (
    "trace-116 is a step without logits: its loss saves 4 bytes, and the output projection has neither gradient nor "
    "moments, which are 2 GiB. No column says so, and the estimate takes the model's own loss.",
    "trace-99 keeps the model's outputs, as a loop's variable does, until the next forward; the estimate takes them "
    "for the Trainer's, which are gone when the optimizer steps. The step is not its peak.",
    "trace-95 pads, and the mask that every layer copies (2 bytes a key and token) is not modelled: 1 % of its "
    "activations.",
)
"""Traced steps that an estimate does not agree with, and why."""
EXPLANATIONS = (
    "Rows whose samples are neither packed nor of one length state no sequence length. The peak belongs to the longest "
    "batch, and how long that is follows from the mean length and a log-normal distribution of typical spread: one "
    "very long sample more or less moves it by a fifth. Where the mean is not stated either, TRL's default is taken.",
    "SantaCoder with nf4 under FSDP: each token costs more than the estimate, with every kernel alike. Unexplained.",
    "Gemma in Liger's chart without its kernels: 12 GiB of logits less than the row's 512 tokens make, though the runs "
    "with them grow by what 512 tokens take. They took 20 steps of Alpaca, in which so long a batch need not have "
    "occurred. That the weights stayed bf16 is inferred from the chart.",
    "ms-swift's rows are of samples from 91 to 19,548 tokens, the longer ones left out: what the allocator holds then "
    "depends on the order of lengths (M14), and one row in five is off by more than 15 %, both ways.",
    "BERT in 2022: small models come out high by the allocator's base, which is fitted on larger ones; without any "
    "base they would be within 5 %.",
    "ColossalAI with batches of 8 and the optimizer on the host, or adapters: less than 16,384 tokens of logits take, "
    "where its batches of 16 show the whole of them. Unexplained.",
    "Qwen's full fine-tuning under ZeRO-3 on one GPU takes 3 bytes a parameter more than the estimate, whatever the "
    "length; quantized weights of GPTQ under FSDP 2 to 3 GiB more, whatever the model. Unexplained.",
    "ms-swift's Megatron with the optimizer on the host takes about a byte a parameter more. Unexplained.",
    "Rates: fsdp-qlora's RTX 6000 Ada behave as if they exchanged 3.5 GB/s, a third of what such cards do elsewhere, "
    "two of them and four alike. The host of fms-acceleration's unpacked runs under FSDP seems half as fast as "
    "others: the fewer tokens a micro-step has, the more it is overestimated. Megatron-Bridge's "
    "small experts (Qwen3-30B on H100, GPT-OSS) run at 0.8 of the estimate and at half in one container, and one "
    "configuration differs by 77 % between two versions of it: what recipes set is known, what their kernels reach is "
    "not.",
    "torchao on MI300X runs at 72 to 86 % of the estimate, and on B200 at 78 to 94 %: nightly builds of PyTorch, whose "
    "attention and fused kernels on these cards nobody has published. Unexplained.",
    "XTuner's page does not name its network. Its rows at 8k tokens over several nodes, which move parameters longer "
    "than they compute, and those whose sequences are shared by several nodes agree on one card of 100 Gb/s a node, "
    "which is taken (`vramsim/validate/machine.py`). Against it stands one: 70 billion parameters at 32k tokens, whose "
    "69 % of the peak no other row of the page comes near. Its Megatron (Qwen3-235B) keeps experts whole, and runs at "
    "0.8 to 0.9 of the estimate, with capacities, which are taken for the busiest rank's load, at half. Unexplained.",
    "vTrain's 946 rows are sums of few numbers: one time a layer and one for what is no layer, for each width, "
    "tensor-parallel degree and micro-batch, explain all of them to 1.5 %, whatever the layers, stages and "
    "accumulation. What these numbers say contradicts what its configurations state. Layers 2048 wide with 8,192 "
    "tokens on one GPU take 13.6 ms: with the recomputation that is stated, 262 TFLOP/s, softmax included, which an "
    "A100 does not reach; "
    "without it, layers that wait for the host take 1.2 to 2 times the estimate. The rows are taken as stated, and "
    "these errors offset each other in part. Heads, whose 50257 tokens its model does not pad, agree (C12).",
)
"""What was found on looking into the worst rows, one cause a sentence or two."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito's palette, readable by the colour-blind."""


def percent(value: float | None) -> str:
    """A fraction as a percentage.

    value : fraction, or None where there is none. [-]
    """
    return "" if value is None else f"{100.0 * value:.1f} %"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table, line by line.

    header : names of the columns. [-]   rows : cells. [-]
    """
    names = list(header)
    yield "| " + " | ".join(names) + " |"
    yield "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(names))) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def by_part(part: dict[str, dict[str, Any]], label: str) -> Iterator[str]:
    """Table of errors by source or by kind.

    part : errors by name. [-]   label : heading of the first column. [-]
    """
    header = (label, "rows", "mean error", "median", "90th percentile", "bias", "inside the 90 % band")
    rows = (
        (
            name,
            str(e["rows"]),
            percent(e["mape"]),
            percent(e["median_ape"]),
            percent(e["p90_ape"]),
            percent(e["bias"]),
            percent(e["within_band"]),
        )
        for name, e in part.items()
    )
    yield from table(header, rows)


def half(result: dict[str, Any], title: str, unit: float, unit_name: str) -> Iterator[str]:
    """One half of a report, memory or throughput, as Markdown.

    result : what `validate` says of it. [-]   title : heading. [-]   unit : size of the printed unit. [-]
    unit_name : its name. [-]
    """
    yield f"### {title}"
    yield ""
    if not result["rows"]:
        yield "No rows."
        yield ""
        return
    yield (
        f"{result['rows']} rows: mean absolute error {percent(result['mape'])}, "
        f"median {percent(result['median_ape'])}, "
        f"90th percentile {percent(result['p90_ape'])}; averaged over sources {percent(result['macro_mape'])}."
    )
    if "verdicts" in result:
        verdicts = result["verdicts"]
        yield (
            f"Verdicts: {percent(result['verdict_accuracy'])} right; {verdicts['true_fit']} runs fitted as said, "
            f"{verdicts['true_oom']} died as said, {verdicts['false_fit']} died though said to fit, "
            f"{verdicts['false_oom']} fitted though said to die."
        )
    yield ""
    yield from by_part(result["by_source"], "source")
    yield ""
    yield from by_part(result["by_kind"], "kind")
    yield ""
    yield "The ten worst rows:"
    yield ""
    worst = (
        (w["id"], f"{w['predicted'] / unit:.1f}", f"{w['measured'] / unit:.1f}", w["note"].replace("|", "/"))
        for w in result["worst"]
    )
    yield from table(("row", f"predicted, {unit_name}", f"measured, {unit_name}", "note"), worst)
    yield ""
    if result["skipped"]:
        yield "Rows that cannot be expressed, by reason:"
        yield ""
        yield from table(("reason", "rows"), ((reason, str(n)) for reason, n in result["skipped"].items()))
        yield ""
    yield "Assumptions made where a row leaves a column blank:"
    yield ""
    columns = result["assumptions"].items()
    assumed = ((column, value, str(n)) for column, values in columns for value, n in values.items())
    yield from table(("column", "assumed", "rows"), assumed)
    yield ""


def traced(memory: dict[str, Any]) -> Iterator[str]:
    """Agreement of traced steps category by category and moment by moment.

    memory : half of what `validate` returns. [-]
    """
    yield "### By category"
    yield ""
    yield "Bytes alive at the peak, told apart by what they are for. The tracer's words and the categories of an"
    yield "estimate meet in one table (`vramsim/validate/categories.py`). A category that makes up at least 1 % of a"
    yield "row's peak is compared with itself, a smaller one with the peak; the median is of the former."
    yield ""
    yield from agreement(memory["by_category"], "category")
    yield ""
    yield "### By moment"
    yield ""
    yield "Peaks of both stretches of a step, and what is left between steps, compared in the same way."
    yield ""
    yield from agreement(memory["by_moment"], "stretch")
    yield ""
    yield from (f"- {cause}" for cause in TRACES_EXPLAINED)
    yield ""


def agreement(found: dict[str, Any], what: str) -> Iterator[str]:
    """A table of shares within 3 %, one line a category or stretch.

    found : name -> its summary. [-]   what : header of the first column. [-]
    """
    cells = []
    for name, each in found.items():
        large, median = each.get("large"), each.get("median_ape")
        worst = f"{each['worst']}, {percent(each['worst_ape'])}" if "worst" in each else ""
        numbers = (str(each["rows"]), "" if large is None else str(large), percent(each["within"]))
        cells.append((name.replace("_", " "), *numbers, "" if median is None else percent(median), worst))
    header = (what, "rows", "at least 1 % of the peak", "within 3 %", "median error", "worst row")
    yield from table(header, cells)


def plot(path: Path, pairs: list[tuple[str, float, float]], unit: str) -> None:
    """Predicted against measured, one colour a group, with lines at ten percent.

    path : PNG to write. [-]   pairs : (group, measured, predicted). [-]   unit : of both axes. [-]
    """
    figure, axes = plt.subplots(figsize=(6.4, 6.0), dpi=110)
    groups = sorted({group for group, _, _ in pairs}, key=lambda g: (-sum(group == g for group, _, _ in pairs), g))
    for index, group in enumerate(groups):
        measured = [m for g, m, _ in pairs if g == group]
        predicted = [p for g, _, p in pairs if g == group]
        colour, marker = COLOURS[index % len(COLOURS)], "os^Dvx+*"[index // len(COLOURS) % 8]
        axes.plot(measured, predicted, marker, color=colour, ms=4, alpha=0.7, label=group, linestyle="none")
    values = np.array([[m, p] for _, m, p in pairs])
    low, high = values.min() * 0.8, values.max() * 1.25
    line = np.array([low, high])
    axes.plot(line, line, color="#444444", lw=1)
    for factor in (0.9, 1.1):
        axes.plot(line, line * factor, color="#999999", lw=0.8, ls=":")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.5g}")
        axis.set_minor_formatter("{x:,.5g}" if high < low * NARROW else NullFormatter())
    axes.set_xlabel(f"measured, {unit}")
    axes.set_ylabel(f"predicted, {unit}")
    axes.legend(fontsize=6, frameon=False, loc="upper left")
    axes.grid(True, which="major", color="#dddddd", lw=0.5)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def points(path: Path) -> tuple[list[tuple[str, float, float]], list[tuple[str, float, float]]]:
    """Memory and throughput pairs of a table, for plots: (source, measured, predicted).

    path : table of measurements. [-]
    """
    memory, rate = [], []
    for each in compare(row for row in read(path) if row.text("quality", "A") in ("A", "B")):
        if each.estimate is None:
            continue
        measured = measured_memory(each.row)
        if measured is not None:
            predicted = predicted_memory(each.estimate, memory_kind(each.row))
            memory.append((each.row.source, measured / GiB, predicted / GiB))
        tokens = each.row.number("tokens_per_s_per_gpu", 0.0)
        if tokens:
            rate.append((each.row.source, tokens, float(each.estimate.time.tokens_per_second_per_device)))
    return memory, rate


def nearest(path: Path) -> Iterator[str]:
    """Predicted beside measured allocated memory for the nearest rows.

    path : table of measurements. [-]
    """
    rows = [row for row in read(path) if row.id in NEAREST]
    yield "### Everyday fine-tuning"
    yield ""
    yield "Runs of 7 and 8 billion parameters on one and two GPUs; tensors alive at the peak (`torch_allocated`)."
    yield ""
    cells = []
    for each in compare(rows):
        measured = measured_memory(each.row)
        if each.estimate is None or measured is None:
            raise ValueError(f"{each.row.id} should be expressible and state its memory")
        predicted = predicted_memory(each.estimate, "torch_allocated")
        text = each.row.text
        run = f"{text('model').split('/')[-1]}, {text('method')}, {text('base_quant', 'none')}, {text('compute_dtype')}"
        error = f"{100.0 * (predicted / measured - 1.0):+.1f} %"
        size = f"{text('micro_batch')} x {text('seq_len', 'unpacked')}"
        numbers = (f"{predicted / GiB:.2f}", f"{measured / GiB:.2f}", error)
        cells.append((each.row.id, run, text("n_gpus"), size, *numbers))
    yield from table(("row", "run", "GPUs", "batch", "predicted, GiB", "measured, GiB", "error"), cells)
    yield ""


def in_full(path: Path) -> Iterator[str]:
    """Predicted beside measured rates for every row of the tables of `IN_FULL`.

    path : table of measurements. [-]
    """
    rows = [row for row in read(path) if row.text("tokens_per_s_per_gpu")]
    for title, source, location, what in IN_FULL:
        cells, errors = [], []
        for each in compare(r for r in rows if r.source == source and location in r.text("location")):
            if each.estimate is None:
                raise ValueError(f"{each.row.id} should be expressible")
            text, measured = each.row.text, each.row.number("tokens_per_s_per_gpu")
            predicted = float(each.estimate.time.tokens_per_second_per_device)
            errors.append(predicted / measured - 1.0)
            degrees = " ".join(
                f"{name} {text(column)}"
                for name, column in (("tp", "tp"), ("pp", "pp"), ("sp", "ulysses_sp"))
                if text(column, "1") not in ("", "1")
            )
            run = (each.row.id, text("model"), text("n_gpus"), degrees, text("act_ckpt"))
            batch = f"{text('grad_accum')} x {text('micro_batch')} x {text('seq_len')}"
            cells.append((*run, batch, f"{predicted:.1f}", f"{measured:.1f}", f"{100.0 * errors[-1]:+.1f} %"))
        yield f"### {title}"
        yield ""
        yield f"{what} Mean absolute error {percent(float(np.abs(errors).mean()))}. Tokens per second and device:"
        yield ""
        header = ("row", "model", "GPUs", "degrees", "recomputed", "batch", "predicted", "measured", "error")
        yield from table(header, cells)
        yield ""


def report(out: Path) -> Iterator[str]:
    """The page, line by line; plots are written beside it.

    out : directory of the page. [-]
    """
    yield "# Validation"
    yield ""
    yield "Written by `python studies/validation.py`. Every row is a run that somebody published, or a traced step."
    yield "No constant is fitted to a row. Two things are counted on all published rows together: five constants of the"
    yield "caching allocator, so that only `torch_allocated` and rates are free of any fit to them"
    yield "(`studies/fit_allocator.py` prints the error on each source when it alone is left out), and the error bands,"
    yield "by which a row is judged without having been counted. Four come from differences between rows of a single"
    yield "source: how widely the lengths of unpacked samples spread (`vramsim/validate/lengths.py`), what FSDP's hooks"
    yield "and kernels that unpack weights take (`vramsim/parts/launches.py`, `kernels.py`), all from fms-acceleration,"
    yield "and XTuner's network, which its page does not name (`vramsim/validate/machine.py`)."
    yield "What software a row ran is read from its table and, where they are public, from its repository's scripts"
    yield "(`vramsim/validate/stacks.py`). Memory is compared kind by kind: tensors alive"
    yield "(`torch_allocated`), held by the allocator (`torch_reserved`), shown by the driver (`nvidia_smi`); a kind"
    yield "that a source does not state is compared with what the allocator holds. Errors are relative to measurements."
    yield ""
    for name, path in TABLES.items():
        result = validate(path)
        memory, rate = points(path)
        yield f"## {name[0].upper()}{name[1:]}"
        yield ""
        if path.stem in ABOUT:
            yield ABOUT[path.stem]
            yield ""
        for kind, found, unit in (("memory", memory, "GiB"), ("throughput", rate, "tokens/s per device")):
            if found:
                picture = f"validation_{kind}_{path.stem}.png"
                plot(out / picture, found, unit)
                yield f"![Predicted against measured {kind}; dotted lines are 10 % off]({picture})"
                yield ""
        if path.stem == "measurements":
            yield from nearest(path)
        yield from half(result["memory"], "Memory", GiB, "GiB")
        if "by_category" in result["memory"]:
            yield from traced(result["memory"])
        if result["throughput"]["rows"]:
            yield from half(result["throughput"], "Throughput", 1.0, "tokens/s per device")
        if path.stem == "measurements":
            yield from in_full(path)
            yield from unseen()
            yield "### The worst rows explained"
            yield ""
            yield from (f"- {cause}" for cause in EXPLANATIONS)
            yield ""


def errors() -> list[bands.Residual]:
    """Errors of the published runs, from which error bands are counted."""
    return residuals(compare(row for row in read(TABLES["published runs"]) if row.text("quality", "A") in ("A", "B")))


def unseen() -> Iterator[str]:
    """How many rows of a source lie inside of a band to which no row of the source belongs."""
    found = errors()
    yield "### Bands on sources that they have not seen"
    yield ""
    yield "Every source is judged by a band counted on all the others: rows inside of 90 %, and the mean over sources."
    yield ""
    cells = ((name, *map(percent, bands.unseen(found, name))) for name in (bands.MEMORY, bands.THROUGHPUT))
    yield from table(("quantity", "rows", "mean over sources"), cells)
    yield ""


def count_errors(path: Path) -> None:
    """Count the error bands that estimates state, from the published runs.

    path : CSV to write. [-]
    """
    found = bands.count(errors())
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write("# Quantiles of log(measured / estimated) over published runs: studies/validation.py --bands\n")
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def main() -> None:
    """Write the page and its plots; with --bands count the error bands first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs")
    parser.add_argument("--bands", action="store_true", help="count the catalog's error bands anew, first")
    arguments = parser.parse_args()
    if arguments.bands:
        count_errors(Path(bands.__file__).parent / "catalog/error_bands.csv")
        bands.forget()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "validation.md").write_text("\n".join(report(out)).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
