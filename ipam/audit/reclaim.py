"""Releasing what pods of a node's former boots held: exactly those allocations, and their endpoint records.

A power cut may have left any of these records old, torn, absent, or there again (datastore/keys.py). Whether it did is
told by a walk over blocks and the names of handles alone: a node may have a million of others' records beside its own.
"""

from __future__ import annotations

from contextlib import suppress

from datastore import keys
from datastore.api import Conflict, Corrupt, Missing
from datastore.frozen import replace
from datastore.model import CONFIRMED, affinity_of
from datastore.resources import endpoint_of
from ipam.affinity import block_cidrs, own_blocks
from ipam.audit.endpoints import identity_of
from ipam.audit.living import BOOT, IDENTITY, VETH, identity, why_gone
from ipam.audit.survey import FAMILIES, in_use, read
from ipam.audit.tally import Tally
from ipam.block import host_affinity
from ipam.borrowed import near_blocks
from ipam.errors import Changed
from ipam.find import Allocation, held_by_handle
from ipam.release import Wanted, release_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from datastore.api import Store
    from ipam.audit.living import Identity, Living
    from ipam.audit.repair import Craft
    from ipam.cidr import Address


class Seen:
    """What all blocks say.

    left: allocations of the node's former boots; new: who has one of this boot; handles: of all that stays;
    blocks: CIDR -> affinity; damaged: CIDRs of blocks that cannot be read. Then what was met besides, torn: a damaged
    endpoint record; changed: what was to be released could not be, because of a damaged handle, or is another's by now.
    """

    def __init__(self) -> None:
        self.left: list[Allocation] = []
        self.new: set[Identity] = set()
        self.handles = Tally()
        self.blocks: dict[str, str | None] = {}
        self.damaged: set[str] = set()
        self.torn = self.changed = False


def recover(
    store: Store, lasting: Store, look: Callable[[], Living], craft: Craft, tell: Callable[[str], object],
    living: Living,
) -> tuple[tuple[Address, ...], bool]:
    """Reclaim, and set right whatever a power cut left wrong; return what was freed, and whether all is done.

    lasting: the same store, where all is written so that it lasts; `look` gathers all that the kernel tells, `living`
    enough of it for a few allocations. Blocks of other nodes that cannot be read are left to them. Raises StoreError.
    """
    from ipam.audit.repair import repair  # for what is seldom wrong

    freed, seen = reclaim(store, living)
    if not seen.changed and _agree(store, seen, living.node):
        return freed, True
    repair(lasting, lambda: replace(look(), first=True), craft, tell)
    more, seen = reclaim(store, living)
    mine = {str(cidr) for family in FAMILIES for cidr in own_blocks(store, living.node, family)}
    return freed + more, not seen.changed and not seen.damaged & mine


def reclaim(store: Store, living: Living) -> tuple[tuple[Address, ...], Seen]:
    """Release what former boots of the node left; return what was freed, and what was seen. Raises StoreError.

    Endpoint records go first, then handles: as long as an address is still held, this can be done again.
    """
    seen = _look(store, living, (str(cidr) for family in FAMILIES for cidr in block_cidrs(store, family)))
    _forget_dead_endpoints(store, living, seen)
    return _release_left(store, seen), seen


def reclaim_own(
    store: Store, living: Living, forget: Callable[[Mapping[str, str]], object]
) -> tuple[tuple[Address, ...], bool]:
    """Release what former boots of the node left in its own blocks and in those it has borrowed from.

    For a datastore of many nodes, which no power cut of this one can damage. `forget` removes the endpoint record that
    belongs to an allocation's attributes. Return what was freed, and whether all is done. Raises StoreError.
    """
    seen = _look(store, living, map(str, near_blocks(store, living.node)))
    for item in seen.left:
        forget(item.attribute.owner)
    freed = _release_left(store, seen)
    return freed, not (seen.changed or seen.damaged)


def gone(store: Store, living: Living) -> list[Allocation]:
    """Return what pods hold that are provably gone, in the node's own blocks and those it has borrowed from.

    A block that cannot be read is passed over.
    """
    found = []
    for cidr in map(str, near_blocks(store, living.node)):
        with suppress(Corrupt):
            block = read(store, cidr)
            found += [Allocation(*item) for item in in_use(block)] if block else []
    return [item for item in found if why_gone(item.attribute.owner, living)]


