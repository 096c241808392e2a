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
SPARE_THREADS = 32  # idle ones kept: making one costs more than a request's wait
STUCK_SECONDS = 0.05  # whoever has had its turn for so long hangs, or waits without saying so, and is not counted

Job = Callable[[], None]


def _nothing() -> None:
    """Do nothing."""


class _Thread:
    """One thread of the pool. Its gate is locked; it waits there for a job, or for its turn to go on."""

    def __init__(self) -> None:
        self.gate = Lock()
        self.gate.acquire()
        self.job: Job = _nothing
        self.is_new = True


class Workers:
    """A pool of threads that run in turns. A job that waits says so (`idling`), and another has its turn meanwhile.

    is_fit: tells, in a thread that has done a job, whether it may do another.
    """

    def __init__(self, is_fit: Callable[[], bool] = lambda: True) -> None:
        self._is_fit = is_fit
        self._lock = Lock()
        self._jobs: deque[Job] = deque()
        self._resuming: deque[_Thread] = deque()
        self._idle: list[_Thread] = []
        self._running: dict[_Thread, float] = {}  # since when each has its turn
        self._most, self._threads = AT_ONCE, 0
        self._here = local()

    @property
    def waiting(self) -> int:
        """How many jobs have not been started."""
        return len(self._jobs)

    @property
    def unserved(self) -> bool:
        """Whether anybody waits for a turn, and `unstick` should be called soon."""
        return bool(self._jobs or self._resuming)

    def submit(self, job: Job, urgent: bool = False) -> None:
        """Have a job run in its turn, or an urgent one at once."""
        with self._lock:
            if urgent and self._can_start:
                self._start(job)
            else:
                self._jobs.append(job)
                self._give_turns()

    def unstick(self) -> None:
        """Let others run in place of those that hang; to be called now and then."""
        with self._lock:
            late = time.monotonic() - STUCK_SECONDS
            self._most = AT_ONCE + sum(since < late for since in self._running.values())
            self._give_turns()

    @contextmanager
    def idling(self, hasty: bool = False) -> Iterator[None]:
        """Give the turn away while the body waits; of no effect in a thread that is none of the pool's.

        hasty: go on at once then, without a turn, since others wait for what the body has got.
        """
        thread: _Thread | None = getattr(self._here, "thread", None)
        if thread is None:
            yield
            return
        with self._lock:
            del self._running[thread]
            self._give_turns()
        try:
            yield
        finally:
            self._resume(thread, hasty)

    def _resume(self, thread: _Thread, hasty: bool) -> None:
        """Wait for a turn, before any job that has not been started."""
        with self._lock:
            if hasty or len(self._running) < self._most:
                self._running[thread] = time.monotonic()
                return
            self._resuming.append(thread)
        thread.gate.acquire()

    @property
    def _can_start(self) -> bool:
        return bool(self._idle) or self._threads < MOST_THREADS

    def _give_turns(self) -> None:
        """Let those run that wait, as far as there are turns. The lock is held."""
        while len(self._running) < self._most:
            if self._resuming:
                thread = self._resuming.popleft()
                self._running[thread] = time.monotonic()
                thread.gate.release()
            elif not (self._jobs and self._can_start and self._start(self._jobs.popleft())):
                return

    def _start(self, job: Job) -> bool:
        """Have a thread run the job: an idle one, else a new one; where there is none to be had it waits. Locked."""
        thread = self._idle.pop() if self._idle else _Thread()
        thread.job = job
        if not thread.is_new:
            thread.gate.release()
        else:
            thread.is_new = False
            try:
                _thread.start_new_thread(self._serve, (thread,))  # threading.Thread waits until it has started
            except RuntimeError:  # the system gives no more
                self._jobs.appendleft(job)
                return False
            self._threads += 1
        self._running[thread] = time.monotonic()
        return True

    def _serve(self, thread: _Thread) -> None:
        self._here.thread = thread
        while self._do(thread):
            thread.gate.acquire()

    def _do(self, thread: _Thread) -> bool:
        """Run the thread's job; tell whether to wait for another."""
        try:
            thread.job()
        except Exception:  # a bug: the request is given up, the thread is not
            stderr(traceback.format_exc())
        thread.job = _nothing  # it holds on to no request
        is_fit = self._is_fit()
        with self._lock:
            del self._running[thread]
            is_over = not is_fit or len(self._idle) >= SPARE_THREADS
            if is_over:
                self._threads -= 1
            else:
                self._idle.append(thread)
            self._give_turns()
        return not is_over
