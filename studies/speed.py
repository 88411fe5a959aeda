"""How fast vramsim is, and how much memory it takes: `python studies/speed.py [--json]`.

One core: the numeric libraries are kept to a single thread, and seconds are those for which a core was busy, so that
other work on the machine hardly shows. Each figure is the best of several runs. Starts of an interpreter are timed by
the clock on the wall.

Peers run in environments of their own: `--llm-analysis-python PATH` is an interpreter with llm-analysis, `--calculon
PATH` a checkout of calculon (and `--calculon-python PATH` an interpreter with the numpy, pandas and psutil that it
needs). One that is not given is looked for in this environment, and where it is not there, the report says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Read when numpy is loaded, which is later.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

HERE = Path(__file__).parent

BASE = {
    "model": "llama-3-70b",
    "cluster": {"device": "a100-sxm-80gb", "num_devices": 16},
    "framework": "xtuner-v0.1",
    "training": {"seq_len": 8192},
}
SEARCH = {
    "num_devices": {"powers_of_two": [8, 512]},
    "zero_stage": [0, 1, 2, 3],
    "sp": {"powers_of_two": [1, 8]},
    "tp": {"powers_of_two": [1, 8]},
    "micro_batch_size": {"powers_of_two": [1, 8]},
    "gradient_accumulation_steps": {"powers_of_two": [1, 32]},
    "seq_len": {"min": 2048, "max": 16384, "step": 2048},
    "recompute": [0, 0.25, 0.5, 0.75, 1],
    "offload_optimizer": [0, 0.5, 1],
    "offload_parameters": [0, 0.5, 1],
    "offload_activations": ["none", "cpu"],
}
"""7.7 million configurations, of which 3.1 million keep the rules."""

FINER = {
    "recompute": {"min": 0, "max": 1, "step": 0.0625},
    "seq_len": {"min": 1024, "max": 32768, "step": 1024},
}
"""What makes the space fourteen times as large."""

FIXED = ("offload_parameters", "offload_activations", "sp", "gradient_accumulation_steps", "tp", "recompute")
"""What is left out, one after the other, of smaller spaces."""

SINGLE_CASES = 300
PEER_RUNS = 200


def best_of(runs: int, action: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> tuple[float, Any]:
    """Seconds of the fastest run, and what the last one returned."""
    seconds, result = float("inf"), None
    for _ in range(runs):
        start = clock()
        result = action()
        seconds = min(seconds, clock() - start)
    return seconds, result


def simulate_grid(space: Any) -> int:
    """Simulate, in blocks, every configuration that keeps the rules; and count them."""
    from vramsim.search.exhaustive import MOST_POINTS
    from vramsim.search.heap import kept_heap
    from vramsim.simulate import simulate

    count = 0
    with kept_heap():
        for block in space.blocks(MOST_POINTS):
            simulate(block.case)
            count += block.size
    return count


def growth() -> list[dict[str, float]]:
    """Rates of ever larger spaces: size, configurations evaluated, seconds, configurations per second."""
    from vramsim.space import Space

    searches = [{key: values for key, values in SEARCH.items() if key not in FIXED[:left]} for left in (6, 4, 2, 1, 0)]
    found = []
    for search in (*searches, SEARCH | FINER):
        space = Space(BASE, search)
        runs = 1 if space.size > 20_000_000 else 3
        seconds, evaluated = best_of(runs, lambda space=space: simulate_grid(space))
        rate = evaluated / seconds
        found.append(
            {"size": space.size, "evaluated": evaluated, "seconds": seconds, "configurations_per_second": rate}
        )
    return found


def peer_questions() -> list[Any]:
    """Runs of GPT-3 on A100s, which both peers have words for: degrees, micro-batches and recomputation vary."""
    from itertools import islice, product

    from peers_throughput import Question

    varied = product((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8), ("none", "selective", "full"))
    return [
        Question(
            device="a100",
            layers=96,
            hidden=12288,
            heads=96,
            kv_heads=96,
            head_dim=128,
            ffn=49152,
            gated=False,
            vocab=51200,
            experts=1,
            top_k=1,
            seq_len=2048,
            micro_batch=micro_batch,
            accumulation=accumulation * pp,
            tp=tp,
            pp=pp,
            vpp=1,
            dp=8,
            ep=1,
            sequence_parallel=tp > 1,
            stage=1,
            recompute=recompute,
            flash=False,
        )
        for tp, pp, micro_batch, accumulation, recompute in islice(varied, PEER_RUNS)
    ]


def peers(interpreters: dict[str, Path], checkout: Path | None) -> dict[str, dict[str, Any]]:
    """Configurations per second of the peers, or a sentence that says why not.

    interpreters : peer -> interpreter that has it. [-]   checkout : of calculon. [-]
    """
    from peers_throughput import talk

    found: dict[str, dict[str, Any]] = {}
    for name, python in interpreters.items():
        module = name.replace("-", "_")
        if python == Path(sys.executable) and not (name == "calculon" and checkout) and find_spec(module) is None:
            found[name] = {"absent": f"{name} is not installed here; say where it is (--help)"}
            continue
        if name == "calculon" and checkout is None:
            found[name] = {"absent": "calculon's systems are read from its checkout; give --calculon PATH"}
            continue
        try:
            first, *answers = talk(name, peer_questions(), python, checkout if name == "calculon" else None)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            found[name] = {"absent": f"{name} does not start with {python}: {type(error).__name__}"}
            continue
        seconds = [answer["cpu_seconds"] for answer in answers if "cpu_seconds" in answer]
        if not seconds:
            found[name] = {"absent": f"{name} answers none of the runs"}
            continue
        rate = len(seconds) / max(sum(seconds), 1e-9)
        found[name] = {"version": first["version"], "runs": len(seconds), "configurations_per_second": rate}
    return found


def single_case_seconds(space: Any) -> float:
    """Time to simulate one case that has been read and checked, averaged over cases from all over the space."""
    from vramsim.errors import VramsimError
    from vramsim.simulate import simulate

    setups = []
    for index in range(0, space.size, space.size // (4 * SINGLE_CASES)):
        with suppress(VramsimError):  # breaks a rule
            setups.append(space.case_at(index).resolve())
    setups = setups[:SINGLE_CASES]

    def run() -> None:
        for setup in setups:
            simulate(replace(setup))  # a copy remembers nothing of an earlier run

    return best_of(3, run)[0] / len(setups)


def start_seconds(statement: str) -> float:
    """Time that a statement adds to an interpreter's start."""

    def run(code: str) -> float:
        command = [sys.executable, "-c", code]
        return best_of(5, lambda: subprocess.run(command, check=True, cwd=HERE.parent), time.perf_counter)[0]

    return max(0.0, run(statement) - run("pass"))