def _release_left(store: Store, seen: Seen) -> tuple[Address, ...]:
    wanted = [Wanted(item.address, item.attribute.handle, item.sequence) for item in seen.left]
    try:
        with store.exclusive():
            _forget_handles(store, seen.left)
            return release_addresses(store, wanted).freed
    except (Changed, Corrupt):
        seen.changed = True
        return ()


def _look(store: Store, living: Living, cidrs: Iterable[str]) -> Seen:
    seen = Seen()
    for cidr in cidrs:
        try:
            block = read(store, cidr)
        except Corrupt:
            seen.damaged.add(cidr)
            continue
        if block:
            seen.blocks[cidr] = block.affinity
            for found in in_use(block):
                _sort(seen, Allocation(*found), living)
    return seen


def _sort(seen: Seen, allocation: Allocation, living: Living) -> None:
    if _is_left(allocation, living):
        seen.left.append(allocation)
        return
    if allocation.attribute.handle is not None:
        seen.handles.add(allocation.attribute.handle)
    if allocation.attribute.owner.get(BOOT) == living.boot:
        seen.new.add(identity(allocation.attribute.owner))


def _is_left(allocation: Allocation, living: Living) -> bool:
    owner = allocation.attribute.owner
    return owner.get(BOOT, "") not in ("", living.boot) and bool(why_gone(owner, living))


def _forget_handles(store: Store, left: Collection[Allocation]) -> None:
    """Remove the handles that hold nothing but these allocations; the release sets right those that hold more.

    A release writes the block first: nobody would ever come for a handle that a death behind that left.
    """
    gone = {(item.address, item.sequence) for item in left}
    for handle_id in sorted({item.attribute.handle for item in left if item.attribute.handle}):
        with suppress(Missing, Conflict, Corrupt):  # the release tells what is damaged
            record = store.get(keys.handle(handle_id))
            held = [item for family in (4, 6) for item in held_by_handle(store, handle_id, family)]
            if all((item.address, item.sequence) in gone for item in held):
                store.delete(record.key, record.revision)


def _agree(store: Store, seen: Seen, node: str) -> bool:
    """Tell whether all can be read, every block has its handles, this node's its affinity, and there are no others.

    What is within a handle's record is not looked at: nobody can have written it but other nodes, for pods of a former
    boot, which they look at themselves, or somebody who is no pod, to last.
    """
    stored = Tally()
    for key in store.keys(keys.HANDLES):
        stored.add(key[len(keys.HANDLES):])
    return not (seen.torn or seen.damaged or stored.without(seen.handles) or seen.handles.without(stored)) and all(
        _affinities_agree(store, seen, node, family) for family in FAMILIES
    )


def _affinities_agree(store: Store, seen: Seen, node: str, family: int) -> bool:
    present = {str(cidr) for cidr in block_cidrs(store, family)}
    mine = {cidr for cidr, affinity in seen.blocks.items() if affinity == host_affinity(node)}
    told = [str(cidr) for cidr in own_blocks(store, node, family)]
    try:
        states = {affinity_of(store.get(keys.affinity(node, family, cidr))).state for cidr in told}
    except (Corrupt, Missing):
        return False
    return set(told) == mine & present and states <= {CONFIRMED}


def _forget_dead_endpoints(store: Store, living: Living, seen: Seen) -> None:
    """Remove the endpoint records of this node whose link is not there, and which nobody of this boot has."""
    for key in store.keys(keys.WORKLOAD_ENDPOINTS):
        try:
            record = store.get(key)
            endpoint = endpoint_of(record)
            if endpoint is None or endpoint.node != living.node or identity_of(endpoint) in seen.new:
                continue
            told = dict(zip(IDENTITY, identity_of(endpoint), strict=True))
            if not living.linked({**told, VETH: endpoint.host_ifname}):
                store.delete(key, record.revision)
        except (Missing, Conflict):
            continue
        except Corrupt:
            seen.torn = True


def forget_endpoints(store: Store, gone: Collection[Identity], node: str) -> None:
    """Remove the endpoint records of these attachments; one that cannot be read stays."""
    for key in store.keys(keys.WORKLOAD_ENDPOINTS) if gone else ():
        try:
            record = store.get(key)
            endpoint = endpoint_of(record)
            if endpoint and endpoint.node == node and identity_of(endpoint) in gone:
                store.delete(key, record.revision)
        except (Missing, Conflict, Corrupt):
            continue
