"""Latencies of the last hour: right to within a step, forgotten after an hour, in bounded memory."""

from __future__ import annotations

import random
import statistics
import threading
import tracemalloc

import pytest

from calico_node.latencies import LONGEST, MINUTE, SHORTEST, Latencies

WITHIN = 0.05


class Clock:
    """Seconds that only the test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_yet(clock: Clock) -> None:
    assert Latencies(clock).last_hour() == {}


@pytest.mark.parametrize("seconds", [.00002, .0002, .00123, .05, .7, 9.9, 60.0])
def test_a_single_one(clock: Clock, seconds: float) -> None:
    latencies = Latencies(clock)
    latencies.add("ADD", {"total": seconds})
    found = latencies.last_hour()["ADD"]["total"]
    assert found.count == 1
    assert (found.p50, found.p90, found.p99) == pytest.approx((seconds,) * 3, rel=WITHIN)


def test_percentiles_of_many(clock: Clock) -> None:
    """Against the exact ones of the same durations, spread over half an hour."""
    latencies, chance = Latencies(clock), random.Random(7)
    durations = [chance.lognormvariate(-5, 1) for _ in range(5000)]
    for at, seconds in enumerate(durations):
        clock.now = at * 0.36
        latencies.add("ADD", {"total": seconds})
    found, exact = latencies.last_hour()["ADD"]["total"], statistics.quantiles(durations, n=100)
    assert found.count == len(durations)
    assert (found.p50, found.p90, found.p99) == pytest.approx((exact[49], exact[89], exact[98]), rel=2 * WITHIN)


@pytest.mark.parametrize("seconds", [0.0, -1.0, SHORTEST, LONGEST, 1e9, float("inf")])
def test_what_is_out_of_range_counts_at_the_end_of_it(clock: Clock, seconds: float) -> None:
    latencies = Latencies(clock)
    latencies.add("ADD", {"total": seconds})
    found = latencies.last_hour()["ADD"]["total"]
    assert SHORTEST <= found.p50 <= LONGEST * 1.1


def test_an_hour_later_it_is_forgotten(clock: Clock) -> None:
    latencies = Latencies(clock)
    latencies.add("ADD", {"total": .1})
    clock.now = 30 * MINUTE
    latencies.add("ADD", {"total": .2})
    latencies.add("DEL", {"total": .2})
    clock.now = 60 * MINUTE - 1
    assert latencies.last_hour()["ADD"]["total"].count == 2
    clock.now = 60 * MINUTE
    assert latencies.last_hour()["ADD"]["total"].count == 1
    clock.now = 1000 * MINUTE
    assert latencies.last_hour() == {}


def test_verbs_and_stages_apart_and_in_order(clock: Clock) -> None:
    """Verbs by name, stages as they came."""
    latencies = Latencies(clock)
    latencies.add("DEL", {"wiring": .1})
    latencies.add("ADD", {"queue": .1, "ipam": .2, "config": .3})
    found = latencies.last_hour()
    assert list(found) == ["ADD", "DEL"]
    assert list(found["ADD"]) == ["queue", "ipam", "config"]


def test_memory_is_bounded(clock: Clock) -> None:
    """A day of every verb and stage takes no more than the last hour of it, and that a few megabytes."""
    latencies, stages = Latencies(clock), {f"stage{at}": .01 for at in range(6)}
    tracemalloc.start()
    sizes = []
    for minute in range(180):
        clock.now = minute * MINUTE
        for verb in ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"):
            latencies.add(verb, stages)
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[-1] < 3 << 20
    assert sizes[-1] - sizes[60] < 100_000


def test_threads(clock: Clock) -> None:
    latencies = Latencies(clock)

    def work() -> None:
        for _ in range(1000):
            latencies.add("ADD", {"total": .01})
            latencies.last_hour()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert latencies.last_hour()["ADD"]["total"].count == 4000
