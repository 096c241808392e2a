"""Endpoint records as an audit reads them, hundreds of thousands of them in little memory."""

from __future__ import annotations

from contextlib import suppress

from datastore import keys
from datastore.frozen import frozen
from datastore.resources import endpoint_of
from ipam.audit.living import identity
from ipam.audit.tally import Tally
from ipam.cidr import parse_address
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from datastore.api import Record, Store, Torn
    from datastore.resources import Endpoint
    from ipam.audit.living import Identity
    from ipam.audit.survey import Survey
    from ipam.cidr import Address


@frozen
class Endpoints:
    """How many endpoint records there are, which of this node's wires have one, and addresses not allocated to them."""

    count: int
    wired: set[Identity]
    strays: list[tuple[Address, Endpoint]]


def identity_of(endpoint: Endpoint | None) -> Identity:
    """Return network, container and interface of an endpoint record."""
    return (endpoint.network, endpoint.container_id, endpoint.ifname) if endpoint else ()


def read_endpoints(store: Store, found: Survey, watch: Callable[..., Iterable[Any]]) -> Endpoints:
    """Read all endpoint records; those that disagree with the blocks are read once more. Raises Unwritable."""
    told, count, wired = Tally(), 0, set()
    wanted = {identity(wire.owner.attributes) for wire in found.living.wires}
    for record in watch(store.scan(keys.WORKLOAD_ENDPOINTS, found.unreadable), "Reading endpoints", found.allocations):
        count += 1
        for address, endpoint in _addresses(record):
            told.add(str(address), *identity_of(endpoint))
            wired |= {identity_of(endpoint)} & wanted
    missed, strays = told.without(found.owners), []
    if missed:
        for record in watch(store.scan(keys.WORKLOAD_ENDPOINTS, told_before), "Looking for strays", count):
            strays += [(address, endpoint) for address, endpoint in _addresses(record)
                       if (str(address), *identity_of(endpoint)) in missed]
    return Endpoints(count, wired, strays)


def recorded(store: Store, wanted: set[Identity]) -> set[Identity]:
    """Return those attachments that have an endpoint record now."""
    records = store.scan(keys.WORKLOAD_ENDPOINTS, told_before)
    return {identity_of(endpoint_of(record)) for record in records} & wanted


def told_before(_: Torn) -> None:
    """Pass over a damaged record: an earlier walk told of it."""


def _addresses(record: Record) -> Iterator[tuple[Address, Endpoint]]:
    endpoint = endpoint_of(record)
    if endpoint:
        for text in endpoint.addresses:
            with suppress(BadRequest):
                yield parse_address(text), endpoint
