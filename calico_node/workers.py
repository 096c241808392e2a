"""Threads that serve requests: a few at a time, since they share one interpreter, and never fewer because some hang."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread, local

from cni_calico.log import stderr

AT_ONCE = 4  # jobs that run at a time; more only take the interpreter from each other
MOST_THREADS = 1024
SPARE_THREADS = 16  # idle ones kept
STUCK_SECONDS = 0.05  # nothing started for so long though jobs wait: those that run hang, or are slow


class Workers:
    """A pool of threads. A job that waits says so (`idling`), and another runs meanwhile."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._jobs: deque[tuple[float, Callable[[], None]]] = deque()
        self._threads = self._idle = self._running = self._promised = 0
        self._last_start = time.monotonic()
        self._here = local()

    @property
    def waiting(self) -> int:
        """How many jobs have not been started."""
        return len(self._jobs)

    @property
    def threads(self) -> int:
        """How many threads there are."""
        return self._threads

    def submit(self, job: Callable[[], None], urgent: bool = False) -> None:
        """Have a job run; an urgent one before all others and at once."""
        with self._condition:
            entry = (time.monotonic(), job)
            if urgent:
                self._jobs.appendleft(entry)
                self._start_one()
            else:
                self._jobs.append(entry)
                self._start_if_free()

    def unstick(self) -> None:
        """Start one more where jobs wait for those that hang; to be called now and then."""
        with self._condition:
            if self._jobs and time.monotonic() - max(self._last_start, self._jobs[0][0]) > STUCK_SECONDS:
                self._start_one()

    @contextmanager
    def idling(self) -> Iterator[None]:
        """Let another job run while the body waits; of no effect in a thread that is none of the pool's."""
        if not getattr(self._here, "is_worker", False):
            yield
            return
        with self._condition:
            self._running -= 1
            self._start_if_free()
        try:
            yield
        finally:
            with self._condition:
                self._running += 1

    def _start_if_free(self) -> None:
        if self._running < AT_ONCE:
            self._start_one()

    def _start_one(self) -> None:
        """Promise a job that nobody was promised to a thread: an idle one, else a new one. The lock is held."""
        if len(self._jobs) <= self._promised:
            return
        if self._idle <= self._promised:
            if self._threads >= MOST_THREADS:
                return
            self._threads += 1
            Thread(target=self._serve, name="worker", daemon=True).start()
        else:
            self._condition.notify()
        self._promised += 1
        self._running += 1
        self._last_start = time.monotonic()

    def _serve(self) -> None:
        self._here.is_worker = True
        while job := self._next():
            try:
                job()
            except Exception:  # a bug: the request is given up, the thread is not
                stderr(traceback.format_exc())
            with self._condition:
                self._running -= 1
                self._start_if_free()

    def _next(self) -> Callable[[], None] | None:
        """Wait for a job that is promised; None when there are idle threads enough without this one."""
        with self._condition:
            while not self._promised:
                if self._idle >= SPARE_THREADS:
                    self._threads -= 1
                    return None
                self._idle += 1
                self._condition.wait()
                self._idle -= 1
            self._promised -= 1
            return self._jobs.popleft()[1]
