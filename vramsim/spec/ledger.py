"""What a graph is made of: bytes that live, bytes that move, work; what they are, where, over which link, and when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Flag, StrEnum, auto
from functools import reduce

from vramsim.units import Num, in_order, maximum


class Category(StrEnum):
    """What bytes are: torch.profiler's memory categories, plus overhead (bytes outside the caching allocator)."""

    PARAMETER = "parameter"
    GRADIENT = "gradient"
    OPTIMIZER_STATE = "optimizer_state"
    ACTIVATION = "activation"
    TEMPORARY = "temporary"
    INPUT = "input"
    OVERHEAD = "overhead"


class Tier(StrEnum):
    """Where bytes live. CACHE is device memory too: blocks free again, too large for others to fit, that the caching
    allocator keeps."""

    HBM = "hbm"
    CACHE = "cache"
    HOST = "host"
    NVME = "nvme"


class Link(StrEnum):
    """What bytes move over."""

    SCALE_UP = "scale_up"
    SCALE_OUT = "scale_out"
    PCIE = "pcie"
    HOST_MEMORY = "host_memory"
    NVME = "nvme"


class Phase(Flag):
    """When: the phases of a training run, in order. FORWARD, HEAD and BACKWARD repeat every micro-step.

    FORWARD is the last block's forward, HEAD the head and its loss (both passes), BACKWARD the first block to go
    backward (all activations alive), REDUCE the end of the last backward (all gradients alive), STEP the optimizer.
    """

    INIT = auto()
    FORWARD = auto()
    HEAD = auto()
    BACKWARD = auto()
    REDUCE = auto()
    STEP = auto()
    SAVE = auto()

    @property
    def label(self) -> str:
        """Lower-case name, as it stands in reports and JSON."""
        return "|".join(phase.name.lower() for phase in self if phase.name)


MICRO_STEP = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD
TRAINING = MICRO_STEP | Phase.REDUCE | Phase.STEP
ALWAYS = Phase.INIT | TRAINING | Phase.SAVE


Moment = Mapping[Category, Num]
"""Bytes at one moment by category; negative where other components count what is not there at that moment. [B]"""


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """Bytes that live in a tier during the phases in `live`. `lazy` ones first exist after the first optimizer step.
    `paged` ones lie outside of the caching allocator and give way to the others, to the host.

    Where several `moments` of a phase compete, in order of time, `nbytes` is the largest of their sums.
    Host and NVMe components are per device; reports multiply them by the devices of a node.
    """

    name: str
    category: Category
    nbytes: Num
    live: Phase
    tier: Tier = Tier.HBM
    lazy: bool = False
    paged: bool = False
    moments: tuple[Moment, ...] = ()

    @classmethod
    def worst(cls, name: str, category: Category, live: Phase, *moments: Moment) -> Component:
        """The moment of a phase at which most is alive.

        name : of the component. [-]   category : what most of it is. [-]   live : the phase. [-]
        moments : that compete, in order of time. [B]
        """
        return cls(name, category, most(moments), live, moments=moments)

    def times(self, share: Num) -> Component:
        """So many times the bytes of a component.

        share : how many. [-]
        """
        moments = tuple({category: share * each for category, each in found.items()} for found in self.moments)
        return replace(self, nbytes=self.nbytes * share, moments=moments)

    def by_category(self) -> dict[Category, float]:
        """Whole bytes by category: of the first moment at which most is alive, where several compete. One case only."""
        found = {self.category: float(self.nbytes)}
        if not self.moments:
            return found
        sums = [float(in_order(moment.values())) for moment in self.moments]
        for category, nbytes in self.moments[sums.index(max(sums))].items():
            whole = float(math.floor(float(nbytes)))
            found[category] = found.get(category, 0.0) + whole
            found[self.category] -= whole
        return found


def most(moments: Iterable[Moment]) -> Num:
    """Bytes of the moment at which most is alive. [B]

    moments : that compete. [B]
    """
    return reduce(maximum, (in_order(moment.values()) for moment in moments))


def beside(*moments: Moment) -> Moment:
    """What is alive at once, category by category.

    moments : things that are alive together. [B]
    """
    sums: dict[Category, Num] = {}
    for moment in moments:
        for category, nbytes in moment.items():
            sums[category] = sums[category] + nbytes if category in sums else nbytes
    return sums


def without(moment: Moment) -> Moment:
    """What is gone: the negative of what was there.

    moment : what was alive. [B]
    """
    return {category: -nbytes for category, nbytes in moment.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """Bytes that one device moves over a link in one occurrence of `phase`.

    `hidden` is the share of its time that the framework can overlap with the computation of phase `behind`. `spread`
    flows move a share with each layer, the others everything once the last layer is done.
    """

    name: str
    link: Link
    nbytes: Num
    seconds: Num
    phase: Phase
    hidden: Num = 0.0
    behind: Phase | None = None
    spread: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """FLOPs and bytes of one device in one occurrence of `phase`; `seconds` on the engine that runs it.

    `model_flops` is the part that a run without recomputation would also need (the numerator of MFU). A pipeline may
    put off work that is `deferrable`: only the optimizer waits for it.
    """

    name: str
    flops: Num
    model_flops: Num
    nbytes: Num
    seconds: Num
    phase: Phase
    activity: str = "compute"
    deferrable: bool = False
