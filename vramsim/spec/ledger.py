"""What a graph is made of: bytes that live, bytes that move, work; what they are, where, over which link, and when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, StrEnum, auto

from vramsim.units import Num


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


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """Bytes that live in a tier during the phases in `live`. `lazy` ones first exist after the first optimizer step.

    Host and NVMe components are per device; reports multiply them by the devices of a node.
    """

    name: str
    category: Category
    nbytes: Num
    live: Phase
    tier: Tier = Tier.HBM
    lazy: bool = False


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
