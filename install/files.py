"""Files that appear whole or not at all: temporary file, fsync, rename, directory fsync."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
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
PRIVATE_DIRECTORY = 0o700
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # include/uapi/linux/fcntl.h, fs.h


def temporary(path: Path) -> Path:
    """Return the name that something new is written under; always the same, so that what a killed run left goes."""
    return path.with_name(f".{path.name}.tmp")


@dataclass(frozen=True)
class NewFile:
    """A file as it shall be: content and permission bits, whatever the umask."""

    path: Path
    content: bytes
    mode: int

    @property
    def temporary(self) -> Path:
        """The name it is written under."""
        return temporary(self.path)

    def is_current(self) -> bool:
        """Whether this very file is there already."""
        try:
            status = self.path.lstat()
            wanted = (stat.S_IFREG | self.mode, len(self.content))
            return (status.st_mode, status.st_size) == wanted and self.path.read_bytes() == self.content
        except OSError:
            return False


@dataclass(frozen=True)
class NewFolder:
    """A folder as it shall be, for root alone: with these files, and nothing else."""

    path: Path
    files: tuple[NewFile, ...]

    @property
    def temporary(self) -> Path:
        """The name it is built under, and has the former one's files afterwards."""
        return temporary(self.path)

    def is_current(self) -> bool:
        """Whether this very folder is there already, and nothing is left from a run that was killed."""
        try:
            is_ours = self.path.lstat().st_mode == stat.S_IFDIR | PRIVATE_DIRECTORY
            names = {path.name for path in self.path.iterdir()}
        except OSError:
            return False
        is_whole = is_ours and names == {file.path.name for file in self.files}
        return is_whole and all(file.is_current() for file in self.files) and not self.temporary.exists()


def stage(new: NewFile | NewFolder, cleanup: ExitStack) -> None:
    """Write it beside its place and sync it; `cleanup` removes it unless committed. Raises InstallError."""
    with refusals("write", new.path):
        if isinstance(new, NewFolder):
            _stage_folder(new, cleanup)
        else:
            _stage_file(new, cleanup)


def commit(new: NewFile | NewFolder) -> None:
    """Put what is staged in its place, for good. Raises InstallError."""
    with refusals("write", new.path):
        if isinstance(new, NewFolder) and os.path.lexists(new.path):
            _exchange(new.temporary, new.path)
        else:
            new.temporary.rename(new.path)
        sync_directory(new.path.parent)
        if isinstance(new, NewFolder):
            _discard(new.temporary)


def remove(path: Path) -> bool:
    """Remove a file for good; return whether there was one. Raises InstallError."""
    with refusals("remove", path):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        sync_directory(path.parent)
        return True


def remove_folder(path: Path) -> None:
    """Remove a folder, renamed first so that what a kill leaves of it is nothing anybody reads. Raises InstallError."""
    doomed = temporary(path)
    with refusals("remove", path):
        _discard(doomed)
        if os.path.lexists(path):
            path.rename(doomed)
            sync_directory(path.parent)
            _discard(doomed)


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


def _stage_file(file: NewFile, cleanup: ExitStack) -> None:
    if file.path.is_dir():
        raise InstallError(f"{file.path} is a directory, but a file belongs there: move it away")
    file.temporary.unlink(missing_ok=True)
    _write(file.temporary, file, cleanup)


def _stage_folder(folder: NewFolder, cleanup: ExitStack) -> None:
    _discard(folder.temporary)
    folder.temporary.mkdir(PRIVATE_DIRECTORY)
    cleanup.callback(_discard, folder.temporary)
    folder.temporary.chmod(PRIVATE_DIRECTORY)
    for file in folder.files:
        _write(folder.temporary / file.path.name, file, cleanup)
    sync_directory(folder.temporary)


def _write(place: Path, file: NewFile, cleanup: ExitStack) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(place, flags, PRIVATE), "wb") as out:
        cleanup.callback(_discard, place)
        out.write(file.content)
        out.flush()
        os.fchmod(out.fileno(), file.mode)
        os.fsync(out.fileno())


def _exchange(one: Path, other: Path) -> None:
    """Swap two paths at once; where the file system cannot (renameat2(2), EINVAL), put the first in place of the other.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(other))
    _discard(other)
    one.rename(other)


def _discard(path: Path) -> None:
    """Remove a file or folder, if it is there and that can be done."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
