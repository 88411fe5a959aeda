"""Numbers and names as people read them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from vramsim.spec import Setup
from vramsim.units import DAY, HOUR, GiB, Num

PHASES = {
    "init": "init (the model as loaded)",
    "forward": "forward (the last block)",
    "head": "head (logits and loss)",
    "backward": "backward (the first block to go back)",
    "reduce": "reduce (the end of the last backward)",
    "step": "step (the optimizer)",
    "save": "save (the checkpoint)",
    "first_step": "the first step (before optimizer states exist)",
}
"""Phase of a training run -> what happens in it."""


def gib(nbytes: Num) -> str:
    """Bytes in GiB, with the unit.

    nbytes : amount. [B]

    >>> gib(85179938897.92)
    '79.3 GiB'
    """
    return f"{float(nbytes) / GiB:,.1f} GiB"


def percent(share: Num) -> str:
    """A share in percent; what is neither 0 nor 1 is not shown as if it were.

    share : ratio. [-]

    >>> percent(0.123), percent(0.9997), percent(1e-5)
    ('12 %', '> 99 %', '< 1 %')
    """
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def days(seconds: Num) -> str:
    """A duration in the unit that suits it.

    seconds : how long. [s]

    >>> days(5400.0), days(3 * 86400.0)
    ('1.5 hours', '3 days')
    """
    value = float(seconds)
    if value < HOUR:
        return f"{value / 60.0:.0f} minutes"
    if value < 2.0 * DAY:
        return f"{value / HOUR:.3g} hours"
    return f"{value / DAY:.3g} days"


def amount(number: Num) -> str:
    """A large count as people say it.

    number : how many. [-]

    >>> amount(1e9), amount(15.6e12), amount(250_000.0)
    ('1 billion', '15.6 trillion', '250,000')
    """
    value = float(number)
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:,.4g} {name}"
    return f"{value:,.0f}"


def usd(amount: Num) -> str:
    """US dollars, no more digits than mean something.

    amount : how much. [USD]

    >>> usd(1234.56), usd(2345678.0)
    ('1,230', '2.35 million')
    """
    value = float(f"{float(amount):.3g}")
    return f"{value / 1e6:g} million" if value >= 1e6 else f"{value:,.0f}"


def phase_name(name: str) -> str:
    """A phase with what happens in it.

    name : label of the phase. [-]

    >>> phase_name("step")
    'step (the optimizer)'
    """
    return PHASES.get(name, name)


def assignment(key: str, value: object) -> str:
    """A key and its value as `--set` takes them.

    key : field of a case. [-]   value : as a case file has it. [as the field]

    >>> print(assignment("zero_stage", 3), assignment("quantization", "nf4"), assignment("lora", {"rank": 8}))
    zero_stage=3 quantization=nf4 'lora={"rank": 8}'
    """
    text = f"{key}={value if isinstance(value, str) else json.dumps(value)}"
    return shlex.quote(text) if set(text) & set(" {}[]\"'") else text


def run_words(setup: Setup) -> dict[str, str]:
    """What is run, on what and how: a few words under each of four headings.

    setup : of one case. [-]
    """
    cluster, training = setup.cluster, setup.training
    nodes = float(cluster.num_devices) / float(cluster.devices_per_node)
    place = f"{nodes:g} nodes of {cluster.devices_per_node:g}" if nodes > 1 else "in one node"
    method = f"{training.method}, rank {training.lora.rank}" if training.lora else "full fine-tune"
    batch = (
        f"{counted(setup.global_batch_size, 'sequence')} of {training.seq_len:g} tokens a step "
        f"(micro-batch {training.micro_batch_size:g} x {counted(training.gradient_accumulation_steps, 'micro-step')} "
        f"x {counted(setup.data_parallel, 'rank')})"
    )
    return {
        "model": f"{setup.model.name}, {method}",
        "hardware": f"{cluster.num_devices:g} x {cluster.device.name}, {place}",
        "strategy": f"{setup.framework.name}: {', '.join(strategy_words(setup))}",
        "batch": batch,
    }


def counted(number: Num, noun: str) -> str:
    """A number of things.

    number : how many. [-]   noun : of what, in the singular. [-]

    >>> counted(1.0, "rank"), counted(16.0, "rank")
    ('1 rank', '16 ranks')
    """
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def strategy_words(setup: Setup) -> Iterator[str]:
    """What distinguishes a strategy: sharding, degrees above 1, recomputation, offload, number formats.

    setup : of one case. [-]
    """
    strategy, training = setup.strategy, setup.training
    yield f"ZeRO stage {strategy.zero_stage:g}" if strategy.zero_stage else "states not sharded"
    for axis in ("tp", "pp", "cp", "sp", "ep"):
        if (degree := getattr(strategy, axis)) > 1:
            yield f"{axis} {degree:g}"
    if strategy.megatron_sp:
        yield "megatron_sp"
    if strategy.recompute_selective:
        yield "selective recompute"
    else:
        yield {0.0: "no recompute", 1.0: "full recompute"}.get(
            float(strategy.recompute), f"{percent(strategy.recompute)} recompute"
        )
    for what in ("optimizer", "parameters", "activations"):
        if share := getattr(strategy, f"offload_{what}"):
            yield f"{'' if share == 1 else percent(share) + ' of '}{what} offloaded to {strategy.offload_tier.value}"
    if strategy.quantization.name != "none":
        yield f"{strategy.quantization.name} base weights"
    yield training.precision.name
    yield training.optimizer.name
