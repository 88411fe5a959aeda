"""Predicts the memory and the time of LLM training runs, for one configuration or millions of them.

The public names below are loaded when they are first used: `import vramsim` itself costs next to nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vramsim.calibrate.machine import calibrate
    from vramsim.case import Case
    from vramsim.convert.conversion import convert
    from vramsim.errors import VramsimError
    from vramsim.estimate import Estimate
    from vramsim.graph import Graph, assemble
    from vramsim.procure.recommend import recommend
    from vramsim.replay.running import replay
    from vramsim.replay.timeline import Timeline
    from vramsim.search import Result, search
    from vramsim.simulate import simulate
    from vramsim.space import Space

__all__ = [
    "Case",
    "Estimate",
    "Graph",
    "Result",
    "Space",
    "Timeline",
    "VramsimError",
    "__version__",
    "assemble",
    "calibrate",
    "convert",
    "recommend",
    "replay",
    "search",
    "simulate",
]

_HOMES = {
    "Case": "case",
    "Estimate": "estimate",
    "Graph": "graph",
    "Result": "search",
    "Space": "space",
    "Timeline": "replay.timeline",
    "VramsimError": "errors",
    "assemble": "graph",
    "calibrate": "calibrate.machine",
    "convert": "convert.conversion",
    "recommend": "procure.recommend",
    "replay": "replay.running",
    "search": "search",
    "simulate": "simulate",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vramsim' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value: object = getattr(import_module(f"vramsim.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """A package in which the function `simulate` is not hidden by the module `simulate` that defines it.

    Importing a submodule binds its name in the package; for the names that we export, that binding is left out. (All
    spellings but `import vramsim.simulate as m` reach the module without it.)
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
