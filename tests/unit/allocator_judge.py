"""What may come of a deed: the assertions of the allocator's machine, against the model (allocator_model.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from ipam.assign import Filled
from ipam.errors import AddressInUse, BadRequest, BlockLimit, Changed, Contended, Exhausted, IpamError

from .allocator_deeds import Ask, Assign, Claim, Deed, DeletePool, Ensure, Leave, ReleaseAddresses, ReleaseOwner
from .allocator_kit import Died, Outcome
from .allocator_model import PoolModel, World
from .allocator_reader import BlockFacts, Holder, Reading, span


def changed_only(world: World, before: Reading, gained: Sequence[str], lost: Collection[str]) -> None:
    """Assert that of all that is held nothing but this has changed, and that the order of free addresses was kept."""
    after = world.now
    assert len(set(gained)) == len(gained)
    assert not before.addresses.keys() & set(gained)
    assert set(lost) <= before.addresses.keys()
    kept = {address: holder for address, holder in before.addresses.items() if address not in lost}
    assert after.addresses.keys() == kept.keys() | set(gained)
    assert all(after.addresses[address] == holder for address, holder in kept.items())
    for cidr, block in before.blocks.items():
        if cidr in after.blocks and after.blocks[cidr].affinity == block.affinity:
            _kept_order(world, block, after.blocks[cidr], lost)
    rests_go_on(world, before)


def rests_go_on(world: World, before: Reading) -> None:
    """Assert that no rest ended before its time."""
    for cidr, block in before.blocks.items():
        for at, since in block.resting.items():
            if not world.is_over(since):
                assert world.now.blocks[cidr].resting.get(at) == since, f"{block.address(at)} did not rest"


def _kept_order(world: World, before: BlockFacts, after: BlockFacts, lost: Collection[str]) -> None:
    """Assert that what was free stays in its order, and that what was released is behind it, or at rest."""
    still = [at for at in world.queue(before) if at in world.queue(after)]
    assert world.queue(after)[: len(still)] == still
    freed = [at for at in before.held if before.address(at) in lost]
    if world.cooldown:
        assert set(freed) <= after.resting.keys()
    else:
        assert world.queue(after)[len(still) :] == sorted(freed)


def owned_by(world: World, deed: Assign | Ask, gained: Sequence[str]) -> None:
    """Assert that what was given is held by whom it was given to."""
    for address in gained:
        holder = world.now.addresses[address]
        assert (holder.handle, holder.owner["interface"], holder.owner["node"]) == (
            f"net.{deed.name}", deed.ifname, deed.node)


def judge_assign(world: World, before: Reading, deed: Assign, outcome: Outcome) -> None:
    """Judge an assignment of any addresses."""
    chosen = world.chosen(deed)
    if chosen is None:
        assert isinstance(outcome.error, BadRequest)
        changed_only(world, before, (), ())
        return
    assert outcome.error is None, outcome.error
    gained = deed.gained(outcome.result)
    changed_only(world, before, gained, ())
    owned_by(world, deed, gained)
    assert set(gained) <= world.eligible(before, deed.node, chosen, borrow=not world.strict)
    _judge_count(world, before, deed, chosen, outcome.result)
    _judge_order(world, before, deed, gained)
    _judge_blocks(world, before, deed, chosen, gained)


def _judge_count(world: World, before: Reading, deed: Assign, chosen: Sequence[PoolModel], filled: Filled) -> None:
    """Assert that no fewer addresses were given than there were, and that a shortfall is told."""
    has = sum(holder.handle == f"net.{deed.name}" and (":" in address) == (deed.family == 6)
              for address, holder in before.addresses.items())
    wanted = min(deed.count, max(0, deed.handle_limit - has)) if deed.handle_limit else deed.count
    given = len(filled.assigned)
    assert given <= wanted
    assert (filled.shortfall is None) == (given == deed.count)
    if given == wanted:
        return
    judge_shortfall(world, deed, chosen, filled.shortfall)


def judge_shortfall(world: World, deed: Assign, chosen: Sequence[PoolModel], told: Exception | None) -> None:
    """Assert that there is nothing left to give, or that the node has as many full blocks as it may have."""
    assert isinstance(told, Exhausted)
    if isinstance(told, BlockLimit):
        owned = world.owned(world.now, deed.node, chosen)
        assert _begun(world.now, deed, chosen) >= world.limit(deed)  # as in Calico, unfinished claims count
        assert world.auto
        assert not any(map(world.to_give, owned))
    else:
        assert not world.eligible(world.now, deed.node, chosen, borrow=not world.strict)


def _judge_order(world: World, before: Reading, deed: Assign, gained: Sequence[str]) -> None:
    """Assert that of each block the addresses that were free longest were given."""
    for cidr, block in world.now.blocks.items():
        given = [address for address in gained if address in block.addresses]
        old = before.blocks.get(cidr)
        if old is None or (block.affinity == f"host:{deed.node}" != old.affinity):
            first = block.span.first
            queue = [at for at in range(block.span.size) if not world.is_reserved(block.span.family, first + at)]
        else:
            queue = world.to_give(old)
        assert given == [block.address(at) for at in queue[: len(given)]]


def _judge_blocks(
    world: World, before: Reading, deed: Assign, chosen: Sequence[PoolModel], gained: Sequence[str]
) -> None:
    """Assert that the node used its own blocks first, then new ones, and others' only when there were none."""
    had = {block.cidr for block in world.owned(before, deed.node, chosen)}
    has = {block.cidr for block in world.owned(world.now, deed.node, chosen)}
    assert had <= has
    assert len(has) <= max(_begun(before, deed, chosen), world.limit(deed))
    begun = {cidr for node, cidr in before.affinities if node == deed.node}  # it carries on with those in their turn
    if has - had - begun:
        assert world.auto
        assert not any(world.to_give(world.now.blocks[cidr]) for cidr in had)
    borrowed = [block for block in world.now.blocks.values()
                if block.affinity != f"host:{deed.node}" and block.addresses.keys() & set(gained)]
    if borrowed:
        assert not world.strict
        assert not world.eligible(world.now, deed.node, chosen, borrow=False)


