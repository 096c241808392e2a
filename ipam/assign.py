"""Giving addresses: the staircase from a node's own blocks to a newly claimed one, and addresses asked for by name.

Borrowing from other nodes' blocks is the next step of the staircase (`_steps`).
"""

from __future__ import annotations

from itertools import chain

from datastore import keys
from datastore.api import Conflict, Exists, Missing
from datastore.frozen import frozen
from datastore.model import Attribute, block_json
from datastore.undo import Undo
from ipam.affinity import block_cidrs, claim, is_full, own_blocks, read_block, unclaimed
from ipam.block import give, held
from ipam.cidr import block_at, parse_cidr
from ipam.count import ATTEMPTS, set_count
from ipam.errors import BadRequest, Contended, Exhausted
from ipam.handle import Assigned
from ipam.pool import all_pools, pool_of_address, seed_default_pools, usable
from ipam.release import take_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from datastore.api import Store
    from datastore.resources import Pool
    from ipam.affinity import Stored
    from ipam.cidr import Address, Cidr
    from ipam.handle import Owner

LOST_RACE = (Conflict, Exists, Missing)  # another writer was faster: look again


@frozen
class Request:
    """What one attachment needs: these very addresses, and one of each family they leave out, from the pools named.

    env and host_networks are what the default pools of a new datastore are made from (ipam/pool.py).
    """

    node: str
    owner: Owner
    families: tuple[int, ...] = (4,)
    addresses: tuple[Address, ...] = ()
    pools: Mapping[int, Sequence[str]] = {}
    env: Mapping[str, str] = {}
    host_networks: Callable[[], Iterable[str]] = tuple


def assign(store: Store, request: Request) -> tuple[Assigned, ...]:
    """Give the owner all the addresses requested, or none.

    Raises BadRequest, Exhausted, AddressInUse, Contended, or a StoreError.
    """
    asked = {address.family for address in request.addresses}
    # Before the lock: making the default pools of a new datastore looks at the host's routes, which takes its time.
    pools = {family: _pools(store, request, family) for family in sorted({*asked, *request.families})}
    given: list[Assigned] = []
    with store.exclusive(), Undo() as undo:
        for address in dict.fromkeys(request.addresses):
            given.append(_assign_address(store, request, address, pools[address.family]))
            undo.push(take_back, store, given[-1])
        for family in request.families:
            if family not in asked:
                given.append(_assign_any(store, request, family, pools[family]))
                undo.push(take_back, store, given[-1])
    return tuple(given)


def _assign_any(store: Store, request: Request, family: int, pools: Sequence[Pool]) -> Assigned:
    """Give the first free address that the staircase leads to."""
    chosen = usable(pools, request.pools.get(family, ()), family)
    for _ in range(ATTEMPTS):
        try:
            found = next(_steps(store, request.node, family, chosen), None)
            if found:
                return _take(store, request, found, found[0].unallocated[0])
        except LOST_RACE:
            continue
        from ipam.usage import why_exhausted

        raise Exhausted(why_exhausted(store, request.node, family, pools, chosen))
    raise Contended(f"blocks of node {request.node} kept changing under {ATTEMPTS} attempts to assign; try again")


def _steps(store: Store, node: str, family: int, pools: Sequence[Pool]) -> Iterator[Stored]:
    """Yield blocks with room, best first: the node's own, then blocks nobody has claimed, in pool order."""
    ranges = [parse_cidr(pool.cidr) for pool in pools]
    own = (cidr for cidr in own_blocks(store, node, family) if any(cidr in whole for whole in ranges))
    with_room = (cidr for cidr in own if not is_full(store, cidr))
    for cidr in chain(with_room, unclaimed(store, family, pools)):
        stored = claim(store, node, cidr)
        if stored and stored[0].unallocated:
            yield stored


def _assign_address(store: Store, request: Request, address: Address, pools: Sequence[Pool]) -> Assigned:
    """Give this very address (Calico: AssignIP); its block is claimed for the node when nobody has it."""
    pool = pool_of_address(pools, address)
    if pool is None:
        known = ", ".join(f"{pool.name} {pool.cidr}" for pool in pools) or "none"
        raise BadRequest(f"address {address} is in no pool; IPv{address.family} pools are: {known}")
    if pool.disabled:
        raise BadRequest(f"address {address} is in pool {pool.name}, which is disabled; enable it or ask for another")
    if pool.allowed_uses and "Workload" not in pool.allowed_uses:
        raise BadRequest(f"address {address} is in pool {pool.name}, which is not for workloads (allowedUses)")
    cidr = _block_for(store, address, pool)
    for _ in range(ATTEMPTS):
        try:
            stored = read_block(store, cidr) or claim(store, request.node, cidr)
            if stored:
                return _take(store, request, stored, address.number - cidr.first, requested=True)
        except LOST_RACE:
            continue
        if not read_block(store, cidr):
            raise BadRequest(f"address {address} cannot be given: node {request.node} is giving its block {cidr} up")
    raise Contended(f"block {cidr} kept changing under {ATTEMPTS} attempts to assign {address}; try again")


def _block_for(store: Store, address: Address, pool: Pool) -> Cidr:
    """Return the block that has the address, of whatever size it is; else the one the pool would cut for it."""
    wanted, present = block_at(address, pool.block_size), block_cidrs(store, address.family)
    for cidr in present:
        if address in cidr:
            return cidr
    for cidr in present:
        if cidr in wanted:
            raise BadRequest(f"address {address} cannot be given: its block {wanted} would overlap the present block "
                             f"{cidr}, which was cut when the pool had another block size")
    return wanted


def _take(store: Store, request: Request, stored: Stored, ordinal: int, requested: bool = False) -> Assigned:
    """Write one allocation: the handle first, so that no address is held without one. Raises LOST_RACE errors."""
    block, revision = stored
    owner, cidr = request.owner, parse_cidr(block.cidr)
    updated = give(block, ordinal, Attribute(owner.handle_id, owner.attributes))
    given = Assigned(cidr.address(ordinal), cidr, owner.handle_id, block.sequence, requested)
    with Undo() as undo:
        undo.push(take_back, store, given)  # also for a write that was made, but answered with an error
        set_count(store, owner.handle_id, block.cidr, len(held(updated, lambda item: item.handle == owner.handle_id)))
        store.update(keys.block(cidr.family, block.cidr), block_json(updated), revision)
    return given


def _pools(store: Store, request: Request, family: int) -> list[Pool]:
    """Return the family's pools, after making the default one where there is none yet."""
    pools = all_pools(store, family)
    if not pools:
        seed_default_pools(store, request.env, (family,), request.host_networks)
        pools = all_pools(store, family)  # also where another process made it meanwhile
    return pools
