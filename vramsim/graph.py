"""The graph of a run: everything that lives, moves and computes, assembled from parts.

Numbers are folded by `simulate`; the networkx view is for people, who draw it, walk it and check it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vramsim.parts import DEFAULT, Part
from vramsim.spec import Component, Flow, Setup, Work
from vramsim.units import Num, ceil

if TYPE_CHECKING:
    import networkx


class Resolvable(Protocol):
    """Anything that resolves to a Setup: a Case."""

    def resolve(self) -> Setup:
        """The setup that parts read."""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Components, flows and work of one setup (or of a grid of them: their amounts broadcast)."""

    setup: Setup
    components: tuple[Component, ...]
    flows: tuple[Flow, ...]
    work: tuple[Work, ...]

    def networkx(self) -> networkx.MultiDiGraph[Any]:
        """The run as a directed multigraph: tiers, links and phases are nodes, amounts are edge attributes.

        An edge component -> tier carries `nbytes`, a flow's edge link -> phase `nbytes` and `seconds`, a piece of
        work's edge engine -> phase `flops` and `seconds`; consecutive phases are joined by edges named "then".
        """
        import networkx

        graph: networkx.MultiDiGraph[Any] = networkx.MultiDiGraph()
        phases = [phase.label for phase in type(self.components[0].live)]
        graph.add_edges_from(pairwise(phases), name="then")
        for component in self.components:
            live = [phase.label for phase in component.live]
            graph.add_edge(
                component.name,
                component.tier.value,
                nbytes=component.nbytes,
                category=component.category.value,
                live=live,
            )
        for flow in self.flows:
            graph.add_edge(flow.link.value, flow.phase.label, name=flow.name, nbytes=flow.nbytes, seconds=flow.seconds)
        for work in self.work:
            graph.add_edge(work.activity, work.phase.label, name=work.name, flops=work.flops, seconds=work.seconds)
        return graph


def assemble(case: Resolvable | Setup, parts: Sequence[Part] = DEFAULT) -> Graph:
    """Run every part over a case and collect what it yields.

    Bytes are rounded up to whole ones, so that sums of them are exact in any order. Amounts that are zero everywhere
    are left out.

    case : a Case, or a Setup whose fields may be arrays. [-]   parts : generators to run. [-]
    Returns the graph. Raises VramsimError for a case that breaks a rule.
    """
    setup = case if isinstance(case, Setup) else case.resolve()
    components: list[Component] = []
    flows: list[Flow] = []
    work: list[Work] = []
    for part in parts:
        for item in part(setup):
            if isinstance(item, Component):
                nbytes = whole_bytes(item.nbytes)
                if any_of(nbytes):
                    whole = item.name, item.category, nbytes, item.live, item.tier, item.lazy, item.paged, item.moments
                    components.append(Component(*whole))
            elif any_of(item.seconds):
                flows.append(item) if isinstance(item, Flow) else work.append(item)
    return Graph(setup, tuple(components), tuple(flows), tuple(work))


def plain(value: Num) -> Num:
    """A Python float where there is one number only, the array otherwise.

    value : number or array. [-]
    """
    if type(value) is float or np.ndim(value):
        return value
    return float(value)


def any_of(value: Num) -> bool:
    """Whether an amount is other than zero anywhere.

    value : number or array. [-]
    """
    return bool(value) if type(value) is float else bool(np.any(value))


def whole_bytes(value: Num) -> Num:
    """Bytes rounded up to whole ones.

    value : bytes. [B]
    """
    return ceil(plain(value))