def _begun(reading: Reading, deed: Assign, chosen: Sequence[PoolModel]) -> int:
    """Return how many blocks the node has, or was making when it died, in these pools."""
    mine = [span(cidr) for node, cidr in reading.affinities if node == deed.node]
    return sum(any(pool.holds(part) for pool in chosen) for part in mine)


def judge_ask(world: World, before: Reading, deed: Ask, outcome: Outcome) -> None:
    """Judge a request for one address."""
    expected = _refusal(world, before, deed)
    if expected:
        assert type(outcome.error) is expected, (outcome.error, expected)
        changed_only(world, before, (), ())
        return
    assert outcome.error is None, outcome.error
    assert deed.gained(outcome.result) == [deed.address]
    changed_only(world, before, [deed.address], ())
    owned_by(world, deed, [deed.address])


def _refusal(world: World, before: Reading, deed: Ask) -> type[IpamError] | None:
    wanted = span(deed.address)
    pool = world.pool_at(wanted)
    if pool is None or pool.disabled or (deed.use and deed.use not in (pool.uses or ("Workload", "Tunnel"))):
        return BadRequest
    has = sum(holder.handle == f"net.{deed.name}" and (":" in address) == (wanted.family == 6)
              for address, holder in before.addresses.items())
    if deed.handle_limit and has >= deed.handle_limit:
        return Exhausted
    block = next((block for block in before.blocks.values() if block.span.overlaps(wanted)), None)
    if block is None:
        cut = next(part for part in pool.blocks() if part.overlaps(wanted))
        return BadRequest if any(cut.overlaps(other.span) for other in before.blocks.values()) else None
    if world.strict and block.affinity != f"host:{deed.node}":
        return BadRequest
    return None if wanted.first - block.span.first in world.queue(block) else AddressInUse


