"""Where the next address comes from, best first: blocks of the node, new ones, empty ones of others, anybody's.

Calico's order (libcalico-go lib/ipam/ipam.go, autoAssign). A step that loses a race raises Conflict, Exists or Missing,
and the walk starts anew.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from functools import partial
from itertools import chain

from datastore import keys
from datastore.frozen import frozen, replace
from datastore.model import block_of
from ipam import configuration, host
from ipam.affinity import (
    CLAIM_TIME,
    Present,
    block_cidrs,
    block_with_room,
    cidrs_of,
    claim,
    disown,
    give_up,
    is_full,
    own_blocks,
    read_block,
    take_over,
)
from ipam.block import check, host_affinity
from ipam.cidr import block_at, parse_cidr
from ipam.cooldown import seconds_of, settled
from ipam.errors import BadRequest, BlockLimit
from ipam.pool import selects_node, usable
from ipam.reservation import is_reserved, reserved_ordinals, reserved_ranges
from ipam.walk import blocks_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from datastore.api import Store
    from datastore.model import Block, IpamConfig
    from datastore.resources import Pool
    from ipam.affinity import Stored
    from ipam.cidr import Cidr
    from ipam.pool import Criteria

MOST_BLOCKS = 20  # Calico: the cap where neither configuration nor request sets one
RECLAIM_AFTER = 60.0  # seconds; a block claimed more recently is about to be used


@frozen
class Plan:
    """What decides the steps of one family: pools (all, and those to assign from), reservations and configuration.

    block_limit: how many blocks the node may have.
    """

    node: str
    family: int
    pools: Sequence[Pool]
    chosen: Sequence[Pool]
    requested: Sequence[str]
    reserved: Sequence[Cidr]
    config: IpamConfig
    block_limit: int

    def covers(self, cidr: Cidr) -> bool:
        """Tell whether a block lies in a pool to assign from."""
        return any(cidr in parse_cidr(pool.cidr) for pool in self.chosen)

    def pool_at(self, cidr: Cidr) -> Pool | None:
        """Return the pool that a block lies in, None where the plan has none."""
        return next((pool for pool in self.chosen if cidr in parse_cidr(pool.cidr)), None)

    def block_size_at(self, cidr: Cidr) -> int | None:
        """Return the size of the blocks that are cut there now, None where the plan has no pool."""
        pool = self.pool_at(cidr)
        return pool.block_size if pool else None

    @property
    def memory(self) -> str:
        """The name under which the node remembers where it assigned from last: a pool asked for has its own."""
        return " ".join([str(self.family), *self.requested])


@frozen
class Room:
    """A block as it is stored, and those of its ordinals that may be given, the longest free first."""

    block: Block
    revision: int
    ordinals: Sequence[int]


def room_in(plan: Plan, stored: Stored | None) -> Room | None:
    """Return what a block has to give, or None. Raises Corrupt."""
    if stored is None:
        return None
    block, revision = settled(stored[0], plan.config.cooldown_seconds), stored[1]
    reserved = reserved_ordinals(plan.reserved, parse_cidr(block.cidr))
    ordinals = [ordinal for ordinal in block.unallocated if ordinal not in reserved]
    return Room(block, revision, ordinals) if ordinals else None


def plan_of(store: Store, criteria: Criteria, family: int, pools: Sequence[Pool], block_limit: int = 0) -> Plan:
    """Return the plan for one family, of the smaller of both block limits that are set. Raises BadRequest, Corrupt."""
    config = configuration.load(store)
    limits = [limit for limit in (block_limit, config.max_blocks_per_host) if limit]
    return Plan(
        node=criteria.node,
        family=family,
        pools=pools,
        chosen=usable(store, pools, criteria, family),
        requested=criteria.requested.get(family, ()),
        reserved=reserved_ranges(store, family),
        config=config,
        block_limit=min(limits, default=MOST_BLOCKS),
    )


def has_step(store: Store, plan: Plan) -> bool:
    """Tell whether `steps` would yield anything, without taking a step. Raises Corrupt."""
    if _remembered(store, plan):
        return True
    own = [cidr for cidr in own_blocks(store, plan.node, plan.family) if plan.covers(cidr)]
    if any(_may_have_room(store, plan, cidr) for cidr in own):
        return True
    if plan.config.auto_allocate_blocks:
        if _has(store, plan, own) >= plan.block_limit:
            return False
        if any(True for _ in _unclaimed(store, plan)) or any(True for _ in _reclaimable(store, plan)):
            return True
    return not plan.config.strict_affinity and any(True for _ in _borrowed(store, plan))


def _may_have_room(store: Store, plan: Plan, cidr: Cidr) -> bool:
    """Tell whether a block of the node has room, or would have once it is made (again)."""
    if is_reserved(plan.reserved, cidr) or is_full(store, cidr, plan.node):
        return False
    stored = read_block(store, cidr)
    if stored is None:
        return _fits(store, plan, cidr)
    return stored[0].affinity == host_affinity(plan.node) and room_in(plan, stored) is not None


def steps(store: Store, plan: Plan) -> Iterator[Room]:
    """Yield blocks with room, best first. Raises BlockLimit where the node may have no more blocks."""
    remembered = _remembered(store, plan)
    if remembered:
        yield remembered
    count, seen = 0, set()
    for cidr in _own(store, plan):
        seen.add(cidr)
        if is_full(store, cidr, plan.node) or is_reserved(plan.reserved, cidr):
            count += 1
            continue
        claimed = _claimed(store, plan, cidr)
        count += claimed is not None
        yield from _room(plan, claimed)
    if plan.config.auto_allocate_blocks:
        yield from _new(store, plan, count)
        for cidr in _own(store, plan):
            if cidr not in seen:  # claimed just now, also by another process of this node
                yield from _room(plan, _claimed(store, plan, cidr))
    if not plan.config.strict_affinity:
        yield from _borrowed(store, plan)


def remember(store: Store, plan: Plan, cidr: Cidr) -> None:
    """Note where to look first next time: one of the node's own blocks. Asking for several pools is too rare."""
    memory, revision = host.load(store, plan.node)
    if memory.room.get(plan.memory) != str(cidr) and len(plan.requested) < 2:
        host.save(store, plan.node, replace(memory, room={**memory.room, plan.memory: str(cidr)}), revision)


