"""Orders of passes: what runs, what is in flight, and how long a pipeline idles, against equations P2 and P3."""

from __future__ import annotations

from collections import Counter

import pytest

from vramsim.equations import pipeline as equations
from vramsim.replay.passes import orders, routes

PIPES = [(2, 4), (4, 4), (4, 16), (8, 32), (8, 4), (4, 2), (4, 7), (4, 8), (3, 5)]
THIRDS = {"F": 1.0, "B": 2.0, "I": 1.0, "W": 1.0}


def cases() -> list[tuple[str, int, int, int]]:
    """Schedules, stages, micro-batches and chunks that go together."""
    found = []
    for schedule in equations.SCHEDULES:
        for stages, batches in PIPES:
            if schedule == "dualpipe" and (batches % 2 or batches < 2 * stages or stages % 2):
                continue
            chunks = [1, 2, 3] if schedule == "interleaved" else [1]
            found += [(schedule, stages, batches, v) for v in chunks if v == 1 or batches % stages == 0]
    return found


def run(schedule: str, stages: int, batches: int, chunks: int, lasts: dict[str, float]) -> tuple[float, list[int]]:
    """Idle time of a step among others like it, and the most passes that each device holds activations of."""
    steps = 3
    order, ways = orders(schedule, stages, batches, chunks), routes(schedule, stages, batches, chunks)
    places = [{place: at for at, place in enumerate(way)} for way in ways]
    ends: dict[tuple[int, str, int, int], float] = {}
    queues = [[(step, each) for step in range(steps) for each in passes] for passes in order]
    clock, at, held, most = [0.0] * stages, [0] * stages, [0] * stages, [0] * stages
    done: list[list[float]] = [[] for _ in range(stages)]
    moved = True
    while moved:
        moved = False
        for device in range(stages):
            while at[device] < len(queues[device]):
                step, (kind, batch, chunk) = queues[device][at[device]]
                place, length = places[batch][device, chunk], len(ways[batch])
                needs = []
                if kind == "F" and place:
                    needs = [(step, "F", batch, place - 1)]
                elif kind in "BI":
                    needs = [(step, "B", batch, place + 1) if place + 1 < length else (step, "F", batch, place)]
                if any(each not in ends for each in needs):
                    break
                clock[device] = max([clock[device], *(ends[each] for each in needs)]) + lasts[kind]
                ends[step, "F" if kind == "F" else "W" if kind == "W" else "B", batch, place] = clock[device]
                held[device] += {"F": 1, "B": -1, "W": -1, "I": 0}[kind]
                most[device] = max(most[device], held[device])
                at[device] += 1
                moved = True
                if at[device] % len(order[device]) == 0:
                    done[device].append(clock[device])
    assert [len(queue) for queue in queues] == at, "a device waits for ever"
    assert not any(held)
    busy = sum(lasts[each.kind] for each in order[0])
    return (max((marks[-1] - marks[0]) / (steps - 1) for marks in done) - busy) / busy, most


@pytest.mark.parametrize(("schedule", "stages", "batches", "chunks"), cases())
def test_orders_are_complete(schedule: str, stages: int, batches: int, chunks: int) -> None:
    """Every micro-batch goes forward and backward once through every chunk on its way."""
    found = Counter(
        ("W" if each.kind == "W" else "F" if each.kind == "F" else "B", each.batch, device, each.chunk)
        for device, passes in enumerate(orders(schedule, stages, batches, chunks))
        for each in passes
    )
    ways = routes(schedule, stages, batches, chunks)
    visits = [(batch, *place) for batch, way in enumerate(ways) for place in way]
    assert set(found.values()) == {1}
    for kind in "FB":
        assert sorted(key[1:] for key in found if key[0] == kind) == sorted(visits)


@pytest.mark.parametrize(("schedule", "stages", "batches", "chunks"), cases())
def test_orders_hold_and_wait_as_the_equations_say(schedule: str, stages: int, batches: int, chunks: int) -> None:
    idle, most = run(schedule, stages, batches, chunks, THIRDS)
    assert idle == pytest.approx(float(equations.bubble(schedule, stages, batches, chunks)), abs=1e-9)
    parts = {"zb-v": 2, "dualpipe": 2}.get(schedule, chunks)
    for device, found in enumerate(most):
        numbers = map(float, (stages, device, batches, chunks))
        assert found == pytest.approx(parts * float(equations.in_flight(schedule, *numbers)))


@pytest.mark.parametrize("schedule", ["zb-h1", "zb-h2", "zb-v"])
@pytest.mark.parametrize(("inputs", "weights"), [(1.5, 0.5), (2.0, 1.0), (2.0, 0.8), (1.2, 0.9)])
def test_uneven_thirds(schedule: str, inputs: float, weights: float) -> None:
    """Recomputation makes backward longer, and small weights have small gradients."""
    lasts = {"F": 1.0, "I": inputs, "W": weights, "B": inputs + weights}
    whole = 1.0 + inputs + weights
    for stages, batches in ((4, 16), (8, 32), (4, 4), (8, 4), (4, 7)):
        idle, _ = run(schedule, stages, batches, 1, lasts)
        numbers = (float(stages), float(batches), 1.0, 1.0 / whole, weights / whole)
        assert idle == pytest.approx(float(equations.bubble(schedule, *numbers)), abs=1e-9)
