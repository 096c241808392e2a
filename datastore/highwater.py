"""The highest revision of etcd that this node has seen, in a file of 20 digits: it tells a restored one from others."""

from __future__ import annotations

import fcntl
import os

DIGITS = 20  # of an unsigned 64-bit number


class HighWater:
    """A file, which is made at the first use. Where it cannot be written or read, nothing is known, and no error."""

    def __init__(self, path: str) -> None:
        self._path = path

    def seen(self) -> int:
        """Return the revision, 0 where none is known."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return 0
        try:
            return _number(fd)
        finally:
            os.close(fd)

    def note(self, revision: int, lower: bool = False) -> None:
        """Remember a revision, if it is higher than the one that is; with `lower` in any case."""
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if lower or revision > _number(fd):
                os.pwrite(fd, b"%0*d\n" % (DIGITS, revision), 0)
        except OSError:
            return
        finally:
            os.close(fd)


def _number(fd: int) -> int:
    try:
        return int(os.pread(fd, DIGITS, 0))
    except (OSError, ValueError):
        return 0
