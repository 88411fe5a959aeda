"""The head and its loss: logits are as wide as the vocabulary, and often set the peak."""

from __future__ import annotations

from collections.abc import Iterator

from vramsim import blocks
from vramsim.equations import activations as equations
from vramsim.layout import bytes_per_token, kernels_of, local_size
from vramsim.parts import packed, resharding, sharding
from vramsim.spec import MICRO_STEP, Category, Component, Moment, Phase, Setup, Tier, beside, dtype_bytes
from vramsim.units import MiB, Num, minimum, round_up, where

SEGMENT = 2.0 * MiB
"""What the caching allocator rounds large requests up to (c10/cuda/CUDACachingAllocator.cpp, kRoundLarge). [B]"""


def saved(setup: Setup) -> Iterator[Component]:
    """What the final norm and the projection keep.

    setup : resolved run. [-]
    """
    nbytes = setup.tokens * bytes_per_token(blocks.head(setup.model, kernels_of(setup)).saved, setup)
    yield Component("final norm and head input", Category.ACTIVATION, nbytes * setup.stage.head, Phase.HEAD)


def loss(setup: Setup) -> Iterator[Component]:
    """Logits and their copies through the loss, on the pipeline stage that has the head.

    setup : resolved run. [-]
    """
    logits, hidden = setup.tokens * _width(setup), setup.tokens * float(setup.model.hidden)
    for found in LOSSES[setup.framework.loss](setup, logits, hidden):
        yield found.times(setup.stage.head)
    if setup.framework.loss != "chunked_outputs":
        unpacked = packed.head_copy(setup) * setup.stage.head
        yield Component("dequantized head", Category.TEMPORARY, unpacked, Phase.HEAD)


def gradient(setup: Setup) -> Iterator[Component]:
    """The head's own gradient, which waits for the end of backward, unsharded, where nothing reduces it at once.

    setup : resolved run. [-]
    """
    if setup.framework.engine in ("deepspeed", "megatron"):
        return
    # Stepped on in backward, it is gone before the blocks' turn.
    grad = head_gradient(setup) if setup.training.optimizer.gradients == "all" else 0.0
    yield Component("gradient of the head", _awaited(setup), grad, Phase.BACKWARD)
    if setup.framework.engine in sharding.FSDP and setup.framework.wrap == "blocks":
        yield Component("gradient of the head, unreduced", _awaited(setup), grad, Phase.REDUCE)


def _width(setup: Setup) -> Num:
    """Logits of a token that one device holds: its slice of the vocabulary where the loss is computed on slices."""
    framework = setup.framework
    if framework.loss == "vocab_parallel" or (framework.parallel_loss and not setup.model.labels):
        return local_size("vocab", setup.model.vocab, setup)
    return float(setup.model.outputs)


def head_gradient(setup: Setup) -> Num:
    """Bytes of the projection's gradient as autograd makes it: in the compute dtype, or cast up by autocast. [B]

    Megatron's product adds to the main gradient, and makes none but a dummy for autograd, which is freed at once.

    setup : resolved run. [-]
    """
    framework = setup.framework
    if not sharding.trains_head(setup) or (framework.engine == "megatron" and not framework.dummy_gradients):
        return 0.0
    precision = setup.training.precision
    stored = precision.param if setup.training.lora is None else precision.frozen
    size = dtype_bytes(stored if precision.autocast else precision.compute)
    return size * sharding.head_elements(setup)


def _awaited(setup: Setup) -> Category:
    """What the projection's gradient is until the end of backward: of a tied one, a term of a sum to come."""
    return Category.TEMPORARY if setup.model.tied_embeddings else Category.GRADIENT


def _logit_bytes(setup: Setup) -> float:
    return dtype_bytes(setup.training.precision.compute)


def logit_bytes(setup: Setup) -> Num:
    """Bytes of one micro-batch's logits on one device, as the head makes them. [B]

    setup : resolved run. [-]
    """
    return setup.tokens * _width(setup) * _logit_bytes(setup)


def _component(*moments: Moment) -> Component:
    return Component.worst("logits and loss", Category.TEMPORARY, Phase.HEAD, *moments)


def _forward(nbytes: Num) -> Moment:
    return {Category.ACTIVATION: nbytes}


def _backward(saved: Num, nbytes: Num) -> Moment:
    """The loss going backward: what it saved, and the rest. [B]"""
    return {Category.ACTIVATION: saved, Category.TEMPORARY: nbytes - saved}


