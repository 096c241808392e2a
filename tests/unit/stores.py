"""Every kind of store there is, for the contract (test_store.py): a new one joins by a line here."""

from __future__ import annotations

import atexit
import marshal
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from datastore import open_store
from datastore.api import Missing, Record, Store
from datastore.file import FileStore
from datastore.memory import MemoryStore
from tests.etcd import Cluster, serving


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


@cache
def _etcd() -> Cluster:
    """Return this process's own etcd, which ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="cni-etcd-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = serving(folder)
    atexit.register(server.__exit__, None, None, None)
    return server.__enter__()


_of_folder: list[Path] = []


def _etcd_store(folder: Path) -> Store:
    """Return a store in etcd that is empty for each new folder."""
    if _of_folder != [folder]:
        _etcd().wipe()
        _of_folder[:] = [folder]
    return open_store(_etcd().settings(folder))


STORES: dict[str, Callable[[Path], Store]] = {
    "etcd": _etcd_store,
    "memory": lambda _: MemoryStore(),
    "file": lambda folder: FileStore(str(folder / "ds")),
    "quick": lambda _: QuickStore(),
}
