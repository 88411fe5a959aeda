"""What an optimizer's step keeps and needs for each weight: states by their layout, scratch, and products of matrices.

Sharded optimizers hand out the matrices: each rank works on whole ones, its share of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from vramsim.blocks.tensors import Dim
from vramsim.equations import optimizer as equations
from vramsim.layout import RECAST_ENGINES, TENSOR_PARALLEL_DIMS, Entry, local_size
from vramsim.parts import sharding
from vramsim.spec import Optimizer, OptimizerState, Setup, derived, dtype_bytes
from vramsim.units import Num, in_order, maximum, minimum


@dataclass(frozen=True, slots=True)
class MatrixStep:
    """A computation on every hidden matrix: bytes of scratch and FLOPs, of (rule, small side, large side, element)."""

    scratch: Callable[[Optimizer, Num, Num, float], Num]
    flops: Callable[[Optimizer, Num, Num], Num]


def _newton_schulz(rule: Optimizer, small: Num, large: Num, element: float) -> Num:
    return equations.newton_schulz_scratch(small, large, element)


def _iterations(rule: Optimizer, small: Num, large: Num) -> Num:
    return equations.newton_schulz_flops(small, large, float(rule.iterations))


def _random(rule: Optimizer, small: Num, large: Num, element: float) -> Num:
    return equations.projection_scratch(small, large, minimum(float(rule.rank), small), element)


def _svd(rule: Optimizer, small: Num, large: Num, element: float) -> Num:
    return maximum(_random(rule, small, large, element), equations.svd_scratch(small, large, element))


def _projections(rule: Optimizer, small: Num, large: Num) -> Num:
    return 4.0 * small * large * minimum(float(rule.rank), small)


def _projection(rule: Optimizer, small: Num, large: Num) -> Num:
    return 2.0 * small * large * minimum(float(rule.rank), small)


MATRIX_STEPS = {
    "newton_schulz": MatrixStep(_newton_schulz, _iterations),
    "svd": MatrixStep(_svd, _projections),
    "random": MatrixStep(_random, _projection),
}
"""What `Optimizer.matrix` names. The decomposition that svd needs every few hundred steps is left out of the time."""


def is_matrix(setup: Setup, entry: Entry) -> bool:
    """Whether a weight is a matrix of a hidden layer; experts in one three-dimensional parameter are none.

    setup : resolved run. [-]   entry : which weight. [-]
    """
    if entry.weight.role == "experts":
        return setup.framework.engine == "megatron" or not setup.framework.grouped_experts
    return entry.weight.role in ("linear", "router") and bool(entry.weight.cols)


def sides(setup: Setup, entry: Entry) -> tuple[Num, Num]:
    """Sides of one matrix that a device works on, the smaller first; one expert's where there are several. [-]

    An orthogonalization needs the matrix whole, over tensor-parallel ranks too, each of which does it again.

    setup : resolved run. [-]   entry : which weight. [-]
    Source: Megatron-LM core/optimizer/optimizer_config.py, muon_tp_mode: duplicated.
    """
    whole = setup.training.optimizer.matrix == "newton_schulz"
    rows, cols = (_side(setup, dims, whole=whole) for dims in _dims(entry))
    return minimum(rows, cols), maximum(rows, cols)


def _dims(entry: Entry) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Dims of a matrix's two sides: a parameter of all experts is one for each."""
    rows, cols = entry.weight.rows, entry.weight.cols
    return (cols[:1], cols[1:]) if entry.weight.role == "experts" else (rows, cols)


def _side(setup: Setup, dims: Iterable[Dim], *, whole: bool) -> Num:
    total: Num = 1.0
    for dim, size in dims:
        cut = dim in TENSOR_PARALLEL_DIMS and not whole
        total = total * (local_size(dim, size, setup) if cut else float(size))
    return total


def _alike(setup: Setup, entry: Entry) -> Num:
    """Matrices that a weight is on one device: one, or its experts."""
    if entry.weight.role != "experts":
        return 1.0
    ((dim, number),) = entry.weight.rows
    return local_size(dim, number, setup)


