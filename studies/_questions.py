"""What the answers of questions.py are made of: cases in one line, and sentences read off their estimates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vramsim import Case, Estimate, simulate
from vramsim.spec import Category
from vramsim.units import GiB, Num

A100, A100_40, H100, H20 = "a100-sxm-80gb", "a100-sxm-40gb", "h100-sxm-80gb", "h20-sxm-96gb"
A800, V100, RTX3090, RTX4090 = "a800-sxm-80gb", "v100-sxm2-32gb", "rtx-3090-24gb", "rtx-4090-24gb"
OFFLOAD = {"offload_optimizer": "cpu"}
BOTH = {**OFFLOAD, "offload_parameters": "cpu"}
LIGER = {"framework.loss": "liger"}


@dataclass(frozen=True)
class Reply:
    """An answer: one line, one paragraph, and whether the thread's own answer points the same way.

    `agrees` is None where the thread states none; `cannot` says what vramsim cannot express, empty if it can.
    """

    short: str
    paragraph: str
    agrees: bool | None = None
    cannot: str = ""

    @property
    def check(self) -> str:
        """How the answer stands to the thread's."""
        if self.cannot and self.agrees is None:
            return "cannot express"
        return {None: "not stated", True: "agrees", False: "differs"}[self.agrees]


Answerer = Callable[[], Reply]
ANSWERS: dict[int, Answerer] = {}
"""Number of a question -> what answers it."""


def answers(number: int) -> Callable[[Answerer], Answerer]:
    """Register a function as the answer to a question."""

    def register(function: Answerer) -> Answerer:
        ANSWERS[number] = function
        return function

    return register


def case(model: Any, device: Any, number: int, framework: Any = "deepspeed", **changes: Any) -> Case:
    """A case in one line: full fine-tune in bf16 with everything recomputed, sequences of 4096, unless it says else."""
    base = Case(
        model=model,
        cluster={"device": device, "num_devices": number},
        framework=framework,
        training={"seq_len": changes.pop("seq_len", 4096), "method": changes.pop("method", "full")},
        strategy={"recompute": changes.pop("recompute", "full")},
    )
    if "stage" in changes:
        changes["zero_stage"] = changes.pop("stage")
    return base.with_values(changes) if changes else base


def run(model: Any, device: Any, number: int, framework: Any = "deepspeed", **changes: Any) -> Estimate:
    """Estimate of such a case."""
    return simulate(case(model, device, number, framework, **changes))


def gib(nbytes: Num) -> str:
    value = float(nbytes) / GiB
    return f"{value:.1f}" if value < 1000.0 else f"{value:,.0f}"


def chance(e: Estimate) -> str:
    share = float(e.fit_probability)
    if share < 0.01:
        return "chance to fit below 1 %"
    return "chance to fit above 99 %" if share > 0.99 else f"chance to fit {share:.0%}".replace("%", " %")


def verdict(e: Estimate) -> str:
    """`94.7 of 79.3 GiB, does not fit (chance below 1 %)`."""
    hbm = e.memory.hbm
    fits = bool(hbm.used_bytes <= hbm.capacity_bytes)
    text = f"{gib(hbm.used_bytes)} of {gib(hbm.capacity_bytes)} GiB per GPU, {'fits' if fits else 'does not fit'}"
    # The chance counts host memory, too; where that is what is missing, it says nothing about the GPU.
    return text if fits and not e.fits else f"{text} ({chance(e)})"


def likely(e: Estimate) -> str:
    """Yes, no, or how sure one can be."""
    share = float(e.fit_probability)
    if share >= 0.9:
        return "yes"
    if share < 0.05:
        return "no"
    return f"{'likely' if share >= 0.5 else 'unlikely'} ({100.0 * share:.0f} %)"


def peak(e: Estimate) -> str:
    """Where memory peaks, and the three largest things there."""
    sizes: dict[str, float] = {}
    for component in e.components():
        sizes[component.name] = sizes.get(component.name, 0.0) + float(component.nbytes)
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    listed = ", ".join(f"{name} {gib(size)}" for name, size in largest)
    words = {"head": "the loss", "step": "the optimizer step", "reduce": "the end of backward", "save": "saving"}
    phase = str(e.memory.hbm.peak_phase)
    return f"it peaks in {words.get(phase, phase.replace('_', ' '))}: {listed} GiB"


def host(e: Estimate) -> str:
    store = e.memory.host
    return f"{gib(store.used_bytes_per_node)} of {gib(store.capacity_bytes_per_node)} GiB of host memory a node"


def held(e: Estimate, *categories: Category) -> float:
    """Bytes of some categories at the peak, per device. [B]"""
    return sum(e.by_category()[category.value] for category in categories)


def states(e: Estimate) -> float:
    """Parameters, gradients and optimizer states at the peak, per device. [B]"""
    return held(e, Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER_STATE)


def component(e: Estimate, part: str) -> float:
    """Bytes of the components whose name contains a text, per device, wherever they live. [B]"""
    return sum(float(c.nbytes) for c in e.graph.components if part in c.name)


def rate(e: Estimate) -> float:
    """Tokens per second of one device."""
    return float(e.time.tokens_per_second_per_device)
