"""How fast vramsim is, and how much memory it takes: `python studies/speed.py [--json]`.

One core: the numeric libraries are kept to a single thread, and seconds are those for which a core was busy, so that
other work on the machine hardly shows. Each figure is the best of several runs. Starts of an interpreter are timed by
the clock on the wall.
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

SINGLE_CASES = 300


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


def measure() -> dict[str, Any]:
    """All figures: seconds, bytes, configurations per second."""
    from vramsim.search.exhaustive import exhaustive
    from vramsim.space import Space

    space = Space(BASE, SEARCH)
    exhaustive(Space.load(HERE / "spaces" / "llama3_70b.yaml"))  # warms up imports and catalog
    seconds, result = best_of(3, lambda: exhaustive(space))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    grid, evaluated = best_of(3, lambda: simulate_grid(space))
    single = single_case_seconds(space)
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
        "ratios": {"loop_over_single_cases": single * evaluated / grid},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast vramsim is, and how much memory it takes.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = measure()
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    search = found["search"]
    print(f"grid            {found['configurations_per_second']:14,.0f} configurations/s (memory and time, one core)")
    print(f"search          {search['evaluated_per_second']:14,.0f} configurations/s with rules and Pareto front")
    print(f"one case        {1e3 * found['single_case_seconds']:14.2f} ms")
    print(f"import vramsim  {found['import_seconds']:14.2f} s")
    print(f"peak memory     {found['peak_rss_bytes'] / 2**20:14,.0f} MiB")
    print(f"grid over loop  {found['ratios']['loop_over_single_cases']:14,.0f} times")


if __name__ == "__main__":
    main()
