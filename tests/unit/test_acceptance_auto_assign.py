"""Calico's acceptance list: AutoAssign, EnsureBlock, findOrClaimBlock, requested pools, messages.

Set aside: the performance rows (bench/ measures; no test asserts times), and those with addresses that Windows reserves
for the host in each block ("too small for reserved", host-reserved), which this plugin does not serve.
"""

from __future__ import annotations

import pytest

from datastore.memory import MemoryStore
from ipam import configuration
from ipam.errors import BadRequest, BlockLimit, Exhausted

from .acceptance_kit import A, B, add_pool, auto, blocks, ensured, given, named, one, reserve, within
from .allocator_reader import sound


def dual(store: MemoryStore, v4: str, size4: int, v6: str, size6: int) -> None:
    add_pool(store, "p4", v4, size4)
    add_pool(store, "p6", v6, size6)


def test_a_pool_of_the_wrong_use() -> None:
    """AutoAssign: a pool that is not for workloads gives a workload nothing."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24", allowedUses=["Tunnel"])
    filled = auto(store, A, "w")
    assert given(filled) == []
    assert "not for workloads" in str(filled.shortfall)


@pytest.mark.parametrize("use", ["Tunnel", "Workload"])
def test_a_pool_of_the_right_use(use: str) -> None:
    """AutoAssign: a pool for the use asked for gives one."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24", allowedUses=[use])
    assert len(given(auto(store, A, "w", use=use))) == 1


@pytest.mark.parametrize(("size4", "size6"), [(32, 128), (20, 116), (26, 122)])
def test_one_of_each(size4: int, size6: int) -> None:
    """AutoAssign: one IPv4 and one IPv6 address, from blocks of one address, of 4,096 and of 64."""
    store = MemoryStore()
    dual(store, "10.0.0.0/16", size4, "fd00::/112", size6)
    assert len(given(auto(store, A, "w"))) == 1
    assert len(given(auto(store, A, "w", family=6))) == 1
    assert len(sound(store, unfinished=False)) == 2


@pytest.mark.parametrize(("size4", "size6", "limit"), [(26, 122, 0), (30, 126, 256)])
def test_256_of_each(size4: int, size6: int, limit: int) -> None:
    """AutoAssign: 256 and 256, also from blocks of four once the block limit is raised to 256."""
    store = MemoryStore()
    dual(store, "10.0.0.0/24", size4, "fd00::/120", size6)
    for family in (4, 6):
        filled = auto(store, A, "w", 256, family, block_limit=limit)
        assert (len(set(given(filled))), filled.shortfall) == (256, None)
    assert len(sound(store, unfinished=False)) == 512


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("limit", "count"), [(1, 64), (2, 128)])
def test_the_block_limit(limit: int, count: int, family: int) -> None:
    """AutoAssign: a host that may have one block gets 64 of 256 and ErrBlockLimit, with two 128; IPv6 likewise."""
    store = MemoryStore()
    dual(store, "10.0.0.0/16", 26, "fd00::/112", 122)
    filled = auto(store, A, "w", 256, family, block_limit=limit)
    assert len(given(filled)) == count
    assert isinstance(filled.shortfall, BlockLimit)
    assert f"assigned {count} out of 256 requested" in str(filled.shortfall)
    again = auto(store, A, "w", 1, family, block_limit=limit)
    assert (given(again), isinstance(again.shortfall, BlockLimit)) == ([], True)
    assert len(blocks(store, A)) == limit


def test_257_of_256() -> None:
    """AutoAssign: a request for one more than the pool has gets all it has, and a message."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24")
    filled = auto(store, A, "w", 257)
    assert len(given(filled)) == 256
    assert "assigned 256 out of 257 requested" in str(filled.shortfall)
    assert not isinstance(filled.shortfall, BlockLimit)


def test_a_pool_of_two_blocks_shared_by_two_hosts() -> None:
    """AutoAssign: host A takes 1 and host B 1 of a /25; A's 64 more are 63 of its own block and one that it borrows."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/25")
    one(store, A, "a")
    one(store, B, "b")
    filled = auto(store, A, "more", 64)
    assert filled.shortfall is None
    (own,), (other,) = blocks(store, A), blocks(store, B)
    assert (within(given(filled), own), within(given(filled), other)) == (63, 1)


