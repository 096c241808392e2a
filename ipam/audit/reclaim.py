"""Releasing what pods of a node's former boots held: exactly those allocations, and their endpoint records."""

from __future__ import annotations

from contextlib import suppress

from datastore import keys
from datastore.api import Conflict, Corrupt, Missing
from datastore.resources import endpoint_of
from ipam.audit.endpoints import identity_of
from ipam.audit.living import BOOT, identity, why_gone
from ipam.errors import Changed
from ipam.find import allocations, held_by_handle
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

    Endpoint records go first, then handles: as long as an address is still held, this can be done again. Raises
    StoreError.
    """
    damaged: list[Corrupt] = []
    left = [item for item in allocations(store, damaged.append) if _is_left(item, living)]
    forget_endpoints(store, {identity(item.attribute.owner) for item in left}, living.node)
    wanted = [Wanted(item.address, item.attribute.handle, item.sequence) for item in left]
    try:
        with store.exclusive():
            _forget_handles(store, left)
            return release_addresses(store, wanted).freed, not damaged
    except (Changed, Corrupt):
        return (), False


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