def measure(interpreters: dict[str, Path], checkout: Path | None) -> dict[str, Any]:
    """All figures: seconds, bytes, configurations per second.

    interpreters : peer -> interpreter that has it. [-]   checkout : of calculon. [-]
    """
    from vramsim.search.exhaustive import exhaustive
    from vramsim.space import Space

    space = Space(BASE, SEARCH)
    exhaustive(Space.load(HERE / "spaces" / "llama3_70b.yaml"))  # warms up imports and catalog
    seconds, result = best_of(3, lambda: exhaustive(space))
    grid, evaluated = best_of(5, lambda: simulate_grid(space))
    grown = growth()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    single = single_case_seconds(space)
    others = peers(interpreters, checkout)
    rates = {name: each["configurations_per_second"] for name, each in others.items() if "absent" not in each}
    return {
        "configurations_per_second": evaluated / grid,
        "single_case_seconds": single,
        "import_seconds": start_seconds("import vramsim"),
        "import_and_first_use_seconds": start_seconds("import vramsim; vramsim.Case; vramsim.simulate"),
        "peak_rss_bytes": peak,
        "search": {
            "configurations": space.size,
            "evaluated": result.evaluated,
            "feasible": len(result),
            "on_the_front": len(result.front),
            "seconds": seconds,
            "evaluated_per_second": result.evaluated / seconds,
            "configurations_per_second": space.size / seconds,
        },
        "growth": grown,
        "peers": others,
        "ratios": {
            "loop_over_single_cases": single * evaluated / grid,
            **{name: evaluated / grid / rate for name, rate in rates.items()},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast vramsim is, and how much memory it takes.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--llm-analysis-python", type=Path, default=Path(sys.executable), help="interpreter that has it"
    )
    parser.add_argument("--calculon", type=Path, help="checkout of calculon")
    parser.add_argument("--calculon-python", type=Path, default=Path(sys.executable), help="interpreter for it")
    arguments = parser.parse_args()
    interpreters = {"calculon": arguments.calculon_python, "llm-analysis": arguments.llm_analysis_python}
    found = measure(interpreters, arguments.calculon)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    search = found["search"]
    print(f"grid            {found['configurations_per_second']:14,.0f} configurations/s (memory and time, one core)")
    print(f"search          {search['evaluated_per_second']:14,.0f} configurations/s with rules and Pareto front")
    print(f"one case        {1e3 * found['single_case_seconds']:14.2f} ms")
    print(f"import vramsim  {found['import_seconds']:14.2f} s")
    print(f"peak memory     {found['peak_rss_bytes'] / 2**20:14,.0f} MiB")
    for each in found["growth"]:
        rate = each["configurations_per_second"]
        print(f"of {each['size']:12,} {rate:13,.0f} configurations/s, {each['evaluated']:,} that keep the rules")
    for name, each in found["peers"].items():
        if "absent" in each:
            print(f"{name:15} {each['absent']}")
            continue
        ratio, rate = found["ratios"][name], each["configurations_per_second"]
        print(f"{name:15} {rate:14,.0f} configurations/s ({each['version']}); vramsim does {ratio:,.0f} times as many")
    print(f"grid over loop  {found['ratios']['loop_over_single_cases']:14,.0f} times")


if __name__ == "__main__":
    main()
