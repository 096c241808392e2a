"""Every kind of store there is, for the contract (test_store.py): a new one joins by a line here."""

from __future__ import annotations

import marshal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datastore.api import Missing, Record, Store
from datastore.file import FileStore
from datastore.memory import MemoryStore


class QuickStore(MemoryStore):
    """A MemoryStore for millions of calls: values are kept as marshal's bytes, which is several times as fast."""

    _records: dict[str, tuple[Any, int]]

    def get(self, key: str) -> Record:
        try:
            data, revision = self._records[key]
        except KeyError:
            raise Missing(key) from None
        return Record(key, marshal.loads(data), revision)

    def _put(self, key: str, value: dict[str, Any]) -> Record:
        self._revision += 1
        self._records[key] = (marshal.dumps(value), self._revision)
        return Record(key, value, self._revision)

    def revisions(self) -> dict[str, int]:
        """Return the revision of every record, without reading any."""
        return {key: revision for key, (_, revision) in self._records.items()}


STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "file": lambda folder: FileStore(str(folder / "ds")),
    "quick": lambda _: QuickStore(),
}