def _remembered(store: Store, plan: Plan) -> Room | None:
    """Return the block that was assigned from last, if it still is the node's, in a pool chosen, and has room.

    It spares the listing and reading of all blocks the node has: a cost that would grow with their number.
    """
    cidr = _memory(store, plan)
    stored = block_with_room(store, cidr) if cidr and plan.covers(cidr) else None
    return room_in(plan, stored) if stored and stored[0].affinity == host_affinity(plan.node) else None


def _memory(store: Store, plan: Plan) -> Cidr | None:
    text = host.load(store, plan.node)[0].room.get(plan.memory)
    try:
        return parse_cidr(text) if text else None
    except BadRequest:
        return None  # a hint: what it should have said is looked for


def _own(store: Store, plan: Plan) -> Iterator[Cidr]:
    """Yield the node's blocks in the chosen pools, beginning with the one assigned from last.

    Empty ones in pools that no longer select the node are given up first.
    """
    names, last = store.keys(keys.affinities(plan.node, plan.family)), _memory(store, plan)
    if not plan.requested and len(plan.chosen) < len(plan.pools):
        for cidr in cidrs_of(names):
            if not plan.covers(cidr):
                give_up_deselected(store, plan.pools, plan.node, cidr, plan.config.cooldown_seconds)
    at = bisect_left(names, keys.affinity(plan.node, plan.family, str(last))) if last else 0
    for cidr in cidrs_of(chain(names[at:], names[:at])):  # one by one: it is seldom far to one with room
        if plan.covers(cidr):
            yield cidr


def give_up_deselected(store: Store, pools: Sequence[Pool], node: str, cidr: Cidr, cooldown: int) -> bool:
    """Give an empty block up when its pool does not select the node any more; tell whether it was. Raises Corrupt."""
    pool = next((pool for pool in pools if cidr in parse_cidr(pool.cidr)), None)
    if pool is None or selects_node(store, pool, node):
        return False
    return give_up(store, node, cidr, require_empty=True, cooldown=cooldown)


def _fits(store: Store, plan: Plan, cidr: Cidr) -> bool:
    """Tell whether a block that a claim did not come to make may still be: the pool may have been made anew since."""
    return cidr.prefix == plan.block_size_at(cidr) and Present(store, plan.family).at(cidr) is None


def _has(store: Store, plan: Plan, own: Sequence[Cidr]) -> int:
    """Return how many of these blocks are the node's; claims that came to nothing are told apart at the limit only."""
    if len(own) < plan.block_limit:
        return len(own)
    stored = (read_block(store, cidr) for cidr in own)
    return sum(item is not None and item[0].affinity == host_affinity(plan.node) for item in stored)


def _room(plan: Plan, stored: Stored | None) -> Iterator[Room]:
    room = room_in(plan, stored)
    if room:
        yield room


def _new(store: Store, plan: Plan, own: int) -> Iterator[Room]:
    """Yield blocks made the node's just now: unclaimed ones, then empty ones that other nodes had."""
    if own >= plan.block_limit:
        raise BlockLimit(_at_limit(plan, own))
    for stored in _made_own(store, plan):
        for room in _room(plan, stored):
            yield room
            own += 1
            if own >= plan.block_limit:
                raise BlockLimit(_at_limit(plan, own))


