"""Before the first step and after the last: what building the model, loading and saving it need at their worst."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.equations import memory
from vramsim.layout import ledger_of
from vramsim.parts import sharding
from vramsim.spec import Category, Component, Phase, Setup, Tier, dtype_bytes
from vramsim.units import Num, maximum, minimum, where


def build(setup: Setup) -> Iterator[Component]:
    """Bytes beyond the lasting states while the engine takes the model over (equation M12).

    DeepSpeed clones the fp32 copy it makes, a sub-group at a time in stage 3. Before that the whole model is on every
    device, in whatever format its weights are loaded, unless zero.Init cuts each module as it is made; stages 1 and 2
    flatten what trains into a second copy. FSDP moves one unit at a time, and an engine without flat states one weight.

    setup : resolved run. [-]
    Source: DeepSpeed runtime/zero/partition_parameters.py, stage3.py, stage_1_and_2.py; PyTorch fsdp/_init_utils.py.
    """
    framework, strategy, precision = setup.framework, setup.strategy, setup.training.precision
    size = dtype_bytes(precision.param)
    name, category = "model being built", Category.TEMPORARY
    if framework.engine in sharding.FSDP:
        yield Component(name, category, size * _unit(setup), Phase.INIT)
    if framework.engine != "deepspeed":
        return
    stage, trained = strategy.zero_stage, sharding.whole(setup, sharding.trained(setup))
    packed = sharding.whole(setup, sharding.select(setup, lambda entry: entry.quantized))
    plain = sharding.whole(setup, sharding.select(setup, lambda entry: not entry.quantized))
    loaded = size * plain + strategy.quantization.packed * packed
    first = size * sharding.largest_held(setup) if framework.zero_init else loaded
    owned = sharding.optimizer_elements(setup)
    slices = sharding.slices(setup)
    typical = sharding.largest(slices[entry.index] for entry in sharding.trained(setup) if entry.part == "block")
    handled = where(stage >= 3, memory.sub_group(owned, framework.sub_group_size, typical), owned)
    on_device = (1.0 - strategy.offload_optimizer) if precision.master else 0.0
    # Frozen weights have no copies.
    early = where(stage >= 3, first, size * trained)
    if not framework.flat_states:
        early, handled = 0.0, sharding.largest(slices)
    beyond = memory.build_peak(early, 4.0 * owned * on_device, 4.0 * handled * on_device)
    yield Component(name, category, beyond, Phase.INIT)


def load(setup: Setup) -> Iterator[Component]:
    """Copies of the model that ranks hold on the host while they load it.

    setup : resolved run. [-]
    """
    whole = sharding.whole(setup, ledger_of(setup)) * dtype_bytes(setup.training.precision.param)
    copies = whole * setup.framework.host_copies_at_load
    yield Component("model copies while loading", Category.PARAMETER, copies, Phase.INIT, Tier.HOST)


def save(setup: Setup) -> Iterator[Component]:
    """A checkpoint in one piece: gathered one weight or unit at a time on the device, whole on the host of rank 0.

    setup : resolved run. [-]
    Source: DeepSpeed stage3_gather_16bit_weights_on_model_save; PyTorch FULL_STATE_DICT with rank0_only.
    """
    framework, cluster = setup.framework, setup.cluster
    if framework.save != "full":
        return
    size = dtype_bytes(setup.training.precision.param)
    gathered: Num = 0.0
    if framework.engine in sharding.FSDP:
        gathered = _unit(setup)
    elif framework.engine == "deepspeed":
        gathered = where(setup.strategy.zero_stage >= 3, sharding.largest_held(setup), 0.0)
    yield Component("weights gathered to be saved", Category.PARAMETER, size * gathered, Phase.SAVE)
    ranks = minimum(cluster.devices_per_node, cluster.num_devices)
    whole = size * sharding.whole(setup, ledger_of(setup)) / ranks
    yield Component("checkpoint of rank 0", Category.PARAMETER, whole, Phase.SAVE, Tier.HOST)


def _unit(setup: Setup) -> Num:
    """Elements of the largest FSDP unit: a block, or all that stands outside the blocks."""
    outside = sharding.whole(setup, sharding.select(setup, lambda entry: entry.part != "block"))
    alone = outside if setup.framework.wrap == "blocks" else sharding.head_elements(setup)
    return maximum(sharding.block_elements(setup), alone)
