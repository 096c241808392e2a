"""What etcd keeps is cut down, has no room any more, or is lost: hosts go on, or are told why they cannot."""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.error import HTTPError

import pytest

from datastore.api import Unwritable
from datastore.etcd import EtcdStore
from datastore.etcdclient import Client, Patience
from tests.etcd import Cluster, Member, serving

from .forks import Forked, crowd, on_a_small_disk
from .hosts import GONE, GOT
from .scene import LONG_PATIENCE, MAY_HAVE, SECONDS, Scene, errors, lines, told_in_time
from .site import Site, etcdctl, site
from .witness import end, record, recorded

HOSTS = 3
FAULT_SECONDS = 3.0
QUOTA = 2 << 20  # bytes
DISK = "200m"  # etcd makes two files of 64 MB before it needs them
NO_ROOM = "no room left"
RECORDS = 450  # of which etcd is asked for 200 at a time (datastore/etcd.py, PAGE_RECORDS)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and mounts need root")


@pytest.fixture
def network() -> Iterator[Site]:
    """The hub."""
    with site() as found:
        yield found


def compact(cluster: Cluster) -> None:
    """Have etcd forget all but what is there now, again and again."""
    while True:
        revision = cluster.ask("/v3/kv/range", {"key": "AA=="})["header"]["revision"]
        with suppress(HTTPError):  # nothing new
            cluster.ask("/v3/kv/compaction", {"revision": revision})
        time.sleep(0.02)


def recording(scene: Scene) -> Forked:
    """Return a process that records the history while it is made, as etcd will not be able to tell it later."""
    url, events = scene.cluster.members[0].url, scene.folder / "events"
    scene.history = lambda: recorded(events, scene.network.inside(partial(end, url)))
    return Forked(partial(record, url, scene.since, events), scene.folder / "log", scene.network.hub.path)


