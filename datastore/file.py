"""The embedded datastore: a file per record, one lock for all writers, no server.

The file of key `/a/b/c` is `<root>/a/b/c.json` and holds `{"key":…,"revision":…,"value":…}`, where the value is
Calico's own JSON. A write goes to a temporary file, is synced, and takes the place of the old file by rename, so a
reader (who needs no lock) sees the old record or the new one, whole. Writers hold `<root>/.lock`.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager, suppress
from errno import ENOTDIR

from datastore.api import Conflict, Corrupt, Exists, Missing, Record, Unwritable
from datastore.jsontext import dumps, loads
from datastore.lock import flock, passing_flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from datastore.api import Change, Json

    Lock = Callable[[str, float], AbstractContextManager[None]]

LOCK_SECONDS = 60.0  # a runtime gives an ADD two minutes or more (kubelet runtimeRequestTimeout)
SPARE_BYTES = 64 * 1024  # more than the records of one ADD take
LONGEST_NAME = 200  # bytes; a file name may have 255 (NAME_MAX), and a suffix follows
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:~")
PLAIN_PATH = PLAIN | {"/"}


class FileStore:
    """A Store (datastore/api.py) in a directory, which is created 0700 at the first write."""

    def __init__(self, root: str, lock: Lock = flock, lock_seconds: float = LOCK_SECONDS) -> None:
        self.root = os.path.abspath(root)
        self._lock = lock
        self._lock_seconds = lock_seconds
        self._depth = 0

    def get(self, key: str) -> Record:
        """Return the record at the key; raises Missing, Corrupt, Unwritable."""
        path = self.path(key)
        try:
            with open(path, "rb") as file:
                return _decode(path, key, file.read())
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(f"{key} is not in the datastore {self.root}") from None
        except OSError as error:
            raise _unusable("read", path, error) from error

    def create(self, key: str, value: Json) -> Record:
        """Store a new record; raises Exists."""
        with self.exclusive():
            if os.path.lexists(self.path(key)):
                raise Exists(f"{key} is already in the datastore {self.root}")
            return self._write(Record(key, value, time.time_ns()))

    def update(self, key: str, value: Json, revision: int) -> Record:
        """Replace the record that still has this revision; raises Conflict, Missing."""
        with self.exclusive():
            self._require(key, revision)
            return self._write(Record(key, value, max(revision + 1, time.time_ns())))

    def delete(self, key: str, revision: int) -> None:
        """Remove the record that still has this revision; raises Conflict, Missing."""
        with self.exclusive():
            self._require(key, revision)
            self._remove(key)

    def commit(self, *changes: Change) -> None:
        """Write several records in the order given, or none; raises Exists, Conflict, Missing.

        A process that is killed, or a disk that fills up, in between leaves the first of them written.
        """
        with self.exclusive():
            for change in changes:
                if change.revision is not None:
                    self._require(change.key, change.revision)
                elif os.path.lexists(self.path(change.key)):
                    raise Exists(f"{change.key} is already in the datastore {self.root}")
            for change in changes:
                if change.value is None:
                    self._remove(change.key)
                else:
                    revision = max((change.revision or 0) + 1, time.time_ns())
                    self._write(Record(change.key, change.value, revision))

    def records(self, prefix: str) -> Iterator[Record]:
        """Yield every record below the prefix in key order; one removed meanwhile, and stray files, are left out."""
        for key in self.keys(prefix):
            with suppress(Missing):
                yield self.get(key)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below the prefix in order, without reading the records."""
        return sorted(filter(None, map(self._key, self._files(prefix))))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the datastore's lock while the body runs; re-enterable. Raises Busy, Unwritable."""
        if self._depth:
            yield
            return
        path = os.path.join(self.root, ".lock")
        try:
            _make_directory(self.root)
            held = self._lock(path, self._lock_seconds)
            held.__enter__()
        except OSError as error:
            raise _unusable("lock", path, error) from error
        self._depth = 1
        try:
            yield
        finally:
            self._depth = 0
            held.__exit__(None, None, None)

    @contextmanager
    def hold(self, name: str, seconds: float) -> Iterator[bool]:
        """Keep other processes from holding the same name; yields whether the last holder was killed.

        Raises Busy, Unwritable.
        """
        folder = os.path.join(self.root, ".held")
        try:
            _make_directory(folder)
            held = passing_flock(os.path.join(folder, _name(name)), seconds)
            interrupted = held.__enter__()
        except OSError as error:
            raise _unusable("lock", folder, error) from error
        with ExitStack() as stack:
            stack.push(held)  # so that it is told of the body's error
            yield interrupted

    def check_writable(self) -> None:
        """Raise Unwritable when the directory (or the nearest one above it) takes no writes, or its disk is full."""
        folder = self.root
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        try:
            disk = os.statvfs(folder)
        except OSError as error:
            raise _unusable("look at", folder, error) from error
        if not os.path.isdir(folder):
            raise Unwritable(f"{folder} of the datastore {self.root} is no directory")
        for name, right in ((".lock", os.path.isfile), (".held", os.path.isdir)):
            path = os.path.join(self.root, name)
            if os.path.lexists(path) and not right(path):
                raise Unwritable(f"{path} of the datastore is not what it should be; remove it")
        if disk.f_flag & os.ST_RDONLY or not os.access(folder, os.W_OK | os.X_OK):
            raise Unwritable(f"{folder} of the datastore {self.root} is not writable")
        if not disk.f_blocks:  # a tmpfs without a limit, or what holds no files of ours
            if _file_system(folder) in ("proc", "sysfs"):
                raise Unwritable(f"{folder} of the datastore {self.root} is on a file system that keeps no files")
        elif disk.f_bavail * disk.f_frsize < SPARE_BYTES:
            raise Unwritable(f"the disk of the datastore {self.root} is full: less than {SPARE_BYTES} bytes are left")

    def path(self, key: str) -> str:
        """Return the file that holds the record of this key: what an operator would look at."""
        *directories, last = key.strip("/").split("/")
        if not all((*directories, last)):
            raise ValueError(f"key {key!r} has an empty part")
        name = _name(last) if not last.endswith(".json") else _name(last[:-5]) + "%2Ejson"
        return os.path.join(self.root, *map(_name, directories), name + ".json")

    def _remove(self, key: str) -> None:
        path = self.path(key)
        try:
            os.unlink(path)
            _sync_directory(os.path.dirname(path))
        except OSError as error:
            raise _unusable("remove", path, error) from error

    def _require(self, key: str, revision: int) -> None:
        if self.get(key).revision != revision:
            raise Conflict(f"{key} has changed since it was read")

    def _write(self, record: Record) -> Record:
        """Put the record's file in place, whole and durable. The lock is held, so one temporary name is enough."""
        path, temporary = self.path(record.key), os.path.join(self.root, ".write")
        body = {"key": record.key, "revision": record.revision, "value": record.value}
        try:
            _make_directory(os.path.dirname(path))
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                _write_all(fd, dumps(body))
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)
            _sync_directory(os.path.dirname(path))
        except OSError as error:
            raise _unusable("write", path, error) from error
        return record

    def _files(self, prefix: str) -> list[str]:
        """Return the record files below a key prefix."""
        found = []
        todo = [os.path.join(self.root, *map(_name, prefix.strip("/").split("/")))]
        while todo:
            try:
                with os.scandir(todo.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(entry.path)
                        elif entry.name.endswith(".json"):
                            found.append(entry.path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unusable("list", str(error.filename), error) from error
        return found

    def _key(self, path: str) -> str:
        """Return the key of a record file, from inside where the name was too long to keep; empty for a stray file."""
        name = path[len(self.root) : -len(".json")]
        if len(name) <= LONGEST_NAME and PLAIN_PATH.issuperset(name) and "/." not in name and name[-5:] != ".json":
            return name  # as `path` below would find; a listing has many of these
        try:
            key = self._key_inside(path) if "%~" in name else "/".join(map(_unquote, name.split("/")))
            return key if self.path(key) == path else ""
        except (ValueError, Corrupt, FileNotFoundError):
            return ""  # no file of ours has such a name, or the only place that told its key cannot be read

    def _key_inside(self, path: str) -> str:
        try:
            with open(path, "rb") as file:
                return _decode(path, None, file.read()).key
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unusable("read", path, error) from error


def _name(segment: str) -> str:
    """Return a key segment as a safe file name: odd bytes as %XX, a very long one ended by its digest."""
    if PLAIN.issuperset(segment) and len(segment) <= LONGEST_NAME and not segment.startswith("."):
        return segment
    raw = segment.encode()
    quoted = "".join(chr(byte) if chr(byte) in PLAIN else f"%{byte:02X}" for byte in raw)
    if quoted.startswith("."):
        quoted = "%2E" + quoted[1:]
    if len(quoted) <= LONGEST_NAME:
        return quoted
    from hashlib import sha256

    return f"{quoted[:100]}%~{sha256(raw).hexdigest()}"


def _unquote(name: str) -> str:
    if "%" not in name:
        return name
    first, *rest = name.encode().split(b"%")
    return b"".join([first, *(bytes([int(part[:2], 16)]) + part[2:] for part in rest)]).decode()


def _decode(path: str, key: str | None, data: bytes) -> Record:
    """Return the record in a file's bytes; raises Corrupt, naming the file, when it is not one."""
    try:
        body = loads(data)
        name, value, revision = body["key"], body["value"], body["revision"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name = value = revision = None
    if not isinstance(name, str) or not isinstance(value, dict) or type(revision) is not int or name != (key or name):
        raise Corrupt(f"record file {path} is damaged: it does not hold the record of its name; restore or repair it")
    return Record(name, value, revision)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _make_directory(path: str) -> None:
    """Create a directory and its missing parents, readable by root only, each one synced into its parent."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path.rstrip("/"))
    if parent and parent != path:
        _make_directory(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(ENOTDIR, "is in the way", path) from None
    else:
        _sync_directory(parent or ".")


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _file_system(path: str) -> str:
    """Return the type of the file system that a path is on (proc_pid_mountinfo(5)), empty when it is not told."""
    device = os.stat(path).st_dev
    where = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        kinds = (line.partition(" - ")[2].split()[0] for line in mounts if line.split()[2] == where)
        return next(kinds, "")


def _unusable(verb: str, path: str, error: OSError) -> Unwritable:
    where = f" ({error.filename})" if error.filename and error.filename != path else ""
    return Unwritable(f"could not {verb} {path} of the datastore: {os.strerror(error.errno or 0)}{where}")
