"""Releasing what pods of a node's former boots held: exactly those allocations, and their endpoint records."""

from __future__ import annotations

from datastore import keys
from datastore.api import Conflict, Corrupt, Missing
from datastore.resources import endpoint_of
from ipam.audit.endpoints import identity_of
from ipam.audit.living import BOOT, identity, why_gone
from ipam.errors import Changed
from ipam.find import allocations
from ipam.release import Wanted, release_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from datastore.api import Store
    from ipam.audit.living import Identity, Living
    from ipam.cidr import Address
    from ipam.find import Allocation


def reclaim(store: Store, living: Living) -> tuple[tuple[Address, ...], bool]:
    """Release what former boots of the node left; return what was freed, and whether all of it could be looked at.

    Endpoint records go first: as long as an address is still held, this can be done again. Raises StoreError.
    """
    damaged: list[Corrupt] = []
    left = [item for item in allocations(store, damaged.append) if _is_left(item, living)]
    forget_endpoints(store, {identity(item.attribute.owner) for item in left}, living.node)
    wanted = [Wanted(item.address, item.attribute.handle, item.sequence) for item in left]
    try:
        return release_addresses(store, wanted).freed, not damaged
    except (Changed, Corrupt):
        return (), False


def _is_left(allocation: Allocation, living: Living) -> bool:
    owner = allocation.attribute.owner
    return owner.get(BOOT, "") not in ("", living.boot) and bool(why_gone(owner, living))


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