def judge_release(world: World, before: Reading, deed: Deed, outcome: Outcome) -> None:
    """Judge a release: what was to be released is free, and a block that is empty now leaves a node not selected."""
    if isinstance(deed, ReleaseAddresses):
        lost, error = _to_lose(before, deed)
        assert type(outcome.error) is error, outcome.error
    else:
        assert isinstance(deed, ReleaseOwner)
        lost = {address for address, holder in before.addresses.items() if _is_whose(holder, deed)}
    if outcome.error is None:
        assert sorted(deed.lost(outcome.result)) == sorted(lost)
        if isinstance(deed, ReleaseAddresses):
            told = {str(address) for address in outcome.result.unallocated}
            assert told == {address for address, *_ in deed.wanted} - lost
        if not isinstance(deed, ReleaseAddresses):
            world.torn -= set(deed.handles)
    changed_only(world, before, (), lost)
    for block in before.blocks.values():
        pool = world.pool_at(block.span)
        left = world.now.blocks.get(block.cidr)
        if block.addresses.keys() & lost and pool and left and left.affinity and not (left.held or left.resting):
            assert world.selects(pool, left.affinity.removeprefix("host:")), f"{block.cidr} is still with its node"


def _is_whose(holder: Holder, deed: ReleaseOwner) -> bool:
    return holder.handle == f"net.{deed.name}" and deed.ifname in ("", holder.owner["interface"])


def _to_lose(before: Reading, deed: ReleaseAddresses) -> tuple[set[str], type[Exception]]:
    """Return what is to be freed, and the error: of a block with an address that is not as wanted, nothing is."""
    lost: set[str] = set()
    error: type[Exception] = type(None)  # type: ignore[assignment]
    for block in before.blocks.values():
        wanted = [item for item in deed.wanted if item[0] in block.addresses]
        if all(_as_wanted(block.addresses[address], *rest) for address, *rest in wanted):
            lost |= {address for address, *_ in wanted}
        else:
            error = Changed
    return lost, error


def _as_wanted(holder: Holder, handle: Any, sequence: Any) -> bool:
    return handle in (None, holder.handle) and sequence in (None, holder.sequence)


def judge_other(world: World, before: Reading, deed: Deed, outcome: Outcome) -> None:
    """Judge what neither gives nor takes addresses."""
    changed_only(world, before, (), ())
    if isinstance(deed, Ensure):
        _judge_ensure(world, deed, outcome)
        return
    assert outcome.error is None, outcome.error
    if isinstance(deed, Claim):
        claimed, failed = ([str(cidr) for cidr in part] for part in outcome.result)
        owners = {cidr: world.now.blocks[cidr].affinity for cidr in claimed}
        assert set(owners.values()) <= {f"host:{deed.node}"}
        for cidr in failed:
            found = [block for block in world.now.blocks.values() if block.span.overlaps(span(cidr))]
            assert found
            assert not any(block.cidr == cidr and block.affinity == f"host:{deed.node}" for block in found)
    if isinstance(deed, Leave) and deed.how != "empty":
        assert not any(node == deed.node for node, _ in world.now.affinities)
    if isinstance(deed, DeletePool):
        pool = world.pools[deed.name]
        assert not any(pool.holds(span(cidr)) for _, cidr in world.now.affinities)


def _judge_ensure(world: World, deed: Ensure, outcome: Outcome) -> None:
    chosen = world.chosen(deed)
    if chosen is None:
        assert isinstance(outcome.error, BadRequest)
    elif outcome.error is None:
        block = world.now.blocks[str(outcome.result)]
        assert block.affinity == f"host:{deed.node}"
        assert world.to_give(block)
    else:
        assert isinstance(outcome.error, Exhausted)
        if isinstance(outcome.error, BlockLimit):
            judge_shortfall(world, deed, chosen, outcome.error)
        else:
            assert not world.eligible(world.now, deed.node, chosen, borrow=False)


