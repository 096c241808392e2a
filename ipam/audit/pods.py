"""Blocks against what lives: endpoint records, this node's veths, and pods that are provably gone."""

from __future__ import annotations

from contextlib import ExitStack

from datastore import keys
from datastore.api import Busy, Corrupt, Missing, Unwritable
from datastore.frozen import frozen
from datastore.resources import endpoint_of
from ipam.audit.endpoints import identity_of, read_endpoints, recorded
from ipam.audit.finding import (
    CONFLICT,
    ENDPOINT_MISSING,
    ENDPOINT_STALE,
    LEAKED,
    UNALLOCATED,
    WIRE_TWICE,
    Finding,
    Leak,
)
from ipam.audit.living import IDENTITY, VETH, identity, why_gone
from ipam.audit.survey import holder, read
from ipam.block import describe
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from datastore.api import Store
    from datastore.model import Attribute
    from datastore.resources import Endpoint
    from ipam.audit.endpoints import Endpoints
    from ipam.audit.living import Living, Wire
    from ipam.audit.survey import Survey
    from ipam.cidr import Address


@frozen
class Stray:
    """An address that an endpoint record or a wire has, but no allocation of the same attachment."""

    address: Address
    endpoint: Endpoint | None
    wire: Wire | None

    @property
    def link(self) -> str:
        """The host's link of the attachment."""
        return self.wire.link if self.wire else self.endpoint.host_ifname if self.endpoint else ""

    @property
    def identity(self) -> tuple[str, ...]:
        """Network, container and interface."""
        return identity(self.wire.owner.attributes) if self.wire else identity_of(self.endpoint)


def compare_living(
    store: Store, found: Survey, look: Callable[[], Living], watch: Callable[..., Iterable[Any]]
) -> tuple[int, list[Leak]]:
    """Tell how records and what lives disagree; return the number of endpoints, and what is leaked for certain.

    An allocation is wired by the very ADD that made it, or never: once no verb is at work on it and its veth is not
    there, its pod is gone for good. Raises Unwritable.
    """
    endpoints = read_endpoints(store, found, watch)
    strays = [stray for stray in _strays(found, endpoints) if _is_idle(store, stray.link)]
    bare = [wire for wire in found.living.wires
            if identity(wire.owner.attributes) not in endpoints.wired and _is_idle(store, wire.link)]
    suspects = [leak for leak in found.suspects if _is_idle(store, leak.attribute.owner.get(VETH, ""))]
    if strays or bare or suspects:
        found.living = look()
    leaks = [leak for leak in suspects if _is_still_leaked(store, found, leak)]
    found.findings += map(_leaked, leaks)
    for stray in strays:
        found.findings += _look_again(store, found, stray)
    found.findings += _without_endpoint(store, found, bare)
    found.findings += _twice(found.living.wires)
    return endpoints.count, leaks


def _strays(found: Survey, endpoints: Endpoints) -> list[Stray]:
    of_endpoints = [Stray(address, endpoint, None) for address, endpoint in endpoints.strays]
    return of_endpoints + [Stray(address, None, wire) for wire in found.living.wires for address in wire.addresses
                           if not _holds(found.at_wires[address], wire)]


def _leaked(leak: Leak) -> Finding:
    what = f"it is allocated to {describe(leak.attribute)}, but {leak.why}"
    return Finding(LEAKED, str(leak.address), what, leak)


def _holds(attribute: Attribute | None, wire: Wire) -> bool:
    return attribute is not None and wire.owner.holds(attribute)


def _is_idle(store: Store, link: str) -> bool:
    """Tell whether no verb is at work on the attachment of this link; where nothing can be written, none is."""
    with ExitStack() as held:
        try:
            if link:
                held.enter_context(store.hold(link, 0, keep_mark=True))
        except Busy:
            return False
        except Unwritable:
            return True
    return True


def _is_still_leaked(store: Store, found: Survey, leak: Leak) -> bool:
    try:
        now = holder(read(store, found.block_at(leak.address)), leak.address)
    except (Corrupt, BadRequest):
        return False
    return now == (leak.attribute, leak.sequence) and bool(why_gone(leak.attribute.owner, found.living))


def _look_again(store: Store, found: Survey, stray: Stray) -> Iterator[Finding]:
    """Say what is wrong with an address that somebody has without an allocation; other IPAM plugins have theirs."""
    cidr = found.block_at(stray.address)
    if cidr in found.doubtful or not (cidr or found.in_pool(stray.address)) or not _is_still_there(store, found, stray):
        return
    try:
        attribute, _ = holder(read(store, cidr) if cidr else None, stray.address)
    except Corrupt:
        return
    where, subject = f"link {stray.wire.link}" if stray.wire else "an endpoint record", str(stray.address)
    if attribute is None and _is_stale(found, stray):
        yield Finding(ENDPOINT_STALE, subject, f"{where} has it, but it is neither allocated nor wired", stray)
    elif attribute is None:
        yield Finding(UNALLOCATED, subject, f"{where} has it, but it is not allocated", stray)
    elif identity(attribute.owner) != stray.identity:
        yield Finding(CONFLICT, subject, f"{where} has it, but it is allocated to {describe(attribute)}", stray)


def _is_still_there(store: Store, found: Survey, stray: Stray) -> bool:
    if stray.endpoint is None:
        return any(wire.owner == stray.wire.owner and stray.address in wire.addresses
                   for wire in found.living.wires if stray.wire)
    try:
        record = store.get(keys.workload_endpoint(stray.endpoint.namespace, stray.endpoint.name))
    except (Missing, Corrupt):
        return False
    return endpoint_of(record) == stray.endpoint


def _is_stale(found: Survey, stray: Stray) -> bool:
    """Tell whether an endpoint record is this node's and has no wire, in the namespace that the node's pods are in."""
    endpoint = stray.endpoint
    if endpoint is None or endpoint.node != found.living.node or not found.home:
        return False
    told = dict(zip(IDENTITY, stray.identity, strict=True))
    return not found.living.linked({**told, VETH: endpoint.host_ifname})


def _without_endpoint(store: Store, found: Survey, bare: Iterable[Wire]) -> Iterator[Finding]:
    """Yield each wire of an allocated address that has no endpoint record, though no verb is at work on it."""
    wires = [wire for wire in bare if wire in found.living.wires and
             any(_holds(found.at_wires.get(address), wire) for address in wire.addresses)]
    known = recorded(store, {identity(wire.owner.attributes) for wire in wires}) if wires else set()
    for wire in wires:
        if identity(wire.owner.attributes) not in known:
            yield Finding(ENDPOINT_MISSING, wire.link, "its pod is wired, but has no endpoint record", wire)


def _twice(wires: Iterable[Wire]) -> Iterator[Finding]:
    """Yield each link that is another's double: the same alias, or the same address routed to it."""
    seen: dict[object, str] = {}
    for wire in wires:
        for mark in (identity(wire.owner.attributes), *wire.addresses):
            other = seen.setdefault(mark, wire.link)
            if other != wire.link:
                what = "the alias" if isinstance(mark, tuple) else f"address {mark}"
                yield Finding(WIRE_TWICE, wire.link, f"it has {what} of link {other}")
