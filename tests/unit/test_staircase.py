"""Where addresses come from when something is in the way: reservations, pools that change, blocks lost or left over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datastore import keys
from datastore.api import Change, Corrupt, Store
from datastore.file import FileStore
from datastore.memory import MemoryStore
from datastore.model import affinity_of, block_of
from ipam import configuration, host
from ipam.affinity import give_up
from ipam.assign import Request, assign, auto_assign
from ipam.cidr import parse_address, parse_cidr
from ipam.collect import collect
from ipam.cooldown import stamp
from ipam.errors import BadRequest, Exhausted
from ipam.handle import Owner
from ipam.release import Wanted, release, release_addresses, release_handle
from ipam.remove import delete_pool, remove_node
from ipam.usage import why_exhausted

NODE = "jh3014c"  # its walk begins at a pool's first block
LONG_AGO = "2020-01-01T00:00:00Z"


def owner(name: str) -> Owner:
    return Owner(f"net.{name}", {"network": "net", "container": name, "interface": "eth0"})


def pool(store: Store, name: str, cidr: str, size: int, **spec: Any) -> None:
    body = {"cidr": cidr, "blockSize": size, "nodeSelector": "all()", **spec}
    store.create(keys.ippool(name), {"metadata": {"name": name}, "spec": body})


def reserve(store: Store, *cidrs: str) -> None:
    store.create(keys.ipreservation("r"), {"metadata": {"name": "r"}, "spec": {"reservedCIDRs": list(cidrs)}})


def give(store: Store, name: str, node: str = NODE, **more: Any) -> str:
    return str(assign(store, Request(node, owner(name), **more))[0].address)


def claimed_long_ago(store: Store) -> None:
    """Make every block look as if it had been claimed long ago: then other nodes may take it when it is empty."""
    for record in list(store.records(keys.blocks(4))):
        store.update(record.key, {**record.value, "affinity_claim_time": LONG_AGO}, record.revision)


def test_a_reservation_of_half_a_huge_pool() -> None:
    """2**73 reserved blocks are stepped over at once; when all are reserved that is told at once."""
    store = MemoryStore()
    pool(store, "six", "fd00::/48", 122)
    reserve(store, "fd00::/49")
    assert give(store, "a", families=(6,)).startswith("fd00:0:0:8000:")
    with pytest.raises(Exhausted, match="reserved"):
        reserved = MemoryStore()
        pool(reserved, "six", "fd00::/48", 122)
        reserve(reserved, "fd00::/48")
        give(reserved, "a", families=(6,))


class Waiting(FileStore):
    """A store where somebody else gets the lock first, once, and does something."""

    def before(self, action: Any) -> None:
        self.action = action

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        action, self.action = getattr(self, "action", None), None
        if action:
            action()
        with super().exclusive():
            yield


@pytest.mark.parametrize("gone", [True, False])
def test_a_pool_that_goes_while_an_add_waits(tmp_path: Path, gone: bool) -> None:
    """Nothing is assigned from a pool that was deleted, or disabled, while the lock was waited for."""
    store, other = Waiting(str(tmp_path)), FileStore(str(tmp_path))
    pool(other, "a", "10.0.0.0/24", 26)
    pool(other, "b", "10.1.0.0/24", 26)

    def go() -> None:
        if gone:
            delete_pool(other, "a")
            return
        record = other.get(keys.ippool("a"))
        other.update(record.key, {**record.value, "spec": {**record.value["spec"], "disabled": True}}, record.revision)

    store.before(go)
    assert give(store, "x").startswith("10.1.")


def test_a_lost_block_is_not_made_anew_while_handles_name_it() -> None:
    """Its addresses may be in use: the record has to be repaired; without any such handle a new one is made."""
    store = MemoryStore()
    pool(store, "a", "10.0.0.0/24", 26)
    assert give(store, "live") == "10.0.0.0"
    block = store.get(keys.block(4, "10.0.0.0/26"))
    store.delete(block.key, block.revision)
    with pytest.raises(Corrupt, match=r"net\.live has addresses of it in use.*--repair"):
        give(store, "second")
    handle = store.get(keys.handle("net.live"))
    store.delete(handle.key, handle.revision)
    assert give(store, "second") == "10.0.0.0"


def test_small_blocks_make_room_for_a_large_one_together() -> None:
    """Empty blocks of a former size are given up when all that lie in a new one are empty, and not before."""
    store = MemoryStore()
    configuration.save(store, strict_affinity=True)
    pool(store, "a", "10.0.0.0/26", 28)
    for n in range(4):
        give(store, f"p{n}", node=f"n{n}")
    pool_record = store.get(keys.ippool("a"))
    store.delete(pool_record.key, pool_record.revision)
    pool(store, "a", "10.0.0.0/26", 26)
    for n in range(3):
        release(store, owner(f"p{n}"))
    claimed_long_ago(store)
    with pytest.raises(Exhausted):
        give(store, "new")
    release(store, owner("p3"))
    assert give(store, "new") == "10.0.0.0"
    assert store.keys(keys.blocks(4)) == [keys.block(4, "10.0.0.0/26")]


def test_a_block_in_use_is_not_left_half_given_up() -> None:
    """Giving up a block that turns out to be in use, after a death in the middle of it, makes it the node's again."""
    store = MemoryStore()
    pool(store, "a", "10.0.0.0/24", 26)
    give(store, "x")
    key = keys.affinity(NODE, 4, "10.0.0.0/26")
    record = store.get(key)
    store.update(key, {**record.value, "state": "pendingDeletion"}, record.revision)
    assert not give_up(store, NODE, parse_cidr("10.0.0.0/26"), require_empty=True)
    assert affinity_of(store.get(key)).state == "confirmed"


