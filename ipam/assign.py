"""Giving addresses: the staircase from a node's own blocks to a newly claimed one, and addresses asked for by name.

Borrowing from other nodes' blocks is the next step of the staircase (`_steps`).
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from datastore import keys
from datastore.api import Conflict, Exists, Missing, StoreError
from datastore.frozen import frozen
from datastore.model import Attribute, block_json
from ipam.affinity import block_cidrs, claim, own_blocks, read_block
from ipam.block import assign_ordinal, held
from ipam.cidr import BITS, Address, block_at, parse_address, parse_cidr
from ipam.count import ATTEMPTS, set_count
from ipam.errors import BadRequest, Contended, Exhausted
from ipam.pool import all_pools, blocks, pool_of_address, seed_default_pools, usable
from ipam.release import take_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from datastore.api import Store
    from datastore.model import Pool
    from ipam.affinity import Stored
    from ipam.cidr import Cidr
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
    addresses: tuple[str, ...] = ()
    pools: Mapping[int, Sequence[str]] = {}
    env: Mapping[str, str] = {}
    host_networks: Callable[[], Iterable[str]] = tuple


@frozen
class Assigned:
    """An address given: the block it is from, and the sequence number that tells this giving from any later one."""

    address: Address
    block: Cidr
    handle_id: str
    sequence: int
    requested: bool


def assign(store: Store, request: Request) -> tuple[Assigned, ...]:
    """Give the owner all the addresses requested, or none.

    Raises BadRequest, Exhausted, AddressInUse, Contended, or a StoreError.
    """
    given: list[Assigned] = []
    with store.exclusive(), ExitStack() as undo:
        for step in _wanted(store, request):
            given.append(step())
            undo.callback(take_back, store, given[-1])
        undo.pop_all()
    return tuple(given)


def _wanted(store: Store, request: Request) -> Iterator[Callable[[], Assigned]]:
    """Yield the givings in order: each address asked for, then one of each wanted family that none was asked of."""
    asked = [parse_address(text.partition("/")[0]) for text in request.addresses]
    for address in dict.fromkeys(asked):
        yield partial(_assign_address, store, request, address)
    for family in request.families:
        if not any(address.family == family for address in asked):
            yield partial(_assign_any, store, request, family)


def _assign_any(store: Store, request: Request, family: int) -> Assigned:
    """Give the first free address that the staircase leads to."""
    pools = _pools(store, request, family)
    chosen = usable(pools, request.pools.get(family, ()), family)
    for _ in range(ATTEMPTS):
        try:
            found = next(_steps(store, request.node, family, chosen), None)
        except LOST_RACE:
            continue
        if found is None:
            from ipam.usage import why_exhausted

            raise Exhausted(why_exhausted(store, family, pools, chosen))
        given = _take(store, request, found, found[0].unallocated[0])
        if given:
            return given
    raise Contended(f"blocks of node {request.node} kept changing under {ATTEMPTS} attempts to assign; try again")


def _steps(store: Store, node: str, family: int, pools: Sequence[Pool]) -> Iterator[Stored]:
    """Yield blocks with room, best first: the node's own, then blocks nobody has claimed, in pool order."""
    ranges = [parse_cidr(pool.cidr) for pool in pools]
    own = [cidr for cidr in own_blocks(store, node, family) if any(cidr in whole for whole in ranges)]
    unclaimed = _unclaimed(store, family, pools) if pools else iter(())
    for candidates in (own, unclaimed):
        for cidr in candidates:
            stored = claim(store, node, cidr)
            if stored and stored[0].unallocated:
                yield stored


def _unclaimed(store: Store, family: int, pools: Sequence[Pool]) -> Iterator[Cidr]:
    """Yield the blocks that share no address with any there is, also of another size: a pool may have been remade."""
    present = block_cidrs(store, family)
    sizes = {cidr.prefix for cidr in present}
    for pool in pools:
        size = pool.block_size
        within = {block_at(cidr.address(0), size) for cidr in present if cidr.prefix >= size}
        around = [prefix for prefix in sizes if prefix < size]
        for cidr in blocks(pool):
            if cidr not in within and not any(block_at(cidr.address(0), prefix) in present for prefix in around):
                yield cidr


def _assign_address(store: Store, request: Request, address: Address) -> Assigned:
    """Give this very address (Calico: AssignIP); its block is claimed for the node when nobody has it."""
    whole = block_at(address, BITS[address.family])
    pools = _pools(store, request, address.family)
    pool = pool_of_address([pool for pool in pools if not pool.disabled], whole)
    if pool is None:
        known = ", ".join(f"{pool.name} {pool.cidr}" for pool in pools) or "none"
        raise BadRequest(f"address {address} is in no enabled pool; IPv{address.family} pools are: {known}")
    if pool.allowed_uses and "Workload" not in pool.allowed_uses:
        raise BadRequest(f"address {address} is in pool {pool.name}, which is not for workloads (allowedUses)")
    cidr = _block_for(store, address, pool)
    for _ in range(ATTEMPTS):
        try:
            stored = read_block(store, cidr) or claim(store, request.node, cidr)
        except LOST_RACE:
            continue
        given = stored and _take(store, request, stored, address.number - cidr.first, requested=True)
        if given:
            return given
    raise Contended(f"block {cidr} kept changing under {ATTEMPTS} attempts to assign {address}; try again")


def _block_for(store: Store, address: Address, pool: Pool) -> Cidr:
    """Return the block that has the address, of whatever size it is; else the one the pool would cut for it."""
    wanted = block_at(address, pool.block_size)
    for cidr in block_cidrs(store, address.family):
        if address in cidr:
            return cidr
        if cidr in wanted:
            raise BadRequest(f"address {address} cannot be given: its block {wanted} would overlap the present block "
                             f"{cidr}, which was cut when the pool had another block size")
    return wanted


def _take(store: Store, request: Request, stored: Stored, ordinal: int, requested: bool = False) -> Assigned | None:
    """Write one allocation: the handle first, so that no address is held without one; None when the race is lost."""
    block, revision = stored
    owner, cidr = request.owner, parse_cidr(block.cidr)
    updated, _ = assign_ordinal(block, ordinal, Attribute(owner.handle_id, owner.attributes))
    count = len(held(updated, lambda attribute: attribute.handle == owner.handle_id))
    given = Assigned(cidr.address(ordinal), cidr, owner.handle_id, block.sequence, requested)
    try:
        set_count(store, owner.handle_id, block.cidr, count)
        store.update(keys.block(cidr.family, block.cidr), block_json(updated), revision)
    except StoreError as error:
        take_back(store, given)  # a write that was answered with an error may still have been made
        if isinstance(error, Conflict):
            return None
        raise
    return given


def _pools(store: Store, request: Request, family: int) -> list[Pool]:
    """Return the family's pools, after making the default one where there is none yet."""
    pools = all_pools(store, family)
    if not pools and seed_default_pools(store, request.env, (family,), request.host_networks):
        pools = all_pools(store, family)
    return pools
