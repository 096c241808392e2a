"""Calico's acceptance list: which pools serve, reservations, configuration, strictness, utilisation.

Set aside: reservations beside what Windows reserves for the host. The selector language itself is tests/unit/
test_selector.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from datastore import keys
from datastore.api import Corrupt
from datastore.memory import MemoryStore
from datastore.resources import Pool
from ipam import configuration
from ipam.affinity import claim
from ipam.cidr import parse_address, parse_cidr
from ipam.errors import BadRequest, Exhausted
from ipam.pool import Criteria, all_pools, usable
from ipam.release import Wanted, release, release_addresses, release_handle
from ipam.reservation import reserved_ranges
from ipam.utilization import Utilization, all_blocks, utilization

from .acceptance_kit import A, B, add_pool, auto, blocks, given, label, named, one, owner, remove, reserve, within
from .allocator_reader import sound

CIDRS = {4: ("10.0.0.0/24", "10.1.0.0/24"), 6: ("fd00::/120", "fd01::/120")}
SELECTORS = {"none": "all()", "matching": "rack == 'r1'", "mismatching": "rack == 'r2'"}


# {both enabled, pool1 disabled} x {no, matching, mismatching selector} x {none, pool1, pool2 requested};
# the selector is pool1's, and "error" stands where a request names a disabled pool.
DETERMINE = [
    (False, "none", None, "12"), (False, "matching", None, "12"), (False, "mismatching", None, "2"),
    (False, "none", 1, "1"), (False, "matching", 1, "1"), (False, "mismatching", 1, "1"),
    (False, "none", 2, "2"), (False, "mismatching", 2, "2"),
    (True, "none", None, "2"), (True, "matching", None, "2"), (True, "mismatching", None, "2"),
    (True, "none", 1, "error"), (True, "mismatching", 1, "error"), (True, "none", 2, "2"),
]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("disabled", "selector", "requested", "expected"), DETERMINE)
def test_determine_pools(disabled: bool, selector: str, requested: int | None, expected: str, family: int) -> None:
    """determinePools, 14 rows a family: disabled never serves, a request ignores selectors."""
    store = MemoryStore()
    label(store, A, {"rack": "r1"})
    first, second = CIDRS[family]
    add_pool(store, "1", first, disabled=disabled, nodeSelector=SELECTORS[selector])
    add_pool(store, "2", second)
    wanted = {family: (CIDRS[family][requested - 1],)} if requested else {}
    if expected == "error":
        with pytest.raises(BadRequest, match="disabled"):
            usable(store, all_pools(store, family), Criteria(A, wanted), family)
    else:
        chosen = usable(store, all_pools(store, family), Criteria(A, wanted), family)
        assert "".join(pool.name for pool in chosen) == expected


@pytest.mark.parametrize(
    ("selector", "namespace", "serves"),
    [
        ("", {"team": "x"}, True),
        ("", None, True),
        ("all()", {}, True),
        ("team == 'x'", {"team": "x"}, True),
        ("team == 'x'", {"team": "y"}, False),
        ("team == 'x'", {}, False),
        ("team == 'x'", None, False),
        ("team in {'x', 'y'} && has(tier)", {"team": "y", "tier": "1"}, True),
    ],
)
def test_namespace_selectors(selector: str, namespace: dict[str, str] | None, serves: bool) -> None:
    """Namespace selector, 8 rows: it must match the namespace's labels; none selects every one."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24", namespaceSelector=selector)
    filled = auto(store, A, "w", namespace=namespace)
    assert len(given(filled)) == serves
    assert serves or "namespaceSelector" in str(filled.shortfall)


def test_several_pools_by_namespace() -> None:
    """Namespace selector: of several pools each namespace gets its own, both selectors must match, a request wins."""
    store = MemoryStore()
    label(store, A, {"rack": "r1"})
    add_pool(store, "1", "10.1.0.0/24", namespaceSelector="team == 'x'")
    add_pool(store, "2", "10.2.0.0/24", namespaceSelector="team == 'y'")
    add_pool(store, "3", "10.3.0.0/24", namespaceSelector="team == 'z'", nodeSelector="rack == 'r2'")
    assert one(store, A, "a", namespace={"team": "x"}).startswith("10.1.")
    assert one(store, A, "b", namespace={"team": "y"}).startswith("10.2.")
    assert given(auto(store, A, "c", namespace={"team": "z"})) == []
    assert one(store, A, "d", namespace={"team": "x"}, pools={4: ("3",)}).startswith("10.3.")


def test_a_namespace_selector_that_cannot_be_read() -> None:
    """Namespace selector: bad syntax stops the assignment, naming the pool; a request for another pool goes on."""
    store = MemoryStore()
    add_pool(store, "bad", "10.0.0.0/24", namespaceSelector="team = 'x'")
    add_pool(store, "good", "10.1.0.0/24")
    with pytest.raises(Corrupt, match="pool bad"):
        auto(store, A, "w", namespace={})
    assert one(store, A, "w", pools={4: ("good",)}).startswith("10.1.")


