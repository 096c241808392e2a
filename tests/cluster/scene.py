"""Hosts at work on a cluster while something happens to it, and what is asserted of that in any case."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from tests.etcd import Cluster

from . import claims
from .forks import Forked, all_well, crowd
from .hosts import GONE, GOT, LOST, STUCK, Host, Journal, Line, put_pool
from .site import Place, Site
from .witness import Event, World, history

PATIENCE = 2.0  # of hosts that are cut off: they are told so again and again
LONG_PATIENCE = 20.0  # the product's own, for what a cluster overcomes by itself
MARGIN = 8.0  # what was begun is taken back, and each call for that waits a second or two (etcdclient.LAST_SECONDS)
SECONDS = 60.0  # for what must happen, on however slow a machine
MAY_HAVE = "may have been"


class Scene:
    """Hosts at work on a cluster. since: the revision before which all that etcd tells is another test's."""

    def __init__(self, network: Site, cluster: Cluster, places: Sequence[Place], folder: Path) -> None:
        self.network, self.cluster, self.places, self.folder = network, cluster, places, folder
        network.inside(cluster.wait)
        network.inside(cluster.wipe)
        self.since = int(network.inside(lambda: cluster.ask("/v3/kv/range", {"key": "AA=="}))["header"]["revision"]) + 1
        self.history: Callable[[], list[Event]] = self._history
        self.hosts = [self._host(number) for number in range(len(places))]
        network.inside(self._put_pools)

    def _host(self, number: int) -> Host:
        own = self.folder / f"host{number}"
        own.mkdir()
        return Host(number, self.cluster.settings(own), Journal(own / "journal"), deeds=1 << 30, pause=0.01,
                    seconds=PATIENCE, warm=number % 2 == 0)

    def _put_pools(self) -> None:
        store = EtcdStore(Client(self.cluster.etcd), str(self.folder / "ipam.lock"))
        put_pool(store, "four", "10.201.0.0/27", 29)
        put_pool(store, "six", "fd00:6::/123", 125)

    def begin(self, host: Host, task: Callable[[], object]) -> Forked:
        """Have a host do something in its place."""
        return Forked(task, host.journal.path.with_name("log"), self.places[host.number].netns.path)

    def during(self, fault: AbstractContextManager[object], seconds: float) -> tuple[float, float]:
        """Let hosts work before, during and after a fault; return when it began and ended. All must work in the end."""
        with crowd() as forks:
            for host in self.hosts:
                forks.append(self.begin(host, host.live))
            self.all_work(forks)
            began = time.monotonic()
            with fault:
                time.sleep(seconds)
                ended = time.monotonic()
            self.all_work(forks)
            for fork in forks:
                fork.signal(signal.SIGTERM)
            all_well(forks, SECONDS)
        return began, ended

    def all_work(self, forks: Sequence[Forked]) -> None:
        """Return when every host has been given an address, and has given one back, since now."""
        since, until = time.monotonic(), time.monotonic() + SECONDS
        for host, fork in zip(self.hosts, forks, strict=True):
            while not {GOT, GONE} <= {line.deed for line in lines(host, since)}:
                assert not fork.ended(), fork.said()
                assert time.monotonic() < until, f"{host.name} does not work: {list(host.journal.read())[-3:]}"
                time.sleep(0.1)

    def judge(self) -> World:
        """Judge what etcd and hosts tell, have all released, and judge again."""
        self._judged()
        with crowd() as forks:
            for host in self.hosts:
                forks.append(self.begin(host, host.clean))
            all_well(forks, SECONDS)
        world = self._judged()
        assert not world.held()
        assert not world.handles
        return world

    def _history(self) -> list[Event]:
        alive = next(member for member in self.cluster.members if member.process)
        return self.network.inside(lambda: history(alive.url, self.since))

    def _judged(self) -> World:
        world = World()
        world.follow(self.history())
        world.check_affinities(unfinished=True)
        claims.judge([host.journal for host in self.hosts], world)
        return world


def lines(host: Host, since: float, until: float = float("inf")) -> list[Line]:
    """Return what a host wrote in a time."""
    return [line for line in host.journal.read() if since <= line.at <= until]


def errors(host: Host, since: float = 0, until: float = float("inf")) -> list[Line]:
    """Return what a host was told of failures in a time."""
    return [line for line in lines(host, since, until) if line.deed in (LOST, STUCK)]


def told_in_time(host: Host) -> float:
    """Assert that every error came within the store's patience and what follows it; return the longest wait."""
    before, longest = 0.0, 0.0
    for line in host.journal.read():
        if line.deed in (LOST, STUCK):
            longest = max(longest, line.at - before)
        before = line.at
    assert longest <= host.seconds + MARGIN, f"{host.name} waited {longest:.1f} s"
    return longest


@contextmanager
def all_of(faults: Sequence[AbstractContextManager[object]]) -> Iterator[None]:
    """Have several faults at a time."""
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault)
        yield