def test_strict_affinity() -> None:
    """AutoAssign, strict: of 256 a host gets the 64 of the block that it has, and a message; nothing is borrowed."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/25")
    configuration.save(store, strict_affinity=True)
    one(store, B, "b")
    filled = auto(store, A, "a", 256)
    (own,) = blocks(store, A)
    assert (len(given(filled)), within(given(filled), own)) == (64, 64)
    assert "assigned 64 out of 256 requested" in str(filled.shortfall)
    assert "strict affinity" in str(filled.shortfall)


def test_the_block_limit_of_the_configuration() -> None:
    """MaxBlocksPerHost: the configuration's limit holds, and the smaller of it and the request's; 0 means 20."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/16", 30)
    assert len(given(auto(store, A, "a", 100))) == 80
    assert len(blocks(store, A)) == 20
    configuration.save(store, strict_affinity=True, max_blocks_per_host=3)
    assert len(given(auto(store, B, "b", 100))) == 12
    assert len(given(auto(store, "host-c", "c", 100, block_limit=2))) == 8
    assert len(given(auto(store, "host-d", "d", 100, block_limit=4))) == 12


def test_at_the_limit_nothing_is_borrowed() -> None:
    """MaxBlocksPerHost: a host at its limit is told so, though others' blocks have room to borrow."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24")
    one(store, B, "b")
    filled = auto(store, A, "a", 65, block_limit=1)
    assert len(given(filled)) == 64
    assert isinstance(filled.shortfall, BlockLimit)


@pytest.mark.parametrize("family", [4, 6])
def test_requested_pools_that_cannot_serve(family: int) -> None:
    """Requested pools: disabled, of the other family, unknown, and a good one beside a bad one: the request fails."""
    store = MemoryStore()
    dual(store, "10.0.0.0/24", 26, "fd00::/120", 122)
    own, other = (("10.0.0.0/24", "fd00::/120") if family == 4 else ("fd00::/120", "10.0.0.0/24"))
    add_pool(store, "off", "10.1.0.0/24" if family == 4 else "fd01::/120", disabled=True)
    for wanted in (("off",), (other,), ("none",), (own, "none"), (own, other), (own, "off")):
        with pytest.raises(BadRequest, match="pool"):
            auto(store, A, "w", 1, family, pools={family: wanted})
        with pytest.raises(BadRequest, match="pool"):
            ensured(store, A, family, pools={family: wanted})
    assert sound(store, unfinished=False) == {}
    assert blocks(store, A) == []


def test_the_first_of_two_requested_pools() -> None:
    """Requested pools, EnsureBlock: of two the first that is named serves, whatever the order of their names."""
    store = MemoryStore()
    add_pool(store, "a", "10.0.0.0/24")
    add_pool(store, "b", "10.1.0.0/24")
    assert one(store, A, "w", pools={4: ("b", "a")}).startswith("10.1.0.")
    assert ensured(store, B, pools={4: ("b", "a")}).startswith("10.1.0.")
    assert ensured(store, "host-c", pools={4: ("a", "b")}).startswith("10.0.0.")


def test_300_from_two_requested_pools() -> None:
    """Requested pools: 300 addresses come from both; of the next 300 those that are left are given, with a message."""
    store = MemoryStore()
    add_pool(store, "a", "10.0.0.0/24")
    add_pool(store, "b", "10.1.0.0/24")
    first = auto(store, A, "w", 300, pools={4: ("a", "b")})
    assert (len(given(first)), first.shortfall) == (300, None)
    assert (within(given(first), "10.0.0.0/24"), within(given(first), "10.1.0.0/24")) == (256, 44)
    second = auto(store, A, "v", 300, pools={4: ("a", "b")})
    assert len(given(second)) == 212
    assert "assigned 212 out of 300 requested" in str(second.shortfall)


def test_the_same_block_for_the_same_requested_pool() -> None:
    """Requested pools: a host keeps to the block that it has in the pool, and returns to it after another pool."""
    store = MemoryStore()
    add_pool(store, "a", "10.0.0.0/24")
    add_pool(store, "b", "10.1.0.0/24")
    configuration.save(store, strict_affinity=True)
    for name in ("1", "2"):
        one(store, A, name, pools={4: ("a",)})
        one(store, A, name, pools={4: ("b",)})
    assert [cidr[:5] for cidr in blocks(store, A)] == ["10.0.", "10.1."]


def test_a_requested_pool_alone_serves() -> None:
    """Requested pools: when the one requested is full nothing comes from another."""
    store = MemoryStore()
    add_pool(store, "a", "10.0.0.0/30", 30)
    add_pool(store, "b", "10.1.0.0/24")
    filled = auto(store, A, "w", 5, pools={4: ("a",)})
    assert (len(given(filled)), within(given(filled), "10.0.0.0/30")) == (4, 4)
    assert filled.shortfall


def test_ensure_block() -> None:
    """EnsureBlock: without pools requested a block of any; again the same; IPv6 has its own; none is used."""
    store = MemoryStore()
    dual(store, "10.0.0.0/24", 26, "fd00::/120", 122)
    first = ensured(store, A)
    assert ensured(store, A) == first
    assert blocks(store, A) == [first]
    sixth = ensured(store, A, 6)
    assert blocks(store, A) == sorted([first, sixth])
    assert sound(store, unfinished=False) == {}
    assert within([one(store, A, "w")], first) == 1


def test_ensure_block_without_a_pool_that_serves() -> None:
    """EnsureBlock: when every pool is disabled there is no block, and the error says why."""
    store = MemoryStore()
    add_pool(store, "a", "10.0.0.0/24", disabled=True)
    with pytest.raises(Exhausted, match="disabled"):
        ensured(store, A)


def test_find_or_claim_skips_what_is_reserved() -> None:
    """findOrClaimBlock: a block that is wholly reserved is not claimed; one that is the host's already is not used."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/25")
    first = ensured(store, A)
    reserve(store, "r", first)
    second = ensured(store, A)
    assert second != first
    assert within([one(store, A, "w")], second) == 1


