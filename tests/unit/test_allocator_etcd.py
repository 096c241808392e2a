"""The allocator's machine (test_allocator_machine.py) on a real etcd: the same deeds, deaths and races, the same judge.

Each deed is a verb of its own: on a plain store, as `calicoctl` has one, or on a store that is told first what is about
to be read, as the plugin's; each node keeps what it has read from one verb to the next, as its agent does.
"""

from __future__ import annotations

import threading
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from datastore import keys
from datastore.api import Store
from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from datastore.snapshot import Cache
from tests.etcd import Cluster, serving

from .allocator_deeds import Deed
from .allocator_kit import Action
from .allocator_model import NODES
from .stores import QuickStore
from .test_allocator_machine import NIGHTLY, AllocatorMachine

ROUNDS, EXAMPLES, STEP_COUNT = (20, 100, 50) if NIGHTLY else (1, 12, 30)


class Verbs:
    """The store of all nodes, with the methods of the running verb's own; out of verbs, of one that keeps nothing.

    Verbs that run at the same time are in threads of their own.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._client, self._lock_file = Client(cluster.etcd), str(folder / "ipam.lock")
        self._caches: dict[str, Cache] = defaultdict(Cache)  # of each node
        self._plain = EtcdStore(self._client, self._lock_file)
        self._mine = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self._mine, "store", self._plain), name)

    def prepare(self, node: str, *names: str) -> None:
        """Begin a verb."""
        self._mine.store = EtcdStore(self._client, self._lock_file, cache=self._caches[node])
        self._mine.store.prepare(node, *names)

    def end(self) -> None:
        """End it, if one has begun."""
        vars(self._mine).clear()

    def revisions(self) -> dict[str, int]:
        """Return the revision of every record, asked of etcd without the product's code."""
        start, end = (b64encode(text.encode()).decode() for text in ("/calico/", "/calico0"))
        answer = self._cluster.ask("/v3/kv/range", {"key": start, "range_end": end, "keys_only": True})
        return {b64decode(item["key"]).decode(): int(item["mod_revision"]) for item in answer.get("kvs", ())}


class EtcdMachine(AllocatorMachine):
    """The same machine; prepared: whether verbs tell first what they are about to read."""

    cluster: ClassVar[Cluster]
    folder: ClassVar[Path]
    prepared: ClassVar[bool]

    def __init__(self) -> None:
        self.cluster.wipe()
        self.verbs = Verbs(self.cluster, self.folder)
        super().__init__()

    def new_store(self) -> QuickStore:
        return cast(QuickStore, self.verbs)  # a Store with `revisions`: more is asked of none

    def way(self, deed: Deed) -> Action:
        def run(store: Store) -> Any:
            try:
                if self.prepared:
                    store.prepare(getattr(deed, "node", NODES[0]), *map(keys.handle, deed.handles))
                return deed.run(store)
            finally:
                self.verbs.end()

        return run


@pytest.fixture(name="cluster", scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "plain"])
@pytest.mark.parametrize("number", range(ROUNDS))
def test_any_order_of_deeds(cluster: Cluster, tmp_path: Path, number: int, prepared: bool) -> None:
    """The machine, in rounds: what hypothesis keeps of a round is forgotten after it."""
    class Machine(EtcdMachine):
        pass

    Machine.cluster, Machine.folder, Machine.prepared = cluster, tmp_path, prepared
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEP_COUNT))