def test_many_pools_are_not_all_told() -> None:
    """The message of an exhausted datastore stays readable, and blocks are read once, not once for each pool."""
    store = Counting()
    for n in range(40):
        pool(store, f"p{n:02}", f"10.0.{n}.0/30", 30)
    for n in range(40):
        auto_assign(store, Request(f"n{n}", owner(f"c{n}"), count=4, pools={4: (f"p{n:02}",)}), 4)
    store.reads = 0
    message = why_exhausted(store, Request("n", owner("x")).criteria, 4)
    assert "and 35 more pools" in message
    assert len(message) < 800
    assert store.reads < 200


class Counting(MemoryStore):
    """A store that counts how often records are read."""

    reads = 0

    def get(self, key: str) -> Any:
        self.reads += 1
        return super().get(key)


def test_a_damaged_memory_is_made_anew(tmp_path: Path) -> None:
    """A torn record of what a node remembers keeps nobody from an address, and is replaced; a node with one can go."""
    store = FileStore(str(tmp_path))
    pool(store, "a", "10.0.0.0/24", 26)
    give(store, "x")
    for torn in ("{", f'{{"key":"{keys.host(NODE)}","revision":1,"value":{{"boot":7}}}}'):
        Path(store.path(keys.host(NODE))).write_text(torn)
        give(store, f"y{len(torn)}")
        assert host.load(store, NODE)[0].room == {"4": "10.0.0.0/26"}
    Path(store.path(keys.host(NODE))).write_text("{")
    assert remove_node(store, NODE) == [parse_cidr("10.0.0.0/26")]


def test_a_pool_of_the_other_family_that_is_wrong() -> None:
    """A pool that cannot be used stops its own family only."""
    store = MemoryStore()
    pool(store, "four", "10.0.0.0/24", 26)
    pool(store, "six", "fd00::/64", 99)
    assert give(store, "x") == "10.0.0.0"


