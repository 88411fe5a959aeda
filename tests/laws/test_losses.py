"""Losses beside each other: what each implementation of the head keeps follows from what it skips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vramsim import testing
from vramsim.parts import head_loss
from vramsim.spec import Phase, Setup, Tier, dtype_bytes


def peak(setup: Setup, **knobs: object) -> float:
    """Bytes of the head and its loss that are alive at their worst moment. [B]"""
    changed = replace(setup, framework=replace(setup.framework, **knobs))  # type: ignore[arg-type]
    return float(sum(c.nbytes for c in head_loss.loss(changed) if Phase.HEAD in c.live and c.tier is Tier.HBM))


@given(setup=testing.setups())
def test_a_loss_without_an_upcast_takes_no_more(setup: Setup) -> None:
    """It is what the others are in fp32 and under autocast, and less where logits are narrower."""
    plain, cast = peak(setup, loss="no_upcast", keep_outputs="none"), peak(setup, loss="hf_legacy", keep_outputs="none")
    assert plain <= cast
    if dtype_bytes(setup.training.precision.compute) == 4.0:
        assert plain == cast


@given(setup=testing.setups())
def test_chunks_whose_graph_stays_save_nothing_but_transients(setup: Setup) -> None:
    """More chunks take less, down to the logits and their log-softmax, which all chunks keep; but where the head trains
    a second chunk's gradient of it waits beside the first's, and beside the log-softmax of the others.
    """
    few, many = (peak(setup, loss="chunked_outputs", keep_outputs="fp32", loss_chunks=n) for n in (1, 10**6))
    chunked = replace(setup, framework=replace(setup.framework, loss="chunked_outputs"))
    wide = 4.0 / dtype_bytes(setup.training.precision.compute)
    logits = wide * head_loss.logit_bytes(chunked) * setup.stage.head
    gradient = head_loss.head_gradient(chunked) * setup.stage.head
    beside = gradient + logits if np.any(gradient > 0.0) else 0.0
    assert few + beside >= many >= 2.0 * logits * (1.0 - 1e-12)


@given(setup=testing.setups())
def test_logits_that_stay_in_registers_take_no_more_than_chunks(setup: Setup) -> None:
    """Cut cross-entropy is Liger's without its chunk, whatever the vocabulary."""
    assert peak(setup, loss="cut") <= peak(setup, loss="liger")


@given(setup=testing.setups(), loss=st.sampled_from(sorted(head_loss.LOSSES)))
def test_a_loss_on_slices_of_the_vocabulary_takes_no_more(setup: Setup, loss: str) -> None:
    """As much without tensor parallelism, and with it less, though PyTorch's loss on slices has a tensor more (A16)."""
    cut, whole = (peak(setup, loss=loss, parallel_loss=cut, vocab_multiple=1.0) for cut in (True, False))
    assert cut <= whole + 64.0  # a vocabulary that ranks do not divide is rounded up
    if setup.strategy.tp == 1:
        assert cut == whole
