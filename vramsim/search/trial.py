"""Trying one value after the other: whether it keeps the rules, whether it fits, and its estimate or what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vramsim import rules
from vramsim.case import Case
from vramsim.errors import VramsimError
from vramsim.estimate import Estimate
from vramsim.search.bisection import last_of, last_true
from vramsim.simulate import simulate
from vramsim.spec import Setup

Fits = Callable[[Estimate], bool]


def fitting(chance: float | None) -> Fits:
    """Whether an estimate counts as fitting.

    chance : probability to fit that is asked for; None for the best estimate. [-]
    """
    return (lambda e: bool(e.fits)) if chance is None else (lambda e: float(e.fit_probability) >= chance)


def one_setup(case: Case) -> Setup:
    """The setup of a case; raises VramsimError if it holds arrays.

    case : one case. [-]
    """
    setup = case.resolve()
    if rules.grid_shape(setup):
        raise VramsimError("an inverse query is about one case, but this one holds arrays; give one value per field")
    return setup


def breaks(make: Callable[[], Setup]) -> bool:
    """Whether a setup breaks a rule.

    make : makes the setup. [-]
    """
    try:
        rules.check(make())
    except VramsimError:
        return True
    return False


def tried(make: Callable[[], Setup], fits: Fits) -> tuple[bool, Estimate | None, str]:
    """Whether a setup is possible and fits; its estimate, or the sentence of the rule that it breaks.

    make : makes the setup. [-]   fits : whether an estimate counts as fitting. [-]
    """
    try:
        setup = make()
        rules.check(setup)
    except VramsimError as error:
        return False, None, str(error)
    estimate = simulate(setup)
    return fits(estimate), estimate, ""


def valid_values(case: Case, key: str, most: int) -> list[int]:
    """Values from 1 to `most` with which the case keeps all rules; raises VramsimError if there is none.

    case : one case. [-]   key : of the value. [-]   most : largest value. [-]
    """
    numbers = np.arange(1, most + 1)
    try:
        setup = case.with_values({key: numbers}).resolve()
    except VramsimError as error:
        raise VramsimError(f"no {key} up to {most:,} keeps the rules: {error}") from None
    keeps = np.ones(len(numbers), np.bool_)
    for broken in rules.violations(setup).values():
        keeps &= np.logical_not(broken)
    if not keeps.any():
        raise VramsimError(f"no {key} up to {most:,} keeps all rules at once")
    return [int(number) for number in numbers[keeps]]


def last_allowed(test: Callable[[int], bool], broken: Callable[[int], bool], most: int) -> int:
    """Largest n that passes; where 1 already breaks a rule (too few layers for a pipeline, say), of those that do not.

    test : whether n passes. [-]   broken : whether n breaks a rule. [-]   most : largest n. [-]
    """
    allowed = [n for n in range(1, most + 1) if not broken(n)] if broken(1) else []
    if not allowed:
        return last_true(test, most)
    index = last_of(allowed, test)
    return allowed[index] if index >= 0 else 0
