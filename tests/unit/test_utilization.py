"""How full pools and blocks are: reservations over a pool, use over its blocks, as Calico counts (GetUtilization)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastore import keys
from datastore.api import Corrupt
from datastore.memory import MemoryStore
from datastore.model import Attribute, Block
from datastore.resources import Pool
from ipam.block import give, host_affinity, new_block
from ipam.cidr import parse_cidr
from ipam.reservation import reserved_ranges
from ipam.utilization import BlockUsage, Places, all_blocks, block_usage, is_borrowed, node_of, utilization

POOL = Pool("pool", "10.0.0.0/24", 28)
OWNER = Attribute("net.a", {"node": "n1"})


def ranges(*cidrs: str) -> list[str]:
    """Return what the store makes of reservations of these CIDRs, one reservation for each."""
    store = MemoryStore()
    for at, cidr in enumerate(cidrs):
        store.create(keys.ipreservation(f"r{at}"), {"metadata": {"name": f"r{at}"}, "spec": {"reservedCIDRs": [cidr]}})
    return [str(cidr) for cidr in reserved_ranges(store, 4)]


def block(cidr: str, used: list[int], node: str = "n1", owner: Attribute = OWNER) -> Block:
    return give(new_block(parse_cidr(cidr), node, 1, "2026-08-01T10:00:00Z"), used, owner)


def pool_of(reserved: list[str], *blocks: Block) -> tuple[int, int, int, int]:
    """Return a pool's total, in use, reserved and free."""
    [usage] = utilization([POOL], list(map(parse_cidr, reserved)), blocks).pools
    return usage.total, usage.in_use, usage.reserved, usage.free


def counts(usage: BlockUsage) -> tuple[int, int, int, int]:
    return usage.total, usage.in_use, usage.reserved, usage.free


def test_a_reservation_inside_a_block() -> None:
    reserved = ranges("10.0.0.4/30")
    inside = block("10.0.0.0/28", [0, 1])
    assert counts(block_usage(inside, list(map(parse_cidr, reserved)))) == (16, 2, 4, 10)
    assert pool_of(reserved, inside) == (256, 2, 4, 250)


def test_a_reservation_outside_any_block() -> None:
    """It counts for the pool, whose addresses it makes fewer, and for no block."""
    reserved = ranges("10.0.0.128/25")
    outside = block("10.0.0.0/28", [0])
    assert counts(block_usage(outside, list(map(parse_cidr, reserved)))) == (16, 1, 0, 15)
    assert pool_of(reserved, outside) == (256, 1, 128, 127)


def test_a_reservation_over_an_allocated_address() -> None:
    """The address is in use and reserved, and taken off the free ones once."""
    reserved = ranges("10.0.0.0/31")
    over = block("10.0.0.0/28", [1, 2])
    assert counts(block_usage(over, list(map(parse_cidr, reserved)))) == (16, 2, 2, 13)
    assert pool_of(reserved, over) == (256, 2, 2, 253)


def test_overlapping_reservations_count_once() -> None:
    reserved = ranges("10.0.0.0/29", "10.0.0.4/30", "10.0.0.5", "10.0.0.0/29")
    assert reserved == ["10.0.0.0/29"]
    assert pool_of(reserved, block("10.0.0.0/28", [])) == (256, 0, 8, 248)


def test_a_reservation_larger_than_the_pool() -> None:
    assert pool_of(ranges("10.0.0.0/8"), block("10.0.0.0/28", [3])) == (256, 1, 256, 0)


def test_a_reservation_of_another_family() -> None:
    """The numbers of ::a00:0/120 are those of 10.0.0.0/24; its addresses are not."""
    v6 = [parse_cidr("::a00:0/120")]
    assert counts(block_usage(block("10.0.0.0/28", []), v6)) == (16, 0, 0, 16)
    [usage] = utilization([POOL], v6, []).pools
    assert (usage.reserved, usage.free) == (0, 256)


def test_what_cools_down_is_in_use() -> None:
    resting = block("10.0.0.0/28", [0, 1], owner=Attribute(None, {}, released_at="2026-08-01T10:00:00Z"))
    usage = block_usage(give(resting, [5], OWNER), [])
    assert (usage.in_use, usage.cooling, usage.free) == (3, 2, 13)


def test_what_other_nodes_hold_is_borrowed() -> None:
    lent = give(block("10.0.0.0/28", [0]), [1, 2], Attribute("net.b", {"node": "n2"}))
    assert block_usage(lent, []).borrowed == 2


