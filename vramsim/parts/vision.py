"""A vision tower: a model of its own, whose sequences are the patches of one image, before the language model.

Its parts are those of any model, run on a setup of the tower alone. It stands where the embedding does, on the first
pipeline stage. One that does not train keeps nothing, and has no backward: no gradient ever reaches it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vramsim.equations import compute as equations
from vramsim.layout import ledger_of, local_numel, model_of
from vramsim.parts import activations, backward, compute, launches, products
from vramsim.spec import (
    ALWAYS,
    Category,
    Component,
    Encoder,
    Model,
    Phase,
    Quantization,
    Setup,
    Stage,
    Work,
    derived,
    dtype_bytes,
)
from vramsim.units import Num, maximum, where

KEPT = Phase.FORWARD | Phase.HEAD | Phase.BACKWARD | Phase.REDUCE
PIXEL = 4.0
"""Bytes of an element of a patch as image processors return it: fp32. [B]"""


@derived
def tower(setup: Setup) -> Setup:
    """The vision tower as a run of its own: each image is a sequence of patches.

    setup : resolved run of a model with a tower. [-]
    """
    encoder, training = _encoder(setup), setup.training
    # What the optimizer keeps and adds up is counted with the other weights.
    rule = replace(training.optimizer, blocks=0)
    patches = maximum(training.image_tokens * encoder.merged, 1.0)
    images = training.micro_batch_size * patches / float(encoder.patches)
    name = f"vision tower of {setup.model.name}"
    width = encoder.blocks[0].hidden
    model = Model(name, width, 1, encoder.blocks, tied_embeddings=True, positions=encoder.positions)
    training = replace(
        training,
        seq_len=float(encoder.patches),
        micro_batch_size=images,
        gradient_accumulation_steps=1.0,
        optimizer=rule,
    )
    plain = Quantization("none", packed=0.0, dequantized=False)
    strategy = replace(setup.strategy, quantization=plain)
    return replace(setup, model=model, training=training, strategy=strategy, stage=Stage())


def _encoder(setup: Setup) -> Encoder:
    encoder = model_of(setup).encoder
    assert encoder is not None
    return encoder


def _present(setup: Setup) -> Num:
    """1 on the stage that has the tower, if there are images."""
    return setup.stage.embedding * where(setup.training.image_tokens > 0, 1.0, 0.0)


def _trains(setup: Setup) -> bool:
    """Whether a gradient reaches the tower."""
    return any(entry.trains for entry in ledger_of(tower(setup)) if entry.part == "block")


def _projected(setup: Setup) -> tuple[Num, float]:
    """Image tokens of one micro-step on one device, and whether their projector trains."""
    strategy, training = setup.strategy, setup.training
    tokens = training.micro_batch_size * training.image_tokens / (strategy.cp * strategy.sp)
    trains = training.lora is None and not _encoder(setup).frozen
    return tokens, 1.0 if trains else 0.0


def saved(setup: Setup) -> Iterator[Component]:
    """What the tower and its projector keep until their backward, which is the last of a micro-step; pixels.

    setup : resolved run. [-]
    """
    if setup.model.encoder is None:
        return
    encoder, share = _encoder(setup), _present(setup)
    alone, held = tower(setup), share * setup.stage.in_flight
    pixels = PIXEL * alone.tokens * float(encoder.inputs) * held
    yield Component("pixels of images", Category.INPUT, pixels, ALWAYS ^ Phase.INIT ^ Phase.SAVE)
    tokens, trains = _projected(setup)
    size = dtype_bytes(setup.training.precision.compute)
    # Each layer's input; between two of them a GELU keeps its own.
    widths = sum(float(inner) for inner, _ in encoder.projector) * 2.0
    kept = trains * size * tokens * widths * held
    yield Component("inputs of the projector", Category.ACTIVATION, kept, KEPT)
    if not _trains(setup):
        return
    for found in activations.saved(alone):
        yield replace(found, name=f"{found.name}, vision tower", nbytes=found.nbytes * held, live=KEPT)
    beyond = maximum(backward.backward_working(alone) - backward.last_block(setup), 0.0) * share
    yield Component("backward of the vision tower", Category.TEMPORARY, beyond, Phase.REDUCE)


def work(setup: Setup) -> Iterator[Work]:
    """Products, attention, elementwise kernels and launches of the tower and its projector.

    setup : resolved run. [-]
    """
    if setup.model.encoder is None:
        return
    alone, share, trains = tower(setup), _present(setup), _trains(setup)
    for part in (compute.blocks, compute.attention, compute.elementwise, launches.host):
        for done in part(alone):
            if trains or done.phase is Phase.FORWARD:
                yield _scaled(done, share)
    tokens, learns = _projected(setup)
    ends = [entry for entry in ledger_of(setup) if entry.weight.module.startswith("projector_")]
    ends = [entry for entry in ends if entry.weight.role == "linear" and not entry.weight.adapter]
    flops: Num = 0.0
    for entry in ends:
        flops = flops + entry.count * equations.linear_flops(local_numel(entry.weight, setup), tokens)
    flops = share * flops
    again = learns * (2.0 if trains else 1.0)
    rate = products.rate(setup)
    yield Work("projector of images, forward", flops, flops, 0.0, flops / rate, Phase.FORWARD)
    back = again * flops
    yield Work("projector of images, backward", back, back, 0.0, back / rate, Phase.BACKWARD)


def _scaled(done: Work, share: Num) -> Work:
    return replace(
        done,
        name=f"{done.name}, vision tower",
        flops=done.flops * share,
        model_flops=done.model_flops * share,
        nbytes=done.nbytes * share,
        seconds=done.seconds * share,
    )
