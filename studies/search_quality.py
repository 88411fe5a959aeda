"""How good the search with Optuna is, against the exact fronts of exhaustive search.

Run `python studies/search_quality.py [--json] [--out docs]` from a checkout; it takes half an hour. Every space of
studies/spaces/quality is searched in one objective with 200 trials, and in two or three with 2,000, with several seeds.

- regret: how far the best feasible configuration that was tried is behind the best of the space, relative to it.
- hypervolume: of the front that was found over that of the exact front (Optuna's own routine). Objectives are scaled so
  that the exact front reaches from 0 to 1 in each; the reference point is 1.1 in each.
- trials: different configurations that were tried. The grids that a search starts from come on top; `cold` is the
  same search without them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vramsim.search import Result, search
from vramsim.search.optuna_search import NOTHING as NOTHING_KNOWN
from vramsim.search.optuna_search import started
from vramsim.search.start import Start
from vramsim.space import Objective, Space
from vramsim.space.metrics import objectives as objectives_named
from vramsim.units import GiB

HERE = Path(__file__).parent
SPACES = HERE / "spaces" / "quality"
ALONE = ("tokens_per_second", "headroom_bytes", "mfu")
"""Objectives that are sought alone."""

OF_RUNS = ("cost_usd", "energy_kwh", "headroom_bytes")
"""The same, in a space that says how many tokens there are to train on."""

SEEDS = 20
TRIALS_ALONE, TRIALS_TOGETHER = 200, 2000
EDGE = 1.1
"""Coordinate of the reference point, where the exact front reaches from 0 to 1."""

NOTHING = 1e-12
"""Regret that counts as none: sums in another order differ in the last bits."""

Floats = NDArray[np.float64]


def front(result: Result) -> Floats:
    """Goals of the Pareto front, all to be minimized.

    result : of a search. [-]
    """
    listed = result.pareto[[goal.name for goal in result.objectives]].to_numpy(np.float64)
    return listed * np.array([goal.sign for goal in result.objectives])


def hypervolume(points: Floats, exact: Floats) -> float:
    """Volume that points dominate, below the reference point, with the exact front scaled to [0, 1].

    points : goals, a row each. [any]   exact : the exact front. [any]
    """
    from optuna._hypervolume import compute_hypervolume

    least, most = exact.min(axis=0), exact.max(axis=0)
    scaled = (points - least) / np.where(most > least, most - least, 1.0)
    # A point beyond the reference point in one objective dominates nothing below it.
    return float(compute_hypervolume(np.minimum(scaled, EDGE), np.full(exact.shape[1], EDGE)))


def regret(found: Result, best: float) -> float:
    """How far the best configuration found is behind, relative to the best of all; infinite where none is feasible.

    found : of a search in one objective. [-]   best : its goal at the exact optimum. [any]
    """
    return abs(float(front(found).min()) - best) / abs(best) if len(found) else float("inf")


def alone(space: Space, objective: str, seeds: Sequence[int], *, warm: bool = True) -> dict[str, Any]:
    """Regrets of searches in one objective.

    space : what is searched. [-]   objective : name of a metric. [-]   seeds : of the sampler. [-]
    warm : begin with what a coarse grid finds. [-]
    """
    best = float(front(search(space, "exhaustive", [objective])).min())
    goals = objectives_named([objective], space.metrics)
    look = partial(search, space, "optuna", goals, TRIALS_ALONE)
    begin, least = _begun(space, goals, TRIALS_ALONE, warm=warm)
    regrets, evaluated, seconds = _repeated(partial(look, warm=begin), lambda found: regret(found, best), seeds)
    (goal,) = goals
    return {
        "objective": objective,
        "exact_optimum": goal.sign * best,
        "regret_zero_share": float(np.mean(np.array(regrets) <= NOTHING)),
        "largest_regret": max(regrets),
        "evaluated": evaluated,
        "seconds": least + seconds,
    }


def together(space: Space, seeds: Sequence[int], *, warm: bool = True) -> dict[str, Any]:
    """Hypervolumes of searches in the space's own objectives, relative to the exact front's.

    space : what is searched. [-]   seeds : of the sampler. [-]   warm : begin with what a coarse grid finds. [-]
    """
    exact = front(search(space, "exhaustive"))
    whole = hypervolume(exact, exact)
    begin, least = _begun(space, space.objectives, TRIALS_TOGETHER, warm=warm)
    look = partial(search, space, "optuna", None, TRIALS_TOGETHER, warm=begin)

    def ratio(found: Result) -> float:
        return hypervolume(front(found), exact) / whole if len(found) else 0.0

    ratios, evaluated, seconds = _repeated(look, ratio, seeds)
    return {
        "objectives": [goal.name for goal in space.objectives],
        "exact_front": len(exact),
        "hypervolume_ratio": float(np.mean(ratios)),
        "least_hypervolume_ratio": min(ratios),
        "evaluated": evaluated,
        "seconds": least + seconds,
    }


def _begun(space: Space, goals: tuple[Objective, ...], trials: int, *, warm: bool) -> tuple[Start, float]:
    """What coarse grids find, and the seconds that it takes: once for all seeds, on which it does not depend."""
    begin = time.process_time()
    found = started(space, goals, trials) if warm else NOTHING_KNOWN
    return found, time.process_time() - begin


def _repeated(
    look: Callable[..., Result], judge: Callable[[Result], float], seeds: Sequence[int]
) -> tuple[list[float], float, float]:
    """Judgements, mean number of configurations simulated, and mean seconds."""
    start = time.process_time()
    judged, evaluated = [], []
    for seed in seeds:
        found = look(seed=seed)
        judged.append(judge(found))
        evaluated.append(found.evaluated)
    return judged, float(np.mean(evaluated)), (time.process_time() - start) / len(seeds)


def measure(paths: Sequence[Path], seeds: Sequence[int], few_seeds: Sequence[int]) -> dict[str, Any]:
    """All figures.

    paths : space files. [-]   seeds : of searches in one objective. [-]   few_seeds : of those in several. [-]
    """
    spaces = []
    for path in paths:
        space = Space.load(path)
        spaces.append(
            {
                "space": path.stem,
                "size": space.size,
                "valid": sum(structure.size for structure in space.structures()),
                "alone": [alone(space, objective, seeds) for objective in sought(space)],
                "alone_cold": alone(space, sought(space)[0], few_seeds, warm=False),
                "together": together(space, few_seeds),
                "together_cold": together(space, few_seeds, warm=False),
            }
        )
    return summed_up(spaces, len(seeds), len(few_seeds))


def sought(space: Space) -> tuple[str, ...]:
    """Objectives that are sought alone in a space.

    space : what is searched. [-]
    """
    return ALONE if space.run is None else OF_RUNS


def summed_up(spaces: Sequence[dict[str, Any]], seeds: int, few_seeds: int) -> dict[str, Any]:
    """What the figures of all spaces come to, and the figures.

    spaces : figures of each. [-]   seeds : number in one objective. [-]   few_seeds : in several. [-]
    """
    return {
        "regret_zero_share": float(np.mean([each["regret_zero_share"] for of in spaces for each in of["alone"]])),
        "least_regret_zero_share": min(each["regret_zero_share"] for of in spaces for each in of["alone"]),
        "hypervolume_ratio": float(np.mean([of["together"]["hypervolume_ratio"] for of in spaces])),
        "least_hypervolume_ratio": min(of["together"]["least_hypervolume_ratio"] for of in spaces),
        "trials": {"one objective": TRIALS_ALONE, "several": TRIALS_TOGETHER},
        "seeds": {"one objective": seeds, "several": few_seeds},
        "reference_point": f"{EDGE} in each objective, the exact front scaled to [0, 1]",
        "spaces": list(spaces),
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What is printed for a person.

    found : all figures. [-]
    """
    for of in found["spaces"]:
        yield f"{of['space']}: {of['size']:,} configurations, {of['valid']:,} that keep the rules"
        for label, each in (*(("", one) for one in of["alone"]), (", cold", of["alone_cold"])):
            yield (
                f"  {each['objective'] + label:26} regret 0 in {each['regret_zero_share']:4.0%}, at most "
                f"{each['largest_regret']:.2%}; {each['evaluated']:,.0f} simulated in {each['seconds']:.1f} s"
            )
        for label, each in (("", of["together"]), (", cold", of["together_cold"])):
            yield (
                f"  {len(each['objectives'])} objectives{label:14} hypervolume {each['hypervolume_ratio']:.4f}, "
                f"at least {each['least_hypervolume_ratio']:.4f}, of {each['exact_front']} points; "
                f"{each['evaluated']:,.0f} simulated in {each['seconds']:.1f} s"
            )
    worst = f"{found['least_regret_zero_share']:.0%} in the worst space and objective"
    yield f"regret 0 in {found['regret_zero_share']:.1%}, {worst}"
    yield f"hypervolume {found['hypervolume_ratio']:.4f}, at least {found['least_hypervolume_ratio']:.4f}"


