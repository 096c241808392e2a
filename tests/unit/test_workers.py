"""The agent's threads: few at a time, more where they wait or hang, and no job is forgotten."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from calico_node.workers import AT_ONCE, SPARE_THREADS, STUCK_SECONDS, Workers

SECONDS = 60.0


class Crowd:
    """Jobs that stay until they are let go, and a count of those that are at it."""

    def __init__(self, workers: Workers) -> None:
        self.workers, self.lock = workers, threading.Lock()
        self.inside = self.most = self.done = 0
        self.go_on = threading.Event()

    def job(self, body: Callable[[], object] = lambda: None) -> Callable[[], None]:
        def run() -> None:
            with self.lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            body()
            assert self.go_on.wait(SECONDS)
            with self.lock:
                self.inside -= 1
                self.done += 1

        return run


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def workers() -> Workers:
    return Workers()


@contextmanager
def unsticking(workers: Workers) -> Iterator[None]:
    """Do what the server does now and then."""
    is_over = threading.Event()

    def tick() -> None:
        while not is_over.wait(0.01):
            workers.unstick()

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_a_few_at_a_time(workers: Workers) -> None:
    """No more have their turn at once; the others wait, and are done after them."""
    crowd = Crowd(workers)
    for _ in range(20):
        workers.submit(crowd.job())
    until(lambda: crowd.inside == AT_ONCE)
    assert workers.waiting == 20 - AT_ONCE
    crowd.go_on.set()
    until(lambda: crowd.done == 20)
    assert crowd.most <= AT_ONCE
    assert workers.waiting == 0


def test_an_urgent_one_at_once(workers: Workers) -> None:
    """It waits neither for those that are at it nor for those that came before it."""
    crowd, answered = Crowd(workers), threading.Event()
    for _ in range(20):
        workers.submit(crowd.job())
    until(lambda: crowd.inside == AT_ONCE)
    workers.submit(answered.set, urgent=True)
    assert answered.wait(SECONDS)
    assert crowd.done == 0
    crowd.go_on.set()
    until(lambda: crowd.done == 20)


def test_those_that_hang_are_replaced(workers: Workers) -> None:
    """However many hang, others run meanwhile."""
    crowd, answered = Crowd(workers), threading.Semaphore(0)
    for _ in range(40):
        workers.submit(crowd.job())
    for _ in range(10):
        workers.submit(answered.release)
    with unsticking(workers):
        for _ in range(10):
            assert answered.acquire(timeout=SECONDS)
    until(lambda: crowd.inside == 40)
    assert crowd.done == 0
    crowd.go_on.set()
    until(lambda: crowd.done == 40)


def test_nobody_is_replaced_too_soon(workers: Workers) -> None:
    """A look at those that have just begun lets no more run."""
    crowd = Crowd(workers)
    for _ in range(20):
        workers.submit(crowd.job())
    began = time.monotonic()
    workers.unstick()
    inside = crowd.inside
    if time.monotonic() - began < STUCK_SECONDS:  # else this thread was kept from running
        assert inside <= AT_ONCE
    crowd.go_on.set()
    until(lambda: crowd.done == 20)


@pytest.mark.parametrize("hasty", [False, True])
def test_who_waits_gives_its_turn_away(workers: Workers, hasty: bool) -> None:
    """Many may wait; when all of them can go on, they do so by turns, or all at once where others wait for them."""
    come, crowd = threading.Event(), Crowd(workers)
    waiting = threading.Semaphore(0)

    def wait() -> None:
        with workers.idling(hasty):
            waiting.release()
            assert come.wait(SECONDS)
        crowd.job()()

    for _ in range(20):
        workers.submit(wait)
    for _ in range(20):
        assert waiting.acquire(timeout=SECONDS)
    come.set()
    until(lambda: crowd.inside == (20 if hasty else AT_ONCE))
    crowd.go_on.set()
    until(lambda: crowd.done == 20)
    assert crowd.most == (20 if hasty else AT_ONCE)


def test_idling_elsewhere(workers: Workers) -> None:
    """It is of no effect in a thread that is none of the pool's."""
    with workers.idling():
        done = threading.Event()
        workers.submit(done.set)
        assert done.wait(SECONDS)


def test_a_job_that_raises(workers: Workers, capfd: pytest.CaptureFixture[str]) -> None:
    """It is told, and the thread goes on; also when it raises while it has no turn."""
    def fails() -> None:
        raise ZeroDivisionError

    def fails_idling() -> None:
        with workers.idling():
            raise ZeroDivisionError

    done = threading.Semaphore(0)
    for _ in range(5 * AT_ONCE):
        workers.submit(fails)
        workers.submit(fails_idling)
        workers.submit(done.release)
    for _ in range(5 * AT_ONCE):
        assert done.acquire(timeout=SECONDS)
    until(lambda: not workers.unserved)
    assert capfd.readouterr().err.count("ZeroDivisionError") >= 10 * AT_ONCE - 1


def test_threads_come_and_go(workers: Workers) -> None:
    """A burst of those that hang makes threads; most of them end again."""
    before, crowd = tasks(), Crowd(workers)
    for _ in range(2 * SPARE_THREADS):
        workers.submit(crowd.job(), urgent=True)
    until(lambda: crowd.inside == 2 * SPARE_THREADS)
    assert tasks() >= 2 * SPARE_THREADS
    crowd.go_on.set()
    until(lambda: tasks() <= SPARE_THREADS + before)
    assert crowd.done == 2 * SPARE_THREADS


def test_a_thread_that_is_not_fit() -> None:
    """It does no other job: each is done by a thread of its own."""
    workers, threads, lock = Workers(lambda: False), set(), threading.Lock()

    def job() -> None:
        with lock:
            threads.add(threading.get_native_id())

    before = tasks()
    for number in range(1, 11):
        workers.submit(job)
        until(lambda count=number: len(threads) == count)  # type: ignore[misc]
    until(lambda: tasks() <= before)


def test_no_thread_to_be_had(workers: Workers) -> None:
    """Jobs wait until the system gives threads again, also urgent ones."""
    done = threading.Semaphore(0)
    usual = threading.stack_size(1 << 46)  # more than there is
    try:
        workers.submit(done.release)
        workers.submit(done.release, urgent=True)
        workers.unstick()
        assert workers.unserved
        assert not done.acquire(blocking=False)
    finally:
        threading.stack_size(usual)
    workers.unstick()
    for _ in range(2):
        assert done.acquire(timeout=SECONDS)


def tasks() -> int:
    """Return how many threads this process has, whoever made them."""
    return len(os.listdir("/proc/self/task"))


def test_no_job_is_forgotten(workers: Workers) -> None:
    """5,000 jobs from four threads, some urgent, some waiting in between, some failing: each is run once."""
    ran, lock = [0] * 5000, threading.Lock()

    def job(number: int, dice: random.Random) -> Callable[[], None]:
        pause = dice.random() < 0.3

        def run() -> None:
            if pause:
                with workers.idling(hasty=number % 2 == 0):
                    time.sleep(0.0005)
            with lock:
                ran[number] += 1

        return run

    def submit(thread: int) -> None:
        dice = random.Random(thread)
        for number in range(thread, 5000, 4):
            workers.submit(job(number, dice), urgent=dice.random() < 0.1)

    with unsticking(workers):
        threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: sum(ran) == 5000)
    assert ran == [1] * 5000
    assert not workers.unserved
