"""Calico's acceptance list: addresses by name, release, handles, affinities, block rows, the walk.

Set aside: owner attributes that are set and migrated (SetOwnerAttributes, virtual machines), but for reading them;
affinities without a type and labels to be upgraded (both are Kubernetes objects; here the key tells node and kind);
blocks with nothing but addresses of Windows, and reserved arithmetic of the generator for them; blocks' GC of old and
new releases beyond cool-down. Release of one, shared, all or no owner in a block, compaction: tests/unit/test_block.py.
"""

from __future__ import annotations

import pytest

from datastore import keys
from datastore.memory import MemoryStore
from datastore.model import block_of
from datastore.resources import Pool
from ipam import configuration
from ipam.affinity import claim, claim_range, give_up
from ipam.assign import assign
from ipam.block import held, held_of
from ipam.cidr import parse_address, parse_cidr
from ipam.errors import AddressInUse, BadRequest, Changed, Exhausted
from ipam.find import held_by_handle, holder
from ipam.release import Wanted, release, release_addresses, release_handle
from ipam.remove import delete_pool, release_host, release_pool, remove_node
from ipam.walk import block_count, blocks_from

from .acceptance_kit import A, B, add_pool, auto, blocks, given, named, one, owner, remove, request, within
from .allocator_reader import read, sound


def small() -> MemoryStore:
    """Return a store with a pool of four blocks of four."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/28", 30)
    return store


def wanted(address: str, handle: str | None = None, sequence: int | None = None) -> Wanted:
    return Wanted(parse_address(address), handle, sequence)


def sequence_of(store: MemoryStore, address: str) -> int:
    found = holder(store, parse_address(address))
    assert found
    assert found.sequence is not None
    return found.sequence


@pytest.mark.parametrize(("address", "other"), [("10.0.0.5", "10.0.0.6"), ("fd00::5", "fd00::6")])
def test_assign_by_name(address: str, other: str) -> None:
    """AssignIP: an IPv4 and an IPv6 address are given; twice is refused; the next is free; outside pools is refused."""
    store = small()
    add_pool(store, "p6", "fd00::/120", 122)
    assert named(store, A, "a", address) == address
    with pytest.raises(AddressInUse, match="container a"):
        named(store, A, "b", address)
    assert named(store, B, "b", other) == other
    for outside in ("10.9.0.1", "fd09::1"):
        with pytest.raises(BadRequest, match="in no pool"):
            named(store, A, "c", outside)
    assert len(sound(store, unfinished=False)) == 2


def test_released_and_given_again_under_the_same_handle() -> None:
    """A release with the sequence number of the first giving leaves the second, though the handle is the same."""
    store = small()
    address = named(store, A, "a", "10.0.0.1")
    old = sequence_of(store, address)
    release(store, owner("a"))
    named(store, A, "a", "10.0.0.1")
    with pytest.raises(Changed, match="given anew"):
        release_addresses(store, [wanted(address, "net.a", old)])
    assert sound(store, unfinished=False) == {address: "a"}


def test_the_same_when_the_block_was_deleted_in_between() -> None:
    """Nor does it when the block was removed and made again: sequence numbers never come back."""
    store = small()
    address = named(store, A, "a", "10.0.0.1")
    old = sequence_of(store, address)
    release(store, owner("a"))
    assert release_host(store, A) == [parse_cidr("10.0.0.0/30")]
    assert read(store).blocks == {}
    named(store, A, "a", "10.0.0.1")
    with pytest.raises(Changed):
        release_addresses(store, [wanted(address, None, old)])
    assert sound(store, unfinished=False) == {address: "a"}


def test_first_in_first_out() -> None:
    """FIFO wrap-around: a released address is given again only after every other one of the block was."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/30", 30)
    order = []
    for number in range(9):
        order.append(one(store, A, f"c{number}"))
        release(store, owner(f"c{number}"))
    assert [address[-1] for address in order] == list("012301230")


