"""The one error that vramsim raises for input that is wrong."""

from __future__ import annotations


class VramsimError(ValueError):
    """Input that cannot be answered: one sentence with the relation, the values given and the remedy."""
