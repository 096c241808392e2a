"""Watching etcd for what a node cannot wait to be told of at its next ADD: that it is away, or that it was set back."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock, Thread

from cni_calico.log import Log
from cni_calico.restored import set_right
from datastore import keys
from datastore.api import Store, StoreError
from datastore.etcdclient import Client
from datastore.settings import Etcd
from datastore.watch import Changed, Follower, Lost
from ipam.errors import IpamError

OpenStore = Callable[[], Store]
SILENCE_SECONDS = 30.0  # after which etcd is asked whether it was set back: of all nodes of a cluster
AGAIN_SECONDS = 5.0  # after what should not have happened
ASKED_SECONDS = 600.0  # what no request has named for so long is of a former configuration


class Watcher:
    """Follows a node's affinities in an etcd, in a thread of its own; `why_lost` is empty as long as it hears of it."""

    def __init__(self, settings: Etcd, node: str, open_store: OpenStore) -> None:
        self.why_lost, self.asked = "etcd has not been heard of yet", time.monotonic()
        self._client = Client(settings)
        self._follower = Follower(self._client, f"{keys.host(node)}/", SILENCE_SECONDS)
        self._node, self._open_store, self._log = node, open_store, Log()
        self._is_over = False
        Thread(target=self._run, name="watcher", daemon=True).start()

    def stop(self) -> None:
        """Follow no more, within the time of a silence."""
        self._is_over = True
        self._follower.stop()

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._follow()
            except Exception as error:  # a bug, or an answer that nobody thought of: pods are served all the same
                self._lost(f"{type(error).__name__}: {error}")
                time.sleep(AGAIN_SECONDS)
        self._client.close()

    def _follow(self) -> None:
        for said in self._follower.follow():
            if isinstance(said, Lost):
                self._lost(said.why)
                continue
            if self.why_lost:
                self._log.info("etcd is being followed", node=self._node)
                self.why_lost = ""
            if not isinstance(said, Changed):
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
        except (StoreError, IpamError, OSError) as error:  # tried again after the next silence, and by each ADD
            self._log.error("what this node's pods have could not be written anew", why=str(error))


class Watchers:
    """One watcher for each etcd and node that requests name."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watchers: dict[tuple[Etcd, str], Watcher] = {}

    def watch(self, settings: Etcd, node: str, open_store: OpenStore) -> None:
        """See to it that there is one for this etcd and node; end those that nobody has asked for in a while."""
        with self._lock:
            found = self._watchers.get((settings, node))
            if found is None:
                self._end_forgotten()
                found = self._watchers[settings, node] = Watcher(settings, node, open_store)
            found.asked = time.monotonic()

    @property
    def reasons(self) -> list[str]:
        """Why the node cannot be served by one of those asked for lately; nothing when it can."""
        with self._lock:
            return [each.why_lost for each in self._watchers.values() if each.why_lost and _is_asked_for(each)]

    def _end_forgotten(self) -> None:
        for key, watcher in list(self._watchers.items()):
            if not _is_asked_for(watcher):
                watcher.stop()
                del self._watchers[key]


def _is_asked_for(watcher: Watcher) -> bool:
    return time.monotonic() - watcher.asked < ASKED_SECONDS
