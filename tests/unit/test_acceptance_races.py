"""Calico's acceptance list: the races of the block reader and writer, each in every order of calls.

Two or more actors work on one store, call by call, in 300 orders each (allocator_kit.py, interleave). Any order of
anything is test_allocator_machine.py; a race lost at each single call is test_conflicts.py. Set aside: addresses that
Windows reserves for the host. That a record made anew is never taken for its predecessor (Kubernetes: UID) is asked of
every store (test_store.py, revisions) and here of affinity, block and handle.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from datastore import keys
from datastore.api import Conflict, Missing, Store
from datastore.model import block_of
from ipam import configuration
from ipam.affinity import claim, claim_range, give_up
from ipam.assign import Request, auto_assign
from ipam.cidr import parse_cidr
from ipam.handle import Owner
from ipam.release import release, release_handle
from ipam.remove import release_host

from .acceptance_kit import A, B, add_pool, auto, blocks, given, named, one, owner
from .allocator_kit import Action, Outcome, interleave
from .allocator_reader import read, sound
from .stores import QuickStore

BLOCK = parse_cidr("10.0.0.0/30")
ORDERS = 300


def runs(actions: Sequence[Action], prepare: Callable[[Store], object] = lambda store: None,
         cidr: str = "10.0.0.0/28") -> Iterator[tuple[QuickStore, list[Outcome]]]:
    """Run the actions at the same time in many orders; yield each store, in which all records agree, with outcomes."""
    for seed in range(ORDERS):
        store = QuickStore()
        add_pool(store, "p", cidr, 30)
        prepare(store)
        outcomes = interleave(store, actions, random.Random(seed).randbytes(30))
        sound(store)
        yield store, outcomes


def results(outcomes: Sequence[Outcome]) -> list[Any]:
    """Return the results; nobody may have failed."""
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error
    return [outcome.result for outcome in outcomes]


def test_different_hosts_claim_the_same_block() -> None:
    """Two hosts claim the same block: one has it, the other is told so, and keeps no affinity to it."""
    winners = set()
    for store, outcomes in runs([partial(claim_range, node=node, within=BLOCK, block_size=30) for node in (A, B)]):
        claimed = [bool(done[0]) for done in results(outcomes)]
        assert sorted(claimed) == [False, True]
        winner, loser = (A, B) if claimed[0] else (B, A)
        assert (blocks(store, winner), blocks(store, loser)) == ([str(BLOCK)], [])
        assert set(read(store).affinities) == {(winner, str(BLOCK))}
        winners.add(winner)
    assert winners == {A, B}


def test_the_same_host_claims_at_the_same_time() -> None:
    """One host claims a block in two processes: both have it, and its affinity is confirmed."""
    for store, outcomes in runs([lambda store: claim_range(store, A, BLOCK, 30)] * 2):
        assert results(outcomes) == [([BLOCK], [])] * 2
        assert read(store).affinities == {(A, str(BLOCK)): "confirmed"}


def test_the_same_host_assigns_at_the_same_time() -> None:
    """One host assigns in three processes: three addresses, and each block that was claimed is the host's."""
    actions: list[Action] = [partial(auto, node=A, name=name, count=2) for name in "abc"]
    for store, outcomes in runs(actions):
        addresses = [address for filled in results(outcomes) for address in given(filled)]
        assert len(set(addresses)) == 6
        assert set(read(store).affinities.values()) == {"confirmed"}


def test_one_handle_assigns_at_the_same_time() -> None:
    """Two processes assign for one handle: each keeps what it was given, also when both were about to take the same."""
    def prepare(store: Store) -> None:
        auto(store, A, "old")

    for store, outcomes in runs([partial(auto, node=A, name="a")] * 2, prepare):
        addresses = [address for filled in results(outcomes) for address in given(filled)]
        assert sorted(address for address, name in sound(store).items() if name == "a") == sorted(set(addresses))
        assert len(set(addresses)) == 2


