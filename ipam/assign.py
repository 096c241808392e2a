"""Giving addresses: any from the staircase of blocks (ipam/staircase.py), and those asked for by name."""

from __future__ import annotations

from datastore import keys
from datastore.api import Change, Conflict, Exists, Missing
from datastore.frozen import frozen
from datastore.model import Attribute, block_json
from datastore.undo import Undo
from ipam import configuration
from ipam.affinity import ATTEMPTS, Present, claim, read_block
from ipam.block import give, held_of, host_affinity
from ipam.borrowed import remember_borrowed
from ipam.cidr import BITS, block_at, parse_cidr
from ipam.cooldown import settled
from ipam.count import count_change, handle_record
from ipam.errors import AddressInUse, BadRequest, BlockLimit, Contended, Exhausted
from ipam.find import held_by_handle
from ipam.handle import Assigned
from ipam.pool import (
    WORKLOAD,
    Criteria,
    all_pools,
    pool_of_address,
    refusal,
    refusal_of_use,
    seed_default_pools,
)
from ipam.release import take_back
from ipam.reservation import held_by_upgrade
from ipam.staircase import Plan, Room, plan_of, remember, steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from datastore.api import Store
    from datastore.resources import Pool
    from ipam.cidr import Address, Cidr
    from ipam.handle import Owner

LOST_RACE = (Conflict, Exists, Missing)  # another writer was faster: look again


@frozen
class Request:
    """What an owner needs: these very addresses, and `count` of each family they leave out, from the pools named.

    use, namespace: what the pools must suit (ipam/pool.py, Criteria); "" asks for no use, for addresses by name only.
    block_limit: most blocks the node may have for it, 0 for what is configured; handle_limit: most addresses of one
    family that the handle may hold, 0 for any number (Calico: MaxBlocksPerHost, MaxAllocToHandlePerIPVersion).
    env and host_networks are what the default pools of a new datastore are made from.
    upgrading: whether it is the upgrade that asks, for an address that it has reserved (ipam/upgrade.py).
    regardless: whether the owner has the address already, whatever is said of pool and affinity by now.
    """

    node: str
    owner: Owner
    families: tuple[int, ...] = (4,)
    addresses: tuple[Address, ...] = ()
    pools: Mapping[int, Sequence[str]] = {}
    env: Mapping[str, str] = {}
    host_networks: Callable[[], Iterable[str]] = tuple
    count: int = 1
    use: str = WORKLOAD
    namespace: Mapping[str, str] | None = None
    block_limit: int = 0
    handle_limit: int = 0
    upgrading: bool = False
    regardless: bool = False

    @property
    def criteria(self) -> Criteria:
        """What the pools must suit."""
        return Criteria(self.node, self.pools, self.use, self.namespace)


@frozen
class Filled:
    """What a request for any addresses of a family was given, and why it was not all; None when it was."""

    assigned: tuple[Assigned, ...]
    shortfall: Exhausted | None


def assign(store: Store, request: Request) -> tuple[Assigned, ...]:
    """Give the owner all the addresses requested, or none.

    Raises BadRequest, Exhausted (BlockLimit), AddressInUse, Contended, or a StoreError.
    """
    asked = {address.family for address in request.addresses}
    _seed(store, request, {*asked, *request.families})
    given: list[Assigned] = []
    with store.exclusive(), Undo() as undo:
        for address in dict.fromkeys(request.addresses):
            given.append(_assign_address(store, request, address))
            undo.push(take_back, store, given[-1])
        for family in request.families:
            if family not in asked:
                filled = _fill(store, request, family)
                for item in filled.assigned:
                    undo.push(take_back, store, item)
                given += filled.assigned
                if filled.shortfall:
                    raise filled.shortfall
    return tuple(given)


