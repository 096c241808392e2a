"""Processes of a test's own: forked, so that one begins in milliseconds, and dead as soon as the test is."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Forked:
    """A process that does one thing and ends; what goes wrong in it is in its log.

    netns: the network namespace it is in, the test's own without.
    """

    def __init__(self, task: Callable[[], object], log: Path, netns: str = "") -> None:
        self.log = log
        self.code: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _become(task, log, netns)

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has been waited for."""
        if self.code is None:
            os.kill(self.pid, number)

    def ended(self) -> bool:
        """Tell whether it has come to its end."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self, seconds: float) -> int:
        """Return its exit code, below 0 the number of the signal that killed it; raises TimeoutError."""
        until = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > until:
                raise TimeoutError(f"process {self.pid} has not ended in {seconds} s; {self.said()}")
            time.sleep(0.005)
        return self.code or 0

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


def all_well(forks: Sequence[Forked], seconds: float) -> None:
    """Wait for all of them; raises AssertionError with the log of one that failed."""
    until = time.monotonic() + seconds
    for fork in forks:
        code = fork.wait(max(0.1, until - time.monotonic()))
        assert code == 0, f"process {fork.pid} ended with {code}: {fork.said()}"


@contextmanager
def crowd() -> Iterator[list[Forked]]:
    """Yield a list to put processes in; those that are alive at the end of the body are killed."""
    found: list[Forked] = []
    try:
        yield found
    finally:
        for fork in found:
            fork.kill()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that happens."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def on_a_small_disk(folder: str, size: str) -> None:
    """Have a disk of this size at a folder, which only this process and those that join it see, and wait for ever."""
    if LIBC.unshare(CLONE_NEWNS) or LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "unshare")
    if LIBC.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "mount")
    print("mounted", flush=True)
    while True:
        signal.pause()


def enter(netns: str) -> None:
    """Move this thread into a network namespace."""
    fd = os.open(netns, os.O_RDONLY)
    try:
        if LIBC.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)


def _become(task: Callable[[], object], log: Path, netns: str) -> None:
    """Do the task in this process, which ends with it."""
    code = 70
    try:
        die_with_parent()
        gc.freeze()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        if netns:
            enter(netns)
        task()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
