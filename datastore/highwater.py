"""What this node has last seen of each etcd: what tells one that was set back to an older copy from itself.

etcd's revision only grows, and with it that of each record. A file for each datastore (by the GUID in its
ClusterInformation, which a copy has, too) and node has the highest revision seen, and the block last written.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from datastore.filename import name_of
from datastore.frozen import frozen

DIGITS = 20  # of an unsigned 64-bit number
MOST_BYTES = 4096


@frozen
class Seen:
    """A revision of etcd, and the block that was written last, with its revision; empty where there was none."""

    revision: int = 0
    block: str = ""
    block_revision: int = 0


class HighWater:
    """A directory, which is made at the first use. Where it cannot be written or read, nothing is known: no error."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def all(self) -> dict[str, Seen]:
        """Return what is known, by the names that `name` gives."""
        found = {}
        with suppress(OSError):
            for name in os.listdir(self._folder):
                with suppress(OSError):
                    fd = os.open(os.path.join(self._folder, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                    try:
                        found[name] = _read(fd)
                    finally:
                        os.close(fd)
        return found

    def note(self, name: str, seen: Seen, lower: bool = False) -> None:
        """Remember what was seen, if its revision is higher than the one that is known; with `lower` in any case.

        One without a block leaves the block that is known.
        """
        with suppress(OSError):
            os.makedirs(self._folder, mode=0o755, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(os.path.join(self._folder, name), flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                known = _read(fd)
                if lower or seen.revision > known.revision:
                    block = seen if seen.block or lower else known
                    _write(fd, Seen(seen.revision, block.block, block.block_revision))
            finally:
                os.close(fd)


def name(guid: str, node: str) -> str:
    """Return the name of what a node has seen of a datastore."""
    return name_of(f"{guid}-{node}")


def _read(fd: int) -> Seen:
    try:
        revision, block_revision, block = os.pread(fd, MOST_BYTES, 0).decode().split("\n")[0].split(" ", 2)
        return Seen(int(revision), block, int(block_revision))
    except ValueError:
        return Seen()


def _write(fd: int, seen: Seen) -> None:
    """Write in one piece, numbers in as many digits as before; what was longer stays behind the end of the line."""
    os.pwrite(fd, f"{seen.revision:0{DIGITS}} {seen.block_revision:0{DIGITS}} {seen.block}\n".encode(), 0)
