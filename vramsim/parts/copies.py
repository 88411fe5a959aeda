"""What FSDP copies on the device before and after its collectives: gathered weights and gradients, unit by unit."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim.parts import products, sharding
from vramsim.spec import Phase, Setup, Work, dtype_bytes
from vramsim.units import Num, where


def around_collectives(setup: Setup) -> Iterator[Work]:
    """Copies of one micro-step, each of which reads and writes what it copies.

    FSDP1 gathers into the flat parameter itself. Autograd joins the gradients of its views in one tensor, which is
    divided by a share of the ranks before it is reduced. FSDP2 copies what it gathers out to the parameters, and the
    gradients into the tensor that it reduces.

    setup : resolved run. [-]
    Source: PyTorch torch/distributed/fsdp/_flat_param.py and _runtime_utils.py (_reduce_grad);
    torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py (split_with_sizes_copy, chunk_cat).
    """
    engine, precision, strategy = setup.framework.engine, setup.training.precision, setup.strategy
    if engine not in sharding.FSDP:
        return
    alone = where(sharding.ranks(setup) > 1, 1.0, 0.0)
    compute, reduce = dtype_bytes(precision.compute), dtype_bytes(precision.reduce)
    trained = alone * sharding.whole(setup, sharding.trained(setup))
    reductions = 1.0 if setup.framework.sync_accumulation else 1.0 / setup.training.gradient_accumulation_steps
    ahead: Num = 0.0
    if engine == "fsdp1":
        back = (2.0 * compute + reductions * 2.0 * reduce) * trained
    else:
        ahead = 2.0 * compute * alone * sharding.whole(setup, sharding.select(setup, lambda entry: True))
        back = where(strategy.zero_stage >= 3, ahead, 0.0) + reductions * (compute + reduce) * trained
    bandwidth = products.bandwidth(setup)
    yield Work("gathered weights copied", 0.0, 0.0, ahead, ahead / bandwidth, Phase.FORWARD)
    yield Work("weights and gradients copied", 0.0, 0.0, back, back / bandwidth, Phase.BACKWARD)
