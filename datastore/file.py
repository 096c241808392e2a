"""The embedded datastore: a file per record, one lock for all writers, no server.

The file of key `/a/b/c` is `<root>/a/b/c.json` and holds `{"key":…,"revision":…,"value":…}`, where the value is
Calico's own JSON. A write goes to a temporary file and takes the place of the old file by rename, so a reader (who
needs no lock) sees the old record or the new one, whole. Writers hold `<root>/.lock`, and the root itself. Before the
rename the file is synced, after it the directory; what need not survive a power cut may do without (`rebuilt`).
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache

from datastore import keys
from datastore.api import Change, Conflict, Corrupt, Exists, Missing, Record, Torn, Unwritable
from datastore.disk import (
    file_system,
    make_directory,
    open_new,
    read_all,
    sync,
    sync_directory,
    unusable,
    write_all,
)
from datastore.filename import LONG, LONGEST_NAME, PLAIN, name_of, unquoted
from datastore.holds import Holds
from datastore.jsontext import dumps, loads
from datastore.lock import directory_flock, flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from datastore.api import Held, Json, Store

    Lock = Callable[[str, float], AbstractContextManager[None]]

LOCK_SECONDS = 60.0  # a runtime gives an ADD two minutes or more (kubelet runtimeRequestTimeout)
SPARE_BYTES = 64 * 1024  # more than the records of one ADD take
PLAIN_PATH = PLAIN | {"/"}


class FileStore:
    """A Store (datastore/api.py) in a directory, which is created 0700 at the first write.

    rebuilt: what pods have is set right after a reboot, so only what outlives a boot is synced (datastore/keys.py).
    """

    def __init__(
        self, root: str, lock: Lock = flock, lock_seconds: float = LOCK_SECONDS, rebuilt: bool = False
    ) -> None:
        self.root = os.path.abspath(root)
        self._lock = lock
        self._lock_seconds = lock_seconds
        self._depth = 0
        self._holds = Holds(os.path.join(self.root, ".held"))
        self._rebuilt = rebuilt
        self._replaced: list[int] = []
        self._lasting: set[str] = set()  # of the records read, those that outlive a boot

    def get(self, key: str) -> Record:
        """Return the record at the key; raises Missing, Corrupt, Unwritable."""
        record = _decode(self.path(key), key, self._read(key))
        if self._rebuilt:
            (self._lasting.add if keys.outlives_boot(key, record.value) else self._lasting.discard)(key)
        return record

    def create(self, key: str, value: Json) -> Record:
        """Store a new record; raises Exists."""
        with self.exclusive():
            if os.path.lexists(self.path(key)):
                raise Exists(f"{key} is already in the datastore {self.root}")
            return self._write(Record(key, value, time.time_ns()), self._lasts(Change(key, value, None)))

    def update(self, key: str, value: Json, revision: int) -> Record:
        """Replace the record that still has this revision; raises Conflict, Missing."""
        with self.exclusive():
            self._require(key, revision)
            new = Record(key, value, max(revision + 1, time.time_ns()))
            return self._write(new, self._lasts(Change(key, value, revision)))

    def delete(self, key: str, revision: int) -> None:
        """Remove the record that still has this revision; raises Conflict, Missing."""
        with self.exclusive():
            self._require(key, revision)
            self._unlink(self.path(key), self._lasts(Change(key, None, revision)))

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
            changes = tuple(change for change in changes if not change.keep)
            lasts = self._lasts(*changes)
            if lasts and len(changes) > 1:
                self._settle(changes)
            for change in changes:
                if change.value is None:
                    self._unlink(self.path(change.key), lasts)
                else:
                    revision = max((change.revision or 0) + 1, time.time_ns())
                    self._write(Record(change.key, change.value, revision), lasts)

    def records(self, prefix: str) -> Iterator[Record]:
        """Yield every record below the prefix in key order; one removed meanwhile, and stray files, are left out."""
        for key in self.keys(prefix):
            with suppress(Missing):
                yield self.get(key)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below the prefix in order, without reading the records."""
        return sorted(filter(None, map(self._key, self._files(prefix))))

    def scan(self, prefix: str, torn: Callable[[Torn], object]) -> Iterator[Record]:
        """Yield every record below the prefix in no order; what cannot be read is told to `torn`."""
        for path in self._files(prefix):
            key = self._key(path)
            try:
                if not key and LONG not in path:
                    continue  # a stray file
                record = self.get(key or self._key_inside(path))
            except (Missing, FileNotFoundError):
                continue
            except Corrupt as error:
                torn(Torn(key, path, str(error)))
                continue
            yield record

    def mend(self, torn: Torn, value: Json | None) -> None:
        """Keep a damaged record's file below `.damaged` and put a value in its place, or nothing.

        Raises Missing, and Conflict for a file that told no key and does by now.
        """
        path = torn.file or self.path(torn.key)
        kept = os.path.join(self.root, ".damaged", f"{time.time_ns()}-{os.path.basename(path)}")
        with self.exclusive():
            if not torn.key and self._key(path):
                raise Conflict(f"{path} has changed since it was read")
            try:
                make_directory(os.path.dirname(kept))
                os.link(path, kept)
                sync_directory(os.path.dirname(kept))
            except FileNotFoundError:
                raise Missing(f"{path} is not in the datastore") from None
            except OSError as error:
                raise unusable("keep", path, error) from error
            if value is None:
                self._unlink(path, lasts=True)
            else:
                self._write(Record(torn.key, value, time.time_ns()), lasts=True)

    def prepare(self, node: str, *names: str) -> bool:
        """Do nothing: a read is no round trip. It is never older than it was."""
        return False

    def accept(self) -> None:
        """Do nothing: it is never older than it was."""

    def share(self, other: Store) -> None:
        """Do nothing: nothing is kept of what was read."""

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the datastore's lock while the body runs; re-enterable. Raises Busy, Unwritable."""
        if self._depth:
            yield
            return
        path = os.path.join(self.root, ".lock")
        with ExitStack() as held:
            held.callback(self._close_replaced)
            try:
                make_directory(self.root)
                held.enter_context(self._lock(path, self._lock_seconds))
                # The file may have been removed under a holder, who then still has the directory.
                held.enter_context(directory_flock(self.root, self._lock_seconds))
            except OSError as error:
                raise unusable("lock", path, error) from error
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0

    def hold(self, name: str, seconds: float, keep_mark: bool = False) -> AbstractContextManager[Held]:
        """Keep other processes from holding the same name (datastore/api.py). Raises Busy, Unwritable."""
        return self._holds.hold(name, seconds, keep_mark)

    def tidy(self) -> None:
        """Remove lock files of killed holders (datastore/holds.py). Raises Unwritable."""
        self._holds.tidy()

    def check_writable(self) -> None:
        """Raise Unwritable when the directory (or the nearest one above it) takes no writes, or its disk is full."""
        folder = self.root
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        try:
            disk = os.statvfs(folder)
        except OSError as error:
            raise unusable("look at", folder, error) from error
        if not os.path.isdir(folder):
            raise Unwritable(f"{folder} of the datastore {self.root} is no directory")
        for name, right in ((".lock", os.path.isfile), (".held", os.path.isdir)):
            path = os.path.join(self.root, name)
            if os.path.lexists(path) and not right(path):
                raise Unwritable(f"{path} of the datastore is not what it should be; remove it")
        if disk.f_flag & os.ST_RDONLY or not os.access(folder, os.W_OK | os.X_OK):
            raise Unwritable(f"{folder} of the datastore {self.root} is not writable")
        if not disk.f_blocks:  # a tmpfs without a limit, or what holds no files of ours
            if file_system(folder) in ("proc", "sysfs"):
                raise Unwritable(f"{folder} of the datastore {self.root} is on a file system that keeps no files")
        elif disk.f_bavail * disk.f_frsize < SPARE_BYTES:
            raise Unwritable(f"the disk of the datastore {self.root} is full: less than {SPARE_BYTES} bytes are left")

    def path(self, key: str) -> str:
        """Return the file that holds the record of this key: what an operator would look at."""
        folder, _, last = key.strip("/").rpartition("/")
        name = name_of(last) if not last.endswith(".json") else name_of(last[:-5]) + "%2Ejson"
        if not name or "//" in f"{folder}/":
            raise ValueError(f"key {key!r} has an empty part")
        return f"{_folder(self.root, folder)}/{name}.json"

    def _read(self, key: str) -> bytes:
        path = self.path(key)
        try:
            return read_all(path)
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(f"{key} is not in the datastore {self.root}") from None
        except OSError as error:
            raise unusable("read", path, error) from error

    def _lasts(self, *changes: Change) -> bool:
        """Tell whether changes made together must survive a power cut: one of them must, or was of a record that must.

        Whoever changes a record has read it from this store.
        """
        return not self._rebuilt or any(
            change.key in self._lasting or keys.outlives_boot(change.key, change.value) for change in changes
        )

    def _settle(self, changes: Iterable[Change]) -> None:
        """Make what is to be replaced durable as it is: what a later change replaces is whole when the first lasts."""
        for path in (self.path(change.key) for change in changes if change.revision is not None):
            try:
                sync(path)
                sync_directory(os.path.dirname(path))
            except OSError as error:
                raise unusable("write", path, error) from error

    def _unlink(self, path: str, lasts: bool) -> None:
        try:
            os.unlink(path)
            if lasts:
                sync_directory(os.path.dirname(path))
        except OSError as error:
            raise unusable("remove", path, error) from error

    def _require(self, key: str, revision: int) -> None:
        head = dumps({"key": key, "revision": revision})[:-1] + b","  # as `_write` begins: no need to decode the rest
        if not self._read(key).startswith(head) and self.get(key).revision != revision:
            raise Conflict(f"{key} has changed since it was read")

    def _write(self, record: Record, lasts: bool) -> Record:
        """Put the record's file in place, whole, and durable if it lasts; one temporary name will do under the lock."""
        path, temporary = self.path(record.key), os.path.join(self.root, ".write")
        body = {"key": record.key, "revision": record.revision, "value": record.value}
        try:
            make_directory(os.path.dirname(path))
            fd = open_new(temporary)
            try:
                write_all(fd, dumps(body))
                if lasts:
                    os.fsync(fd)
            finally:
                os.close(fd)
            self._keep_open(path)
            os.rename(temporary, path)
            if lasts:
                sync_directory(os.path.dirname(path))
        except OSError as error:
            raise unusable("write", path, error) from error
        return record

    def _keep_open(self, path: str) -> None:
        """Keep the file that is about to be replaced until the lock is released: freeing it may take milliseconds."""
        with suppress(FileNotFoundError):
            self._replaced.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def _close_replaced(self) -> None:
        while self._replaced:
            os.close(self._replaced.pop())

    def _files(self, prefix: str) -> Iterator[str]:
        """Yield the record files below a key prefix."""
        todo = [os.path.join(self.root, *map(name_of, prefix.strip("/").split("/")))]
        while todo:
            try:
                with os.scandir(todo.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(entry.path)
                        elif entry.name.endswith(".json"):
                            yield entry.path
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unusable("list", str(error.filename), error) from error

    def _key(self, path: str) -> str:
        """Return the key of a record file, from inside where the name was too long to keep; empty for a stray file."""
        name = path[len(self.root) : -len(".json")]
        if len(name) <= LONGEST_NAME and PLAIN_PATH.issuperset(name) and "/." not in name and name[-5:] != ".json":
            return name  # as `path` below would find; a listing has many of these
        try:
            key = self._key_inside(path) if LONG in name else "/".join(map(unquoted, name.split("/")))
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
            raise unusable("read", path, error) from error


@lru_cache(maxsize=64)
def _folder(root: str, key: str) -> str:
    """Return the directory that a key without its last part stands for; few are asked for, each very often."""
    return os.path.join(root, *map(name_of, filter(None, key.split("/"))))


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