HEADINGS: dict[str, tuple[str, float, str]] = {
    "tokens_per_second": ("most tokens/s", 1.0, ",.0f"),
    "headroom_bytes": ("most GiB to spare", 1.0 / GiB, ".1f"),
    "mfu": ("highest MFU, %", 100.0, ".1f"),
    "cost_usd": ("least USD", 1.0, ",.0f"),
    "energy_kwh": ("least kWh", 1.0, ",.0f"),
}
"""Objective -> what it is called, a factor, and how it is shown."""


def page(found: dict[str, Any]) -> str:
    """The page that docs/ keeps.

    found : all figures. [-]
    """
    seeds, trials = found["seeds"], found["trials"]
    alone_rows, together_rows = [], []
    for of in found["spaces"]:
        name = f"[{of['space']}](../studies/spaces/quality/{of['space']}.yaml)"
        for number, each in enumerate(of["alone"]):
            words, factor, style = HEADINGS[each["objective"]]
            cold = f"{of['alone_cold']['regret_zero_share']:.0%}" if number == 0 else ""
            alone_rows.append(
                (
                    name if number == 0 else "",
                    f"{of['valid']:,}" if number == 0 else "",
                    words,
                    format(factor * each["exact_optimum"], style),
                    f"{each['regret_zero_share']:.0%}",
                    f"{each['largest_regret']:.2%}",
                    f"{each['evaluated']:,.0f}",
                    f"{each['seconds']:.1f}",
                    cold,
                )
            )
        warm, cold = of["together"], of["together_cold"]
        together_rows.append(
            (
                name,
                ", ".join(warm["objectives"]),
                f"{warm['exact_front']:,}",
                f"{warm['hypervolume_ratio']:.4f}",
                f"{warm['least_hypervolume_ratio']:.4f}",
                f"{warm['seconds']:.1f}",
                f"{cold['hypervolume_ratio']:.4f}",
            )
        )
    one = ("space", "valid", "objective", "exact optimum", "regret 0", "worst regret", "simulated", "s", "cold")
    several = ("space", "objectives", "exact front", "hypervolume", "least", "s", "cold")
    least = min(of["together"]["hypervolume_ratio"] for of in found["spaces"])
    cold_zero = float(np.mean([of["alone_cold"]["regret_zero_share"] for of in found["spaces"]]))
    cold_volume = float(np.mean([of["together_cold"]["hypervolume_ratio"] for of in found["spaces"]]))
    return f"""# How good the search with Optuna is

Written by `python studies/search_quality.py --out docs`. Spaces of 10^5 to 10^6 configurations are small enough to be
enumerated, so that the exact answer is known; the search with Optuna, which is meant for larger ones, is held against
it.

## In one objective

{trials["one objective"]} trials, {seeds["one objective"]} seeds. `regret 0`: share of the seeds that found the optimum
itself; `worst regret`: how far behind it the worst seed ended. `simulated`: configurations that were looked at in all,
of `valid` ones that keep the rules; most of them in the coarse grids that a search starts from. `cold`: share of regret
0 without those grids ({seeds["several"]} seeds).

{table(one, alone_rows)}

## In several objectives

{trials["several"]} trials, {seeds["several"]} seeds. `hypervolume`: what the front that was found dominates, over
what the exact one does, with the exact front scaled to reach from 0 to 1 and the reference point at {EDGE}; its mean,
the least of all seeds, and the mean without the grids.

{table(several, together_rows)}

## What it means

- With the grids, the optimum is found in {found["regret_zero_share"]:.1%} of all searches in one objective, and in
  {found["least_regret_zero_share"]:.0%} of the seeds in the worst space and objective; fronts of several come to
  {found["hypervolume_ratio"]:.4f} of the exact hypervolume, {least:.4f} in the worst space.
- Without them, the same trials find the optimum in {cold_zero:.0%}, and {cold_volume:.4f} of the hypervolume: a
  front's rough shape is easy, its corners are not. Memory and time have many local optima, which a sampler that sees
  scores only cannot tell from the best one; a grid of thousands of configurations can, for the price of a few cases.
- The grids do not depend on the seed: where they come near enough, all seeds find the optimum, and where they do not,
  many miss it. How they are laid out was chosen with these spaces at hand, so that others may fare worse.
- A search that finds an optimum here may miss one in a space of 10^12, of which no exact answer is known. Where
  enumeration is affordable (`method="auto"` tries up to ten million valid configurations) it is used instead, and there
  is no regret.
- Seconds are of one core, spent on the grids and on Optuna's bookkeeping; simulating the trials themselves hardly
  counts.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    head : column names. [-]   rows : cells. [-]
    """
    words = ("space", "objective", "objectives")
    rule = ["---" if name in words else "---:" for name in head]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="How good the search with Optuna is, against exact fronts.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of searches in one objective; a quarter for several")
    parser.add_argument("--out", type=Path, help="folder to write search_quality.md to")
    parser.add_argument("--read", type=Path, nargs="+", help="outputs of --json to put together, instead of searching")
    parser.add_argument("spaces", type=Path, nargs="*", help="space files, studies/spaces/quality if left out")
    arguments = parser.parse_args()
    if arguments.read:
        earlier = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.read]
        seeds = [min(each["seeds"][name] for each in earlier) for name in ("one objective", "several")]
        found = summed_up([of for each in earlier for of in each["spaces"]], *seeds)
    else:
        paths = arguments.spaces or sorted(SPACES.glob("*.yaml"))
        found = measure(paths, range(arguments.seeds), range(max(1, arguments.seeds // 4)))
    if arguments.out:
        (arguments.out / "search_quality.md").write_text(page(found), encoding="utf-8")
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()
