"""Hosts go on assigning and releasing while what is between them and etcd, or etcd itself, fails, and after that.

Of every fault: no address twice, no release lost that was answered, errors that say what is wrong within the store's
patience, and work again, without a restart, as soon as the fault is over.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from datastore.settings import Etcd, Settings
from tests.etcd import Cluster, Member

from .forks import all_well, crowd
from .hosts import GONE, GOT, Host
from .proxy import slow
from .scene import LONG_PATIENCE, MAY_HAVE, SECONDS, Scene, all_of, errors, lines, told_in_time
from .site import DROP, REJECT, Place, Site, leader, site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
COUNT = 4  # hosts
FAULT_SECONDS = 5.0
LONGER_SECONDS = 7.0  # a server that says nothing is asked for five (etcdclient.ANSWER_SECONDS) before another one is


@pytest.fixture(scope="module")
def network() -> Iterator[Site]:
    """The hub."""
    with site() as found:
        yield found


@pytest.fixture(scope="module")
def running(network: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three servers."""
    with network.serving(tmp_path_factory.mktemp("etcd")) as found:
        yield found


@pytest.fixture(scope="module")
def places(network: Site) -> list[Place]:
    """Where hosts are."""
    return [network.place() for _ in range(COUNT)]


@pytest.fixture
def scene(network: Site, running: Cluster, places: list[Place], tmp_path: Path) -> Scene:
    """Hosts that have not begun yet."""
    return Scene(network, running, places, tmp_path)


def is_cut_off(scene: Scene, host: Host, since: float, until: float) -> None:
    """Assert that a host was told, within its patience, that it reaches no server, and each server's name."""
    told = errors(host, since)
    assert told
    for line in told:
        assert line.told[0] == "Unreachable", line
        assert any(member.url in line.told[1] for member in scene.cluster.members), line
    whole = [line for line in told if all(member.url in line.told[1] for member in scene.cluster.members)]
    assert whole or all("no answer in time" in line.told[1] for line in told)
    done = [line for line in lines(host, since + 1, until) if line.deed in (GOT, GONE) and line.told]
    assert not done, f"cut off, and yet {done}"
    print(f"{host.name}: {len(told)} errors, the longest wait {told_in_time(host):.1f} s; {told[0].told}")


def is_untouched(host: Host, since: float, until: float) -> None:
    """Assert that a host has worked all the time, and was told of nothing."""
    assert not errors(host)
    assert {GOT, GONE} <= {line.deed for line in lines(host, since, until)}


@pytest.mark.parametrize("rule", [DROP, REJECT], ids=["drop", "reject"])
def test_hosts_are_cut_off(scene: Scene, rule: str) -> None:
    """What two hosts send to etcd is dropped, or refused: they are told so, the others do not notice."""
    began, ended = scene.during(all_of([place.suffering(rule) for place in scene.places[:2]]), FAULT_SECONDS)
    for host in scene.hosts[:2]:
        is_cut_off(scene, host, began, ended)
    for host in scene.hosts[2:]:
        is_untouched(host, began, ended)
    scene.judge()


def test_a_third_of_all_packets_is_lost(scene: Scene) -> None:
    """With 30 % loss each way work gets slow, and nothing else; what fails, fails within the patience."""
    loss = "meta l4proto tcp numgen random mod 100 < 30 drop"
    began, ended = scene.during(all_of([place.suffering(loss, loss) for place in scene.places]), LONGER_SECONDS)
    for host in scene.hosts:
        assert any(line.deed in (GOT, GONE) for line in lines(host, began, ended)), host.name
        for line in errors(host):
            assert line.told[0] == "Unreachable" or MAY_HAVE in line.told[1], line
        told_in_time(host)
    scene.judge()


def test_answers_take_half_a_second(scene: Scene) -> None:
    """With 500 ms for each round trip, far away but in order, nothing fails, however short the patience."""
    ports = {9000 + number: (member.host, member.ports[0]) for number, member in enumerate(scene.cluster.members)}
    near = tuple(f"http://127.0.0.1:{port}" for port in ports)
    with crowd() as forks:
        for host in scene.hosts:
            forks.append(scene.begin(host, partial(slow, ports, 0.25)))
            host.settings = Settings(host.settings.kind, etcd=Etcd(near), lock_file=host.settings.lock_file)
            host.deeds, host.pause = 3, 0.0
        for host in scene.hosts:
            forks.append(scene.begin(host, host.live))
        all_well(forks[COUNT:], SECONDS * 2)
        for host in scene.hosts:
            assert not errors(host), errors(host)
            host.settings = scene.cluster.settings(host.journal.path.parent)
    scene.judge()


@contextmanager
def killed(member: Member, network: Site, cluster: Cluster) -> Iterator[None]:
    """Have a server die, and start again at the end."""
    member.kill()
    yield
    member.start()
    network.inside(cluster.wait)


@contextmanager
def paused(member: Member) -> Iterator[None]:
    """Have a server stand still for a time, with all its connections open."""
    member.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        member.signal(signal.SIGCONT)


@pytest.mark.parametrize("fault", ["leader killed", "leader paused", "follower paused"])
def test_a_server_is_lost(scene: Scene, fault: str) -> None:
    """A majority is left: all that a host may be told is that nobody can tell whether a write was made."""
    for host in scene.hosts:
        host.seconds = LONG_PATIENCE
    leading = scene.network.inside(lambda: leader(scene.cluster))
    other = next(member for member in scene.cluster.members if member is not leading)
    member = other if fault.startswith("follower") else leading
    if fault.endswith("killed"):
        began, ended = scene.during(killed(member, scene.network, scene.cluster), LONGER_SECONDS)
    else:
        began, ended = scene.during(paused(member), LONGER_SECONDS)
    for host in scene.hosts:
        assert any(line.deed in (GOT, GONE) for line in lines(host, began, ended)), host.name
        for line in errors(host):
            assert line.told[0] == "Unwritable", line
            assert MAY_HAVE in line.told[1], line
        told_in_time(host)
    print(fault, [line.told for host in scene.hosts for line in errors(host)])
    scene.judge()


def test_a_majority_is_lost(scene: Scene) -> None:
    """Without a majority nothing is given and nothing taken back, and hosts are told so; with it all goes on."""
    stopped = [paused(member) for member in scene.cluster.members[:2]]
    began, _ = scene.during(all_of(stopped), FAULT_SECONDS)
    for host in scene.hosts:
        told = errors(host, began)
        assert told
        for line in told:
            assert line.told[0] == "Unreachable" or MAY_HAVE in line.told[1], line
        told_in_time(host)
    scene.judge()