@pytest.mark.parametrize(
    ("uses", "use", "serves"),
    [(["Tunnel"], "Workload", False), (["Workload"], "Workload", True), (["Tunnel"], "", True), ([], "Tunnel", True),
     ([], "LoadBalancer", False)],
)
def test_allowed_uses_of_an_address_asked_for(uses: list[str], use: str, serves: bool) -> None:
    """AllowedUses on AssignIP: refused, allowed, not looked at when no use is told; tunnels may use a default pool."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24", allowedUses=uses)
    if serves:
        assert named(store, A, "w", "10.0.0.9", use=use) == "10.0.0.9"
    else:
        with pytest.raises(BadRequest, match="allowedUses"):
            named(store, A, "w", "10.0.0.9", use=use)


def test_reservations() -> None:
    """Reservations: without any all of a pool is given; with some only what is not reserved; by name any address."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/28", 30)
    assert len(given(auto(store, A, "w", 17))) == 16
    release(store, owner("w"))
    reserve(store, "r", "10.0.0.0/30", "10.0.0.5", "10.0.0.12/31")
    addresses = given(auto(store, A, "w", 17))
    free = {f"10.0.0.{last}" for last in range(4, 16)} - {"10.0.0.5", "10.0.0.12", "10.0.0.13"}
    assert set(addresses) == free
    assert named(store, A, "v", "10.0.0.5") == "10.0.0.5"


def test_a_pool_that_is_wholly_reserved() -> None:
    """Reservations: a pool without an unreserved address gives nothing, and no block of it is claimed."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24")
    reserve(store, "r", "10.0.0.0/16")
    filled = auto(store, A, "w")
    assert "256 addresses reserved" in str(filled.shortfall)
    assert blocks(store, A) == []


def test_configuration() -> None:
    """Config: the default when there is none; reading it stores nothing; what is set is read back; rules are kept."""
    store = MemoryStore()
    config = configuration.load(store)
    assert (config.strict_affinity, config.auto_allocate_blocks, config.max_blocks_per_host) == (False, True, 0)
    assert store.keys("/") == []
    configuration.save(store, strict_affinity=True, max_blocks_per_host=7)
    config = configuration.load(store)
    assert (config.strict_affinity, config.auto_allocate_blocks, config.max_blocks_per_host) == (True, True, 7)
    with pytest.raises(BadRequest, match="maxBlocksPerHost"):
        configuration.save(store, strict_affinity=False)
    with pytest.raises(BadRequest, match="autoAllocateBlocks"):
        configuration.save(store, strict_affinity=False, auto_allocate_blocks=False, max_blocks_per_host=0)


def test_strict_affinity_toggled() -> None:
    """strictAffinity toggled: when it is off a host borrows, when it is on it does not, off again it does."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/30", 30)
    one(store, A, "a")
    one(store, B, "b")
    configuration.save(store, strict_affinity=True)
    assert given(auto(store, B, "c")) == []
    with pytest.raises(BadRequest, match="strict"):
        named(store, B, "c", "10.0.0.3")
    configuration.save(store, strict_affinity=False)
    assert len(given(auto(store, B, "c"))) == 1


def test_borrow_and_release() -> None:
    """Borrow + release: a borrowed address goes back to the block it is of, which stays its host's."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/30", 30)
    one(store, A, "a")
    borrowed = one(store, B, "b")
    assert release(store, owner("b")) == [parse_address(borrowed)]
    assert blocks(store, A) == ["10.0.0.0/30"]
    assert blocks(store, B) == []
    assert sound(store, unfinished=False).keys() == {"10.0.0.0"}


def test_very_long_host_names() -> None:
    """Very long host names: one of 253 characters gets addresses and gives them back."""
    store, name = MemoryStore(), "h" * 253
    add_pool(store, "p", "10.0.0.0/24")
    one(store, name, "w")
    assert len(blocks(store, name)) == 1
    assert release(store, owner("w"))


def test_node_selectors() -> None:
    """Node selectors: a host gets addresses only of the pool that matches its labels, as they are now."""
    store = MemoryStore()
    add_pool(store, "1", "10.1.0.0/24", nodeSelector="rack == 'r1'")
    add_pool(store, "2", "10.2.0.0/24", nodeSelector="rack == 'r2'")
    label(store, A, {"rack": "r1"})
    assert one(store, A, "a").startswith("10.1.")
    label(store, A, {"rack": "r2"})
    assert one(store, A, "b").startswith("10.2.")
    assert given(auto(store, B, "c")) == []


@pytest.mark.parametrize("how", ["address", "handle"])
def test_a_selector_changes_and_the_last_address_is_released(how: str) -> None:
    """Node selectors: once the pool selects the host no more, a block goes with its last address, not before."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24")
    first, second = one(store, A, "first"), one(store, A, "last")
    add_pool(store, "p", "10.0.0.0/24", nodeSelector="rack == 'r1'")
    for name, address, left in (("first", first, 1), ("last", second, 0)):
        if how == "handle":
            release_handle(store, f"net.{name}")
        else:
            release_addresses(store, [Wanted(parse_address(address))])
        assert len(blocks(store, A)) == left
    assert sound(store, unfinished=False) == {}