def auto_assign(store: Store, request: Request, family: int) -> Filled:
    """Give the owner as many addresses of one family as there are, up to `request.count` (Calico: AutoAssign).

    Raises BadRequest, Contended, or a StoreError.
    """
    _seed(store, request, [family])
    with store.exclusive():
        return _fill(store, request, family)


def ensure_block(store: Store, request: Request, family: int) -> Cidr:
    """Return a block of the node's that has room, claimed if there is none (Calico: EnsureBlock).

    Raises BadRequest, Exhausted, Contended, or a StoreError.
    """
    _seed(store, request, [family])
    with store.exclusive():
        for _ in range(ATTEMPTS):
            plan = _plan(store, request, family)
            try:
                for room in steps(store, plan):
                    if room.block.affinity == host_affinity(request.node):
                        return parse_cidr(room.block.cidr)
            except LOST_RACE:
                continue
            raise _exhausted(store, request, plan, 0)
    raise Contended(_kept_changing(f"blocks of node {request.node}", "find one with room"))


def _fill(store: Store, request: Request, family: int) -> Filled:
    """Walk the staircase until the count is reached; a race that is lost begins it anew, with what is true by then."""
    wanted = request.count - _above_limit(store, request, family)
    given: list[Assigned] = []
    with Undo() as undo:
        for _ in range(ATTEMPTS):
            try:
                shortfall = _climb(store, request, _plan(store, request, family), wanted, given, undo)
                return Filled(tuple(given), shortfall)
            except LOST_RACE:
                continue
        raise Contended(_kept_changing(f"blocks of node {request.node}", "assign"))


def _climb(
    store: Store, request: Request, plan: Plan, wanted: int, given: list[Assigned], undo: Undo
) -> Exhausted | None:
    """Take from one block after the other until all that is wanted was given; return why it was not."""
    try:
        for room in steps(store, plan) if wanted else ():
            for item in _take(store, request, room, room.ordinals[: wanted - len(given)]):
                undo.push(take_back, store, item)
                given.append(item)
            if room.block.affinity == host_affinity(plan.node):
                remember(store, plan, given[-1].block)
            if len(given) == wanted:
                break
    except BlockLimit as limit:
        return BlockLimit(_short(plan.family, request, len(given), str(limit)))
    if wanted < request.count:
        return _handle_is_full(request, plan.family, len(given))
    return None if len(given) == wanted else _exhausted(store, request, plan, len(given))


def _exhausted(store: Store, request: Request, plan: Plan, given: int) -> Exhausted:
    from ipam.usage import why_exhausted

    return Exhausted(_short(plan.family, request, given, why_exhausted(store, request.criteria, plan.family)))


def _short(family: int, request: Request, given: int, why: str) -> str:
    return f"no free IPv{family} address (assigned {given} out of {request.count} requested): {why}"


def _above_limit(store: Store, request: Request, family: int) -> int:
    """Return how many of the addresses requested the handle may not have."""
    if not request.handle_limit:
        return 0
    held_now = len(held_by_handle(store, request.owner.handle_id, family))
    return min(request.count, max(0, held_now + request.count - request.handle_limit))


def _handle_is_full(request: Request, family: int, given: int) -> Exhausted:
    why = f"handle {request.owner.handle_id} may hold at most {request.handle_limit} of a family, and does"
    return Exhausted(_short(family, request, given, why))


