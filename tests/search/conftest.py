"""Spaces that several tests search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramsim.space import Space

SEED = Path(__file__).parents[2] / "studies" / "spaces" / "llama3_70b.yaml"

MakeSpace = Callable[..., Space]


def _space(search: dict[str, Any], training: dict[str, Any] | None = None, **options: Any) -> Space:
    base = {
        "model": "llama-3-8b",
        "cluster": {"device": "a100-sxm-80gb", "num_devices": 8},
        "framework": "deepspeed",
        "training": {"seq_len": 4096, **(training or {})},
        "strategy": {"zero_stage": 3},
    }
    return Space(base, search, **options)


@pytest.fixture(scope="session")
def make_space() -> MakeSpace:
    return _space


@pytest.fixture(scope="session")
def seed_space() -> Space:
    return Space.load(SEED)
