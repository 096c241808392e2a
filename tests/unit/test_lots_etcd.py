"""Lots of requests on a real etcd: what their members know is put together, and never acted on without a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from calico_node.warm import _carry_out, _freeing, _giving
from datastore import keys
from datastore.api import Store
from datastore.cluster import initialised
from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from datastore.snapshot import Cache
from datastore.undo import fail
from ipam.assign import Request, assign
from ipam.cidr import Address
from ipam.find import allocations
from ipam.handle import Assigned, Owner
from ipam.release import release
from tests.etcd import Cluster, serving

NODE = "n1"


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("etcd")) as found:
        yield found


class House:
    """An agent's stores: one client and one cache for all verbs."""

    def __init__(self, server: Cluster, folder: Path) -> None:
        server.wipe()
        self.client, self._cache, self._lock_file = Client(server.etcd), Cache(), str(folder / "ipam.lock")
        self.endpoint = server.members[0].url
        store = self.store()
        initialised(store, "test")
        spec = {"cidr": "10.1.0.0/16", "blockSize": 26, "nodeSelector": "all()"}
        store.create(keys.ippool("p"), {"metadata": {"name": "p"}, "spec": spec})

    def store(self) -> EtcdStore:
        return EtcdStore(self.client, self._lock_file, cache=self._cache)

    def prepared(self, name: str) -> EtcdStore:
        """Return the store of a verb that has begun."""
        found = self.store()
        found.prepare(NODE, keys.handle(f"net.{name}"))
        return found

    def assign(self, name: str) -> tuple[Assigned, ...]:
        return assign(self.prepared(name), Request(NODE, owner(name)))

    def held(self) -> list[str]:
        return sorted(str(item.attribute.handle) for item in allocations(self.store(), fail))


@pytest.fixture(name="house")
def _house(server: Cluster, tmp_path: Path) -> Iterator[House]:
    found = House(server, tmp_path)
    yield found
    found.client.close()


def owner(name: str) -> Owner:
    return Owner(f"net.{name}", {"network": "net", "container": name, "interface": "eth0", "node": NODE})


def freeing(name: str) -> Callable[[Store], list[Address]]:
    return partial(release, owner=owner(name))


def test_an_old_look_at_a_block_frees_nothing_of_a_new_handle(house: House) -> None:
    """A member of the lot has read the block before another's address was given, and no other member has read it."""
    house.assign("before")
    old = house.prepared("old")
    house.assign("late")
    house.client._broken(house.endpoint)  # what was kept is kept no more
    late = house.prepared("late")
    freed = _carry_out(house.store, _freeing, [(old, freeing("old")), (late, freeing("late"))])
    assert [len(each) for each in freed] == [0, 1]
    assert house.held() == ["net.before"]


def test_a_lot_as_large_as_they_come(house: House) -> None:
    """All members are given an address of their own, and all are freed, though one transaction may not hold them."""
    names = [f"c{number}" for number in range(60)]
    asked = [(house.prepared(name), partial(assign, request=Request(NODE, owner(name)))) for name in names]
    given = [item.address for each in _carry_out(house.store, _giving, asked) for item in each]
    assert len(set(given)) == len(names)
    assert house.held() == sorted(f"net.{name}" for name in names)
    _carry_out(house.store, _freeing, [(house.prepared(name), freeing(name)) for name in names])
    assert house.held() == []


def test_members_do_not_learn_each_others_names(house: House) -> None:
    """However long an agent lives, a verb asks for its own records."""
    earlier = [house.prepared("first"), house.prepared("second")]
    for number in range(5):
        now = house.prepared(f"c{number}")
        _carry_out(house.store, _freeing, [(each, freeing("nobody")) for each in (*earlier, now)])
        earlier = [*earlier[-1:], now]
    assert earlier[-1]._names == {keys.handle("net.c4")}
    assert len(earlier[-1]._read) < 5
