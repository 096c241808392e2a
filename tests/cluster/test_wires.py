"""Every few requests the connection breaks: after the server has done what was asked, or before it does it, late.

Nobody can know then whether a write was made; what hosts make of it must be right in either case (datastore/etcd.py).
CALICO_TEST_SEED draws otherwise.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from datastore.settings import ETCD, Etcd, Settings
from tests.etcd import Cluster, free_port, serving

from . import claims
from .forks import Forked, all_well, crowd
from .history import Register, address, deeds_by_address, is_linearizable, register
from .hosts import Host, Journal, put_pool
from .proxy import Unreliable
from .registers import Reader, deeds_by_key
from .scene import MAY_HAVE, SECONDS
from .witness import World, history

HOSTS, READERS, DEEDS = 6, 4, 60
SEED = os.environ.get("CALICO_TEST_SEED", "1")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One server, with small pools."""
    with serving(tmp_path / "etcd") as found:
        store = EtcdStore(Client(found.etcd), str(tmp_path / "ipam.lock"))
        put_pool(store, "four", "10.203.0.0/27", 29)
        put_pool(store, "six", "fd00:7::/124", 125)
        yield found


def wire(cluster: Cluster, folder: Path, lost: int, late: int) -> tuple[Forked, Settings]:
    """Return a wire to the server, and what opens a store behind it."""
    port, url = free_port(), urlsplit(cluster.members[0].url)
    bad = Unreliable((str(url.hostname), int(url.port or 0)), SEED, lost, late, seconds=0.3)
    fork = Forked(lambda: bad.serve(port), folder / "wire")
    until = time.monotonic() + SECONDS
    while not _is_open(port):
        assert not fork.ended(), fork.said()
        assert time.monotonic() < until
        time.sleep(0.01)
    return fork, Settings(ETCD, etcd=Etcd((f"http://127.0.0.1:{port}",)))


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def hosts_of(settings: Settings, folder: Path) -> list[Host]:
    """Return hosts behind the wire."""
    found = []
    for number in range(HOSTS):
        own = folder / f"host{number}"
        own.mkdir()
        mine = Settings(ETCD, etcd=settings.etcd, lock_file=str(own / "ipam.lock"))
        found.append(Host(number, mine, Journal(own / "journal"), deeds=DEEDS, warm=number % 2 == 0))
    return found


@pytest.mark.parametrize("lost, late", [(15, 0), (0, 15)], ids=["answers lost", "requests late"])
def test_connections_break(cluster: Cluster, tmp_path: Path, lost: int, late: int) -> None:
    """No address twice, no release lost, and each record as one store would have it, whatever was done unheard.

    A creation that comes late may make again what was removed meanwhile, so nobody removes then (registers.py).
    """
    with crowd() as forks:
        fork, settings = wire(cluster, tmp_path, lost, late)
        forks.append(fork)
        hosts = hosts_of(settings, tmp_path)
        readers = [Reader(f"reader{number}", hosts[number].settings, tmp_path / f"told{number}", SECONDS,
                          removes=not late)
                   for number in range(READERS)]
        for reader in readers:
            forks.append(Forked(reader.work, tmp_path / reader.name))
        for host in hosts:
            forks.append(Forked(host.live, host.journal.path.with_name("log")))
        all_well(forks[-HOSTS:], SECONDS)
        for each in forks[1 : 1 + READERS]:
            each.signal(signal.SIGTERM)
        all_well(forks[1 : 1 + READERS], SECONDS)
        for host in hosts:
            forks.append(Forked(host.clean, host.journal.path.with_name("log")))
        all_well(forks[-HOSTS:], SECONDS)
        time.sleep(0.5 if late else 0)
    judge(cluster, hosts, readers)


def judge(cluster: Cluster, hosts: Sequence[Host], readers: Sequence[Reader]) -> None:
    """Judge what etcd and all who worked on it tell."""
    world, journals = World(), [host.journal for host in hosts]
    world.follow(history(cluster.members[0].url))
    world.check_affinities(unfinished=True)
    claims.judge(journals, world)
    assert not world.held()
    assert not world.handles
    told = claims.errors(journals)
    assert all(error[0] == "Unwritable" and MAY_HAVE in error[1] for error in told), told
    keys = deeds_by_key(readers)
    for name, deeds in keys.items():
        assert is_linearizable(deeds, Register(), register), f"what was told of {name} cannot be"
    for name, deeds in deeds_by_address(journals).items():
        assert is_linearizable(deeds, "", address), f"what was told of {name} cannot be"
    print(len(told), "errors", Counter(error[1] for error in told).most_common(2),
          {name: (len(deeds), sum(not deed.sure for deed in deeds)) for name, deeds in keys.items()})
