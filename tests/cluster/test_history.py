"""What hosts are told of records and of addresses is what one store that does one deed at a time would have told them.

First that the judge rejects what is wrong (history.py), then what real hosts were told while the leader of a cluster
was killed, and another one paused.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.etcd import Cluster

from .forks import Forked, all_well, crowd
from .history import NEVER, Deed, Get, Register, Take, Write, address, deeds_by_address, is_linearizable, register
from .registers import Reader, deeds_by_key
from .scene import SECONDS, Scene
from .site import DROP, Site, leader, site

HOSTS, READERS = 3, 5
SECONDS_OF_PATIENCE = 2.0  # less than a server is waited for, so that answers are lost
PHASE_SECONDS = 3.0


def after(*whats: Get | Write) -> list[Deed]:
    """Return deeds one after the other."""
    return [Deed(at, at + 0.5, True, what) for at, what in enumerate(whats)]


def together(*whats: Get | Write) -> list[Deed]:
    """Return deeds at the same time."""
    return [Deed(100, 200, True, what) for what in whats]


def unheard(at: float, what: Write) -> Deed:
    """Return a deed whose answer nobody heard."""
    return Deed(at, NEVER, False, what)


MADE, CHANGED, REMOVED = Write("a", 0, 10), Write("b", 10, 11), Write(None, 11, 0)
RIGHT: dict[str, list[Deed]] = {
    "a life": after(Get(None, 0), MADE, Get("a", 10), CHANGED, Get("b", 11), REMOVED, Get(None, 0), Write("c", 0, 15)),
    "refusals": after(Write("x", 3, "Missing"), MADE, Write("x", 0, "Exists"), CHANGED, Write("x", 10, "Conflict")),
    "one of two": [*after(MADE), *together(CHANGED, Write("c", 10, "Conflict"), Get("a", 10), Get("b", 11))],
    "in either order": together(Get("a", 10), Get(None, 0), MADE),
    "unheard and done": [unheard(0.6, Write("b", 10, None)), *after(MADE, Get("b", 11))],
    "unheard and done late": [unheard(0.6, Write("b", 10, None)), *after(MADE, Get("a", 10), Get("b", 12))],
    "unheard and never done": [unheard(0.6, Write("b", 10, None)), *after(MADE, Get("a", 10), Write("c", 10, 12))],
    "unheard removal": [unheard(0.6, Write(None, 10, None)), *after(MADE, Get("a", 10), Get(None, 0))],
    "unheard creation": [unheard(0.0, Write("a", 0, None)), *after(Get(None, 0), Get("a", 7), Write("b", 7, 9))],
}
WRONG: dict[str, list[Deed]] = {
    "stale read": after(MADE, CHANGED, Get("a", 10)),
    "lost update": [*after(MADE), *together(CHANGED, Write("c", 10, 12))],
    "lost update, one after the other": after(MADE, CHANGED, Write("c", 10, 12)),
    "double create": together(MADE, Write("b", 0, 11)),
    "resurrected value": after(MADE, CHANGED, REMOVED, Get("b", 11)),
    "resurrected by what was done": after(MADE, Write(None, 10, 0), Get(None, 0), Get("a", 10)),
    "value of nobody": after(MADE, Get("x", 11)),
    "read too early": [*after(Get("a", 10)), Deed(5, 6, True, MADE)],
    "revision goes back": after(MADE, Write("b", 10, 9)),
    "another revision": after(MADE, Get("a", 11)),
    "refused for nothing": after(MADE, Write("x", 10, "Conflict")),
    "missing though there": after(MADE, Write("x", 10, "Missing")),
    "not missing": after(Write("x", 0, "Exists")),
    "unheard, done twice": [unheard(0, Write("a", 0, None)),
                            *after(Get("a", 10), Write(None, 10, 0), Get(None, 0), Get("a", 14))],
    "unheard, done before its call": [*after(MADE, Get("b", 11)), unheard(5, Write("b", 10, None))],
    "unheard, done though late": [unheard(0.6, Write("b", 10, None)), *after(MADE, Write("c", 10, 11), Get("b", 12))],
    "two see different orders": [*after(MADE), Deed(100, 200, True, CHANGED), Deed(110, 120, True, Get("b", 11)),
                                 Deed(130, 140, True, Get("a", 10))],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_histories_are_accepted(name: str) -> None:
    """What can have been is not called wrong."""
    assert is_linearizable(RIGHT[name], Register(), register)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_histories_are_rejected(name: str) -> None:
    """What cannot have been is found out."""
    assert not is_linearizable(WRONG[name], Register(), register)


def takes(*whats: tuple[float, float, str, bool]) -> list[Deed]:
    """Return what happened to an address."""
    return [Deed(begun, ended, ended < NEVER, Take(handle, gives)) for begun, ended, handle, gives in whats]


def test_addresses_are_judged() -> None:
    """An address is one's until it is taken from him; a release that was never answered may have been made."""
    assert is_linearizable(takes((0, 1, "a", True), (2, 5, "a", False), (3, 4, "b", True)), "", address)
    assert is_linearizable(takes((0, 1, "a", True), (2, NEVER, "a", False), (3, 4, "b", True)), "", address)
    assert not is_linearizable(takes((0, 1, "a", True), (3, 4, "b", True)), "", address)
    assert not is_linearizable(takes((0, 1, "a", True), (6, 7, "a", False), (3, 4, "b", True)), "", address)
    assert not is_linearizable(takes((0, 1, "a", True), (2, 3, "a", False), (4, 5, "a", False)), "", address)
    assert is_linearizable(takes((0, NEVER, "a", True), (3, 4, "b", True)), "", address)