def test_one_handle_is_released_at_the_same_time() -> None:
    """A handle is released as a whole and for one of its two interfaces: both end, and no count is left of it."""
    net1 = Owner("net.a", {"network": "net", "container": "a", "interface": "net1"})

    def prepare(store: Store) -> None:
        named(store, A, "a", "10.0.0.1")

    actions: list[Action] = [lambda store: release(store, net1), lambda store: release_handle(store, "net.a")]
    for store, outcomes in runs(actions, prepare):
        nothing, freed = results(outcomes)
        assert (nothing, list(map(str, freed))) == ([], ["10.0.0.1"])
        assert read(store).handles == {}


def test_one_handle_is_released_while_it_is_assigned_to() -> None:
    """One interface's addresses are released while it gets more: the other keeps its own, the count is right."""
    net1 = Owner("net.a", {"network": "net", "container": "a", "interface": "net1"})

    def prepare(store: Store) -> None:
        named(store, A, "a", "10.0.0.0")

    def more(store: Store) -> object:
        return auto_assign(store, Request(A, net1, env={"NO_DEFAULT_POOLS": "true"}, count=3), 4)

    for store, outcomes in runs([more, lambda store: release(store, net1)], prepare):
        filled, freed = results(outcomes)
        assert len(sound(store)) == 1 + len(given(filled)) - len(freed)
        assert len(given(filled)) == 3


def test_many_claims_at_the_same_time() -> None:
    """Many claims: four hosts take all of a pool between them, no address twice, none refused while there is one."""
    actions: list[Action] = [partial(auto, node=f"h{at}", name=f"c{at}", count=5) for at in range(4)]
    for store, outcomes in runs(actions):
        addresses = [address for filled in results(outcomes) for address in given(filled)]
        assert len(addresses) == len(set(addresses)) == 16
        assert sorted(sound(store)) == sorted(addresses)


def test_a_release_while_a_claim_makes_the_block() -> None:
    """A claim makes the block while its affinity is released: the block is the host's with an affinity, or is not."""
    ends = set()
    actions: list[Action] = [lambda store: claim_range(store, A, BLOCK, 30), lambda store: give_up(store, A, BLOCK)]
    for store, outcomes in runs(actions):
        results(outcomes)
        ends.add((len(read(store).blocks), len(read(store).affinities)))
    assert ends <= {(0, 0), (1, 1)}
    assert (1, 1) in ends


def test_a_claim_of_another_host_while_a_block_is_given_up() -> None:
    """A block is being deleted while another host claims it: it is the first's no more, and the other's or nobody's."""
    def prepare(store: Store) -> None:
        claim(store, A, BLOCK)

    taken = set()
    actions: list[Action] = [lambda store: give_up(store, A, BLOCK), lambda store: claim_range(store, B, BLOCK, 30)]
    for store, outcomes in runs(actions, prepare):
        gone, (claimed, _) = results(outcomes)
        assert gone
        assert blocks(store, A) == []
        assert blocks(store, B) == [str(cidr) for cidr in claimed]
        taken.add(bool(claimed))
    assert taken == {True, False}


def test_an_allocation_while_the_affinity_is_released_as_empty() -> None:
    """A block is released as empty while its host assigns: the address is held, in a block that somebody can find."""
    def prepare(store: Store) -> None:
        claim(store, A, BLOCK)

    actions: list[Action] = [lambda store: one(store, A, "a"), lambda store: give_up(store, A, BLOCK, True)]
    for store, outcomes in runs(actions, prepare):
        address, _ = results(outcomes)
        assert sound(store) == {address: "a"}
        assert list(map(str, release(store, owner("a")))) == [address]


def test_claims_and_releases() -> None:
    """A host's blocks are released while it assigns and releases: nothing is lost, and nothing is left at the end."""
    def prepare(store: Store) -> None:
        auto(store, A, "old", 3)

    actions: list[Action] = [lambda store: auto(store, A, "new", 3), lambda store: release(store, owner("old")),
                             lambda store: release_host(store, A)]
    for store, outcomes in runs(actions, prepare):
        filled, freed, _ = results(outcomes)
        assert (len(given(filled)), len(freed)) == (3, 3)
        assert sorted(sound(store)) == sorted(given(filled))
        release_handle(store, "net.new")
        release_host(store, A)
        assert read(store).blocks == {}
        assert read(store).affinities == {}