def _made_own(store: Store, plan: Plan) -> Iterator[Stored | None]:
    """Yield blocks that nobody had, then those that nobody used, made the node's; None where another was faster.

    Blocks of the pool's former size are never made again, but make room for others.
    """
    yield from _made(store, plan)
    room_made = False
    for block, revision in _reclaimable(store, plan):
        cidr = parse_cidr(block.cidr)
        if cidr.prefix == plan.block_size_at(cidr):
            yield take_over(store, plan.node, block, revision)
        else:
            room_made |= _made_way(store, plan, block, revision)
    if room_made:
        yield from _made(store, plan)


def _made(store: Store, plan: Plan) -> Iterator[Stored | None]:
    """Claim blocks that share no address with any there is.

    They are not looked at anew each: as long as its pool is as it was, only blocks of the same size can be made in it.
    """
    for cidr in _unclaimed(store, plan):
        yield claim(store, plan.node, cidr, pool=plan.pool_at(cidr))


def _claimed(store: Store, plan: Plan, cidr: Cidr) -> Stored | None:
    return claim(store, plan.node, cidr, partial(_fits, store, plan, cidr), plan.pool_at(cidr))


def _made_way(store: Store, plan: Plan, block: Block, revision: int) -> bool:
    """Remove an unused block of a size that is not made any more; tell whether it is gone. Raises Conflict, Missing."""
    if block.affinity is None:
        disown(store, block, revision)
        return True
    owner = block.affinity.partition(":")[2]
    return give_up(store, owner, parse_cidr(block.cidr), True, plan.config.cooldown_seconds)


def _at_limit(plan: Plan, own: int) -> str:
    settings = {MOST_BLOCKS: "the default", plan.config.max_blocks_per_host: "maxBlocksPerHost"}
    setting = settings.get(plan.block_limit, "as this request says")
    return (f"node {plan.node} has {own} IPv{plan.family} blocks, full or reserved, and may have {plan.block_limit} "
            f"({setting}); raise it with `calicoctl ipam configure --max-blocks-per-host`, which needs strict affinity")


def _unclaimed(store: Store, plan: Plan) -> Iterator[Cidr]:
    """Yield the blocks of the chosen pools that share no address with any there is, from the node's start."""
    present = Present(store, plan.family)
    for pool in plan.chosen:
        for cidr in blocks_from(pool, plan.node, plan.reserved):
            if present.at(cidr) is None and not is_reserved(plan.reserved, cidr):
                yield cidr


def _reclaimable(store: Store, plan: Plan) -> Iterator[Stored]:
    """Yield unused blocks to be used again: as they are, or, where blocks are larger now, all in the place of one."""
    unused = {parse_cidr(stored[0].cidr): stored for stored in _unused(store, plan)}
    others = [cidr for cidr in block_cidrs(store, plan.family) if cidr not in unused] if unused else []
    for cidr, stored in unused.items():
        size = plan.block_size_at(cidr) or cidr.prefix
        cut = block_at(cidr.address(0), min(size, cidr.prefix))
        if cut == cidr or not any(other.overlaps(cut) for other in others):
            yield stored


def _unused(store: Store, plan: Plan) -> Iterator[Stored]:
    """Yield empty blocks that are nobody's, or a host's that claimed them a while ago; virtual owners keep theirs."""
    for record in store.records(keys.blocks(plan.family)):
        block = settled(check(block_of(record)), plan.config.cooldown_seconds)
        cidr, owner = parse_cidr(block.cidr), block.affinity or "host:"
        if block.attributes or not plan.covers(cidr) or is_reserved(plan.reserved, cidr):
            continue
        if owner.startswith("host:") and owner != host_affinity(plan.node) and _is_settled_down(block):
            yield block, record.revision


def _is_settled_down(block: Block) -> bool:
    try:
        return abs(time.time() - seconds_of(str(block.extra.get(CLAIM_TIME) or ""))) >= RECLAIM_AFTER
    except ValueError:
        return True  # records of older releases do not say


def _borrowed(store: Store, plan: Plan) -> Iterator[Room]:
    """Yield room in any block of the chosen pools, whoever's it is; it stays theirs."""
    present = sorted(block_cidrs(store, plan.family), key=lambda cidr: cidr.first)
    for pool in plan.chosen:
        start = next(blocks_from(pool, plan.node)).first
        inside = [cidr for cidr in present if cidr in parse_cidr(pool.cidr)]
        behind = [cidr for cidr in inside if cidr.first >= start]
        for cidr in (*behind, *inside[: len(inside) - len(behind)]):
            yield from _room(plan, block_with_room(store, cidr))