def test_many_addresses_in_many_blocks() -> None:
    """Release of many: all addresses of 20 blocks go in one call, by address and by handle."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24", 30)
    for how in ("addresses", "handle"):
        addresses = given(auto(store, A, "a", 80))
        if how == "addresses":
            assert len(release_addresses(store, map(wanted, addresses)).freed) == 80
        else:
            assert len(release_handle(store, "net.a")) == 80
        assert sound(store, unfinished=False) == {}
        assert store.keys(keys.HANDLES) == []


def test_an_address_named_twice_in_a_release() -> None:
    """Duplicate IPs in one release request are counted once."""
    store = small()
    address = one(store, A, "a")
    released = release_addresses(store, [wanted(address), wanted(address)])
    assert (list(map(str, released.freed)), released.unallocated) == ([address], ())


@pytest.mark.parametrize(("handle", "shift", "freed"), [(None, None, True), (None, 0, True), (None, 1, False),
                                                        ("net.b", None, False), ("net.a", 0, True)])
def test_release_options(handle: str | None, shift: int | None, freed: bool) -> None:
    """ReleaseOptions: plain, right sequence, wrong sequence, wrong handle, both right."""
    store = small()
    address = one(store, A, "a")
    item = wanted(address, handle, None if shift is None else sequence_of(store, address) + shift)
    if freed:
        assert release_addresses(store, [item]).freed
    else:
        with pytest.raises(Changed, match=address):
            release_addresses(store, [item])
    assert len(sound(store, unfinished=False)) == (not freed)


def test_one_wrong_of_a_block_keeps_the_others_of_it() -> None:
    """Handle and sequence mismatch: nothing is released from that block, and other blocks' addresses are."""
    store = small()
    for address in ("10.0.0.0", "10.0.0.1", "10.0.0.4"):
        named(store, A, "a", address)
    with pytest.raises(Changed):
        release_addresses(store, [wanted("10.0.0.0"), wanted("10.0.0.1", "net.b"), wanted("10.0.0.4")])
    assert sound(store, unfinished=False) == {"10.0.0.0": "a", "10.0.0.1": "a"}


def test_releases_of_what_nobody_holds() -> None:
    """ReleaseIPs: outside pools, unallocated, and of two the one that is allocated: told apart, and no error."""
    store = small()
    address = one(store, A, "a")
    released = release_addresses(store, map(wanted, ("10.9.0.9", "10.0.0.15", address)))
    assert list(map(str, released.freed)) == [address]
    assert sorted(map(str, released.unallocated)) == ["10.0.0.15", "10.9.0.9"]
    assert release_addresses(store, [wanted(address)]).unallocated


def test_66_over_two_blocks() -> None:
    """ReleaseIPs: 66 addresses, which lie in two blocks, are all released."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24")
    addresses = given(auto(store, A, "a", 66))
    assert len(blocks(store, A)) == 2
    assert sorted(map(str, release_addresses(store, map(wanted, addresses)).freed)) == sorted(addresses)


def test_handles() -> None:
    """Handle query + release: a handle tells its addresses, gives them all back, and is then unknown, without error."""
    store = small()
    addresses = given(auto(store, A, "a", 5))
    assert sorted(str(found.address) for found in held_by_handle(store, "net.a", 4)) == sorted(addresses)
    assert sorted(map(str, release_handle(store, "net.a"))) == sorted(addresses)
    assert held_by_handle(store, "net.a", 4) == []
    assert release_handle(store, "net.a") == []


@pytest.mark.parametrize("most", [1, 2])
def test_the_most_that_a_handle_may_have(most: int) -> None:
    """Per-handle maximum, 1 and 2: AutoAssign gives what is left of it, AssignIP is refused; of each family apart."""
    store = small()
    add_pool(store, "p6", "fd00::/120", 122)
    assert len(given(auto(store, A, "a", 3, handle_limit=most))) == most
    assert given(auto(store, A, "a", handle_limit=most)) == []
    with pytest.raises(Exhausted, match="at most"):
        named(store, A, "a", "10.0.0.15", handle_limit=most)
    assert len(given(auto(store, A, "a", family=6, handle_limit=most))) == 1
    assert len(given(auto(store, A, "b", 3, handle_limit=most))) == most


def test_attributes() -> None:
    """Attributes: those stored are read back; none are there outside pools, without a block, for what is free."""
    store = small()
    found = holder(store, parse_address(one(store, A, "a")))
    assert found
    assert found.attribute.owner == owner("a").attributes
    assert found.attribute.handle == "net.a"
    for address in ("10.9.0.1", "10.0.0.15", str(parse_cidr(blocks(store, A)[0]).address(3))):
        assert holder(store, parse_address(address)) is None


def test_remove_an_unknown_host() -> None:
    """RemoveIPAMHost: an unknown host is no error; of a known one no affinity is left, but its pods' addresses are."""
    store = small()
    assert remove_node(store, "nobody") == []
    address = one(store, A, "a")
    assert len(remove_node(store, A)) == 1
    assert store.keys(keys.HOSTS) == []
    assert sound(store, unfinished=False) == {address: "a"}
    assert release(store, owner("a"))
    assert read(store).blocks == {}


