"""Assigning and releasing against a store: the staircase, addresses asked for, exhaustion, damaged records.

Deaths and lost races are in test_conflicts.py, any order of everything in test_allocator_machine.py.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest

from datastore import keys
from datastore.api import Corrupt
from datastore.file import FileStore
from datastore.memory import MemoryStore
from datastore.model import block_of, handle_of
from ipam.assign import Request, assign
from ipam.cidr import parse_address
from ipam.errors import AddressInUse, BadRequest, Exhausted
from ipam.find import holder, holdings
from ipam.handle import Owner
from ipam.pool import Criteria
from ipam.release import release, take_back
from ipam.usage import has_room

from .allocator_reader import sound

ENV = {"CALICO_IPV4POOL_CIDR": "10.0.0.0/28", "CALICO_IPV4POOL_BLOCK_SIZE": "30", "CALICO_IPV6POOL_CIDR": "fd00::/126",
       "CALICO_IPV6POOL_BLOCK_SIZE": "127"}
NODE, OTHER = "jh3014c", "kunz263"  # names whose walk begins at a pool's first block
SMALL = {**ENV, "CALICO_IPV6POOL_CIDR": "fd00::/122", "CALICO_IPV6POOL_BLOCK_SIZE": "122"}


def owner(name: str, ifname: str = "eth0", network: str = "net") -> Owner:
    return Owner(f"{network}.{name}", {"network": network, "container": name, "interface": ifname})


def request(name: str, ifname: str = "eth0", node: str = NODE, **more: Any) -> Request:
    return Request(node, owner(name, ifname), **{"env": SMALL, **more})


def addresses(given: Any) -> list[str]:
    return [str(item.address) for item in given]


def test_from_own_block_then_the_next() -> None:
    """A node fills the block it has before it claims the next one."""
    store = MemoryStore()
    given = [addresses(assign(store, request(f"c{n}")))[0] for n in range(6)]
    assert given == [f"10.0.0.{n}" for n in range(6)]
    assert [keys.block_cidr(key) for key in store.keys(keys.affinities(NODE, 4))] == ["10.0.0.0/30", "10.0.0.4/30"]
    assert {record.value["state"] for record in store.records(keys.affinities(NODE, 4))} == {"confirmed"}
    assert len(sound(store)) == 6


def test_nodes_have_blocks_of_their_own() -> None:
    """Another node gets another block."""
    store = MemoryStore()
    assert addresses(assign(store, request("a"))) == ["10.0.0.0"]
    assert addresses(assign(store, request("b", node=OTHER))) == ["10.0.0.4"]


def test_both_families() -> None:
    """A dual-stack request gets one of each; releasing gives both back."""
    store = MemoryStore()
    assert addresses(assign(store, request("a", families=(4, 6)))) == ["10.0.0.0", "fd00::"]
    assert sorted(map(str, release(store, owner("a")))) == ["10.0.0.0", "fd00::"]
    assert sound(store) == {}
    assert store.keys(keys.HANDLES) == []


def test_a_family_that_fails_frees_the_other() -> None:
    """No IPv6 address means no IPv4 address either, and nothing is left of it."""
    store = MemoryStore()
    env = {**SMALL, "CALICO_IPV6POOL_CIDR": "none"}
    with pytest.raises(Exhausted, match="no IPv6 pool"):
        assign(store, request("a", families=(4, 6), env=env))
    assert sound(store) == {}


def test_exhaustion_names_pool_and_counts() -> None:
    """The message of a full pool has its name, range and counts."""
    store = MemoryStore()
    assign(store, request("c0"))
    for n in range(1, 16):
        assert has_room(store, Criteria(NODE), 4)
        assign(store, request(f"c{n}"))
    assert not has_room(store, Criteria(NODE), 4)
    with pytest.raises(Exhausted, match=r"default-ipv4-ippool 10\.0\.0\.0/28 has 16 of 16 addresses in use in 4 of 4"):
        assign(store, request("more"))
    release(store, owner("c7"))
    assert has_room(store, Criteria(NODE), 4)
    assert addresses(assign(store, request("more"))) == ["10.0.0.7"]


def test_a_freed_address_rests() -> None:
    """A freed address is used again only after all that were free before."""
    store = MemoryStore()
    assign(store, request("a"))
    release(store, owner("a"))
    assert [addresses(assign(store, request(f"c{n}")))[0][-1] for n in range(4)] == ["1", "2", "3", "0"]


def test_an_address_asked_for() -> None:
    """An address asked for is given from a block claimed for it, once."""
    store, asked = MemoryStore(), "10.0.0.9"
    given = assign(store, request("a", addresses=(parse_address(asked),)))
    assert (addresses(given), str(given[0].block), given[0].requested) == (["10.0.0.9"], "10.0.0.8/30", True)
    with pytest.raises(AddressInUse, match="container a"):
        assign(store, request("b", addresses=(parse_address(asked),)))
    assert sound(store) == {"10.0.0.9": "a"}


def test_an_address_asked_for_and_the_other_family() -> None:
    """A family that no address was asked of gets one by itself; the same address twice is one."""
    asked = parse_address("10.0.0.9")
    given = assign(MemoryStore(), request("a", families=(4, 6), addresses=(asked, asked)))
    assert addresses(given) == ["10.0.0.9", "fd00::"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"addresses": (parse_address("10.1.0.1"),)}, "in no pool"),
        ({"addresses": (parse_address("10.0.0.1"), parse_address("10.1.0.1"))}, "in no pool"),
        ({"pools": {4: ("nope",)}}, "does not exist"),
        ({"pools": {4: ("default-ipv6-ippool",)}}, "does not exist"),
    ],
)
def test_requests_that_cannot_be_met(more: dict[str, Any], message: str) -> None:
    """A request for what no pool has is refused whole, and leaves nothing."""
    store = MemoryStore()
    with pytest.raises(BadRequest, match=message):
        assign(store, request("a", **more))
    assert sound(store) == {}


@pytest.mark.parametrize("name", ["second", "10.9.0.0/24"])
def test_pools_by_name_and_by_range(name: str) -> None:
    """A pool may be asked for by its name or its CIDR; without asking, pools serve in name order."""
    store = MemoryStore()
    assign(store, request("a"))
    spec = {"cidr": "10.9.0.0/24", "blockSize": 26, "nodeSelector": "all()"}
    store.create(keys.ippool("second"), {"metadata": {"name": "second"}, "spec": spec})
    assert addresses(assign(store, request("b", pools={4: (name,)}))) == ["10.9.0.0"]
    assert addresses(assign(store, request("c"))) == ["10.0.0.1"]


@pytest.mark.parametrize("spec", [{"disabled": True}, {"assignmentMode": "Manual"}, {"allowedUses": ["Tunnel"]},
                                  {"nodeSelector": "rack == 'x'"}])
def test_pools_passed_over(spec: dict[str, Any]) -> None:
    """A pool that may not be used is not, and the message says why."""
    store = MemoryStore()
    pool = {"metadata": {"name": "p"}, "spec": {"cidr": "10.9.0.0/24", "blockSize": 26, **spec}}
    store.create(keys.ippool("p"), pool)
    with pytest.raises(Exhausted, match="passed over"):
        assign(store, request("a"))


def test_interfaces_of_one_container_are_told_apart() -> None:
    """Releasing one interface's address leaves the other's, though they share the handle; so do look-alike names."""
    store = MemoryStore()
    assign(store, request("a", "eth0"))
    assign(store, request("a", "net1"))
    assert handle_of(store.get(keys.handle("net.a"))).blocks == {"10.0.0.0/30": 2}
    assert release(store, owner("a", "eth0"))
    assert [str(held.address) for held in holdings(store, owner("a", "net1"))] == ["10.0.0.1"]
    dotted = Owner("net.b.c", {"network": "net.b", "container": "c", "interface": "eth0"})
    assign(store, Request(NODE, dotted, env=SMALL))
    assert release(store, owner("b.c")) == []
    assert len(release(store, dotted)) == 1
    sound(store)


def test_release_of_nothing() -> None:
    """Releasing what was never assigned, or twice, is no error."""
    store = MemoryStore()
    assert release(store, owner("a")) == []
    assign(store, request("a"))
    assert len(release(store, owner("a"))) == 1
    assert release(store, owner("a")) == []


def test_release_without_pools_or_node() -> None:
    """Releasing needs neither pool nor node: pools may have been deleted since (rule D7)."""
    store = MemoryStore()
    assign(store, request("a", families=(4, 6)))
    for record in store.records(keys.IPPOOLS):
        store.delete(record.key, record.revision)
    assert len(release(store, owner("a"))) == 2
    assert sound(store) == {}


def test_what_is_taken_back_is_only_what_was_given() -> None:
    """Undoing an assignment does not touch a later one of the same address to the same owner."""
    store = MemoryStore()
    first = assign(store, request("a", addresses=(parse_address("10.0.0.1"),)))[0]
    release(store, owner("a"))
    assign(store, request("a", addresses=(parse_address("10.0.0.1"),)))
    take_back(store, first)
    assert sound(store) == {"10.0.0.1": "a"}


def test_holder() -> None:
    """An address leads to who holds it, whatever the block size."""
    store = MemoryStore()
    given = assign(store, request("a", families=(4, 6)))
    for item in given:
        found = holder(store, item.address)
        assert found
        assert found.attribute.owner["container"] == "a"
    assert holder(store, given[0].block.address(1)) is None


def test_a_block_that_cannot_be_read_stops_everything() -> None:
    """A damaged block is never assigned from, nor skipped as if it were free."""
    store = MemoryStore()
    assign(store, request("a"))
    record = store.get(keys.block(4, "10.0.0.0/30"))
    store.update(record.key, {**record.value, "unallocated": []}, record.revision)
    with pytest.raises(Corrupt, match=r"10\.0\.0\.0/30"):
        assign(store, request("b"))


def test_parallel_assigns_on_files(tmp_path: Any) -> None:
    """Threads with stores of their own on one directory never get the same address."""
    given: list[str] = []

    def work(worker: int) -> None:
        store = FileStore(str(tmp_path))
        for n in range(8):
            given.extend(addresses(assign(store, request(f"w{worker}n{n}", env={**SMALL, **WIDE}))))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == len(set(given)) == 48
    assert len(sound(FileStore(str(tmp_path)))) == 48


WIDE = {"CALICO_IPV4POOL_CIDR": "10.0.0.0/24", "CALICO_IPV4POOL_BLOCK_SIZE": "28"}


@pytest.mark.parametrize(("old", "new"), [("30", "28"), ("28", "30"), ("30", "29")])
def test_a_pool_made_anew_with_another_block_size(old: str, new: str) -> None:
    """Blocks cut before and after never share an address, nor do addresses asked for fall between them."""
    store = MemoryStore()
    first = {"CALICO_IPV4POOL_CIDR": "10.0.0.0/27", "CALICO_IPV4POOL_BLOCK_SIZE": old}
    given = [addresses(assign(store, request(f"a{n}", env=first)))[0] for n in range(6)]
    pool = store.get(keys.ippool("default-ipv4-ippool"))
    store.delete(pool.key, pool.revision)
    second = {**first, "CALICO_IPV4POOL_BLOCK_SIZE": new}
    with suppress(Exhausted):
        for n in range(32):
            given += addresses(assign(store, request(f"b{n}", node=OTHER, env=second)))
    for last in range(32):
        with suppress(AddressInUse, BadRequest):
            asked = parse_address(f"10.0.0.{last}")
            given += addresses(assign(store, request(f"c{last}", addresses=(asked,), env=second)))
    assert len(given) == len(set(given)) > 8
    assert len(sound(store)) == len(given)


@pytest.mark.parametrize("spec", [{"cidr": "10.0.0.0/28"}, {"cidr": "10.0.0.0/16", "blockSize": 99}, {"cidr": "x"},
                                  {"cidr": "10.0.0.1/16"}])
def test_a_pool_that_cannot_be_cut(spec: dict[str, Any]) -> None:
    """A pool record that no block fits is named, not stumbled over."""
    store = MemoryStore()
    store.create(keys.ippool("odd"), {"metadata": {"name": "odd"}, "spec": spec})
    with pytest.raises(Corrupt, match="odd"):
        assign(store, request("a"))


def test_an_address_in_a_smaller_block_than_the_pool_cuts_now() -> None:
    """An address asked for is given from the block that has it, whatever other blocks of that size are beside it."""
    store = MemoryStore()
    for n in range(0, 64, 16):
        asked = parse_address(f"10.0.0.{n}")
        assign(store, request(f"a{n}", addresses=(asked,), env={**WIDE, "CALICO_IPV4POOL_BLOCK_SIZE": "28"}))
    pool = store.get(keys.ippool("default-ipv4-ippool"))
    store.delete(pool.key, pool.revision)
    for n in range(4, 64, 16):
        asked = parse_address(f"10.0.0.{n}")
        given = assign(store, request(f"b{n}", addresses=(asked,), env={**WIDE, "CALICO_IPV4POOL_BLOCK_SIZE": "26"}))
        assert addresses(given) == [f"10.0.0.{n}"]


def test_a_damaged_block_keeps_no_other_from_being_released() -> None:
    """Of an owner's two blocks the sound one is released though the other cannot be read, which is then told."""
    store = MemoryStore()
    assign(store, request("a", families=(4, 6)))
    record = store.get(keys.block(4, "10.0.0.0/30"))
    store.update(record.key, {**record.value, "unallocated": "x"}, record.revision)
    with pytest.raises(Corrupt, match=r"10\.0\.0\.0-30"):
        release(store, owner("a"))
    assert block_of(store.get(keys.block(6, "fd00::/122"))).attributes == ()


def test_a_record_that_is_no_block() -> None:
    """A record among the blocks that is named after none disturbs nobody."""
    store = MemoryStore()
    store.create(keys.blocks(4) + "backup", {})
    store.create(keys.affinities(NODE, 4) + "backup", {})
    assert addresses(assign(store, request("a"))) == ["10.0.0.0"]
    assert release(store, owner("a"))
