"""Unpacked lengths: against means and longest samples that published runs imply, and laws of order statistics.

Batch maxima over the mean: throughput of foundation-model-stack/fms-acceleration, refs_orca/a100_80gb_pf.csv, padded
(370, 445 and 525 tokens a sample with batches of 2, 4 and 8) over padding-free (290). The longest: memory of the same
padded runs grows by 1.67 GB with a sample, which at 741 kB a token makes 2,260 tokens over 8,000 samples, and 1,700
over the 4,000 of one of two ranks.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramsim.validate import lengths


@pytest.mark.parametrize(
    ("count", "longest"), [(2.0, 370.0), (4.0, 445.0), (8.0, 525.0), (4000.0, 1700.0), (8000.0, 2260.0)]
)
def test_longest_of_published_runs(count: float, longest: float) -> None:
    assert lengths.largest(count) == pytest.approx(longest / 290.0, rel=0.12)


@given(mean=st.floats(1.0, 1e5), batch=st.integers(1, 64), ranks=st.integers(1, 64))
def test_padding_never_shortens(mean: float, batch: int, ranks: int) -> None:
    shape = float(batch), float(ranks)
    assert mean <= lengths.joined(mean, *shape)
    # Padded to the longest sample, a batch holds what it would hold joined, and more.
    sample_mean = mean / lengths.largest(float(batch))
    assert lengths.padded(mean, *shape) >= lengths.joined(sample_mean, *shape) * (1.0 - 1e-9)


@given(count=st.integers(2, 100_000))
def test_more_samples_have_a_longer_longest(count: int) -> None:
    assert lengths.largest(float(count)) > lengths.largest(float(count - 1))


def test_two_samples_in_closed_form() -> None:
    # E max(X, Y) / E X = 2 Phi(s / sqrt 2) for log-normal X and Y.
    expected = 1.0 + math.erf(lengths.SPREAD / 2.0)
    assert lengths.largest(2.0) == pytest.approx(expected, rel=1e-6)