@pytest.mark.parametrize(
    ("within_range", "block_size", "claimed", "failed"),
    [("10.0.0.0/26", 26, 1, 0), ("10.0.0.0/24", 26, 3, 1), ("10.0.1.0/24", 26, 4, 0), ("10.0.0.128/26", 26, 0, 1)],
)
def test_claim_affinity(within_range: str, block_size: int, claimed: int, failed: int) -> None:
    """ClaimAffinity: a /26 is one block, a /24 four; of one with another's block three are claimed, one fails."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/16")
    claim(store, B, parse_cidr("10.0.0.128/26"))
    done = claim_range(store, A, parse_cidr(within_range), block_size)
    assert list(map(len, done)) == [claimed, failed]
    assert len(blocks(store, A)) == claimed


def test_claim_affinity_of_less_than_a_block() -> None:
    """ClaimAffinity: a /27 is an error; all four of a /24 that another host has are counted as conflicts."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/16")
    with pytest.raises(BadRequest, match="smaller than a block"):
        claim_range(store, A, parse_cidr("10.0.0.0/27"), 26)
    claim_range(store, B, parse_cidr("10.0.0.0/24"), 26)
    assert list(map(len, claim_range(store, A, parse_cidr("10.0.0.0/24"), 26))) == [0, 4]
    assert blocks(store, A) == []


def test_release_of_empty_affinities_only() -> None:
    """Affinity release, only empty: the empty block goes, the one in use stays its host's."""
    store = small()
    named(store, A, "a", "10.0.0.0")
    claim(store, A, parse_cidr("10.0.0.4/30"))
    assert release_host(store, A, require_empty=True) == [parse_cidr("10.0.0.4/30")]
    assert blocks(store, A) == ["10.0.0.0/30"]


def test_release_of_exactly_one_block() -> None:
    """Affinity release, exact block: only the block named leaves its host; one of another host stays."""
    store = small()
    claim_range(store, A, parse_cidr("10.0.0.0/29"), 30)
    claim(store, B, parse_cidr("10.0.0.8/30"))
    assert give_up(store, A, parse_cidr("10.0.0.4/30"))
    assert not give_up(store, A, parse_cidr("10.0.0.8/30"))
    assert (blocks(store, A), blocks(store, B)) == (["10.0.0.0/30"], ["10.0.0.8/30"])


def test_release_of_all_affinities_in_use() -> None:
    """Affinity release, all non-empty: blocks in use are nobody's then, and vanish with their last address."""
    store = small()
    addresses = given(auto(store, A, "a", 6))
    assert len(release_host(store, A)) == 2
    assert (blocks(store, A), len(blocks(store, None))) == ([], 2)
    assert sorted(sound(store, unfinished=False)) == sorted(addresses)
    release(store, owner("a"))
    assert read(store).blocks == {}


