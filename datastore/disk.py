"""Files and directories as the file datastore needs them: whole, new, and on the disk where that is asked for.

`open` and pathlib would do; the plugin is exec'd per pod, and the agent reads nine records for an ADD, so these ask the
kernel for no more than they need. Everything here raises OSError.
"""

from __future__ import annotations

import os
from errno import ENOTDIR

from datastore.api import Unwritable

READ_BYTES = 1 << 14  # most records have less; a buffer that is cut to size leaves a hole in the heap


def open_new(path: str) -> int:
    """Return a descriptor of a new file. One that a crash left there is never written over, but removed.

    After a power cut its name may lead to a record's own file: the rename is on the disk at one end only.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, flags, 0o600)


def read_all(path: str) -> bytes:
    """Return a file's content; `open` would ask the kernel four things more."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(fd, READ_BYTES)]
        while len(parts[-1]) == READ_BYTES:
            parts.append(os.read(fd, READ_BYTES))
    finally:
        os.close(fd)
    return b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    """Write all of the data."""
    while data:
        data = data[os.write(fd, data) :]


def make_directory(path: str) -> None:
    """Create a directory and its missing parents, readable by root only, each one synced into its parent."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path.rstrip("/"))
    if parent and parent != path:
        make_directory(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(ENOTDIR, "is in the way", path) from None
    else:
        sync_directory(parent or ".")


def sync_directory(path: str) -> None:
    """Wait until the names in a directory are on the disk."""
    sync(path, os.O_DIRECTORY)


def sync(path: str, flags: int = 0) -> None:
    """Wait until a file's content is on the disk; flags: what to open it with."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def file_system(path: str) -> str:
    """Return the type of the file system that a path is on (proc_pid_mountinfo(5)), empty when it is not told."""
    device = os.stat(path).st_dev
    where = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        kinds = (line.partition(" - ")[2].split()[0] for line in mounts if line.split()[2] == where)
        return next(kinds, "")


def unusable(verb: str, path: str, error: OSError) -> Unwritable:
    """Return what to say of a file of the datastore that the kernel refused."""
    where = f" ({error.filename})" if error.filename and error.filename != path else ""
    return Unwritable(f"could not {verb} {path} of the datastore: {os.strerror(error.errno or 0)}{where}")
