"""Every call of every operation loses a race once, every write dies once, and every answer to a write is lost once.

What came of it is read without the allocator's code (allocator_reader.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from datastore import keys
from datastore.api import Change, Conflict, Missing, Store, Unwritable
from datastore.model import Host
from ipam import configuration, host
from ipam.affinity import claim, claim_range, give_up
from ipam.assign import Request, assign, auto_assign, ensure_block
from ipam.cidr import parse_address, parse_cidr
from ipam.errors import AddressInUse
from ipam.handle import Owner
from ipam.release import Wanted, release, release_addresses, release_handle
from ipam.remove import delete_pool, release_host, remove_node

from .allocator_kit import Died, Door, Dying, Rivalled, Unheard
from .allocator_reader import AFFINITY, BLOCK, HANDLE, read, sound
from .stores import QuickStore

NODE, RIVAL = "node-a", "node-b"
BLOCK_A, BLOCK_B, BLOCK_C = (parse_cidr(f"10.0.0.{first}/30") for first in (0, 4, 8))
POOL = {"metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/25", "blockSize": 30}}
POOL6 = {"metadata": {"name": "q"}, "spec": {"cidr": "fd00::/121", "blockSize": 126}}

Rival = Callable[[Store, str, Sequence[str]], object]
Operation = Callable[[Store], Any]


def owner(name: str) -> Owner:
    return Owner(f"net.{name}", {"network": "net", "container": name, "interface": "eth0"})


def request(name: str, node: str = NODE, **more: Any) -> Request:
    return Request(node, owner(name), env={"NO_DEFAULT_POOLS": "true"}, **more)


def world() -> QuickStore:
    """Return a store where the node has one block with a free address, one that is empty, and the rival one."""
    store = QuickStore()
    store.create(keys.ippool("p"), POOL)
    store.create(keys.ippool("q"), POOL6)
    assign(store, request("a", addresses=tuple(map(parse_address, ("10.0.0.0", "10.0.0.1")))))
    assign(store, request("b", addresses=(parse_address("10.0.0.2"),)))
    claim(store, NODE, BLOCK_B)
    claim(store, RIVAL, BLOCK_C)
    assign(store, request("c", RIVAL, addresses=(parse_address("10.0.0.8"),)))
    return store


OPERATIONS: dict[str, Operation] = {
    "assign": lambda store: assign(store, request("new", families=(4, 6))),
    "assign several": lambda store: auto_assign(store, request("new", count=7), 4),
    "assign by name": lambda store: assign(store, request("new", addresses=(parse_address("10.0.0.16"),))),
    "borrow by name": lambda store: assign(store, request("new", addresses=(parse_address("10.0.0.9"),))),
    "release": lambda store: release(store, owner("a")),
    "release handle": lambda store: release_handle(store, "net.a"),
    "release address": lambda store: release_addresses(store, [Wanted(parse_address("10.0.0.0"))]),
    "ensure": lambda store: ensure_block(store, request("new"), 6),
    "claim": lambda store: claim_range(store, NODE, parse_cidr("10.0.0.0/27"), 30),
    "give up": lambda store: give_up(store, NODE, BLOCK_A),
    "give up an empty one": lambda store: give_up(store, NODE, BLOCK_B, require_empty=True),
    "leave": lambda store: release_host(store, NODE),
    "remove node": lambda store: remove_node(store, NODE),
    "delete pool": lambda store: delete_pool(store, "p"),
    "configure": lambda store: configuration.save(store, strict_affinity=True),
}


def cidr_of(key: str) -> Any:
    return parse_cidr(keys.block_cidr(key))


def touch(store: Store, kind: str, names: Sequence[str]) -> None:
    """Another process writes each record that the call is about, or makes it as it would."""
    for key in names:
        with suppress(Missing):
            record = store.get(key)
            store.update(key, record.value, record.revision)
            continue
        if kind == "keys":
            auto_assign(store, request("rival", RIVAL), 4)
        elif BLOCK.match(key):
            claim(store, RIVAL, cidr_of(key))
        elif match := AFFINITY.match(key):
            claim(store, match[1], cidr_of(key))
        elif match := HANDLE.match(key):
            twin = Owner(match[1], {**owner("twin").attributes, "container": "twin"})
            auto_assign(store, Request(RIVAL, twin, env={"NO_DEFAULT_POOLS": "true"}), 4)
        elif key in (keys.host(NODE), keys.IPAM_CONFIG):
            (configuration.save(store) if key == keys.IPAM_CONFIG else host.save(store, NODE, Host(), None))


def rob(store: Store, kind: str, names: Sequence[str]) -> None:
    """Another process takes away what the call is about."""
    for key in names:
        if BLOCK.match(key) or AFFINITY.match(key):
            for node in (NODE, RIVAL):
                give_up(store, node, cidr_of(key))
        elif kind == "keys":
            release_host(store, NODE)
        elif HANDLE.match(key):
            release_handle(store, "net.b")
        elif key == keys.host(NODE):
            remove_node(store, NODE)


def take(store: Store, kind: str, names: Sequence[str]) -> None:
    """Another process of the same node, for the same handle, takes what is free longest."""
    auto_assign(store, Request(NODE, Owner("net.new", {"container": "twin", "interface": "net1"}),
                               env={"NO_DEFAULT_POOLS": "true"}), 4)


@pytest.mark.parametrize("rival", [touch, rob, take], ids=lambda rival: rival.__name__)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_race_lost_at_any_call(name: str, rival: Rival) -> None:
    """Whichever call a rival comes before, the operation gets to its end, and all records agree."""
    for calls in itertools.count():
        store = world()
        had = read(store).addresses
        door = Rivalled(store, calls, rival)
        try:
            result = OPERATIONS[name](door)
        except AddressInUse:
            assert name.endswith("by name")  # the rival has it
            result = ()
        finish(store, name, had, result)
        if door.calls_left >= 0:
            assert calls > 1
            return


def finish(store: QuickStore, name: str, had: dict[str, Any], result: Any) -> None:
    """Assert that all records agree, and that the operation did what it says."""
    held = sound(store)
    kept = {address for address in had if address in held}
    if "assign" in name or "borrow" in name:
        given = result if isinstance(result, tuple) else result.assigned
        assert all(held[str(item.address)] == "new" for item in given)
        assert sum(container == "new" for container in held.values()) == len(given)
    if not name.startswith("release"):
        assert had.keys() - kept <= {"10.0.0.2"}  # b's, which `rob` may release
    elif name == "release address":
        assert "10.0.0.0" not in held
    else:
        assert "a" not in held.values()


class Spurious(Door):
    """Write number `writes`, counted from 0, is refused as if somebody had been faster."""

    def __init__(self, inner: Store, writes: int) -> None:
        super().__init__(inner)
        self.writes_left = writes

    def call(self, kind: str, *names: str) -> None:
        if kind not in ("get", "keys"):
            self.writes_left -= 1
            if self.writes_left == -1:
                raise Conflict("somebody was faster")


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_write_refused(name: str) -> None:
    """Whichever write is refused, the operation tries again and comes to the same end."""
    expected = world()
    OPERATIONS[name](expected)
    for writes in itertools.count():
        store = world()
        door = Spurious(store, writes)
        OPERATIONS[name](door)
        assert sound(store, unfinished=False) == sound(expected)
        assert read(store).affinities == read(expected).affinities
        if door.writes_left >= 0:
            assert writes > 0
            return


@pytest.mark.parametrize("name", OPERATIONS)
def test_death_before_any_write(name: str) -> None:
    """Wherever a process dies, doing the same again comes to an end, and then all records agree."""
    for writes in itertools.count():
        store = world()
        try:
            OPERATIONS[name](Dying(store, writes))
            assert writes > 0
            return
        except Died:
            held = sound(store, {"net.new", "net.a"})
        for container in set(held.values()) & {"new"}:
            release(store, owner(container))
        with suppress(Missing):  # a pool that is gone already
            OPERATIONS[name](store)
        if name == "release address":  # which knows no handle, once the address is free
            release_handle(store, "net.a")
        sound(store, unfinished=name == "assign by name")  # a claim that has its block is confirmed by the next one


@pytest.mark.parametrize("name", [name for name in OPERATIONS if "assign" in name or "borrow" in name])
def test_an_answer_lost_to_any_write(name: str) -> None:
    """An assignment that ends with the store's error holds nothing, though the write it was about was made."""
    for writes in itertools.count():
        store = world()
        before = sound(store)
        try:
            OPERATIONS[name](Unheard(store, writes))
            assert writes > 0
            return
        except Unwritable:
            assert sound(store) == before
        OPERATIONS[name](store)
        sound(store, unfinished=False)


def test_the_kit_s_stores_write_commits_as_they_say() -> None:
    """A death in a commit leaves the first of its changes; one that cannot be made whole is not begun."""
    store = QuickStore()
    old = store.create("/b/old", {})
    changes = (Change("/b/new", {}, None), Change("/b/old", None, old.revision))
    with pytest.raises(Conflict):
        Dying(store, 9).commit(*changes[:1], Change("/b/old", {}, old.revision + 1))
    assert store.keys("/b/") == ["/b/old"]
    with pytest.raises(Died):
        Dying(store, 1).commit(*changes)
    assert store.keys("/b/") == ["/b/new", "/b/old"]
