"""Running tasks event by event: each on its stream, in order, once what it waits for is done.

Streams of one device run side by side. Communication beside a computation slows it: its remaining seconds stretch for
as long as both run.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Task:
    """Work for one stream of one device: `seconds` of it when nothing slows it, once the tasks in `after` have ended.

    `slows` tasks lengthen a `slowed` task that the same device runs meanwhile.
    """

    device: int
    stream: str
    name: str
    seconds: float
    after: list[int] = field(default_factory=list)
    slowed: bool = False
    slows: bool = False


@dataclass(slots=True)
class _Running:
    """A slowed task under way: seconds left of it, as of a moment, at a pace."""

    task: int
    left: float
    since: float
    pace: float
    version: int = 0


def run(tasks: Sequence[Task], slowdown: float) -> list[tuple[float, float]]:
    """When each task starts and ends.

    tasks : in the order in which their streams take them. [-]
    slowdown : of a slowed task while any that slows runs on its device; 0.1 makes 1 s of it take 1.1 s. [-]
    Returns (start, end) of each task. [s]   Raises RuntimeError if tasks wait for each other.

    >>> run([Task(0, "compute", "a", 1.0), Task(0, "link", "b", 3.0), Task(0, "compute", "c", 1.0, [1])], 0.0)
    [(0.0, 1.0), (0.0, 3.0), (3.0, 4.0)]
    """
    followers: dict[int, list[int]] = defaultdict(list)
    missing = [0] * len(tasks)
    last: dict[tuple[int, str], int] = {}
    for index, task in enumerate(tasks):
        waits = set(task.after)
        if (device_stream := (task.device, task.stream)) in last:
            waits.add(last[device_stream])
        last[device_stream] = index
        missing[index] = len(waits)
        for each in waits:
            followers[each].append(index)

    times: list[tuple[float, float]] = [(0.0, 0.0)] * len(tasks)
    events: list[tuple[float, int, int]] = []
    running: dict[int, _Running] = {}
    slowing: dict[int, int] = defaultdict(int)
    done = 0

    def pace(device: int) -> float:
        return 1.0 / (1.0 + slowdown) if slowing[device] else 1.0

    def repace(device: int, now: float) -> None:
        found = running.get(device)
        if found is None or found.pace == pace(device):
            return
        found.left -= (now - found.since) * found.pace
        found.since, found.pace = now, pace(device)
        found.version += 1
        heapq.heappush(events, (now + max(found.left, 0.0) / found.pace, found.task, found.version))

    def start(index: int, now: float) -> None:
        task = tasks[index]
        times[index] = (now, now)
        if task.slows:
            slowing[task.device] += 1
            repace(task.device, now)
        speed = 1.0
        if task.slowed:
            speed = pace(task.device)
            running[task.device] = _Running(index, task.seconds, now, speed)
        heapq.heappush(events, (now + task.seconds / speed, index, 0))

    for index, count in enumerate(missing):
        if not count:
            start(index, 0.0)
    while events:
        now, index, version = heapq.heappop(events)
        task = tasks[index]
        if task.slowed:
            current = running.get(task.device)
            if current is None or current.task != index or current.version != version:
                continue  # it has been given another pace since
            del running[task.device]
        done += 1
        times[index] = (times[index][0], now)
        if task.slows:
            slowing[task.device] -= 1
            repace(task.device, now)
        for follower in followers[index]:
            missing[follower] -= 1
            if not missing[follower]:
                start(follower, now)
    if done < len(tasks):
        raise RuntimeError("tasks wait for each other: the order of passes is not one that a pipeline can run")
    return times
