"""Whether an address is to be had, and why not."""

from __future__ import annotations

from ipam import configuration
from ipam.block import host_affinity
from ipam.pool import all_pools, usable, why_not
from ipam.reservation import reserved_ranges
from ipam.staircase import has_step, plan_of
from ipam.utilization import all_blocks, utilization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datastore.api import Store
    from ipam.pool import Criteria
    from ipam.utilization import PoolUsage

MOST_TOLD = 5  # pools


def has_room(store: Store, criteria: Criteria, family: int) -> bool:
    """Tell whether an assignment would find a free address. Raises BadRequest, Corrupt; writes nothing."""
    return has_step(store, plan_of(store, criteria, family, all_pools(store, family)))


def why_exhausted(store: Store, criteria: Criteria, family: int) -> str:
    """Say why no address was to be had: for each pool how full it is, or why it was passed over. Raises Corrupt."""
    pools = all_pools(store, family)
    if not pools:
        return f"there is no IPv{family} pool; create one, or set CALICO_IPV{family}POOL_CIDR"
    chosen = usable(store, pools, criteria, family)
    full = utilization(chosen[:MOST_TOLD], reserved_ranges(store, family), all_blocks(store, family)).pools
    passed_over = [pool for pool in pools if pool not in chosen][:MOST_TOLD]
    facts = [f"pool {one.name} {one.cidr} has {one.in_use} of {one.total} addresses in use in {len(one.blocks)} of "
             f"{one.block_limit} blocks{_limits(store, one, criteria.node)}" for one in full]
    facts += [f"pool {pool.name} {pool.cidr} was passed over "
              f"({why_not(store, pool, criteria) or 'another was requested'})" for pool in passed_over]
    more = len(pools) - len(facts)
    return "; ".join([*facts, *([f"and {more} more pools"] if more else [])]) + (
        "; add a pool, or delete pods that are not needed")


def _limits(store: Store, usage: PoolUsage, node: str) -> str:
    """Name what keeps free addresses of a pool from being assigned: other nodes, reservations, rest, settings."""
    foreign = sum(block.affinity != host_affinity(node) for block in usage.blocks)
    cooling = sum(block.cooling for block in usage.blocks)
    config = configuration.load(store)
    return "".join([
        f", {foreign} of them not node {node}'s" if foreign else "",
        ", which strict affinity keeps from being borrowed from" if foreign and config.strict_affinity else "",
        f", {usage.reserved} addresses reserved" if usage.reserved else "",
        f", {cooling} of those in use at rest after their release (ipCooldownSeconds)" if cooling else "",
        "" if config.auto_allocate_blocks else ", and autoAllocateBlocks is off",
    ])