def test_release_of_affinities_after_the_pool_is_gone() -> None:
    """Affinity release after pool deletion: a host's blocks can be taken from it though their pool is gone."""
    store = small()
    claim_range(store, A, parse_cidr("10.0.0.0/28"), 30)
    remove(store, keys.ippool("p"))
    assert len(release_host(store, A)) == 4
    assert read(store).blocks == {}


def test_release_of_a_pool_s_affinities() -> None:
    """ReleasePoolAffinities: the pool's blocks leave all hosts, other pools' do not; deleting a pool does the same."""
    store = small()
    add_pool(store, "q", "10.1.0.0/28", 30)
    for node, first in ((A, "10.0.0.0/30"), (B, "10.0.0.4/30"), (A, "10.1.0.0/30"), (B, "10.1.0.4/30")):
        claim(store, node, parse_cidr(first))
    assert len(release_pool(store, parse_cidr("10.0.0.0/28"))) == 2
    assert (blocks(store, A), blocks(store, B)) == (["10.1.0.0/30"], ["10.1.0.4/30"])
    assert len(delete_pool(store, "q")) == 2
    assert (blocks(store, A), store.keys(keys.IPPOOLS)) == ([], [keys.ippool("p")])


def test_blocks_counts() -> None:
    """Block rows: what a block holds and has free when none, half and all of it is given; by handle and by owner."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/26")
    for count, free in ((0, 64), (32, 32), (32, 0)):
        claim(store, A, parse_cidr("10.0.0.0/26"))
        auto(store, A, f"c{count}{free}", count)
        block = block_of(store.get(keys.block(4, "10.0.0.0/26")))
        assert len(block.unallocated) == free
        assert len(held_of(block, f"net.c{count}{free}")) == count
        assert len(held(block, owner(f"c{count}{free}").holds)) == count


def test_garbage_of_releases() -> None:
    """Block rows, GC of releases: with a cool-down a released address is nobody's, but not free; without, it is."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/31", 31)
    configuration.save(store, cooldown_seconds=1200)
    address = one(store, A, "a")
    release(store, owner("a"))
    assert holder(store, parse_address(address)) is None
    with pytest.raises(AddressInUse, match="rests"):
        named(store, A, "b", address)
    assert (len(given(auto(store, A, "c", 2))), store.keys(keys.HANDLES)) == (1, [keys.handle("net.c")])
    configuration.save(store, cooldown_seconds=0)
    assert one(store, A, "b") == address


@pytest.mark.parametrize(
    ("cidr", "size", "count"),
    [("10.0.0.0/16", 26, 1024), ("10.0.0.0/16", 20, 16), ("10.0.0.0/24", 32, 256), ("fd00::/116", 122, 64),
     ("fd00::/112", 116, 16), ("fd00::/120", 128, 256)],
)
def test_the_walk(cidr: str, size: int, count: int) -> None:
    """Random block generator: default, largest and smallest blocks of each family: each block of the pool, once."""
    pool = Pool("p", cidr, size)
    walked = list(blocks_from(pool, A))
    assert len(walked) == len(set(walked)) == block_count(pool) == count
    assert all(block in parse_cidr(cidr) and block.prefix == size for block in walked)


def test_the_walk_keeps_to_the_pools() -> None:
    """Random block generator, CIDR filter: blocks come only of pools that serve, also when others have more room."""
    store = small()
    add_pool(store, "large", "10.9.0.0/16", disabled=True)
    addresses = given(auto(store, A, "a", 17))
    assert (len(addresses), within(addresses, "10.0.0.0/28")) == (16, 16)


def test_all_or_none() -> None:
    """A request for two families of which one has no address leaves nothing of the other (trap 5 of calico.md 9)."""
    store = small()
    with pytest.raises(Exhausted, match="IPv6"):
        assign(store, request(A, "a", families=(4, 6)))
    assert sound(store, unfinished=False) == {}
