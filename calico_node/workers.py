"""Threads that serve requests: a few at a time, since they share one interpreter, and never fewer because some hang."""

from __future__ import annotations

import _thread
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, local

from cni_calico.log import stderr

AT_ONCE = 3  # threads that run at a time; more only take the interpreter from each other
MOST_THREADS = 1024
SPARE_THREADS = 64  # idle ones kept: making one costs more than a request's wait
STUCK_SECONDS = 0.05  # nobody got a turn for so long though some wait: those that run hang, or are slow

Job = Callable[[], None]


def _nothing() -> None:
    """Do nothing."""


class _Idle:
    """A thread without a job. `gate` is locked until it is given one."""

    def __init__(self) -> None:
        self.gate = Lock()
        self.gate.acquire()
        self.job: Job = _nothing


class Workers:
    """A pool of threads that run in turns. A job that waits says so (`idling`), and another has its turn meanwhile."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._jobs: deque[tuple[float, Job]] = deque()
        self._resuming: deque[Lock] = deque()
        self._idle: list[_Idle] = []
        self._threads = self._running = 0
        self._last_turn = time.monotonic()
        self._here = local()

    @property
    def waiting(self) -> int:
        """How many jobs have not been started."""
        return len(self._jobs)

    @property
    def unserved(self) -> bool:
        """Whether anybody waits for a turn, and `unstick` should be called now and then."""
        return bool(self._jobs or self._resuming)

    def submit(self, job: Job, urgent: bool = False) -> None:
        """Have a job run in its turn, or an urgent one at once."""
        with self._lock:
            if urgent:
                self._start(job)
            else:
                self._jobs.append((time.monotonic(), job))
                self._give_turns()

    def unstick(self) -> None:
        """Give one turn more where some wait for those that hang."""
        with self._lock:
            if time.monotonic() - self._last_turn > STUCK_SECONDS:
                self._give_turn()

    @contextmanager
    def idling(self, hasty: bool = False) -> Iterator[None]:
        """Give the turn away while the body waits; of no effect in a thread that is none of the pool's.

        hasty: go on at once then, without a turn, since others wait for what the body has got.
        """
        if not getattr(self._here, "is_worker", False):
            yield
            return
        with self._lock:
            self._running -= 1
            self._give_turns()
        try:
            yield
        finally:
            self._resume(hasty)

    def _resume(self, hasty: bool) -> None:
        """Wait for a turn, before any job that has not been started."""
        gate = Lock()
        with self._lock:
            if hasty or self._running < AT_ONCE:
                self._running += 1
                return
            gate.acquire()
            self._resuming.append(gate)
        gate.acquire()

    def _give_turns(self) -> None:
        while self._running < AT_ONCE and self._give_turn():
            pass

    def _give_turn(self) -> bool:
        """Let one that waits run; tell whether there was any. The lock is held."""
        if self._resuming:
            self._running += 1
            self._resuming.popleft().release()
        elif self._jobs and (self._idle or self._threads < MOST_THREADS):
            self._start(self._jobs.popleft()[1])
        else:
            return False
        self._last_turn = time.monotonic()
        return True

    def _start(self, job: Job) -> None:
        """Have a thread run the job: an idle one, else a new one. The lock is held."""
        self._running += 1
        if self._idle:
            idle = self._idle.pop()
            idle.job = job
            idle.gate.release()
        else:
            self._threads += 1
            _thread.start_new_thread(self._serve, (job,))  # threading.Thread waits until it has started

    def _serve(self, job: Job) -> None:
        self._here.is_worker = True
        idle = _Idle()
        while True:
            try:
                job()
            except Exception:  # a bug: the request is given up, the thread is not
                stderr(traceback.format_exc())
            job = idle.job = _nothing  # which holds on to no request
            with self._lock:
                self._running -= 1
                self._give_turns()
                if len(self._idle) >= SPARE_THREADS:
                    self._threads -= 1
                    return
                self._idle.append(idle)
            idle.gate.acquire()
            job = idle.job