def _softmax_backward(logits: Num, size: float = 4.0) -> Moment:
    return _backward(logits * size, equations.loss_backward(logits, size))


def _projection(setup: Setup, logits: Num, hidden: Num) -> Moment:
    """The projection going backward. [B]"""
    others = equations.head_backward(logits, _logit_bytes(setup), 0.0, hidden)
    return beside({Category.TEMPORARY: others}, _weight(setup))


def _weight(setup: Setup) -> Moment:
    return {_awaited(setup): head_gradient(setup)}


def _narrow(setup: Setup) -> float:
    """Bytes of a logit whose block is too small for its fp32 copy: none where the head makes fp32 logits at once."""
    size = _logit_bytes(setup)
    return size if size < 4.0 else 0.0


def _free_again(nbytes: Num) -> Component:
    return Component("copies of logits, free again", Category.TEMPORARY, nbytes, Phase.HEAD, Tier.CACHE)


def _kept(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    """The model's outputs while the loss needs them no longer: logits, in fp32 where accelerate casts outputs up, and
    the last hidden state."""
    kept = setup.framework.keep_outputs
    if kept != "none":
        size = {"hidden": 0.0, "compute": _logit_bytes(setup), "fp32": 4.0}[kept]
        nbytes = logits * size + hidden * dtype_bytes(setup.training.precision.compute)
        # A loop's variable holds them until the next forward has returned; the Trainer's goes when it has the loss.
        live = MICRO_STEP | Phase.REDUCE | Phase.STEP if kept == "fp32" else Phase.HEAD
        yield Component("outputs kept by the caller", Category.ACTIVATION, nbytes, live)


def _hf(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    size = _logit_bytes(setup)
    moments = [beside(_forward(equations.loss_forward(logits, size)), _forward_extra(setup))]
    if setup.framework.parallel_loss:
        spelt_out = where(setup.strategy.tp > 1, equations.sliced_loss(logits, size), 0.0)
        moments.append(_backward(where(setup.strategy.tp > 1, 4.0 * logits, 0.0), spelt_out))
    yield _component(*moments, _softmax_backward(logits), _projection(setup, logits, hidden))
    yield from _kept(setup, logits, hidden)
    if setup.framework.keep_outputs != "compute":
        yield _free_again(logits * _narrow(setup))


def _forward_extra(setup: Setup) -> Moment:
    """Bytes alive while the loss goes forward and gone when it goes backward: casts of recomputed blocks, and the
    all-gather output beside a separately wrapped head, or of the last block where nothing is gathered after it."""
    precision, framework = setup.training.precision, setup.framework
    extra: Num = 0.0
    if precision.autocast:
        in_blocks = sharding.whole(setup, sharding.select(setup, lambda e: e.part == "block" and e.trains))
        extra = extra + in_blocks * setup.strategy.recompute * dtype_bytes(precision.compute)
    if framework.engine in sharding.FSDP and framework.wrap != "blocks":
        extra = extra + sharding.head_elements(setup) * dtype_bytes(precision.compute)
    elif framework.engine in sharding.FSDP:
        extra = extra + resharding.gathered_block(setup) * resharding.stays_whole(setup)
    return {Category.TEMPORARY: extra}


def _hf_legacy(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    # Before transformers 4.46 the model itself upcasts, then shifts by one: a copy when the batch is larger than one.
    shifted = where(setup.training.micro_batch_size > 1, 1.0, 0.0)
    forward = _forward(logits * (8.0 + 4.0 * shifted))
    yield _component(forward, _softmax_backward(logits), _projection(setup, logits, hidden))
    yield from _kept(setup, logits, hidden)
    # The shift's backward makes whole logits again, for which the blocks of shifted ones are too short by a token of
    # every sequence, unless the allocator's rounding made up for it.
    rows = setup.training.micro_batch_size * float(setup.model.outputs) * 4.0
    short = where(round_up(4.0 * logits - rows, SEGMENT) < 4.0 * logits, shifted, 0.0)
    yield _free_again(logits * (_narrow(setup) + 4.0 * short))


def _fused_legacy(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    # An in-place kernel: shifted fp32 logits become their gradient, which the shift's backward copies once more.
    yield _component(_backward(4.0 * logits, 8.0 * logits), _projection(setup, logits, hidden))
    yield from _kept(setup, logits, hidden)
    # The logits and their fp32 copy are gone by then, and too large for anything else to take their place.
    gone = (4.0 + (0.0 if setup.framework.keep_outputs == "compute" else _logit_bytes(setup))) * logits
    yield _free_again(gone)


def _vocab_parallel(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    yield _component(_backward(4.0 * logits, 6.0 * logits), _projection(setup, logits, hidden))


def _no_upcast(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    # The cross-entropy computes in the logits' own dtype, unless autocast casts them up for it. Logits are shifted by
    # one first: a copy when the batch is larger than one.
    size = _logit_bytes(setup)
    if setup.training.precision.autocast:
        size = 4.0
    shifted = where(setup.training.micro_batch_size > 1, 1.0, 0.0)
    forward = logits * (_logit_bytes(setup) * (1.0 + shifted) + size + (size if size > _logit_bytes(setup) else 0.0))
    yield _component(_forward(forward), _softmax_backward(logits, size), _projection(setup, logits, hidden))
    yield from _kept(setup, logits, hidden)
    if setup.training.precision.autocast:
        kept = 1.0 if setup.framework.keep_outputs == "compute" else 0.0
        yield _free_again(logits * _narrow(setup) * (1.0 + shifted - kept))


def _chunked(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    chunk = logits / float(setup.framework.loss_chunks)
    loss = {Category.TEMPORARY: equations.loss_backward(chunk)}
    # A running gradient of the head is kept while chunks add to it.
    running = {Category.TEMPORARY: head_gradient(setup)}
    yield _component(beside(loss, running), beside(_projection(setup, chunk, hidden), running))


def _chunked_outputs(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    # The head and the loss go chunk by chunk, but each chunk keeps its log-softmax until backward, and the caller's
    # list of chunks keeps the logits until backward is over.
    size = 4.0 if setup.framework.keep_outputs == "fp32" else _logit_bytes(setup)
    chunk = logits / float(setup.framework.loss_chunks)
    # A packed head unpacks for each chunk: beside what the last graph holds when the last logits are made, and beside
    # all log-softmaxes when the first chunk goes backward.
    unpacked = packed.head_copy(setup)
    left = packed.held_inputs(setup) + (size * logits if setup.framework.keeps_graph else 0.0)
    first = beside(_backward(size * logits, size * logits), {Category.TEMPORARY: unpacked})
    # The second chunk's gradient of the head waits to be added to the first's.
    waiting = minimum(setup.framework.loss_chunks, 2.0) * head_gradient(setup)
    added = beside({Category.ACTIVATION: size * (logits - chunk)}, {_awaited(setup): waiting})
    last = {Category.ACTIVATION: left, Category.TEMPORARY: unpacked}
    yield _component(_backward(size * logits, size * (logits + 2.0 * chunk)), last, first, added)
    live = Phase.HEAD | Phase.BACKWARD | Phase.REDUCE
    yield Component("outputs kept by the caller", Category.ACTIVATION, size * logits, live)


def _compiled(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    # A compiled loss fuses the upcast and the softmax: the logits and their gradient, both as the head makes them.
    size = _logit_bytes(setup)
    yield _component(_backward(size * logits, 2.0 * size * logits), _projection(setup, logits, hidden))


def _liger(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    size, vocab = _logit_bytes(setup), float(setup.model.vocab)
    chunk = equations.liger_chunk(setup.tokens, vocab, float(setup.model.hidden)) * vocab
    yield _component(beside({Category.TEMPORARY: chunk * (size + 4.0) + hidden * size}, _weight(setup)))


def _cut(setup: Setup, logits: Num, hidden: Num) -> Iterator[Component]:
    # Blocks of logits live in a kernel's registers, forward and again backward: only the gradients are written.
    yield _component(beside({Category.TEMPORARY: hidden * _logit_bytes(setup)}, _weight(setup)))


LOSSES = {
    "hf": _hf,
    "hf_legacy": _hf_legacy,
    "no_upcast": _no_upcast,
    "fused_legacy": _fused_legacy,
    "vocab_parallel": _vocab_parallel,
    "chunked": _chunked,
    "chunked_outputs": _chunked_outputs,
    "liger": _liger,
    "compiled": _compiled,
    "cut": _cut,
}
"""Name of an implementation of the head and its loss -> what it allocates."""
