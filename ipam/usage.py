"""How full pools and blocks are."""

from __future__ import annotations

from datastore import keys
from datastore.frozen import frozen
from datastore.model import block_of
from ipam.affinity import own_blocks, read_block, unclaimed
from ipam.block import check, host_affinity
from ipam.cidr import parse_cidr
from ipam.pool import all_pools, block_count, usable, why_not

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datastore.api import Store
    from datastore.resources import Pool


@frozen
class BlockUsage:
    """A block: whose it is, how many addresses it has and how many are in use."""

    cidr: str
    affinity: str | None
    total: int
    in_use: int


@frozen
class PoolUsage:
    """A pool: how many addresses and blocks it can have, how many addresses are in use, and its present blocks."""

    name: str
    cidr: str
    total: int
    in_use: int
    block_limit: int
    blocks: tuple[BlockUsage, ...]


def pool_usage(store: Store, pool: Pool) -> PoolUsage:
    """Return how full one pool is. Raises Corrupt."""
    whole = parse_cidr(pool.cidr)
    used = tuple(item for item in block_usage(store, whole.family) if parse_cidr(item.cidr) in whole)
    return PoolUsage(pool.name, pool.cidr, whole.size, sum(item.in_use for item in used), block_count(pool), used)


def block_usage(store: Store, family: int) -> list[BlockUsage]:
    """Return how full each block of the family is, in the order of their addresses. Raises Corrupt."""
    found = [check(block_of(record)) for record in store.records(keys.blocks(family))]
    found.sort(key=lambda block: parse_cidr(block.cidr).first)
    return [
        BlockUsage(block.cidr, block.affinity, len(block.allocations), len(block.allocations) - len(block.unallocated))
        for block in found
    ]


def has_room(store: Store, node: str, family: int, requested: Mapping[int, Sequence[str]]) -> bool:
    """Tell whether an assignment on the node would find a free address. Raises BadRequest, Corrupt; writes nothing."""
    pools = usable(all_pools(store, family), requested.get(family, ()), family)
    ranges = [parse_cidr(pool.cidr) for pool in pools]
    own = [cidr for cidr in own_blocks(store, node, family) if any(cidr in whole for whole in ranges)]
    if any(stored and stored[0].unallocated for stored in (read_block(store, cidr) for cidr in own)):
        return True
    return next(unclaimed(store, family, pools), None) is not None


def why_exhausted(store: Store, node: str, family: int, pools: Sequence[Pool], chosen: Sequence[Pool]) -> str:
    """Say why no address was to be had: for each pool how full it is, or why it was passed over."""
    if not pools:
        return f"no IPv{family} address: there is no IPv{family} pool; create one, or set CALICO_IPV{family}POOL_CIDR"
    facts = []
    for pool in pools:
        if pool in chosen:
            usage = pool_usage(store, pool)
            foreign = sum(block.affinity != host_affinity(node) for block in usage.blocks)
            facts.append(f"pool {pool.name} {pool.cidr} has {usage.in_use} of {usage.total} addresses in use in "
                         f"{len(usage.blocks)} of {usage.block_limit} blocks"
                         + (f", {foreign} of them not node {node}'s" if foreign else ""))
        else:
            facts.append(f"pool {pool.name} {pool.cidr} was passed over ({why_not(pool) or 'another was requested'})")
    return f"no free IPv{family} address: {'; '.join(facts)}; add a pool, or delete pods that are not needed"
