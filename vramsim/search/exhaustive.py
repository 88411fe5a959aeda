"""Every configuration of a space, and the exact Pareto front: what a grid of arrays makes affordable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from vramsim.search.evaluate import Found, evaluate
from vramsim.search.heap import kept_heap
from vramsim.search.pareto import pareto_front
from vramsim.search.result import Result, gather
from vramsim.space import Objective, Space

Progress = Callable[[int, int], None]
"""Called with the number of configurations that are done with and the number of all."""

MOST_POINTS = 1 << 20
"""Points of a block: large enough that what has the small shapes hardly counts, and some 200 MB altogether."""


def exhaustive(space: Space, objectives: Sequence[Objective] = (), progress: Progress | None = None) -> Result:
    """Evaluate every configuration that keeps the rules.

    space : what to search. [-]   objectives : what to optimize, the space's own if left out. [-]
    progress : called after every block. [-]
    """
    objectives = tuple(objectives) or space.objectives
    removed: Counter[str] = Counter()
    parts: list[Found] = []
    front = np.empty((0, len(objectives)))
    evaluated = done = 0
    with kept_heap():
        for structure in space.structures():
            removed.update(structure.removed)
            done += sum(structure.removed.values())
            for block in structure.blocks(MOST_POINTS):
                found = evaluate(block, space.constraints, objectives, front)
                removed.update(found.removed)
                evaluated += block.size
                done += block.size
                if len(found):
                    parts.append(found)
                    both = np.concatenate([front, found.goals])
                    front = both[pareto_front(both)]
                if progress:
                    progress(done, space.size)
    return gather(space, objectives, parts, removed, evaluated, "exhaustive")