def stored_bytes(setup: Setup, entry: Entry) -> float:
    """Bytes of one element of a trained weight as it is stored. [B]

    ZeRO and Megatron keep every parameter in the model's dtype, adapters included; elsewhere adapters keep their own,
    and copies of whole modules the base's.

    setup : resolved run. [-]   entry : which weight. [-]
    """
    lora, precision = setup.training.lora, setup.training.precision
    if lora is None or setup.framework.engine in RECAST_ENGINES:
        return dtype_bytes(precision.param)
    return dtype_bytes(lora.adapter_dtype if entry.weight.adapter else precision.frozen)


def gradient_element(setup: Setup, entry: Entry) -> float:
    """Bytes of one element of a weight's gradient as accumulated. [B]

    A frozen weight has one only inside of a flat parameter, in the dtype of the adapters beside it.

    setup : resolved run. [-]   entry : which weight. [-]
    """
    lora = setup.training.lora
    if lora is None or setup.framework.engine in RECAST_ENGINES:
        return dtype_bytes(setup.training.precision.grad)
    return stored_bytes(setup, entry) if entry.trains else dtype_bytes(lora.adapter_dtype)


def by_size(entries: Iterable[Entry], size: Callable[[Entry], float]) -> Iterator[tuple[tuple[Entry, ...], float]]:
    """Weights in groups by the bytes of one element, with these. [B]

    entries : which weights. [-]   size : bytes of one element of a weight. [B]
    """
    groups: dict[float, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(size(entry), []).append(entry)
    yield from ((tuple(group), element) for element, group in groups.items())


def gradient_bytes(setup: Setup, entries: Iterable[Entry], held: Callable[[Setup, tuple[Entry, ...]], Num]) -> Num:
    """Bytes of the gradients of some weights. [B]

    setup : resolved run. [-]   entries : which weights. [-]   held : how many elements of them a rank holds. [-]
    """
    sized = by_size(entries, lambda entry: gradient_element(setup, entry))
    return in_order(held(setup, group) * size for group, size in sized)


def state_bytes(setup: Setup, entries: Iterable[Entry]) -> Num:
    """Bytes of all states of some weights, unsharded. [B]

    setup : resolved run. [-]   entries : which weights. [-]
    """
    rule = setup.training.optimizer
    total: Num = 0.0
    for entry in entries:
        numel = sharding.sizes(setup)[entry.index]
        matrix, small = is_matrix(setup, entry), entry.weight.numel < rule.min_elements
        each: Num = 0.0
        for state in rule.states:
            if state.scope == "all" or matrix == (state.scope == "matrices"):
                each = each + _one_state(setup, entry, state, numel, matrix=matrix, small=small)
        total = total + entry.count * each * sharding.share_of(setup, entry.part, entry.kind)
    return total


def _one_state(setup: Setup, entry: Entry, state: OptimizerState, numel: Num, *, matrix: bool, small: bool) -> Num:
    precision, stored = setup.training.precision, stored_bytes(setup, entry)
    # Adapters' moments follow the weights that they step.
    follows = setup.training.lora is not None and not precision.master
    moment = stored if follows else dtype_bytes(precision.moments)
    element = moment if state.dtype == "moments" else dtype_bytes(state.dtype)
    if small:
        return numel * 4.0
    if state.layout == "factored" and entry.weight.cols:
        rows = float(entry.weight.first_dim)
        return element * equations.factored_elements(rows, numel / rows)
    if state.layout == "rows" and entry.weight.cols:
        return element * numel * float(entry.weight.first_dim) / float(entry.weight.numel)
    if matrix and state.layout in ("low_rank", "projector"):
        (low, high), rule = sides(setup, entry), setup.training.optimizer
        rank = minimum(float(rule.rank), low)
        projected, projector = equations.low_rank_elements(low, high, rank)
        if rule.matrix == "svd" and stored == dtype_bytes("fp32"):
            # A slice of the singular vectors, which nothing casts: it keeps all of them alive.
            projector = low * low
        elements = projected if state.layout == "low_rank" else projector
        return equations.state_bytes(elements * (numel / (low * high)), element, float(state.block))
    return equations.state_bytes(numel, element, float(state.block))


def step_element(setup: Setup, entry: Entry) -> float:
    """Bytes per element of a weight as an optimizer steps on it: of its fp32 copy where there is one. [B]

    setup : resolved run. [-]   entry : which weight. [-]
    """
    return 4.0 if setup.training.precision.master else stored_bytes(setup, entry)


def scratch_of(setup: Setup, entry: Entry, element: float) -> Num:
    """Bytes that the step on one weight takes when weights are stepped on one by one. [B]

    setup : resolved run. [-]   entry : which weight. [-]   element : bytes of one element of it. [B]
    """
    rule = setup.training.optimizer
    if rule.matrix and is_matrix(setup, entry):
        return MATRIX_STEPS[rule.matrix].scratch(rule, *sides(setup, entry), element)
    if rule.temporary == "fused":
        return 0.0
    sizes = sharding.slices(setup) if setup.framework.engine in sharding.FSDP else sharding.sizes(setup)
    return rule.temporary_factor * element * sizes[entry.index]


def scratch_at_step(setup: Setup, entry: Entry) -> Num:
    """Bytes that the step on one weight takes, in the dtype in which the optimizer holds the weight. [B]

    setup : resolved run. [-]   entry : which weight. [-]
    """
    return scratch_of(setup, entry, step_element(setup, entry))


def matrices(setup: Setup) -> Iterator[Entry]:
    """Trained weights on which the optimizer computes as matrices: none for most optimizers.

    setup : resolved run. [-]
    """
    if setup.training.optimizer.matrix:
        yield from (entry for entry in sharding.trained(setup) if is_matrix(setup, entry))


def element_wise(setup: Setup) -> tuple[Entry, ...]:
    """Trained weights that the optimizer takes element by element.

    setup : resolved run. [-]
    """
    found = sharding.trained(setup)
    return tuple(e for e in found if not is_matrix(setup, e)) if setup.training.optimizer.matrix else found


@derived
def handed_out(setup: Setup) -> Num:
    """Share of the matrices that one rank works on: of all trained elements, the share whose states it keeps. [-]

    setup : resolved run. [-]
    Source: Megatron-LM core/optimizer/layer_wise_optimizer.py; DeepSpeed runtime/zero/stage3.py, Muon.
    """
    return sharding.optimizer_elements(setup) / sharding.whole(setup, sharding.trained(setup))


def matrix_gradients(setup: Setup) -> Num:
    """Bytes of the gradients of the matrices that the optimizer computes on, as one tensor-parallel rank has them. [B]

    setup : resolved run. [-]
    """
    return gradient_bytes(setup, matrices(setup), sharding.whole)


def matrix_flops(setup: Setup) -> Num:
    """FLOPs of one rank's share of the optimizer's products. [-]

    setup : resolved run. [-]
    """
    rule = setup.training.optimizer
    total: Num = 0.0
    for entry in matrices(setup):
        small, large = sides(setup, entry)
        held = entry.count * _alike(setup, entry) * sharding.share_of(setup, entry.part, entry.kind)
        total = total + held * MATRIX_STEPS[rule.matrix].flops(rule, small, large)
    return total * handed_out(setup)


@derived
def in_backward(setup: Setup) -> Num:
    """Bytes of the one gradient that is alive when it is stepped on in backward, with the scratch of its step. [B]

    FSDP reduces a unit's gradients together, and steps on the shards of all.

    setup : resolved run. [-]
    Source: PyTorch, Tensor.register_post_accumulate_grad_hook; torchtune's optimizer_in_bwd.
    """
    if setup.training.optimizer.gradients != "one":
        return 0.0
    entries = sharding.trained(setup)
    if setup.framework.engine not in sharding.FSDP:
        numels = sharding.sizes(setup)
        return sharding.largest(
            gradient_element(setup, e) * numels[e.index] + scratch_at_step(setup, e) for e in entries
        )
    units = ([e for e in entries if e.part == "block"], [e for e in entries if e.part != "block"])
    made = [gradient_bytes(setup, unit, sharding.sliced) for unit in units]
    held = (made[0] / sharding.layers(setup), made[1])
    return sharding.largest(
        nbytes + sharding.largest(scratch_at_step(setup, e) for e in unit)
        for nbytes, unit in zip(held, units, strict=True)
    )
