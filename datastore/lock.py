"""An exclusive lock between processes: flock(2) on a file, with a deadline, naming the holder when it passes.

`filelock` is the library for this and takes the very same lock on Unix; `library_lock` uses it where a process lives
long enough. Importing it costs 34 ms, more than a whole ADD's work, so what is exec'd per pod calls flock itself.
tests/unit/test_lock.py shows that each way keeps the other out.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from errno import EBADF
from functools import partial

from datastore.api import Busy, Held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

POLL_SECONDS = 0.002
BEGUN, DONE = b"held\n", b"done\n"  # what a lock file says of a holder that was killed; of one length
LONGEST_POLL_SECONDS = 0.016


@contextmanager
def flock(path: str, timeout: float) -> Iterator[None]:
    """Hold the lock file while the body runs; the kernel lets go when the process dies.

    Raises Busy when it could not be had within `timeout` seconds, OSError when the file cannot be opened.
    """
    fd = _acquire(path, time.monotonic() + timeout, timeout)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def directory_flock(path: str, timeout: float) -> Iterator[None]:
    """As `flock`, for a directory itself, which nobody can remove while it has files; not kept by NFS."""
    fd = _acquire(path, time.monotonic() + timeout, timeout, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def passing_flock(path: str, timeout: float, keep_mark: bool = False) -> Iterator[Held]:
    """As `flock`, for a lock file that belongs to one thing only: it is removed before it is let go.

    A holder that was killed after it had begun has left its file with a mark in it. It stays until a body that was told
    so has come to its end without an error; with keep_mark it stays in any case.
    """
    fd = _acquire(path, time.monotonic() + timeout, timeout)
    left = os.pread(fd, len(BEGUN + DONE), 0)
    keep = interrupted = bool(left)

    def mark(text: bytes) -> None:
        with suppress(OSError):  # on a full disk the lock still locks
            os.lseek(fd, 0, os.SEEK_SET)
            os.write(fd, text)

    try:
        yield Held(interrupted, left == DONE, partial(mark, BEGUN), partial(mark, DONE))
        keep = interrupted and keep_mark
    finally:
        if not keep:
            with suppress(OSError):  # a file left behind excludes as well as a new one
                os.unlink(path)  # under the lock: whoever waits sees another inode at the path and opens anew
        os.close(fd)


@contextmanager
def library_lock(path: str, timeout: float) -> Iterator[None]:
    """The same lock through the filelock library, for programs that are not exec'd per pod; raises Busy."""
    import filelock

    try:
        with filelock.FileLock(path, timeout=timeout, mode=0o600):
            yield
    except filelock.Timeout:
        raise Busy(busy(path, timeout)) from None


def _acquire(path: str, deadline: float, timeout: float, flags: int = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW) -> int:
    """Return a descriptor that holds the lock on the file that is at the path now."""
    pause = POLL_SECONDS
    while True:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            while not _try(fd):
                if time.monotonic() >= deadline:
                    raise Busy(busy(path, timeout))
                time.sleep(pause)
                pause = min(pause * 1.5, LONGEST_POLL_SECONDS)
            if _is_at(path, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != EBADF:  # NFS locks only what may be written, which no directory may
            raise
    return True


def _is_at(path: str, fd: int) -> bool:
    """Tell whether the locked file is still the one at the path: its last holder may have removed it."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def busy(path: str, timeout: float) -> str:
    """Return what to say of a lock that was not to be had in time."""
    return f"lock {path} was not free within {timeout:g} s; held by {_holder(path)}; try again, or end that process"


def _holder(path: str) -> str:
    """Name the process that holds the lock, from /proc/locks (proc(5))."""
    try:
        file = os.stat(path)
        where = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
        with open("/proc/locks", encoding="ascii") as locks:
            pids = [line.split()[4] for line in locks if " FLOCK " in line and line.split()[5] == where]
        with open(f"/proc/{pids[0]}/comm", encoding="utf-8", errors="replace") as comm:
            return f"process {pids[0]} ({comm.read().strip()})"
    except (OSError, IndexError):
        return "a process that cannot be seen from here"
