"""Calls that are carried out in lots: each gets its own outcome, and none is forgotten."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from calico_node.together import Together

SECONDS = 60.0


class Lots:
    """Work that notes its lots; the first of them lasts until `gate` is set."""

    def __init__(self) -> None:
        self.lots: list[list[int]] = []
        self.begun, self.gate, self.at_once = threading.Event(), threading.Event(), threading.Lock()

    def __call__(self, items: Sequence[int]) -> list[int | BaseException]:
        assert self.at_once.acquire(blocking=False), "two lots at a time"
        try:
            self.lots.append(list(items))
            self.begun.set()
            assert self.gate.wait(SECONDS)
            return [ValueError(item) if item % 7 == 3 else item * 10 for item in items]
        finally:
            self.at_once.release()


def outcome(call: Callable[[int], int], item: int) -> int | str:
    try:
        return call(item)
    except ValueError as error:
        return f"refused {error}"


def expected(item: int) -> int | str:
    return f"refused {item}" if item % 7 == 3 else item * 10


def test_alone() -> None:
    """A call that comes alone is a lot by itself, in its caller's thread."""
    threads: list[int] = []

    def work(items: Sequence[int]) -> Sequence[int]:
        threads.append(threading.get_ident())
        return items

    together = Together[int, int](work, 4)
    assert [together(1), together(2)] == [1, 2]
    assert threads == [threading.get_ident()] * 2


@pytest.mark.parametrize("most", [1, 4, 100])
def test_who_comes_meanwhile_is_done_together(most: int) -> None:
    """What comes during the first lot is done in as few more as there may be, each with its own outcome."""
    work, items = Lots(), list(range(20))
    waiting = threading.Semaphore(0)

    @contextmanager
    def idling() -> Iterator[None]:
        waiting.release()
        yield

    together = Together[int, int](work, most, idling)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(outcome, together, items[0])
        assert work.begun.wait(SECONDS)
        others = [pool.submit(outcome, together, item) for item in items[1:]]
        for _ in others:
            assert waiting.acquire(timeout=SECONDS)
        work.gate.set()
        assert [each.result(SECONDS) for each in (first, *others)] == [expected(item) for item in items]
    assert sorted(item for lot in work.lots for item in lot) == items
    assert all(len(lot) <= most for lot in work.lots)
    assert len(work.lots) <= 2 + 19 // most + 19 % 2  # how they queue up is the threads' own affair


def test_work_that_raises() -> None:
    """Everybody in its lot gets the error, and the next call is done as if nothing had been."""
    fail = [True]

    def work(items: Sequence[int]) -> Sequence[int]:
        if fail[0]:
            raise ZeroDivisionError
        return items

    together = Together[int, int](work, 4)
    with pytest.raises(ZeroDivisionError):
        together(1)
    fail[0] = False
    assert together(2) == 2


def test_work_that_forgets_somebody() -> None:
    """An answer with too few outcomes is an error for all, not a wait for ever."""
    together = Together[int, int](lambda items: items[1:], 4)
    with pytest.raises(ValueError, match="zip"):
        together(1)


def test_thousands() -> None:
    """Whatever the order: each of 4,000 calls from 16 threads gets its own outcome."""
    work = Lots()
    work.gate.set()
    together = Together[int, int](work, 5)

    def calls(thread: int) -> None:
        dice = random.Random(thread)
        for _ in range(250):
            item = dice.randrange(1000)
            assert outcome(together, item) == expected(item)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(calls, range(16)))
    assert sum(map(len, work.lots)) == 4000
