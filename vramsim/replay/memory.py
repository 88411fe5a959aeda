"""What is alive on a device between two events: the components of its graph, each when and as far as it is there.

How a component comes and goes follows from the phases in which it lives. Activations that live from forward to backward
grow with every layer forward and shrink with every layer backward; gradients that wait for the optimizer grow with
every layer of the last backward pass; those of earlier micro-batches, from the first backward pass to the last.
Everything else is there during the phases it names. Layers between the first and the last to go backward need what both
of them need. Paged states, which take what room the others leave, are left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from vramsim.graph import Graph
from vramsim.replay.unroll import IDLE, Change
from vramsim.spec import Category, Component, Phase, Tier

KEPT = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD
BACKWARDS = (Phase.BACKWARD, Phase.REDUCE)


@dataclass(frozen=True, slots=True)
class State:
    """Where a device stands: the phase at work (IDLE: none) and whether its first layer is; layers whose activations,
    gradients, and gradients of earlier micro-batches are alive; whether the optimizer has made its states."""

    moment: Phase = IDLE
    first: bool = False
    kept: int = 0
    made: int = 0
    accumulated: int = 0
    stepped: bool = False

    def after(self, change: Change) -> State:
        """The state that a change leads to.

        change : of a task's start or end. [-]
        """
        return State(
            change.moment,
            change.first,
            self.kept + change.kept,
            max(self.made + change.made, 0),
            max(self.accumulated + change.accumulated, 0),
            self.stepped or change.moment is Phase.STEP,
        )


class Contents:
    """Bytes on a device by category, for any state that it may be in.

    graph : of the device's stage. [-]   layers : that it holds. [-]
    """

    def __init__(self, graph: Graph, layers: int) -> None:
        self.layers = layers
        self.in_flight = max(round(float(graph.setup.stage.in_flight) * layers), 1)
        self.components = [each for each in graph.components if each.tier is Tier.HBM and not each.paged]
        self.found: dict[State, dict[Category, float]] = {}

    def by_category(self, state: State) -> dict[Category, float]:
        """Bytes of each category. [B]

        state : of the device. [-]
        """
        if state not in self.found:
            self.found[state] = self._add_up(state)
        return self.found[state]

    def _add_up(self, state: State) -> dict[Category, float]:
        sums: dict[Category, float] = defaultdict(float)
        between: dict[tuple[Category, str], dict[Phase, dict[Category, float]]] = {}
        for component in self.components:
            nbytes = float(component.nbytes)
            if component.lazy and not state.stepped:
                continue
            share = self._share(component, state)
            if share is not None:
                sums[component.category] += nbytes if share >= 1 else math.floor(nbytes * share)
            elif state.moment is Phase.BACKWARD and not state.first:
                phases = between.setdefault((component.category, component.name), {phase: {} for phase in BACKWARDS})
                for phase in BACKWARDS:
                    if component.live & phase:
                        _add(phases[phase], component)
            elif state.moment is IDLE:
                sums[component.category] += nbytes * ((component.live & KEPT) == KEPT)
            elif component.live & state.moment:
                _add(sums, component)
        for phases in between.values():
            for category, nbytes in min(phases.values(), key=lambda found: sum(found.values())).items():
                sums[category] += nbytes
        return dict(sums)

    def _share(self, component: Component, state: State) -> float | None:
        """Which part of a component is there that comes and goes layer by layer; None for the others."""
        live, category = component.live, component.category
        if (live & (KEPT | Phase.REDUCE)) == KEPT:
            if category is Category.ACTIVATION:
                return state.kept / self.in_flight
            if category is Category.GRADIENT:
                return state.accumulated / self.layers
        waits = (live & Phase.REDUCE) and (live & Phase.STEP) and not live & Phase.BACKWARD
        if waits and category is Category.GRADIENT and not live & state.moment & Phase.FORWARD:
            return state.made / self.layers
        return None


def _add(sums: dict[Category, float], component: Component) -> None:
    for category, nbytes in component.by_category().items():
        sums[category] = sums.get(category, 0.0) + nbytes


def standing(graph: Graph, phase: Phase) -> dict[Category, float]:
    """Bytes of each category in a phase outside of the training step: init or save. [B]

    graph : of the device's stage. [-]   phase : INIT or SAVE. [-]
    """
    sums: dict[Category, float] = defaultdict(float)
    for component in graph.components:
        if component.tier is Tier.HBM and component.live & phase and not component.paged:
            sums[component.category] += float(component.nbytes)
    return dict(sums)
