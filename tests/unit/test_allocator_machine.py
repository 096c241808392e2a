"""The allocator under any order of deeds, deaths, lost answers and races, against a simple model.

After every step the raw records are read without the allocator's code (allocator_reader.py), and what came of it is
judged (allocator_judge.py): no address twice, each ordinal once, handles equal to blocks, nothing lost; reservations,
limits, rests and the order of re-use kept; no address refused while there is one. docs/testing.md has the profiles.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from datastore.api import Unwritable
from ipam.errors import Exhausted
from ipam.pool import Criteria
from ipam.usage import has_room

from .allocator_deeds import (
    IFNAMES,
    NAMES,
    Ask,
    Assign,
    Both,
    Claim,
    Deed,
    DeletePool,
    Ensure,
    Leave,
    ReleaseAddresses,
    ReleaseHandle,
    ReleaseOwner,
)
from .allocator_judge import (
    changed_only,
    judge_ask,
    judge_assign,
    judge_dead,
    judge_other,
    judge_release,
    judge_together,
)
from .allocator_kit import STEPS, Action, Died, Dying, Outcome, Unheard, interleave
from .allocator_model import ADDRESSES, COOLDOWNS, NODES, SELECTORS, USES, ZONES, World, pools
from .stores import QuickStore

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
ROUNDS, EXAMPLES, STEP_COUNT = (40, 560, 50) if NIGHTLY else (1, 200, 50)

node, name, ifname = st.sampled_from(NODES), st.sampled_from(NAMES), st.sampled_from(IFNAMES)
family = st.sampled_from((4, 4, 6))
use = st.sampled_from(("Workload", "Workload", "Tunnel"))
pool_names = st.sampled_from(((), (), (), ("a",), ("b",), ("a", "b"), ("c",), ("d",), ("e",), ("none",)))
limit = st.sampled_from((0, 0, 0, 1, 2))
address = st.sampled_from((*ADDRESSES, "10.9.9.9"))
ranges = st.sampled_from((("10.0.0.0/29", 30), ("10.0.0.8/29", 30), ("10.0.1.0/30", 31), ("fd00::/126", 127)))
reserved = st.sampled_from(("", "", "10.0.0.0/30", "10.0.0.5/32", "10.0.0.8/29", "10.0.1.1/32", "fd00::/127"))
schedule = st.binary(min_size=4, max_size=24)

assigns = st.builds(Assign, node, name, ifname, family, st.integers(1, 6), pool_names, use, limit, limit)
asks = st.builds(Ask, node, name, ifname, address, st.sampled_from(("", "Workload")), limit)
owners = st.builds(ReleaseOwner, name, ifname)
handles = st.builds(ReleaseHandle, name)
ensures = st.builds(Ensure, node, name, ifname, family, st.just(1), pool_names, use, limit)
claims = st.builds(lambda node, within: Claim(node, *within), node, ranges)
leaves = st.builds(Leave, node, st.sampled_from(("all", "empty", "removed")))
# What is asked of a large store at once; a release of an address there names no more than that.
single = st.builds(lambda address: ReleaseAddresses(((address, None, None),)), st.sampled_from(ADDRESSES))
quick = st.builds(Assign, node, name, ifname, family, st.integers(1, 6))
together = st.lists(st.one_of(quick, quick, asks, owners, handles, single, ensures, claims, leaves),
                    min_size=2, max_size=4)
givers = st.lists(st.one_of(quick, quick, asks, claims), min_size=2, max_size=4)


class AllocatorMachine(RuleBasedStateMachine):
    """Everything that can be asked of the allocator, by four nodes, of five pools."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.new_store())
        STEPS["examples"] += 1
        STEPS["steps"] -= 1  # `agree` is asked before the first step as well

    def new_store(self) -> QuickStore:
        """Return what everything is asked of, with nothing in it; another kind: test_allocator_etcd.py."""
        return QuickStore()

    def way(self, deed: Deed) -> Action:
        """Return how a deed is done on a store."""
        return deed.run

    def _do(self, deed: Deed) -> tuple[Any, Outcome]:
        """Run a deed; return what was there before and what came of it."""
        outcome = Outcome()
        outcome.finish(self.way(deed), self.world.store)
        return self.world.look(), outcome

    @rule(deed=assigns)
    def assign_any(self, deed: Assign) -> None:
        judge_assign(self.world, *self._judged(deed))

    def _judged(self, deed: Any) -> tuple[Any, Any, Outcome]:
        before, outcome = self._do(deed)
        return before, deed, outcome

    @rule(deed=asks)
    def assign_one(self, deed: Ask) -> None:
        judge_ask(self.world, *self._judged(deed))

    @rule(node=node, name=name, ifname=ifname)
    def assign_both(self, node: str, name: str, ifname: str) -> None:
        deed = Both(node, name, ifname)
        before, outcome = self._do(deed)
        if outcome.error is None:
            gained = deed.gained(outcome.result)
            changed_only(self.world, before, gained, ())
            assert [":" in address for address in gained] == [False, True]
        else:
            assert isinstance(outcome.error, Exhausted)
            assert self.world.now.addresses == before.addresses

    @rule(node=node, family=family)
    def look_for_room(self, node: str, family: int) -> None:
        """STATUS says what an assignment would come to."""
        room = has_room(self.world.store, Criteria(node), family)
        _, outcome = self._do(Assign(node, "c0", "eth0", family))
        assert room == bool(outcome.result.assigned)

    @rule(deed=st.one_of(owners, handles))
    def release(self, deed: Deed) -> None:
        judge_release(self.world, *self._judged(deed))

    @rule(chosen=st.lists(st.tuples(st.sampled_from(ADDRESSES), st.integers(0, 7)), max_size=4,
                          unique_by=lambda item: item[0]))
    def release_addresses(self, chosen: Sequence[tuple[str, int]]) -> None:
        judge_release(self.world, *self._judged(ReleaseAddresses(tuple(map(self._wanted, chosen)))))

    def _wanted(self, item: tuple[str, int]) -> tuple[str, str | None, int | None]:
        """Return what to ask of an address: mostly with a handle or sequence number that is right."""
        holder = self.world.now.addresses.get(item[0])
        if holder is None or item[1] < 3:
            return item[0], None, None
        if item[1] < 6:
            return item[0], holder.handle, holder.sequence
        return (item[0], "net.x", None) if item[1] == 6 else (item[0], None, holder.sequence + 1)

    @rule(deed=st.one_of(ensures, claims, leaves))
    def move_blocks(self, deed: Deed) -> None:
        judge_other(self.world, *self._judged(deed))

    @rule(name=st.sampled_from("abd"), size=st.integers(0, 2))
    def make_pool_anew(self, name: str, size: int) -> None:
        """A pool is deleted; it comes back, perhaps with another block size."""
        judge_other(self.world, *self._judged(DeletePool(name)))
        pool = pools()[name]
        pool.block_size = pool.sizes[size % len(pool.sizes)]
        self.world.put_pool(pool)

    @rule(name=st.sampled_from("abcde"), selector=st.sampled_from(sorted(SELECTORS)), uses=st.sampled_from(USES),
          disabled=st.sampled_from((False, False, True)))
    def change_pool(self, name: str, selector: str, uses: tuple[str, ...], disabled: bool) -> None:
        pool = self.world.pools[name]
        pool.selector, pool.uses, pool.disabled = selector, uses, disabled
        self.world.put_pool(pool)

    @rule(node=node, labels=st.sampled_from(ZONES))
    def label(self, node: str, labels: dict[str, str]) -> None:
        self.world.put_labels(node, labels)

    @rule(name=st.sampled_from("xy"), cidr=reserved)
    def reserve(self, name: str, cidr: str) -> None:
        self.world.put_reservation(name, cidr)

    @rule(strict=st.booleans(), auto=st.sampled_from((True, True, False)), max_blocks=limit,
          cooldown=st.sampled_from(COOLDOWNS))
    def configure(self, strict: bool, auto: bool, max_blocks: int, cooldown: int) -> None:
        self.world.configure(strict, auto, max_blocks, cooldown)

    @rule()
    def grow_older(self) -> None:
        self.world.grow_older()

    @rule(deed=st.one_of(quick, asks, owners, handles, single, claims, leaves), writes=st.integers(0, 9))
    def die(self, deed: Deed, writes: int) -> None:
        """A process dies before one of its writes."""
        outcome = Outcome()
        outcome.finish(self.way(deed), Dying(self.world.store, writes))
        if isinstance(outcome.error, Died):
            self.world.unfinished = True
            self.world.torn.update(deed.handles)
        judge_dead(self.world, self.world.look(), [deed])

    @rule(deed=st.one_of(quick, asks, owners, single), writes=st.integers(0, 6))
    def miss_an_answer(self, deed: Deed, writes: int) -> None:
        """A write is made, but answered with an error: who asked for addresses has none then."""
        outcome = Outcome()
        outcome.finish(self.way(deed), Unheard(self.world.store, writes))
        self.world.unfinished = True
        before = self.world.look()
        judge_dead(self.world, before, [deed])
        if isinstance(outcome.error, Unwritable) and isinstance(deed, Assign | Ask):
            assert self.world.now.addresses == before.addresses

    @rule(deeds=together, schedule=schedule)
    def race(self, deeds: Sequence[Deed], schedule: bytes) -> None:
        self._race(deeds, schedule, mortal=False)

    @rule(deeds=givers, schedule=schedule)
    def race_for_the_last(self, deeds: Sequence[Deed], schedule: bytes) -> None:
        self._race(deeds, schedule, mortal=False)

    @rule(deeds=together, schedule=schedule)
    def race_and_die(self, deeds: Sequence[Deed], schedule: bytes) -> None:
        self._race(deeds, schedule, mortal=True)

    def _race(self, deeds: Sequence[Deed], schedule: bytes, mortal: bool) -> None:
        deeds = [self.world.fitted(deed) for deed in deeds]
        outcomes = interleave(self.world.store, list(map(self.way, deeds)), schedule, mortal)
        self.world.unfinished = True
        if any(isinstance(outcome.error, Died) for outcome in outcomes):
            self.world.torn.update(f"net.{name}" for name in NAMES)
        judge_together(self.world, self.world.look(), deeds, outcomes)

    @invariant()
    def agree(self) -> None:
        """What is stored agrees with itself; each step that changed something has looked already."""
        STEPS["steps"] += 1
        self.world.look()

    def teardown(self) -> None:
        """Once everyone has released, and every rest is over, nothing is held, and nothing is left but empty blocks."""
        self.world.configure(False, True, 0, 0)
        for name in NAMES:
            self._do(ReleaseHandle(name))
        self.world.torn.clear()
        self.world.grow_older()
        self.world.grow_older()
        self.world.look()
        assert self.world.now.addresses == {}
        assert self.world.now.handles == {}
        for node in NODES:
            self._do(Leave(node))
        assert self.world.now.affinities == {}
        assert all(self.world.queue(block) == [*block.queue, *sorted(block.resting)]
                   for block in self.world.now.blocks.values())


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_any_order_of_deeds(number: int) -> None:
    """The machine, in rounds: what hypothesis keeps of a round is forgotten after it."""
    run_state_machine_as_test(
        AllocatorMachine, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEP_COUNT))
