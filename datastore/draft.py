"""Changes to a locked store, gathered in memory and written together: a block that many assign from is written once.

A draft holds changes of records that are there, and handles and endpoints that come and go: what an ordinary ADD or
DEL needs. Anything else (claims of blocks, pools, …) has an order of its own to be written in, and is Beyond a draft.
"""

from __future__ import annotations

from bisect import insort
from contextlib import nullcontext

from datastore import keys
from datastore.api import Change, Conflict, Exists, Missing, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from datastore.api import Held, Json, Store, Torn


class Beyond(Exception):
    """A change that is not for a draft; it has to be made in the store itself."""


class Draft:
    """A Store (datastore/api.py) over another one, which must be locked as long as the draft is in use.

    A revision in a draft that is negative is of a value that only the draft has.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, Record | None] = {}
        self._written: dict[str, tuple[Json | None, int]] = {}
        self._lists: dict[str, list[str]] = {}
        self._kept: set[str] = set()
        self._revision = 0

    def get(self, key: str) -> Record:
        """Return the record as the draft has it; raises Missing, Corrupt, Unwritable."""
        record = self._current(key)
        if record is None:
            raise Missing(f"{key} is not in the datastore")
        return record

    def create(self, key: str, value: Json) -> Record:
        """Note a new record; raises Exists, Beyond."""
        self.commit(Change(key, value, None))
        return self.get(key)

    def update(self, key: str, value: Json, revision: int) -> Record:
        """Note a new value for the record that still has this revision; raises Conflict, Missing, Beyond."""
        self.commit(Change(key, value, revision))
        return self.get(key)

    def delete(self, key: str, revision: int) -> None:
        """Note that the record, which still has this revision, is to go; raises Conflict, Missing, Beyond."""
        self.commit(Change(key, None, revision))

    def commit(self, *changes: Change) -> None:
        """Note several changes, or none; raises Exists, Conflict, Missing, Beyond."""
        for change in changes:
            self._require(change)
        for change in changes:
            if change.keep:
                self._kept.add(change.key)
                continue
            self._revision -= 1
            self._written[change.key] = change.value, self._revision
            if change.revision is None or change.value is None:
                self._lists.clear()

    def records(self, prefix: str) -> Iterator[Record]:
        """Yield every record below the prefix in key order."""
        for key in self.keys(prefix):
            record = self._current(key)
            if record:
                yield record

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below the prefix in order."""
        if prefix not in self._lists:
            found = [key for key in self._store.keys(prefix) if self._written.get(key, ({}, 0))[0] is not None]
            present = set(found)
            for key, (value, _) in self._written.items():
                if value is not None and key.startswith(prefix) and key not in present:
                    insort(found, key)
            self._lists[prefix] = found
        return self._lists[prefix]

    def scan(self, prefix: str, torn: Callable[[Torn], object]) -> Iterator[Record]:
        """Damaged records are looked for in the store itself."""
        raise Beyond(prefix)

    def mend(self, torn: Torn, value: Json | None) -> None:
        """Damaged records are mended in the store itself."""
        raise Beyond(torn.key)

    def prepare(self, node: str, *names: str) -> bool:
        """Leave that to the store itself."""
        return self._store.prepare(node, *names)

    def accept(self) -> None:
        """Leave that to the store itself."""
        self._store.accept()

    def share(self, other: Store) -> None:
        """Leave that to the store itself."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Return a context of no effect: the store is locked already."""
        return nullcontext()

    def hold(self, name: str, seconds: float, keep_mark: bool = False) -> AbstractContextManager[Held]:
        """Names are held in the store itself."""
        raise Beyond(name)

    def tidy(self) -> None:
        """Leave that to the store itself."""

    def check_writable(self) -> None:
        """Raise Unwritable when the store takes no writes."""
        self._store.check_writable()

    def mark(self) -> dict[str, tuple[Json | None, int]]:
        """Return what `rewind` goes back to."""
        return dict(self._written)

    def rewind(self, mark: dict[str, tuple[Json | None, int]]) -> None:
        """Forget all changes since the mark."""
        self._written = mark
        self._lists.clear()

    def changes(self) -> list[Change]:
        """Return what is to be written to the store, nothing for what came and went."""
        found = []
        for key in sorted(self._kept - self._written.keys()):
            base = self._base(key)
            found.append(Change(key, None, base.revision if base else None, keep=True))
        for key, (value, _) in self._written.items():
            base = self._base(key)
            if value is not None or base is not None:
                found.append(Change(key, value, base.revision if base else None))
        return found

    def _require(self, change: Change) -> None:
        """Raise unless the change is one for a draft, of what it was made for."""
        current = self._current(change.key)
        is_owner_s = change.key.startswith((keys.HANDLES, keys.WORKLOAD_ENDPOINTS))
        if not is_owner_s and not change.keep and (change.revision is None or change.value is None):
            raise Beyond(change.key)
        if change.revision is None:
            if current:
                raise Exists(f"{change.key} is already in the datastore")
        elif current is None:
            raise Missing(f"{change.key} is not in the datastore")
        elif current.revision != change.revision:
            raise Conflict(f"{change.key} has changed since it was read")

    def _current(self, key: str) -> Record | None:
        if key in self._written:
            value, revision = self._written[key]
            return None if value is None else Record(key, value, revision)
        return self._base(key)

    def _base(self, key: str) -> Record | None:
        if key not in self._read:
            try:
                self._read[key] = self._store.get(key)
            except Missing:
                self._read[key] = None
        return self._read[key]