def judge_dead(world: World, before: Reading, deeds: Sequence[Deed]) -> None:
    """Judge one that died: it may have been given some of what it wanted, or released some of it, and no more."""
    gained = world.now.addresses.keys() - before.addresses.keys()
    lost = before.addresses.keys() - world.now.addresses.keys()
    givers = [deed for deed in deeds if isinstance(deed, Assign | Ask)]
    for address in gained:
        holder = world.now.addresses[address]
        assert any(holder.handle == f"net.{deed.name}" and holder.owner["interface"] == deed.ifname for deed in givers)
    if not any(isinstance(deed, ReleaseOwner | ReleaseAddresses) for deed in deeds):
        assert not lost
    rests_go_on(world, before)


def judge_together(world: World, before: Reading, deeds: Sequence[Deed], outcomes: Sequence[Outcome]) -> None:
    """Judge several that were at work at the same time: for every address, what was there, given and taken adds up."""
    pairs = list(zip(deeds, outcomes, strict=True))
    dead = [deed for deed, outcome in pairs if isinstance(outcome.error, Died)]
    for deed, outcome in pairs:
        assert outcome.error is None or _is_answer(deed, outcome.error), (deed, outcome.error)
    done = [(deed, outcome.result) for deed, outcome in pairs if outcome.error is None]
    gained = Counter(address for deed, result in done for address in deed.gained(result))
    lost = Counter(address for deed, result in done for address in deed.lost(result))
    for address in {*before.addresses, *world.now.addresses, *gained, *lost}:
        count = (address in before.addresses) + gained[address] - lost[address]
        there = address in world.now.addresses
        assert there == count or dead, f"{address} was given {gained[address]} and taken {lost[address]} times"
        if world.cooldown and address in before.addresses:
            assert not gained[address], f"{address} was given again without a rest"
    _judge_given(world, before, pairs)
    rests_go_on(world, before)


def _is_answer(deed: Deed, error: BaseException) -> bool:
    """Tell whether an error is one that this deed may end with, whatever the others do."""
    if isinstance(error, Died):
        return True
    return isinstance(error, IpamError) and not isinstance(error, Contended)


def _judge_given(world: World, before: Reading, pairs: Sequence[tuple[Deed, Outcome]]) -> None:
    """Assert what holds of assignments whatever the others do; all of it when nobody takes anything away.

    Without autoAllocateBlocks a block that is claimed for the node meanwhile is more for it to give. Processes of one
    node may together claim more blocks than it may have, and be told of the limit while one of these has room. A block
    that is being reclaimed is nowhere for a moment (test_acceptance_races.py, test_nobody_is_refused_...).
    """
    alive = world.auto and not any(isinstance(outcome.error, Died) for _, outcome in pairs)
    only_more = all(isinstance(deed, Assign | Ask | Claim) for deed, _ in pairs)
    nodes = Counter(getattr(deed, "node", "") for deed, _ in pairs)
    for deed, outcome in pairs:
        chosen = world.chosen(deed) if isinstance(deed, Assign) else None
        if not isinstance(deed, Assign) or isinstance(deed, Ensure) or outcome.error or chosen is None:
            continue
        for address in deed.gained(outcome.result):
            part = span(address)
            assert not world.is_reserved(part.family, part.first)
            assert any(pool.holds(part) for pool in chosen)
        if not only_more:
            continue
        owned_by(world, deed, deed.gained(outcome.result))
        shortfall = outcome.result.shortfall
        reclaimed = any(world.is_left(block) for block in before.blocks.values())
        if shortfall and alive and not reclaimed and not (isinstance(shortfall, BlockLimit) and nodes[deed.node] > 1):
            judge_shortfall(world, deed, chosen, shortfall)
        has = world.owned(world.now, deed.node, chosen)
        if nodes[deed.node] == 1:
            assert len(has) <= max(_begun(before, deed, chosen), world.limit(deed))
        if world.strict:
            mine = {address for block in has for address in block.addresses}
            assert set(deed.gained(outcome.result)) <= mine