@needs_root
def test_compaction_all_the_time(network: Site, tmp_path: Path) -> None:
    """Hosts do not notice that etcd forgets what was before."""
    with network.serving(tmp_path / "etcd", 1) as cluster, crowd() as forks:
        scene = Scene(network, cluster, [network.place() for _ in range(HOSTS)], tmp_path)
        forks.append(recording(scene))

        @contextmanager
        def compacting() -> Iterator[None]:
            forks.append(Forked(partial(compact, cluster), tmp_path / "log", network.hub.path))
            yield
            forks[-1].kill()

        began, ended = scene.during(compacting(), FAULT_SECONDS)
        for host in scene.hosts:
            assert not errors(host)
            assert {GOT, GONE} <= {line.deed for line in lines(host, began, ended)}
        scene.judge()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One server."""
    with serving(tmp_path / "etcd") as found:
        yield found


def store_in(cluster: Cluster, folder: Path, seconds: float = LONG_PATIENCE) -> EtcdStore:
    """Return a store with connections of its own."""
    return EtcdStore(Client(cluster.etcd), str(folder / "ipam.lock"), seconds)


def test_a_list_is_compacted_between_two_pages(cluster: Cluster, tmp_path: Path) -> None:
    """What is there from the beginning of a list to its end is in it once, in order, whatever is forgotten."""
    store, other = store_in(cluster, tmp_path), store_in(cluster, tmp_path)
    made = [store.create(f"/list/{number:04}", {"number": number}) for number in range(RECORDS)]
    found = store.records("/list/")
    keys = [next(found).key]
    for one in made[:400:3]:
        other.delete(one.key, one.revision)
    changed = [other.update(one.key, {"changed": True}, one.revision) for one in made[400:]]
    cluster.ask("/v3/kv/compaction", {"revision": str(changed[-1].revision)})
    keys += [one.key for one in found]
    stayed = {one.key for one in made} - {one.key for one in made[:400:3]}
    assert keys == sorted(set(keys))
    assert stayed <= set(keys) <= {one.key for one in made}


def test_a_watch_from_before_a_compaction_is_told_so(cluster: Cluster, tmp_path: Path) -> None:
    """Whoever watches from a revision that is forgotten hears of it, and where to begin."""
    store = store_in(cluster, tmp_path)
    revision = [store.create(f"/list/{number}", {}).revision for number in range(9)][-1]
    cluster.ask("/v3/kv/compaction", {"revision": str(revision)})
    client = Client(cluster.etcd)
    asked = {"create_request": {"key": "AA==", "range_end": "AA==", "start_revision": "2"}}
    told = []
    for line in client.stream("/v3/watch", asked, Patience(LONG_PATIENCE), 5.0):
        told.append(line.get("result", {}))
        if not line or told[-1].get("canceled"):
            break
    assert told[-1].get("compact_revision") == str(revision), told


def fill(cluster: Cluster) -> None:
    """Write to etcd until it has no room."""
    for number in range(QUOTA >> 10):
        try:
            cluster.ask("/v3/kv/put", {"key": b64encode(f"/fill/{number}".encode()).decode(),
                                       "value": b64encode(os.urandom(1 << 16)).decode()})
        except HTTPError as error:
            assert "space exceeded" in json.load(error)["message"]
            return
    raise AssertionError("it has room and room")


def clear(member: Member) -> None:
    """Make room again, as an operator does."""
    etcdctl(member, "del", "--prefix", "/fill/")
    revision = json.loads(etcdctl(member, "get", "/", "-w", "json"))["header"]["revision"]
    etcdctl(member, "compact", str(revision))
    etcdctl(member, "defrag")
    etcdctl(member, "alarm", "disarm")


@needs_root
def test_the_quota_is_used_up(network: Site, tmp_path: Path) -> None:
    """With the alarm NOSPACE nothing is given and nothing is taken back; hosts are told that there is no room left."""
    with network.serving(tmp_path / "etcd", 1, ["--quota-backend-bytes", str(QUOTA)]) as cluster, crowd() as forks:
        scene = Scene(network, cluster, [network.place() for _ in range(HOSTS)], tmp_path)
        forks.append(recording(scene))
        full: list[float] = []

        @contextmanager
        def filled() -> Iterator[None]:
            network.inside(partial(fill, cluster))
            full.append(time.monotonic())
            with pytest.raises(Unwritable, match="NOSPACE"):
                network.inside(store_in(cluster, tmp_path).check_writable)
            yield
            full.append(time.monotonic())
            clear(cluster.members[0])

        scene.during(filled(), FAULT_SECONDS)
        for host in scene.hosts:
            told = errors(host)
            assert told
            assert {line.told[0] for line in told} == {"Unwritable"}
            assert all(NO_ROOM in line.told[1] for line in told), told
            assert not [line for line in lines(host, full[0] + 0.5, full[1]) if line.deed in (GOT, GONE) and line.told]
            told_in_time(host)
        scene.judge()


@needs_root
def test_the_disk_of_one_server_is_full(network: Site, tmp_path: Path) -> None:
    """It dies of that; the others serve, hosts are told of nothing, and with room it comes back."""
    data = tmp_path / "etcd/m2"
    data.mkdir(parents=True)
    with crowd() as forks:
        forks.append(Forked(partial(on_a_small_disk, str(data), DISK), tmp_path / "log"))
        while "mounted" not in forks[0].said():
            assert not forks[0].ended(), forks[0].said()
            time.sleep(0.01)
        disk = Path(f"/proc/{forks[0].pid}/root{data}/fill")
        below = ("nsenter", f"--mount=/proc/{forks[0].pid}/ns/mnt")
        with network.serving(tmp_path / "etcd", 3, below=below) as cluster:
            scene = Scene(network, cluster, [network.place() for _ in range(HOSTS)], tmp_path)
            for host in scene.hosts:
                host.seconds = LONG_PATIENCE
            began, ended = scene.during(full_disk(disk, network, cluster), FAULT_SECONDS)
            for host in scene.hosts:
                assert any(line.deed in (GOT, GONE) for line in lines(host, began, ended))
                assert all(MAY_HAVE in line.told[1] for line in errors(host)), errors(host)
            scene.judge()


@contextmanager
def full_disk(file: Path, network: Site, cluster: Cluster) -> Iterator[None]:
    """Fill the disk of the last member until it dies, and then make room and start it."""
    member = cluster.members[-1]
    with suppress(OSError), file.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(1 << 16))
    until = time.monotonic() + SECONDS
    number = 0
    while member.process and member.process.poll() is None:
        assert time.monotonic() < until, "it lives without a disk"
        number += 1
        body = {"key": b64encode(f"/fill/{number}".encode()).decode(), "value": b64encode(os.urandom(1 << 18)).decode()}
        with suppress(OSError):  # the one that dies may lead
            network.inside(partial(cluster.ask, "/v3/kv/put", body, cluster.members[0]))
    yield
    file.unlink()
    member.kill()
    member.start()
    network.inside(cluster.wait)