def test_a_selector_moves_between_two_hosts() -> None:
    """Node selectors, no free block: what the host deselected has let go of, empty, the one selected now gets."""
    store = MemoryStore()
    label(store, A, {"on": "yes"})
    add_pool(store, "p", "10.0.0.0/26", nodeSelector="has(on)")
    configuration.save(store, strict_affinity=True)
    one(store, A, "a")
    label(store, B, {"on": "yes"})
    label(store, A, {})
    assert given(auto(store, B, "b")) == []
    release(store, owner("a"))
    assert one(store, B, "b")
    assert blocks(store, B) == ["10.0.0.0/26"]


def deselected(pool: dict[str, Any], **more: Any) -> list[str]:
    """Return what of its empty block is left to a host, after an assignment when the pool has changed so."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24")
    add_pool(store, "q", "10.9.0.0/24")
    claim(store, A, parse_cidr("10.0.0.0/26"))
    add_pool(store, "p", "10.0.0.0/24", **pool)
    assert one(store, A, "w", **more).startswith("10.9.")
    return [cidr for cidr in blocks(store, A) if cidr.startswith("10.0.")]


def test_an_empty_block_of_a_pool_that_deselects_the_host() -> None:
    """Node selectors: the host's next assignment lets go of an empty block in a pool that selects it no more."""
    assert deselected({"nodeSelector": "has(nothing)"}) == []


def test_an_empty_block_is_kept_by_its_host() -> None:
    """Node selectors: it is not let go of because of the use that the pool allows, nor when another is requested."""
    assert deselected({"allowedUses": ["Tunnel"]}) == ["10.0.0.0/26"]
    assert deselected({"nodeSelector": "has(nothing)"}, pools={4: ("q",)}) == ["10.0.0.0/26"]


def test_a_deleted_pool_is_not_assigned_from() -> None:
    """Not from deleted pools: one being deleted, or gone, gives nothing, though the host has a block of it."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24")
    one(store, A, "a")
    record = store.get(keys.ippool("p"))
    leaving = {**record.value, "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    store.update(record.key, leaving, record.revision)
    assert "being deleted" in str(auto(store, A, "b").shortfall)
    remove(store, record.key)
    assert isinstance(auto(store, A, "b").shortfall, Exhausted)


def test_the_default_pool_replaced() -> None:
    """Default pool deleted and replaced: a new host uses the new pool, and an old one does not use its old block."""
    store = MemoryStore()
    add_pool(store, "old", "10.0.0.0/24")
    one(store, A, "a")
    remove(store, keys.ippool("old"))
    add_pool(store, "new", "10.1.0.0/24")
    assert one(store, B, "b").startswith("10.1.")
    assert one(store, A, "c").startswith("10.1.")


def usage(store: MemoryStore) -> Utilization:
    return utilization(all_pools(store, 4), reserved_ranges(store, 4), all_blocks(store, 4))


@pytest.mark.parametrize(
    ("reserved", "count", "free"),
    [
        ([], 0, 254),
        (["10.0.0.32/30"], 4, 250),
        (["10.0.0.128/30"], 4, 250),
        (["10.0.0.1"], 1, 254),
        (["10.0.0.0/30"], 4, 252),
        (["10.0.0.32/30", "10.0.0.32/31", "10.0.0.33"], 4, 250),
        (["10.0.0.0/16"], 256, 0),
        (["10.1.0.0/24", "fd00::/64"], 0, 254),
    ],
)
def test_utilisation_with_reservations(reserved: list[str], count: int, free: int) -> None:
    """Utilisation: reserved inside a block, outside any, over an allocated address, overlapping, all, elsewhere."""
    store = MemoryStore()
    add_pool(store, "p", "10.0.0.0/24")
    named(store, A, "a", "10.0.0.1")
    named(store, A, "b", "10.0.0.2")
    if reserved:
        reserve(store, "r", *reserved)
    (pool,) = usage(store).pools
    assert (pool.total, pool.in_use, pool.reserved, pool.free) == (256, 2, count, free)


def test_a_pool_with_calico_s_defaults() -> None:
    """A pool's record without the optional fields has Calico's defaults."""
    store = MemoryStore()
    store.create(keys.ippool("p"), {"metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/24"}})
    assert all_pools(store, 4) == [Pool("p", "10.0.0.0/24", 26, revision=1)]
    assert within(given(auto(store, A, "w", 300)), "10.0.0.0/24") == 256