def _assign_address(store: Store, request: Request, address: Address) -> Assigned:
    """Give this very address (Calico: AssignIP); its block is claimed for the node when nobody has it."""
    pool = _pool_for(request, address, all_pools(store, address.family))
    if _above_limit(store, request, address.family) >= request.count:
        raise _handle_is_full(request, address.family, 0)
    gate = None if request.upgrading else held_by_upgrade(store, address)
    if gate:
        raise AddressInUse(f"address {address} is still host-local's ({gate}); finish `calico-ipam -upgrade`")
    config = configuration.load(store)
    for _ in range(ATTEMPTS):
        cidr = _block_for(store, address, pool)
        cut_now = cidr.prefix == pool.block_size
        try:
            stored = read_block(store, cidr) or (claim(store, request.node, cidr, pool=pool) if cut_now else None)
            if stored is None:
                continue
            block = settled(stored[0], config.cooldown_seconds)
            is_foreign = config.strict_affinity and block.affinity != host_affinity(request.node)
            if is_foreign and not request.regardless:
                raise BadRequest(f"address {address} cannot be given: its block {cidr} is not node {request.node}'s, "
                                 "and affinity is strict; ask for another, or turn strictAffinity off")
            ordinal = address.number - cidr.first
            return _take(store, request, Room(block, stored[1], [ordinal]), [ordinal], requested=True)[0]
        except LOST_RACE:
            continue
    raise Contended(_kept_changing(f"the block of {address}", "assign it"))


def _pool_for(request: Request, address: Address, pools: Sequence[Pool]) -> Pool:
    """Return the pool an address asked for lies in; raises BadRequest when nothing may be assigned from it."""
    pool = pool_of_address(pools, address)
    if pool is None:
        known = ", ".join(f"{pool.name} {pool.cidr}" for pool in pools) or "none"
        raise BadRequest(f"address {address} is in no pool; IPv{address.family} pools are: {known}")
    if request.regardless:
        return pool
    reason = refusal(pool) or (refusal_of_use(pool, request.use) if request.use else None)
    if reason:
        raise BadRequest(f"address {address} is in pool {pool.name}, which is {reason}; ask for another")
    return pool


def _block_for(store: Store, address: Address, pool: Pool) -> Cidr:
    """Return the block that has the address, of whatever size it is; else the one the pool would cut for it."""
    wanted, present = block_at(address, pool.block_size), Present(store, address.family)
    found = present.at(block_at(address, BITS[address.family]))
    overlapping = None if found else present.at(wanted)
    if overlapping:
        raise BadRequest(f"address {address} cannot be given: its block {wanted} would overlap the present block "
                         f"{overlapping}, which was cut when the pool had another block size")
    return found or wanted


def _take(
    store: Store, request: Request, room: Room, ordinals: Sequence[int], requested: bool = False
) -> list[Assigned]:
    """Write allocations from one block: the handle first, so that no address is held without one.

    Raises AddressInUse and LOST_RACE errors.
    """
    block, owner, cidr = room.block, request.owner, parse_cidr(room.block.cidr)
    if block.affinity != host_affinity(request.node):
        remember_borrowed(store, request.node, block.cidr)
    updated = give(block, ordinals, Attribute(owner.handle_id, owner.attributes))
    given = [Assigned(cidr.address(at), cidr, owner.handle_id, block.sequence, requested) for at in ordinals]
    counted = count_change(handle_record(store, owner.handle_id), owner.handle_id, block.cidr,
                           len(held_of(updated, owner.handle_id)), keys.boot_of(owner.attributes))
    written = Change(keys.block(cidr.family, block.cidr), block_json(updated), room.revision)
    try:
        store.commit(*filter(None, (counted, written)))
    except LOST_RACE:
        raise  # nothing was written, and another process of this handle may have been given the very same
    except BaseException:
        with Undo() as undo:
            for item in given:
                undo.push(take_back, store, item)  # the write may have been made, but answered with an error
            raise
    return given


def _plan(store: Store, request: Request, family: int) -> Plan:
    return plan_of(store, request.criteria, family, all_pools(store, family), request.block_limit)


def _seed(store: Store, request: Request, families: Iterable[int]) -> None:
    """Make the default pools of a new datastore; before its lock is taken, for it looks at the host's routes."""
    for family in sorted(set(families)):
        if not all_pools(store, family):
            seed_default_pools(store, request.env, [family], request.host_networks)


def _kept_changing(what: str, to_do: str) -> str:
    return f"{what} kept changing under {ATTEMPTS} attempts to {to_do}; try again"
