"""Fifty hosts give and take the addresses of one small pool at the same time, and some of them die of it.

CLUSTER_RACE_DEEDS says how many assigns and releases there are in all (docs/testing.md).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from tests.etcd import Cluster, serving

from . import claims
from .forks import Forked, all_well, crowd
from .hosts import GONE, GOT, Host, Journal, put_pool
from .witness import World, history

HOSTS = 50
DEEDS = int(os.environ.get("CLUSTER_RACE_DEEDS", "20000"))
DEEDS_AND_DEATHS = DEEDS // 8
SEED = os.environ.get("CALICO_TEST_SEED", "1")
POOLS = {"first": ("10.200.0.0/24", 29), "second": ("10.200.8.0/26", 29), "six": ("fd00:5::/122", 125)}  # 40 blocks, 8
SECONDS = 900.0  # for processes that would never end
pytestmark = pytest.mark.timeout(SECONDS)
LIVES = (0.1, 3.0)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One server, with pools in which some hosts have no block of their own."""
    with serving(tmp_path / "etcd") as found:
        store = EtcdStore(Client(found.etcd), str(tmp_path / "ipam.lock"))
        for name, (cidr, size) in POOLS.items():
            put_pool(store, name, cidr, size)
        yield found


def hosts_of(cluster: Cluster, folder: Path, deeds: int) -> list[Host]:
    """Return hosts, each with a lock file and a journal of its own; a tenth of them share nothing between verbs."""
    found = []
    for number in range(HOSTS):
        own = folder / f"host{number}"
        own.mkdir()
        found.append(Host(number, cluster.settings(own), Journal(own / "journal"), deeds // HOSTS, most=5,
                          warm=number % 10 != 0))
    return found


def log_of(host: Host) -> Path:
    """Where a host's processes say what went wrong."""
    return host.journal.path.with_name("log")


def judge(cluster: Cluster, hosts: list[Host], unfinished: bool = False) -> World:
    """Judge what etcd tells, and what the hosts were told."""
    world = World()
    world.follow(history(cluster.members[0].url))
    world.check_affinities(unfinished)
    claims.judge([host.journal for host in hosts], world)
    return world


def release_all(hosts: list[Host]) -> None:
    """Have the next life of each host give back all there is."""
    with crowd() as forks:
        for host in hosts:
            forks.append(Forked(host.clean, log_of(host)))
        all_well(forks, SECONDS)


def test_nobody_gets_what_another_one_has(cluster: Cluster, tmp_path: Path) -> None:
    """Hosts at work at the same time, with borrowing and two families: no address twice, no leak, all records agree."""
    hosts = hosts_of(cluster, tmp_path, DEEDS)
    began = time.monotonic()
    with crowd() as forks:
        for host in hosts:
            forks.append(Forked(host.live, log_of(host)))
        all_well(forks, SECONDS)
    took = time.monotonic() - began
    world = judge(cluster, hosts)
    borrowed = sum(world.owners[cidr] != handle.partition(".")[2][:6]
                   for cidr, inside in world.blocks.items() for _, handle in
                   ((address, item.handle) for address, item in inside.items()))
    release_all(hosts)
    world = judge(cluster, hosts)
    assert not world.held()
    assert not world.handles
    assert borrowed
    done = sum(line.deed in (GOT, GONE) for host in hosts for line in host.journal.read())
    assert done >= DEEDS // HOSTS * HOSTS - len(claims.errors([host.journal for host in hosts]))
    print(f"{DEEDS} assigns and releases by {HOSTS} hosts in {took:.1f} s, {DEEDS / took:.0f} a second; "
          f"{world.changes} changes in {world.revision} revisions; {borrowed} borrowed at the end; "
          f"errors: {claims.errors([host.journal for host in hosts])[:3]}")


def test_hosts_die_at_any_moment(cluster: Cluster, tmp_path: Path) -> None:
    """Hosts are killed at random; their next lives release what the dead may have had: nothing is lost or leaked."""
    hosts = hosts_of(cluster, tmp_path, DEEDS_AND_DEATHS * 100)
    chance = random.Random(SEED)
    with crowd() as forks:
        deaths = live_and_die(hosts, forks, chance)
    world = judge(cluster, hosts, unfinished=True)
    release_all(hosts)
    world = judge(cluster, hosts, unfinished=True)
    assert not world.held()
    assert not world.handles
    print(f"{deaths} deaths, {deeds_of(hosts)} assigns and releases, {world.changes} changes; CALICO_TEST_SEED={SEED}")


def live_and_die(hosts: list[Host], forks: list[Forked], chance: random.Random) -> int:
    """Let hosts live, die and live again until they have done enough; return how often one died."""
    alive: dict[int, tuple[Forked, float]] = {}
    deaths, until = 0, time.monotonic() + SECONDS
    while deeds_of(hosts) < DEEDS_AND_DEATHS or deaths < len(hosts) // 2:
        assert time.monotonic() < until
        for host in hosts:
            if host.number not in alive:
                host.life += 1
                forks.append(Forked(host.live, log_of(host)))
                alive[host.number] = forks[-1], time.monotonic() + chance.uniform(*LIVES)
            fork, end = alive[host.number]
            if time.monotonic() >= end:
                assert not fork.ended(), fork.said()
                fork.signal(signal.SIGKILL)
                fork.wait(SECONDS)
                forks.remove(fork)
                del alive[host.number]
                deaths += 1
        time.sleep(0.02)
    return deaths


def deeds_of(hosts: list[Host]) -> int:
    """Return how many assigns and releases were answered."""
    return sum(host.journal.path.read_bytes().count(f'"{deed}"'.encode()) for host in hosts for deed in (GOT, GONE)
               if host.journal.path.exists())