@pytest.fixture
def network() -> Iterator[Site]:
    """The hub."""
    with site() as found:
        yield found


@contextmanager
def worse_and_worse(scene: Scene, cluster: Cluster) -> Iterator[None]:
    """Kill the leader, pause the next one, cut a host off, and end all of it."""
    network = scene.network
    first = network.inside(lambda: leader(cluster))
    first.kill()
    time.sleep(PHASE_SECONDS)
    first.start()
    network.inside(cluster.wait)
    second = network.inside(lambda: leader(cluster))
    second.pause()
    try:
        with scene.places[0].suffering(DROP):
            time.sleep(PHASE_SECONDS)
        yield
    finally:
        second.resume()


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_histories_of_a_cluster_in_trouble(network: Site, tmp_path: Path) -> None:
    """Records and addresses are linearizable while leaders are killed and paused, and hosts are cut off."""
    with network.serving(tmp_path / "etcd") as cluster, crowd() as forks:
        scene = Scene(network, cluster, [network.place() for _ in range(HOSTS)], tmp_path)
        readers = [Reader(f"reader{number}", scene.hosts[number % HOSTS].settings, tmp_path / f"told{number}",
                          SECONDS_OF_PATIENCE) for number in range(READERS)]
        for number, reader in enumerate(readers):
            forks.append(Forked(reader.work, tmp_path / f"log{number}", scene.places[number % HOSTS].netns.path))
        scene.during(worse_and_worse(scene, cluster), PHASE_SECONDS)
        for fork in forks:
            fork.signal(signal.SIGTERM)
        all_well(forks, SECONDS)
        scene.judge()
        judge(readers, scene)


def judge(readers: Sequence[Reader], scene: Scene) -> None:
    """Judge all histories."""
    keys = deeds_by_key(readers)
    addresses = deeds_by_address([host.journal for host in scene.hosts])
    for name, deeds in keys.items():
        assert is_linearizable(deeds, Register(), register), f"what was told of {name} cannot be"
    for name, deeds in addresses.items():
        assert is_linearizable(deeds, "", address), f"what was told of {name} cannot be: {sorted(deeds)}"
    told, of_addresses = ([deed for deeds in found.values() for deed in deeds] for found in (keys, addresses))
    lost = sum(not deed.sure for deed in told)
    assert lost, "no answer was lost: that proves little"
    print(f"{len(told)} deeds on {len(keys)} keys, {lost} of them unheard; {len(of_addresses)} on {len(addresses)} "
          f"addresses, {sum(not deed.sure for deed in of_addresses)} unheard")
