"""In which order the devices of a pipeline run their micro-batches.

A device holds one chunk of consecutive layers, or several. A *pass* is one micro-batch's way through one chunk: F
forward, B backward; where a schedule puts the gradients of weights off, I is the backward of inputs and W that of
weights. `routes` says where micro-batches go, `orders` what each device does one after the other. A schedule is
written down as its authors do: so many passes of each kind in turn, each of the next micro-batch; those of
micro-batches that a short step does not have are left out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from vramsim.equations import pipeline as equations


class Pass(NamedTuple):
    """One micro-batch's way through one chunk of a device's layers."""

    kind: str
    batch: int
    chunk: int


class Pipe(NamedTuple):
    """A device's place: stages of the pipeline, micro-batches of a step, chunks a device, and which device."""

    stages: int
    batches: int
    chunks: int
    device: int


Place = tuple[int, int]
"""A device and one of its chunks."""
Turns = Iterator[tuple[str, int]]
"""Kinds of passes and chunks, in the order in which a device takes them; the next micro-batch's each time."""


def routes(schedule: str, stages: int, batches: int, chunks: int) -> list[list[Place]]:
    """The chunks that each micro-batch visits, from the embedding to the head.

    schedule : one of equations.pipeline.SCHEDULES. [-]   stages : devices of the pipeline. [-]
    batches : micro-batches. [-]   chunks : virtual stages a device, for interleaved schedules. [-]
    Returns one list of (device, chunk) a micro-batch.
    Source: Megatron-LM core/pipeline_parallel (interleaved: chunk by chunk); arXiv 2405.15362 (ZB-V folds the
    pipeline); deepseek-ai/DualPipe (half of the micro-batches enter at each end).

    >>> routes("zb-v", 2, 1, 1)
    [[(0, 0), (1, 0), (1, 1), (0, 1)]]
    """
    up = [(device, 0) for device in range(stages)]
    down = [(device, 1) for device in reversed(range(stages))]
    if stages == 1 or schedule not in ("zb-v", "dualpipe"):
        return [[(device, chunk) for chunk in range(chunks) for device in range(stages)]] * batches
    if schedule == "zb-v":
        return [up + down] * batches
    return [up] * _upward(batches) + [down] * (batches - _upward(batches))


def _upward(batches: int) -> int:
    """Micro-batches that enter a bidirectional pipeline at its first device."""
    return (batches + 1) // 2


def orders(schedule: str, stages: int, batches: int, chunks: int) -> list[list[Pass]]:
    """What each device runs, one pass after the other.

    schedule, stages, batches, chunks : as for `routes`. [-]
    Returns one list a device.
    Source: Megatron-LM core/pipeline_parallel/schedules.py; PyTorch torch/distributed/pipelining/schedules.py (ZB-V);
    arXiv 2401.10241 (ZB-H1, ZB-H2); deepseek-ai/DualPipe dualpipe/dualpipe.py.

    >>> [" ".join(f"{kind}{batch}" for kind, batch, _ in order) for order in orders("1f1b", 2, 3, 1)]
    ['F0 F1 B0 F2 B1 B2', 'F0 B0 F1 B1 F2 B2']
    """
    return [list(_order(schedule, Pipe(stages, batches, chunks, device))) for device in range(stages)]


def _order(schedule: str, pipe: Pipe) -> Iterator[Pass]:
    """Number the turns of a device: each is the next micro-batch's, as long as there is one."""
    both_ways = schedule == "dualpipe" and pipe.stages > 1
    upward = _upward(pipe.batches) if both_ways else pipe.batches
    first = {0: 0, 1: upward if both_ways else 0}
    last = {0: upward, 1: pipe.batches}
    turns = TURNS["1f1b" if pipe.stages == 1 else schedule]
    taken: Counter[tuple[str, int]] = Counter()
    put_off: dict[int, deque[int]] = {chunk: deque() for chunk in range(max(pipe.chunks, 2))}
    for kind, chunk in turns(pipe):
        if kind == "W":
            batch = put_off[chunk].popleft()
        else:
            counted = ("F" if kind == "F" else "B", chunk)
            batch = first.get(chunk, 0) + taken[counted]
            taken[counted] += 1
        if kind == "I":
            put_off[chunk].append(batch)
        if batch < last.get(chunk, pipe.batches):
            yield Pass(kind, batch, chunk)


