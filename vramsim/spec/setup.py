"""One training run, resolved: what parts read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

from vramsim.spec.machine import Cluster
from vramsim.spec.model import Model
from vramsim.spec.recipe import Framework, Strategy, Training
from vramsim.units import DTYPE_BYTES, Num


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Stage:
    """What one pipeline stage holds: shares of the model's blocks, of its embedding and of its head, from 0 to 1.

    `in_flight` is how many micro-batches' activations are alive at its peak. Where a model has several kinds of blocks
    `kinds` are the shares of each kind (`layout.kinds`). `name`: first | middle | last; the default, without one, is a
    run that is yet to be cut into stages, if it is a pipeline at all.
    """

    blocks: Num = 1.0
    embedding: Num = 1.0
    head: Num = 1.0
    in_flight: Num = 1.0
    kinds: tuple[Num, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Setup:
    """One training run, resolved: what parts read. `notes` are assumptions made while it was resolved.

    `stage` is the pipeline stage that parts describe; `simulate` visits the stages that can be the worst.
    """

    model: Model
    cluster: Cluster
    framework: Framework
    training: Training
    strategy: Strategy
    stage: Stage = field(default_factory=Stage)
    notes: tuple[str, ...] = ()
    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def tokens(self) -> Num:
        """Tokens that one device holds in one micro-step. [-]"""
        training, strategy = self.training, self.strategy
        return training.micro_batch_size * training.seq_len / (strategy.cp * strategy.sp)

    @property
    def shard_degree(self) -> Num:
        """Ranks over which ZeRO or FSDP shards states: all that hold the same slice of the model. [-]"""
        return self.cluster.num_devices / (self.strategy.tp * self.strategy.pp)

    @property
    def data_parallel(self) -> Num:
        """Ranks that see different data. [-]"""
        return self.shard_degree / (self.strategy.cp * self.strategy.sp)

    @property
    def global_batch_size(self) -> Num:
        """Sequences per optimizer step. [-]"""
        return self.training.micro_batch_size * self.training.gradient_accumulation_steps * self.data_parallel


Derived = TypeVar("Derived")


def derived(function: Callable[[Setup], Derived]) -> Callable[[Setup], Derived]:
    """Remember what a pure function of a setup returned, for as long as the setup lives.

    Parts ask for the same few quantities (elements of a block, a block's working set) again and again.

    function : pure function of a Setup. [-]
    """

    @wraps(function)
    def remembered(setup: Setup) -> Derived:
        if function not in setup.memo:
            setup.memo[function] = function(setup)
        found: Derived = setup.memo[function]
        return found

    return remembered


def dtype_bytes(dtype: str) -> float:
    """Bytes per element of a storage type. [B]

    dtype : name such as "bf16". [-]

    >>> dtype_bytes("bf16")
    2.0
    """
    return DTYPE_BYTES[dtype]
