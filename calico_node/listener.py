"""The socket that the agent listens on: one agent at a time, root only, and no stale socket in the way."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from calico_node.server import BACKLOG

PRIVATE_DIRECTORY, PRIVATE = 0o700, 0o177
LONGEST_PATH = 107  # include/uapi/linux/un.h: UNIX_PATH_MAX is 108, one is the terminator
OTHERS_WRITE = 0o022


class Unusable(Exception):
    """The agent cannot listen there; the message says why."""


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Yield a socket that listens at the path, which is removed in the end. Raises Unusable, OSError."""
    path = os.path.abspath(path)
    new = f"{path}.new"  # bound beside its place: a launcher finds the former socket, or this one, listening
    if os.path.isdir(path):
        raise Unusable(f"{path} is a directory; name a socket in it")
    if len(os.fsencode(new)) > LONGEST_PATH:
        raise Unusable(f"{path} is too long for a socket; use a shorter one, of {LONGEST_PATH - 4} bytes at most")
    _make_private(os.path.dirname(path))
    with _only_one(path), ExitStack() as left:
        _remove(new)
        left.callback(_remove, new)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
            mask = os.umask(PRIVATE)
            try:
                listener.bind(new)
            finally:
                os.umask(mask)
            listener.listen(BACKLOG)
            os.rename(new, path)
            try:
                yield listener
            finally:
                _remove(path)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _make_private(folder: str) -> None:
    """Make the directory, or see that it is one of ours, whose mode is left as it is: it may serve others, too."""
    os.makedirs(os.path.dirname(folder), mode=0o755, exist_ok=True)
    with suppress(FileExistsError):
        os.mkdir(folder, PRIVATE_DIRECTORY)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Unusable(f"{folder} is no directory of user {os.geteuid()}, so its socket could be anybody's; remove it")
    if found.st_mode & OTHERS_WRITE:
        raise Unusable(f"others may write in {folder}, so its socket could be anybody's; use a directory of its own")


@contextmanager
def _only_one(path: str) -> Iterator[None]:
    """Hold the lock of the agent of this socket. Raises Unusable when another agent does."""
    lock = f"{path}.lock"
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            raise Unusable(f"another agent (process {holder}) serves {path}; stop it first, or use --socket") from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(fd)