def _one_for_one(schedule: str) -> Callable[[Pipe], Turns]:
    """GPipe, 1F1B and interleaved: some forward, then one backward for each forward, then the rest backward.

    Where a device has several chunks they take turns, `stages` micro-batches at a time, the last one first backward.
    """

    def turns(pipe: Pipe) -> Turns:
        ahead, back = (list(_by_chunk(pipe, chunks)) for chunks in (range(pipe.chunks), range(pipe.chunks)[::-1]))
        held = equations.in_flight(schedule, *map(float, (pipe.stages, pipe.device, pipe.batches, pipe.chunks)))
        warm = round(float(held) * pipe.chunks)
        yield from (("F", chunk) for chunk in ahead[:warm])
        for forward, backward in zip(ahead[warm:], back, strict=False):
            yield "B", backward
            yield "F", forward
        yield from (("B", chunk) for chunk in back[len(ahead) - warm :])

    return turns


def _by_chunk(pipe: Pipe, chunks: range) -> Iterator[int]:
    together = pipe.stages if pipe.chunks > 1 else pipe.batches
    for first in range(0, pipe.batches, together):
        for chunk in chunks:
            yield from [chunk] * (min(first + together, pipe.batches) - first)


def _put_off(warm: Callable[[Pipe], int], delay: Callable[[Pipe], int]) -> Callable[[Pipe], Turns]:
    """ZB-H1 and ZB-H2: 1F1B in which the gradients of weights come `delay` micro-batches later."""

    def turns(pipe: Pipe) -> Turns:
        yield from [("F", 0)] * warm(pipe)
        for batch in range(pipe.batches):
            yield "I", 0
            if batch >= delay(pipe):
                yield "W", 0
            yield "F", 0
        yield from [("W", 0)] * min(delay(pipe), pipe.batches)

    return turns


def _folded(pipe: Pipe) -> Turns:
    """ZB-V: chunk 0 on the way up, chunk 1 on the way down."""
    below, above = pipe.device, pipe.stages - pipe.device
    yield from [("F", 0)] * (2 * above - 1)
    yield from [("F", 1), ("F", 0)] * below
    yield from [("F", 1), ("I", 1), ("W", 1)] * above
    for _ in range(max(pipe.batches, 2 * pipe.stages - 1) - pipe.stages):
        yield from (("F", 0), ("I", 0), ("W", 0), ("F", 1), ("I", 1), ("W", 1))
    yield from [("I", 0), ("I", 1)] * below
    yield from [("I", 0), ("W", 0)] * above
    yield from [("W", 1)] * below
    yield from [("W", 0)] * below


def _both_ways(pipe: Pipe) -> Turns:
    """DualPipe: `near` micro-batches entered at the closer end, `far` ones at the other."""
    half = pipe.stages // 2
    near, far = (0, 1) if pipe.device < half else (1, 0)
    depth = min(pipe.device, pipe.stages - 1 - pipe.device)
    ahead, waiting = half - depth - 1, depth + 1
    yield from [("F", near)] * (2 * ahead)
    yield from [("F", near), ("F", far)] * waiting
    yield from [("I", far), ("W", far), ("F", far)] * ahead
    yield from [("F", near), ("B", far), ("F", far), ("B", near)] * (pipe.batches // 2 - pipe.stages + waiting)
    yield from [("B", far), ("F", far), ("B", near)] * ahead
    # The second half of these leaves the gradients of weights for the end.
    late = [("B", far), ("B", near)] * waiting
    yield from late[:waiting]
    yield from (("I", chunk) for _, chunk in late[waiting:])
    behind = [chunk for _, chunk in late[waiting:]] + [near] * ahead
    for turn in range(ahead):
        yield "W", behind[turn]
        yield "I", near
    yield from (("W", chunk) for chunk in behind[ahead:])


TURNS: dict[str, Callable[[Pipe], Turns]] = {
    "gpipe": _one_for_one("gpipe"),
    "1f1b": _one_for_one("1f1b"),
    "interleaved": _one_for_one("interleaved"),
    "zb-h1": _put_off(lambda pipe: pipe.stages - pipe.device, lambda pipe: pipe.device),
    "zb-h2": _put_off(lambda pipe: 2 * (pipe.stages - pipe.device) - 1, lambda pipe: 2 * pipe.device),
    "zb-v": _folded,
    "dualpipe": _both_ways,
}
"""Schedule -> the turns of a device."""
