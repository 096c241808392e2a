"""What endpoint records, handles and wires tell of blocks whose record is damaged or gone."""

from __future__ import annotations

from datastore import keys
from datastore.api import Corrupt
from datastore.model import CONFIRMED, handle_of
from datastore.resources import endpoint_of
from ipam.audit.endpoints import told_before
from ipam.audit.finding import RECORD_UNREADABLE
from ipam.audit.living import BOOT, NETNS, VETH
from ipam.audit.rebuild import Evidence, attribute_of
from ipam.cidr import parse_address, parse_cidr
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from datastore.api import Store
    from datastore.model import Attribute
    from datastore.resources import Endpoint
    from ipam.audit.living import Living
    from ipam.audit.survey import Survey
    from ipam.handle import Owner


NO_BOOT = "unknown"


def gather(
    store: Store, found: Survey, cidrs: Collection[str], owner_of: Callable[[Endpoint], Owner]
) -> dict[str, Evidence]:
    """Return the evidence for each of the blocks. Raises Unwritable."""
    ranges = [parse_cidr(cidr) for cidr in cidrs]
    owners: dict[str, dict[int, Attribute]] = {cidr: {} for cidr in cidrs}
    for text, attribute in (*_of_endpoints(store, found, owner_of), *_of_wires(found)):
        try:
            address = parse_address(text)
        except BadRequest:
            continue
        for cidr in ranges:
            if address in cidr:
                at = address.number - cidr.first
                known = owners[str(cidr)].get(at)
                same = known is not None and known.handle == attribute.handle
                owners[str(cidr)][at] = attribute_of(attribute.handle or "", known.owner if known and same else {},
                                                     attribute.owner)
    handles = _handles(store, found.living, cidrs)
    return {cidr: Evidence(owners[cidr], handles[cidr], _is_complete(found, cidr)) for cidr in cidrs}


def _of_wires(found: Survey) -> list[tuple[str, Attribute]]:
    """Return whose each wired address is, with what proves its end later."""
    living = found.living
    traces = {"node": living.node, BOOT: living.boot, NETNS: living.netns}
    return [(str(address), attribute_of(wire.owner.handle_id, wire.owner.attributes, traces, {VETH: wire.link}))
            for wire in living.wires for address in wire.addresses]


def _of_endpoints(
    store: Store, found: Survey, owner_of: Callable[[Endpoint], Owner]
) -> list[tuple[str, Attribute]]:
    """Return whose each recorded address is. One of this node is taken to be of this boot: the next one reclaims it.

    One of another node is of no boot that is known: that node reclaims it after a reboot, if it is not wired there.
    """
    told = []
    for record in store.scan(keys.WORKLOAD_ENDPOINTS, told_before):
        endpoint = endpoint_of(record)
        if endpoint is None:
            continue
        owner = owner_of(endpoint)
        more = {"node": endpoint.node, "pod": endpoint.pod,
                "namespace": endpoint.namespace if endpoint.pod else "",
                BOOT: found.living.boot if endpoint.node == found.living.node else NO_BOOT}
        told += [(address, attribute_of(owner.handle_id, owner.attributes, more)) for address in endpoint.addresses]
    return told


def _handles(store: Store, living: Living, cidrs: Collection[str]) -> dict[str, dict[str, int]]:
    """Return for each block the handles that name it, and how many they say they hold; none of pods that are gone."""
    told: dict[str, dict[str, int]] = {cidr: {} for cidr in cidrs}
    for record in store.scan(keys.HANDLES, told_before):
        try:
            handle = handle_of(record)
        except Corrupt:
            continue
        if living.first and handle.boot not in ("", living.boot):
            continue
        for cidr in told.keys() & handle.blocks.keys():
            told[cidr][handle.handle_id] = handle.blocks[cidr]
    return told


def _is_complete(found: Survey, cidr: str) -> bool:
    """Tell whether all that can have an address of the block is known: it is this node's, and no handle is damaged.

    Before the first address of a boot is given, damage hides nobody who lives, and whose address is no pod's is in
    blocks that no power cut damages, with a handle that is as safe.
    """
    if found.living.first:
        return True
    damaged = any(finding.kind == RECORD_UNREADABLE and "/handle/" in finding.subject for finding in found.findings)
    return node_of(found, cidr) == found.living.node and not damaged


def node_of(found: Survey, cidr: str) -> str | None:
    """Return whose a block is by its affinities, None where none is left.

    A confirmed one goes before one that cannot be read, and that before one left half-done; then this node first.
    """
    claims = found.claims.get(cidr, {})
    ranks = sorted((_rank(state), node != found.living.node, node) for node, state in claims.items())
    return ranks[0][2] if ranks else None


def _rank(state: str) -> int:
    return 0 if state == CONFIRMED else 2 if state else 1
