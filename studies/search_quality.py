"""How good the search with Optuna is, against the exact fronts of exhaustive search.

Run `python studies/search_quality.py [--json]` from a checkout; it takes a quarter of an hour. Every space of
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
from vramsim.space import Space

HERE = Path(__file__).parent
SPACES = HERE / "spaces" / "quality"
ALONE = ("tokens_per_second", "headroom_bytes", "mfu")
"""Objectives that are sought alone."""

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
    look = partial(search, space, "optuna", [objective], TRIALS_ALONE, warm=warm)
    regrets, evaluated, seconds = _repeated(look, lambda found: regret(found, best), seeds)
    return {
        "objective": objective,
        "regret_zero_share": float(np.mean(np.array(regrets) <= NOTHING)),
        "largest_regret": max(regrets),
        "evaluated": evaluated,
        "seconds": seconds,
    }


def together(space: Space, seeds: Sequence[int], *, warm: bool = True) -> dict[str, Any]:
    """Hypervolumes of searches in the space's own objectives, relative to the exact front's.

    space : what is searched. [-]   seeds : of the sampler. [-]   warm : begin with what a coarse grid finds. [-]
    """
    exact = front(search(space, "exhaustive"))
    whole = hypervolume(exact, exact)
    look = partial(search, space, "optuna", None, TRIALS_TOGETHER, warm=warm)

    def ratio(found: Result) -> float:
        return hypervolume(front(found), exact) / whole if len(found) else 0.0

    ratios, evaluated, seconds = _repeated(look, ratio, seeds)
    return {
        "objectives": [goal.name for goal in space.objectives],
        "exact_front": len(exact),
        "hypervolume_ratio": float(np.mean(ratios)),
        "least_hypervolume_ratio": min(ratios),
        "evaluated": evaluated,
        "seconds": seconds,
    }


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
                "alone": [alone(space, objective, seeds) for objective in ALONE],
                "alone_cold": alone(space, ALONE[0], few_seeds, warm=False),
                "together": together(space, few_seeds),
                "together_cold": together(space, few_seeds, warm=False),
            }
        )
    return {
        "regret_zero_share": float(np.mean([each["regret_zero_share"] for of in spaces for each in of["alone"]])),
        "least_regret_zero_share": min(each["regret_zero_share"] for of in spaces for each in of["alone"]),
        "hypervolume_ratio": float(np.mean([of["together"]["hypervolume_ratio"] for of in spaces])),
        "least_hypervolume_ratio": min(of["together"]["least_hypervolume_ratio"] for of in spaces),
        "trials": {"one objective": TRIALS_ALONE, "several": TRIALS_TOGETHER},
        "seeds": {"one objective": len(seeds), "several": len(few_seeds)},
        "reference_point": f"{EDGE} in each objective, the exact front scaled to [0, 1]",
        "spaces": spaces,
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


def main() -> None:
    parser = argparse.ArgumentParser(description="How good the search with Optuna is, against exact fronts.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of searches in one objective; a quarter for several")
    parser.add_argument("spaces", type=Path, nargs="*", help="space files, studies/spaces/quality if left out")
    arguments = parser.parse_args()
    paths = arguments.spaces or sorted(SPACES.glob("*.yaml"))
    found = measure(paths, range(arguments.seeds), range(max(1, arguments.seeds // 4)))
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()