def old_block(store: Store, node: str) -> None:
    """Give a node an empty block that it claimed long ago."""
    claim(store, node, BLOCK)
    record = store.get(keys.block(4, str(BLOCK)))
    store.update(record.key, {**record.value, "affinity_claim_time": "2020-01-01T00:00:00Z"}, record.revision)


def test_reclaim_of_an_empty_block() -> None:
    """Reclaim: where no block is left, an empty one of another host is taken from it; one claimed just now is not."""
    store = QuickStore()
    add_pool(store, "p", str(BLOCK), 30)
    configuration.save(store, strict_affinity=True)
    claim(store, B, BLOCK)
    assert given(auto(store, A, "a")) == []
    give_up(store, B, BLOCK)
    old_block(store, B)
    assert one(store, A, "a") == "10.0.0.0"
    assert (blocks(store, A), blocks(store, B)) == ([str(BLOCK)], [])
    sound(store, unfinished=False)


def test_reclaim_fails_when_the_block_is_used_meanwhile() -> None:
    """Reclaim failure: the other host assigns while its block is being reclaimed: one of the two has it, whole."""
    def prepare(store: Store) -> None:
        configuration.save(store, strict_affinity=True)
        old_block(store, B)

    ends = set()
    actions: list[Action] = [lambda store: auto(store, A, "a"), lambda store: auto(store, B, "b")]
    for store, outcomes in runs(actions, prepare, str(BLOCK)):
        first, second = map(given, results(outcomes))
        assert len(first) + len(second) == 1
        assert (blocks(store, A), blocks(store, B)) == (([str(BLOCK)], []) if first else ([], [str(BLOCK)]))
        ends.add(bool(first))
    assert ends == {True, False}


def test_nobody_is_refused_while_a_block_is_reclaimed() -> None:
    """Reclaim: a third host, which only borrows, finds the one address that is left over, whenever it looks for it."""
    for _, outcomes in runs([partial(auto, node=A, name="a", count=3), partial(auto, node="host-c", name="c")],
                            lambda store: old_block(store, B), str(BLOCK)):
        assert [len(given(filled)) for filled in results(outcomes)] == [3, 1]


@pytest.mark.parametrize("kind", ["affinity", "block", "handle"])
def test_a_record_made_anew_is_not_its_predecessor(kind: str) -> None:
    """UID respected: who read an affinity, a block or a handle cannot change or remove one that was made anew since."""
    store = QuickStore()
    add_pool(store, "p", "10.0.0.0/28", 30)
    named(store, A, "a", "10.0.0.0")
    key = {"affinity": keys.affinity(A, 4, str(BLOCK)), "block": keys.block(4, str(BLOCK)),
           "handle": keys.handle("net.a")}[kind]
    old = store.get(key)
    release(store, owner("a"))
    release_host(store, A)
    with pytest.raises(Missing):
        store.delete(key, old.revision)
    named(store, A, "a", "10.0.0.0")
    for write in (lambda: store.delete(key, old.revision), lambda: store.update(key, old.value, old.revision)):
        with pytest.raises(Conflict):
            write()
    assert sound(store, unfinished=False) == {"10.0.0.0": "a"}


def test_a_block_made_anew_goes_on_counting() -> None:
    """A block that is made again begins at a higher sequence number than it ever had (trap 7 of calico.md 9)."""
    store = QuickStore()
    claim(store, A, BLOCK)
    old = block_of(store.get(keys.block(4, str(BLOCK)))).sequence
    give_up(store, A, BLOCK)
    claim(store, A, BLOCK)
    assert block_of(store.get(keys.block(4, str(BLOCK)))).sequence > old
