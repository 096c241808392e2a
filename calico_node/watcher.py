"""Watching etcd for what a node cannot wait to be told of at its next ADD: that it is away, or that it was set back."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, Thread

from cni_calico.log import Log
from cni_calico.restored import set_right
from datastore import keys
from datastore.api import Store, StoreError
from datastore.etcdclient import Client
from datastore.settings import Etcd
from datastore.watch import Follower, Listed, Lost

OpenStore = Callable[[], Store]


class Watcher:
    """Follows a node's affinities in an etcd, in a thread of its own; `why_lost` is empty as long as it hears of it."""

    def __init__(self, settings: Etcd, node: str, open_store: OpenStore) -> None:
        self.why_lost = "etcd has not been heard of yet"
        self._follower = Follower(Client(settings), f"{keys.host(node)}/")
        self._node, self._open_store, self._log = node, open_store, Log()
        Thread(target=self._run, name="watcher", daemon=True).start()

    def _run(self) -> None:
        for said in self._follower.follow():
            if isinstance(said, Lost):
                self._lost(said.why)
                continue
            if self.why_lost:
                self._log.info("etcd is being followed", node=self._node, revision=said.revision)
                self.why_lost = ""
            if isinstance(said, Listed) and said.restored:
                self._set_right()

    def _lost(self, why: str) -> None:
        if not self.why_lost:
            self._log.warning("etcd is not heard of any more", node=self._node, why=why)
        self.why_lost = why

    def _set_right(self) -> None:
        try:
            store = self._open_store()
            if store.prepare(self._node):
                set_right(store, self._node, self._log)
        except (StoreError, OSError) as error:  # the node's next ADD does it
            self._log.error("what this node's pods have could not be written anew", why=str(error))


class Watchers:
    """One watcher for each etcd and node that requests have named."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watchers: dict[tuple[Etcd, str], Watcher] = {}

    def watch(self, settings: Etcd, node: str, open_store: OpenStore) -> None:
        """See to it that there is one for this etcd and node."""
        with self._lock:
            if (settings, node) not in self._watchers:
                self._watchers[settings, node] = Watcher(settings, node, open_store)

    @property
    def reasons(self) -> list[str]:
        """Why the node cannot be served by one of them; nothing when it can."""
        with self._lock:
            return [watcher.why_lost for watcher in self._watchers.values() if watcher.why_lost]
