"""Bisection over whole numbers: the largest or smallest value for which a monotone condition holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Test = Callable[[int], bool]


def last_true(test: Test, most: int) -> int:
    """Largest n from 1 to `most` for which a test holds that, once it fails, fails for all larger n; 0 if none does.

    It doubles until the test fails and halves the rest: the test is asked about twice as often as the answer has bits.

    test : condition. [-]   most : largest n of interest. [-]

    >>> last_true(lambda n: n * n <= 1000, 10**6)
    31
    """
    good, bad = 0, 1
    while bad <= most and test(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, most + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if test(middle) else (good, middle)
    return good


def first_true(test: Test, count: int) -> int:
    """Smallest index below `count` for which a test holds that, once it holds, holds further on; `count` if none does.

    test : condition on an index. [-]   count : number of indices. [-]

    >>> first_true(lambda n: n * n >= 1000, 100)
    32
    """
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if test(middle) else (middle + 1, high)
    return low


def last_of(values: Sequence[int], test: Test) -> int:
    """Index of the last of ascending values for which a test holds; -1 if it holds for none.

    values : ascending. [-]   test : condition on a value, one that fails for all values beyond some. [-]

    >>> last_of([1, 2, 4, 8], lambda n: n < 5)
    2
    """
    return last_true(lambda n: test(values[n - 1]), len(values)) - 1
