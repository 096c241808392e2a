"""Files that appear whole or not at all: temporary file, fsync, rename, directory fsync."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from install.errors import InstallError, explain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

PUBLIC_DIRECTORY = 0o755
EXECUTABLE = 0o755
READABLE = 0o644
PRIVATE = 0o600  # a network configuration may hold credentials (Calico's own mode for it)


@dataclass(frozen=True)
class NewFile:
    """A file as it shall be: content and permission bits, whatever the umask."""

    path: Path
    content: bytes
    mode: int

    @property
    def temporary(self) -> Path:
        """The name it is written under; always the same, so that what a killed run left is overwritten."""
        return self.path.with_name(f".{self.path.name}.tmp")

    def is_current(self) -> bool:
        """Whether this very file is there already."""
        try:
            status = self.path.lstat()
            wanted = (stat.S_IFREG | self.mode, len(self.content))
            return (status.st_mode, status.st_size) == wanted and self.path.read_bytes() == self.content
        except OSError:
            return False


def stage(file: NewFile, cleanup: ExitStack) -> None:
    """Write the file beside its place and sync it; `cleanup` removes it unless committed. Raises InstallError."""
    if file.path.is_dir():
        raise InstallError(f"{file.path} is a directory, but a file belongs there: move it away")
    with refusals("write", file.path):
        file.temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(file.temporary, flags, PRIVATE), "wb") as out:
            cleanup.callback(_discard, file.temporary)
            out.write(file.content)
            out.flush()
            os.fchmod(out.fileno(), file.mode)
            os.fsync(out.fileno())


def commit(file: NewFile) -> None:
    """Put a staged file in its place, for good. Raises InstallError."""
    with refusals("write", file.path):
        file.temporary.rename(file.path)
        sync_directory(file.path.parent)


def remove(path: Path) -> bool:
    """Remove a file for good; return whether there was one. Raises InstallError."""
    with refusals("remove", path):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        sync_directory(path.parent)
        return True


def make_directory(path: Path, undo: ExitStack) -> None:
    """Make a directory and those above it; `undo` removes the ones that were made, when empty. Raises InstallError."""
    with refusals("make the directory", path):
        for directory in reversed((path, *path.parents)):
            with suppress(FileExistsError):
                directory.mkdir()
                directory.chmod(PUBLIC_DIRECTORY)
                undo.callback(remove_empty, directory)
        if not path.is_dir():
            raise InstallError(f"{path} is not a directory: move it away or choose another directory")


def remove_empty(directory: Path) -> None:
    """Remove a directory if it is there and holds nothing."""
    with suppress(OSError):
        directory.rmdir()


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_writable(path: Path) -> bool:
    """Whether this process may create files in the directory, or in the nearest one above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory against other runs of install-cni, waiting for them; the kernel frees it when we die."""
    with refusals("lock", directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def refusals(verb: str, path: Path) -> Iterator[None]:
    """Turn what the file system refuses inside the block into an InstallError about this path."""
    try:
        yield
    except OSError as error:
        raise explain(verb, path, error) from error


def _discard(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