def test_requested_pools_for_another_use_are_passed_over() -> None:
    """Of pools asked for, one that is not for workloads is passed over, unless it is the only one; CIDRs are compared
    as such, not as text.
    """
    store = MemoryStore()
    pool(store, "t", "10.0.0.0/24", 26, allowedUses=["Tunnel"])
    pool(store, "w", "10.1.0.0/24", 26)
    pool(store, "six", "fd00::/112", 122)
    assert give(store, "x", pools={4: ("t", "w")}) == "10.1.0.0"
    with pytest.raises(BadRequest, match="not for workloads"):
        give(store, "y", pools={4: ("t",)})
    assert give(store, "z", families=(6,), pools={6: ("fd00:0::/112",)}).startswith("fd00::")
    with pytest.raises(BadRequest, match="not a CIDR"):
        give(store, "y", pools={4: ("10.0.0.0/33",)})


def test_what_nobody_has_is_collected() -> None:
    """A block of no node whose addresses have rested goes with its pool, and by a collection."""
    store = MemoryStore()
    pool(store, "a", "10.0.0.0/24", 26)
    give(store, "x")
    configuration.save(store, cooldown_seconds=600)
    delete_pool(store, "a")
    release_handle(store, "net.x")
    assert collect(store) == 0
    record = store.get(keys.block(4, "10.0.0.0/26"))
    assert [item.released_at[:4] for item in block_of(record).attributes] == [stamp()[:4]]
    configuration.save(store, cooldown_seconds=0)
    assert collect(store) == 1
    assert store.keys(keys.blocks(4)) == []


def test_a_large_release_is_made_in_several_writes() -> None:
    """No commit has more than about a hundred changes, however many addresses of a block are released."""
    store = Largest()
    pool(store, "a", "10.0.0.0/22", 22)
    for n in range(250):
        give(store, f"c{n}")
    freed = release_addresses(store, [Wanted(parse_address(f"10.0.0.{n}")) for n in range(250)]).freed
    assert len(freed) == 250
    assert store.largest <= 101
    assert store.keys(keys.HANDLES) == []


class Largest(MemoryStore):
    """A store that knows how large the largest commit was."""

    largest = 0

    def commit(self, *changes: Any) -> None:
        self.largest = max(self.largest, len(changes))
        super().commit(*changes)


def test_a_rest_that_cannot_be_read_keeps_nobody_from_releasing() -> None:
    """A pod is released from a block although another address of it has a releasedAt that is no time."""
    store = MemoryStore()
    pool(store, "a", "10.0.0.0/24", 26)
    give(store, "x")
    give(store, "y")
    configuration.save(store, cooldown_seconds=600)
    release(store, owner("x"))
    record = store.get(keys.block(4, "10.0.0.0/26"))
    attributes = [{**item, **({"releasedAt": "soon"} if item.get("releasedAt") else {})}
                  for item in record.value["attributes"]]
    store.update(record.key, {**record.value, "attributes": attributes}, record.revision)
    assert [str(address) for address in release(store, owner("y"))] == ["10.0.0.1"]


class Remade(MemoryStore):
    """A store whose pool is removed and made anew, with smaller blocks, just before the first block is made."""

    def commit(self, *changes: Change) -> None:
        name = keys.ippool("p")
        if any(change.key.startswith(keys.BLOCKS) and change.revision is None for change in changes):
            found = self.get(name)
            if found.value["spec"]["blockSize"] == 28:
                self.delete(name, found.revision)
                pool(self, "p", "10.0.0.0/24", 30)
                assign(self, Request("other", owner("other"), addresses=(parse_address("10.0.0.0"),)))
        super().commit(*changes)


def test_a_pool_made_anew_while_a_block_is_claimed() -> None:
    """No block of the former size is made across those of the new pool, whose first address another node has."""
    store = Remade()
    pool(store, "p", "10.0.0.0/24", 28)
    assert give(store, "a") == "10.0.0.4"
    assert store.keys(keys.blocks(4)) == [keys.block(4, "10.0.0.0/30"), keys.block(4, "10.0.0.4/30")]
