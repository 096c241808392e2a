"""Following etcd: every change once and in order, whatever happens to the stream."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

from datastore import open_store
from datastore.api import Store
from datastore.etcdclient import Client
from datastore.snapshot import record_of
from datastore.watch import Changed, Follower, Listed, Lost, Quiet
from tests.etcd import Cluster, serving

PREFIX = "/calico/w/"
SECONDS = 30.0


class Heard:
    """What a follower has said, in a thread of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._follower = Follower(Client(cluster.etcd), PREFIX, silence=0.5)
        self._said: Queue[Listed | Changed | Quiet | Lost] = Queue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for said in self._follower.follow():
            self._said.put(said)

    def next(self, kind: type = object) -> Listed | Changed | Quiet | Lost:
        """Return the next thing said of a kind."""
        until = time.monotonic() + SECONDS
        while True:
            try:
                said = self._said.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                raise AssertionError(f"no {kind.__name__} was said") from None
            if isinstance(said, kind):
                return said

    def changes(self, count: int) -> list[tuple[str, object]]:
        """Return the next changes as key and value."""
        found: list[tuple[str, object]] = []
        while len(found) < count:
            said = self.next(Changed)
            assert isinstance(said, Changed)
            found.append((said.key[len(PREFIX):], record_of(said.item).value["n"] if said.item else None))
        return found

    def stop(self) -> None:
        self._follower.stop()
        self._thread.join(SECONDS)


@pytest.fixture(name="cluster")
def _cluster(tmp_path: Path) -> Iterator[Cluster]:
    with serving(tmp_path / "etcd") as found:
        yield found


@pytest.fixture(name="listen")
def _listen(cluster: Cluster) -> Iterator[Callable[[], Heard]]:
    heard: list[Heard] = []

    def listen() -> Heard:
        heard.append(Heard(cluster))
        return heard[-1]

    yield listen
    for each in heard:
        each.stop()


def restore(cluster: Cluster, snapshot: Path) -> None:
    """Set the one member back to a snapshot, as an operator would."""
    member = cluster.members[0]
    member.stop()
    shutil.rmtree(member.data)
    subprocess.run(["etcdctl", "snapshot", "restore", str(snapshot), "--name", member.name, "--data-dir",
                    str(member.data), "--initial-cluster", member.cluster, "--initial-advertise-peer-urls",
                    member.peer], check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})
    member.start()
    cluster.wait()


def put(store: Store, name: str, number: int) -> None:
    store.create(PREFIX + name, {"n": number})


def test_what_is_there_and_what_changes(cluster: Cluster, listen: Callable[[], Heard], tmp_path: Path) -> None:
    """What is there is listed; then writes and removals are told, each once and in order, of this prefix only."""
    store = open_store(cluster.settings(tmp_path))
    put(store, "a", 1)
    heard = listen()
    first = heard.next()
    assert isinstance(first, Listed)
    assert (list(first.items), first.restored) == ([PREFIX + "a"], False)
    for number in range(50):
        put(store, f"n{number}", number)
    store.create("/calico/other", {})
    store.delete(PREFIX + "a", store.get(PREFIX + "a").revision)
    assert heard.changes(51) == [*((f"n{number}", number) for number in range(50)), ("a", None)]


def test_a_server_that_begins_anew(cluster: Cluster, listen: Callable[[], Heard], tmp_path: Path) -> None:
    """While the server is away that is told, and afterwards it goes on where it was: nothing is missed or repeated."""
    store = open_store(cluster.settings(tmp_path))
    heard = listen()
    heard.next(Listed)
    put(store, "a", 1)
    assert heard.changes(1) == [("a", 1)]
    cluster.members[0].kill()
    assert isinstance(heard.next(Lost), Lost)
    cluster.members[0].start()
    cluster.wait()
    put(store, "b", 2)
    assert heard.changes(1) == [("b", 2)]


def test_a_compaction_while_it_was_away(cluster: Cluster, listen: Callable[[], Heard], tmp_path: Path) -> None:
    """What was compacted away cannot be told change by change, so all there is, is listed anew."""
    store = open_store(cluster.settings(tmp_path))
    heard = listen()
    heard.next(Listed)
    member = cluster.members[0]
    member.kill()
    heard.next(Lost)
    member.start()
    cluster.wait()
    for number in range(20):
        put(store, f"n{number}", number)
    revision = int(cluster.ask("/v3/kv/range", {"key": "eA=="})["header"]["revision"])
    cluster.ask("/v3/kv/compaction", {"revision": str(revision), "physical": True})
    seen: set[str] = set()
    while len(seen) < 20:
        said = heard.next()
        if isinstance(said, Listed):
            seen |= set(said.items)
        elif isinstance(said, Changed):
            seen.add(said.key)
    put(store, "last", 1)
    assert heard.changes(1) == [("last", 1)]


def test_a_datastore_that_was_set_back(cluster: Cluster, listen: Callable[[], Heard], tmp_path: Path) -> None:
    """What an older copy has is listed, as of a datastore that was restored."""
    store, copy = open_store(cluster.settings(tmp_path)), tmp_path / "copy"
    put(store, "a", 1)
    subprocess.run(["etcdctl", "--endpoints", cluster.members[0].url, "snapshot", "save", str(copy)], check=True,
                   capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})
    heard = listen()
    heard.next(Listed)
    put(store, "b", 2)
    assert heard.changes(1) == [("b", 2)]
    restore(cluster, copy)
    said = heard.next(Listed)
    assert isinstance(said, Listed)
    assert (list(said.items), said.restored) == ([PREFIX + "a"], True)
