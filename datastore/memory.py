"""A Store in memory: for tests and dry runs, held to the same contract as the others."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress

from datastore.api import Conflict, Exists, Held, Missing, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datastore.api import Change, Json, Store, Torn


class MemoryStore:
    """A Store (datastore/api.py) that lives as long as the object. Values are kept as JSON text, as on disk."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[str, int]] = {}
        self._revision = 0
        self.damaged: list[str] = []

    def get(self, key: str) -> Record:
        """Return the record at the key; raises Missing."""
        if key not in self._records:
            raise Missing(f"{key} is not in the datastore")
        text, revision = self._records[key]
        return Record(key, json.loads(text), revision)

    def create(self, key: str, value: Json) -> Record:
        """Store a new record; raises Exists."""
        if key in self._records:
            raise Exists(f"{key} is already in the datastore")
        return self._put(key, value)

    def update(self, key: str, value: Json, revision: int) -> Record:
        """Replace the record that still has this revision; raises Conflict, Missing."""
        self._require(key, revision)
        return self._put(key, value)

    def delete(self, key: str, revision: int) -> None:
        """Remove the record that still has this revision; raises Conflict, Missing."""
        self._require(key, revision)
        del self._records[key]

    def commit(self, *changes: Change) -> None:
        """Write several records, or none of them; raises Exists, Conflict, Missing."""
        for change in changes:
            if change.revision is not None:
                self._require(change.key, change.revision)
            elif change.key in self._records:
                raise Exists(f"{change.key} is already in the datastore")
        for change in changes:
            if change.keep:
                continue
            if change.value is None:
                del self._records[change.key]
            else:
                self._put(change.key, change.value)

    def records(self, prefix: str) -> Iterator[Record]:
        """Yield every record below the prefix in key order; one removed meanwhile is left out."""
        for key in self.keys(prefix):
            with suppress(Missing):
                yield self.get(key)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below the prefix in order."""
        return sorted(key for key in self._records if key.startswith(prefix))

    def scan(self, prefix: str, torn: Callable[[Torn], object]) -> Iterator[Record]:
        """Yield every record below the prefix; none is ever damaged."""
        yield from self.records(prefix)

    def mend(self, torn: Torn, value: Json | None) -> None:
        """Put a value in the record's place, or nothing; its content is kept in `damaged`. Raises Missing."""
        self.get(torn.key)
        self.damaged.append(self._records.pop(torn.key)[0])
        if value is not None:
            self._put(torn.key, value)

    def prepare(self, node: str, *names: str) -> bool:
        """Do nothing: a read is no round trip. It is never older than it was."""
        return False

    def accept(self) -> None:
        """Do nothing: it is never older than it was."""

    def share(self, other: Store) -> None:
        """Do nothing: nothing is kept of what was read."""

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Do nothing: there are no other processes here."""
        yield

    @contextmanager
    def hold(self, name: str, seconds: float, keep_mark: bool = False) -> Iterator[Held]:
        """Do nothing: there are no other processes here."""
        yield Held(False, False, lambda: None, lambda: None)

    def tidy(self) -> None:
        """Do nothing: what is in memory is gone with its process."""

    def check_writable(self) -> None:
        """Memory always is."""

    def _require(self, key: str, revision: int) -> None:
        if self.get(key).revision != revision:
            raise Conflict(f"{key} has changed since it was read")

    def _put(self, key: str, value: Json) -> Record:
        self._revision += 1
        self._records[key] = (json.dumps(value), self._revision)
        return self.get(key)
