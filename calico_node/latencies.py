"""How long requests took in the last hour, by verb and stage, in bounded memory: a histogram for each minute.

A histogram's steps are 10 % wide, so a percentile is right to within 5 %, between 10 µs and two minutes.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, exp, log
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Kind = tuple[str, str]  # verb and stage
    Histograms = dict[Kind, array[int]]

MINUTES, MINUTE = 60, 60.0
SHORTEST, LONGEST, STEP = 1e-5, 120.0, 1.1
SHARES = (0.5, 0.9, 0.99)
_SCALE = 1 / log(STEP)
_LAST = int(log(LONGEST / SHORTEST) * _SCALE)


@dataclass(frozen=True)
class Latency:
    """How many there were, and within how many seconds half, nine tenths and 99 of 100 of them were done."""

    count: int
    p50: float
    p90: float
    p99: float


class Latencies:
    """Durations as they come, from any thread, and what they were in the last hour. clock: seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._minutes: deque[tuple[int, Histograms]] = deque(maxlen=MINUTES)

    def add(self, verb: str, stages: Mapping[str, float]) -> None:
        """Count the seconds that each stage of a request took. The caller sees to it that verbs and stages are few."""
        steps = [((verb, stage), _step(seconds)) for stage, seconds in stages.items()]
        with self._lock:
            histograms = self._of_this_minute()
            for kind, step in steps:
                histogram = histograms.get(kind)
                if histogram is None:
                    histogram = histograms[kind] = _empty()
                histogram[step] += 1

    def last_hour(self) -> dict[str, dict[str, Latency]]:
        """Return verb -> stage -> latency, of 59 full minutes and the one that has begun; stages as they came."""
        with self._lock:
            self._of_this_minute()
            seen = dict.fromkeys(kind for _, histograms in self._minutes for kind in histograms)
            kinds = sorted(seen, key=lambda kind: kind[0])
            sums = {kind: _sum(histograms.get(kind) for _, histograms in self._minutes) for kind in kinds}
        found: dict[str, dict[str, Latency]] = {}
        for (verb, stage), counts in sums.items():
            found.setdefault(verb, {})[stage] = _latency(counts)
        return found

    def _of_this_minute(self) -> Histograms:
        """Return the current histograms, without those older than an hour; the lock is held."""
        now = int(self._clock() // MINUTE)
        while self._minutes and self._minutes[0][0] <= now - MINUTES:
            self._minutes.popleft()
        if not self._minutes or self._minutes[-1][0] != now:
            self._minutes.append((now, {}))
        return self._minutes[-1][1]


def _step(seconds: float) -> int:
    return int(log(min(max(seconds, SHORTEST), LONGEST) / SHORTEST) * _SCALE)


def _empty() -> array[int]:
    return array("I", bytes(array("I").itemsize * (_LAST + 1)))


def _sum(histograms: Iterable[array[int] | None]) -> list[int]:
    return [sum(column) for column in zip(*filter(None, histograms), strict=True)]


def _latency(counts: list[int]) -> Latency:
    """Return the percentiles: of the step in which one lies, the middle."""
    up_to = list(accumulate(counts))

    def within(share: float) -> float:
        rank = ceil(share * up_to[-1])
        return SHORTEST * exp((bisect_left(up_to, rank) + 0.5) / _SCALE)

    return Latency(up_to[-1], *map(within, SHARES))