@pytest.mark.parametrize(("affinity", "owner", "expected"), [
    ("host:n1", {"node": "n1"}, False),
    ("host:n1", {"node": "n2"}, True),
    ("host:n1", {"pod": "a"}, False),
    (None, {"node": "n1"}, True),
    (None, {}, False),
    ("virtual:load-balancer", {"node": "n1"}, True),
])
def test_when_an_address_is_borrowed(affinity: str | None, owner: dict[str, str], expected: bool) -> None:
    """Calico's rule: the allocation says a node, and it is not the block's, or the block has none."""
    whose = Block("10.0.0.0/32", affinity, (None,), (0,), (), 1, {})
    assert is_borrowed(whose, Attribute("h", owner)) is expected


def test_the_node_of_an_affinity() -> None:
    assert [node_of(text) for text in ("host:n1", "virtual:load-balancer", "n1", None)] == [
        "n1", "load-balancer", "n1", None]
    assert node_of(host_affinity("a.b-c")) == "a.b-c"


def test_a_block_counts_for_the_first_pool_that_holds_it() -> None:
    """Pools may lie within each other; a block that is larger than a pool is not in it."""
    pools = [Pool("a", "10.0.0.0/25", 28), Pool("b", "10.0.0.0/24", 28), Pool("c", "10.0.0.0/25", 28),
             Pool("d", "fd00::/64", 122)]
    place = Places(pools)
    assert [place.of(parse_cidr(cidr)) for cidr in ("10.0.0.0/28", "10.0.0.128/28", "10.0.0.0/24", "10.0.0.0/23",
                                                    "10.0.1.0/28", "fd00::40/122", "fe00::/122")] == [
        0, 1, 1, None, None, 3, None]


def test_blocks_without_a_pool_and_the_order_of_all() -> None:
    blocks = [block(cidr, []) for cidr in ("10.0.0.128/28", "10.1.0.0/28", "10.0.0.32/28", "10.0.9.0/28")]
    found = utilization([POOL], [], blocks)
    assert [usage.cidr for usage in found.pools[0].blocks] == ["10.0.0.32/28", "10.0.0.128/28"]
    assert [usage.cidr for usage in found.without_pool] == ["10.0.9.0/28", "10.1.0.0/28"]


def test_one_pool_of_a_store() -> None:
    store = MemoryStore()
    store.create(keys.block(4, "10.0.0.0/30"), {
        "cidr": "10.0.0.0/30", "affinity": "host:n1", "allocations": [None, 0, None, None], "unallocated": [0, 2, 3],
        "attributes": [{"handle_id": "h", "secondary": {}}]})
    store.create(keys.ipreservation("r"), {"metadata": {"name": "r"}, "spec": {"reservedCIDRs": ["10.0.0.2"]}})
    usage = utilization([Pool("p", "10.0.0.0/16", 30)], reserved_ranges(store, 4), all_blocks(store, 4)).pools[0]
    assert (usage.in_use, usage.reserved, usage.free, usage.block_limit) == (1, 1, 65534, 16384)
    store.create(keys.block(4, "10.0.0.4/30"), {"cidr": "10.0.0.4/30", "allocations": [0], "unallocated": [],
                                                "attributes": []})
    with pytest.raises(Corrupt, match=r"10\.0\.0\.4/30"):
        utilization([Pool("p", "10.0.0.0/16", 30)], reserved_ranges(store, 4), all_blocks(store, 4)).pools[0]


@given(
    st.dictionaries(st.integers(0, 15), st.sets(st.integers(0, 15)), max_size=6),
    st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=5),
)
def test_counts_are_those_of_the_addresses_one_by_one(
    used: dict[int, set[int]], reservations: list[tuple[int, int]]
) -> None:
    """Whatever is in use and reserved: each address is looked at by itself."""
    reserved = ranges(*(f"10.0.0.{number >> 32 - prefix << 32 - prefix}/{prefix}"
                        for number, prefix in reservations))
    blocks = [block(f"10.0.0.{16 * at}/28", sorted(ordinals)) for at, ordinals in used.items()]
    taken = {16 * at + ordinal for at, ordinals in used.items() for ordinal in ordinals}
    kept = {number for number in range(256)
            if any(parse_cidr("10.0.0.0/24").address(number) in parse_cidr(cidr) for cidr in reserved)}
    assert pool_of(reserved, *blocks) == (256, len(taken), len(kept), 256 - len(taken | kept))
    for one in blocks:
        first = parse_cidr(one.cidr).first - parse_cidr(POOL.cidr).first
        mine = set(range(first, first + 16))
        assert counts(block_usage(one, list(map(parse_cidr, reserved)))) == (
            16, len(mine & taken), len(mine & kept), len(mine - taken - kept))