def test_find_or_claim_skips_what_is_full() -> None:
    """findOrClaimBlock: a full block is passed over for the next; the answer is the same until that is full, too."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24")
    auto(store, A, "w", 64)
    second = ensured(store, A)
    assert ensured(store, A) == second
    assert len(blocks(store, A)) == 2
    auto(store, A, "v", 64)
    assert ensured(store, A) != second


def test_find_or_claim_claims_a_new_one_only_when_it_must() -> None:
    """findOrClaimBlock: one free address in the host's block is enough not to claim another; and it is found."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24")
    auto(store, A, "w", 63)
    (own,) = blocks(store, A)
    assert ensured(store, A) == own
    assert within([one(store, A, "last")], own) == 1
    assert blocks(store, A) == [own]


@pytest.mark.parametrize(
    ("config", "pool", "message"),
    [
        ({}, {}, "assigned 16 out of 20 requested"),
        ({}, {}, r"pool p 10\.0\.0\.0/28 has 16 of 16 addresses in use in 4 of 4 blocks"),
        ({"strict_affinity": True}, {}, "strict affinity"),
        ({"strict_affinity": True, "max_blocks_per_host": 1}, {}, "maxBlocksPerHost"),
        ({"strict_affinity": True, "auto_allocate_blocks": False}, {}, "autoAllocateBlocks is off"),
        ({}, {"disabled": True}, "disabled"),
        ({}, {"nodeSelector": "rack == 'x'"}, "nodeSelector"),
    ],
)
def test_messages_of_partial_fulfilment(config: dict[str, object], pool: dict[str, object], message: str) -> None:
    """Partial fulfilment: the message has counts, and why no more were given: limit, strictness, full, passed over."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/28", 30, **pool)
    configuration.save(store, **config)
    if config.get("strict_affinity") and not pool:
        named(store, B, "b", "10.0.0.0")
    with pytest.raises(Exhausted, match=message):
        raise auto(store, A, "w", 20).shortfall or AssertionError("all were given")
