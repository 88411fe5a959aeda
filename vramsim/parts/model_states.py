"""Model states: parameters, gradients, optimizer states. How long each lives is what tells the engines apart."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.equations import memory, quantization
from vramsim.layout import Entry, ledger_of
from vramsim.parts import backward, megatron, resharding, sharding, stepping
from vramsim.spec import (
    ALWAYS,
    MICRO_STEP,
    TRAINING,
    Category,
    Component,
    Phase,
    Setup,
    derived,
    dtype_bytes,
)
from vramsim.units import Num, in_order, maximum, where

AFTER_BACKWARD = Phase.REDUCE | Phase.STEP


def parameters(setup: Setup) -> Iterator[Component]:
    """Weights as stored: trained, frozen, and frozen in a quantized format.

    setup : resolved run. [-]
    """
    strategy = setup.strategy
    offloaded = strategy.offload_parameters

    def place(name: str, nbytes: Num) -> Iterator[Component]:
        yield Component(name, Category.PARAMETER, nbytes * (1.0 - offloaded), ALWAYS)
        away = on_host(setup, nbytes * offloaded)
        yield Component(f"{name}, offloaded", Category.PARAMETER, away, ALWAYS, strategy.offload_tier)

    sized = stepping.by_size(sharding.trained(setup), lambda entry: stepping.stored_bytes(setup, entry))
    yield from place("trained parameters", in_order(sharding.parameters(setup, group) * size for group, size in sized))
    plain = sharding.select(setup, lambda entry: not entry.trains and not entry.quantized)
    if plain:
        yield from place("frozen parameters", sharding.parameters(setup, plain) * sharding.frozen_bytes(setup))
    packed = sharding.select(setup, lambda entry: entry.quantized)
    if packed:
        yield from place("quantized parameters", sharding.parameters(setup, packed) * strategy.quantization.packed)
        yield Component("quantization scales", Category.PARAMETER, _scales(setup, packed), ALWAYS)


def _scales(setup: Setup, entries: tuple[Entry, ...]) -> Num:
    kind = setup.strategy.quantization
    total: Num = 0.0
    for entry in entries:
        numel = sharding.sizes(setup)[entry.index]
        rows = numel / (entry.weight.numel / entry.weight.first_dim)
        each = entry.count * quantization.scales(numel, rows, kind.scale, kind.row_scale)
        total = total + each * sharding.share_of(setup, entry.part, entry.kind)
    return total


def optimizer_states(setup: Setup) -> Iterator[Component]:
    """The optimizer's moments, created at the first step, and the fp32 master copy of the trained weights.

    setup : resolved run. [-]
    """
    strategy, precision = setup.strategy, setup.training.precision
    entries = sharding.trained(setup)
    share = strategy.offload_optimizer
    owned = sharding.optimizer_elements(setup)
    if precision.master:
        master = setup.framework.master_bytes * owned
        yield Component("fp32 master weights", Category.OPTIMIZER_STATE, master * (1.0 - share), ALWAYS)
        yield Component(
            "fp32 master weights, offloaded", Category.OPTIMIZER_STATE, master * share, ALWAYS, strategy.offload_tier
        )
    live, paged = TRAINING | Phase.SAVE, setup.training.optimizer.paged
    # Blocks that trained before are frozen now, and their states are kept where nothing drops them. Below adapters no
    # block ever trained.
    drops = setup.training.optimizer.forgets or setup.training.lora is not None
    stale = () if drops else [e for e in ledger_of(setup) if e.part == "block"]
    keeping = (*entries, *(entry for entry in stale if not entry.trains))
    moments = stepping.state_bytes(setup, keeping) * (owned / sharding.whole(setup, entries))
    yield Component(
        "optimizer moments", Category.OPTIMIZER_STATE, moments * (1.0 - share), live, lazy=True, paged=paged
    )
    yield Component(
        "optimizer moments, offloaded",
        Category.OPTIMIZER_STATE,
        moments * share,
        live,
        strategy.offload_tier,
        lazy=True,
    )


def gradients(setup: Setup) -> Iterator[Component]:
    """Gradients between and after backward passes; only one where each is stepped on as soon as it is made.

    setup : resolved run. [-]
    """
    if setup.training.optimizer.gradients == "one":
        yield from _in_backward(setup)
        return
    engines = {
        "deepspeed": _zero_gradients,
        "fsdp1": _fsdp_gradients,
        "fsdp2": _fsdp_gradients,
        "ddp": _ddp_gradients,
        "megatron": megatron.gradients,
        "torch": _native_gradients,
    }
    yield from engines[setup.framework.engine](setup)


def _in_backward(setup: Setup) -> Iterator[Component]:
    # The head's, with all activations alive; the embedding's, when they are gone: beyond what a block needs, then.
    one, category = stepping.in_backward(setup), Category.GRADIENT
    first, last = backward.backward_working(setup), backward.last_block(setup)
    yield Component("gradient at its step", category, maximum(one - first, 0.0), Phase.BACKWARD)
    yield Component("gradient at its step", category, maximum(one - last, 0.0), Phase.REDUCE)


def _accumulates(setup: Setup) -> Num:
    """Whether gradients of earlier micro-batches are there when most activations are: with more micro-batches than are
    in flight."""
    return where(setup.training.gradient_accumulation_steps > setup.stage.in_flight, 1.0, 0.0)


def _gradients(setup: Setup) -> Iterator[Component]:
    full = stepping.gradient_bytes(setup, sharding.trained(setup), sharding.whole)
    yield Component("gradients", Category.GRADIENT, full, AFTER_BACKWARD)
    yield Component("accumulated gradients", Category.GRADIENT, full * _accumulates(setup), MICRO_STEP)


def _native_gradients(setup: Setup) -> Iterator[Component]:
    yield from _gradients(setup)
    # An embedding cut by rows has a whole gradient, which nothing cuts before the optimizer steps on its own rows:
    # PyTorch torch/distributed/tensor/_ops/_embedding_ops.py, embedding_dense_backward.
    beyond: Num = 0.0
    for entry in sharding.trained(setup):
        if entry.weight.role == "embedding":
            others = entry.weight.numel - sharding.sizes(setup)[entry.index]
            beyond = beyond + stepping.gradient_element(setup, entry) * entry.count * maximum(others, 0.0)
    name, category = "gradient of the embedding, other ranks' rows", Category.GRADIENT
    yield Component(name, category, beyond, Phase.STEP)
    yield Component(name, category, beyond * _accumulates(setup), MICRO_STEP)


def _ddp_gradients(setup: Setup) -> Iterator[Component]:
    # The reducer's buckets persist across steps; with views the gradients live inside them.
    buckets = stepping.gradient_bytes(setup, sharding.trained(setup), sharding.whole)
    yield Component("reducer buckets", Category.GRADIENT, buckets, TRAINING)
    if not setup.framework.gradient_as_bucket_view:
        yield from _gradients(setup)


def _fsdp_gradients(setup: Setup) -> Iterator[Component]:
    entries, precision = sharding.with_gradients(setup), setup.training.precision
    everything = stepping.gradient_bytes(setup, entries, sharding.sliced)
    share, tier = setup.strategy.offload_optimizer, setup.strategy.offload_tier
    shard = everything * (1.0 - share)
    yield Component("gradients on the host", Category.GRADIENT, everything * share, AFTER_BACKWARD, tier)
    yield Component("gradient shards", Category.GRADIENT, shard, AFTER_BACKWARD)
    each = resharding.reduces_each(setup)
    yield Component("accumulated gradient shards", Category.GRADIENT, each * shard * _accumulates(setup), MICRO_STEP)
    # In the last backward shards take the place of whole gradients, unit by unit: at its end only shards are left, and
    # at the end of an earlier one only whole gradients.
    full = (1.0 - each) * dtype_bytes(precision.reduce) * sharding.whole(setup, entries) * _accumulates(setup)
    name, rest = "accumulated unsharded gradients", maximum(full - shard, 0.0)
    yield Component(name, Category.GRADIENT, full, MICRO_STEP)
    yield Component(f"{name}, beyond their shards", Category.GRADIENT, rest, Phase.REDUCE)


def _zero_gradients(setup: Setup) -> Iterator[Component]:
    entries, stage, tier = sharding.trained(setup), setup.strategy.zero_stage, setup.strategy.offload_tier
    precision = setup.training.precision
    element, accumulates = dtype_bytes(precision.grad), _accumulates(setup)
    # Without flat states gradients wait on the device for a step elsewhere.
    share = setup.strategy.offload_optimizer if setup.framework.flat_states else 0.0
    full = element * sharding.whole(setup, entries)
    part = element * sharding.optimizer_elements(setup)
    on_device = part * (1.0 - where(stage >= 1, share, 0.0))
    fp32 = bf16_optimizer(setup)
    yield Component("fp32 gradients, allocated for good", Category.GRADIENT, fp32 * full, ALWAYS)
    # The model's own gradients are dropped when the next backward begins, not when the fp32 ones have taken them in.
    native = dtype_bytes(precision.param) * sharding.whole(setup, entries)
    yield Component("native gradients", Category.GRADIENT, fp32 * native, Phase.FORWARD | AFTER_BACKWARD)
    cast = 4.0 * fp32 * sharding.largest_held(setup)
    yield Component("gradient being added", Category.TEMPORARY, cast, Phase.FORWARD)
    on_device, replaced = on_device * (1.0 - fp32), full * (1.0 - fp32)
    name, category = "gradient partition", Category.GRADIENT
    yield Component(f"{name}, allocated for good", category, where(stage >= 3, on_device, 0.0), ALWAYS)
    # A pipeline's gradients move into their partition one by one, once the last backward is over: all or a part.
    hooked, stage_1 = 1.0 - pipeline_engine(setup), where((stage >= 1) & (stage < 2), replaced, 0.0)
    partition = where((stage >= 1) & (stage < 3), on_device, 0.0)
    yield Component(name, category, partition, Phase.STEP)
    yield Component(name, category, partition * hooked, Phase.REDUCE)
    yield Component("gradients", category, where(stage < 1, full, 0.0), AFTER_BACKWARD)
    # Between micro-steps stages 0 and 1 keep native gradients; stage 2 keeps its partition and fills a second one.
    kept = where(stage < 2, replaced, where(stage < 3, on_device, 0.0)) * accumulates
    yield Component("accumulated gradients", category, kept, MICRO_STEP)
    second = stage_1 + where((stage >= 2) & (stage < 3), on_device, 0.0)
    yield Component("accumulated gradients, second set", category, hooked * second * accumulates, Phase.REDUCE)
    yield Component("gradients not yet reduced", category, (1.0 - hooked) * stage_1, Phase.REDUCE)
    # Offload keeps the fp32 gradient that the CPU step reads, beside the partition in its own dtype.
    host = where(stage >= 1, (4.0 + element) * part / element * share, 0.0)
    yield Component("gradients on the host", category, on_host(setup, host), ALWAYS, tier)
    sent = where(stage >= 1, 4.0 * part / element * (setup.strategy.offload_optimizer - share), 0.0)
    yield Component("fp32 gradients on the host", category, sent, Phase.STEP, tier)


@derived
def pipeline_engine(setup: Setup) -> Num:
    """1 where DeepSpeed's pipeline engine runs the model, which reduces gradients when all micro-batches are done.

    setup : resolved run. [-]
    Source: DeepSpeed 2151c78, runtime/pipe/engine.py, _exec_reduce_grads; zero/stage_1_and_2.py, reduce_gradients.
    """
    return 1.0 if setup.framework.pipeline_engine else where(setup.strategy.pp > 1, 1.0, 0.0)


@derived
def bf16_optimizer(setup: Setup) -> Num:
    """1 where DeepSpeed keeps whole fp32 gradients beside bf16 ones: stage 1, accumulating in fp32, not offloaded.

    setup : resolved run. [-]
    Source: DeepSpeed runtime/engine.py, _configure_bf16_optimizer; runtime/bf16_optimizer.py, update_hp_grads.
    """
    precision, strategy = setup.training.precision, setup.strategy
    if precision.grad != "fp32" or precision.param != "bf16" or setup.framework.engine != "deepspeed":
        return 0.0
    stage = strategy.zero_stage
    return where((stage >= 1) & (stage < 2) & (strategy.offload_optimizer <= 0), 1.0, 0.0)


def on_host(setup: Setup, nbytes: Num) -> Num:
    """Host bytes of one pinned buffer: rounded up to a power of two where the framework says so. [B]

    setup : resolved run. [-]   nbytes : bytes asked for. [B]
    """
    return memory.pinned(nbytes) if setup.framework.pinned_rounding else nbytes
