"""Calico's records as typed values, to and from the JSON that Calico's own tools read.

Field names are Calico's (libcalico-go lib/backend/model: block.go, ipam_handle.go, block_affinity.go; API v3 IPPool).
Keys that a record has and this release does not know are kept in `extra` and written back.
"""

from __future__ import annotations

import time

from datastore import keys
from datastore.api import Corrupt
from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    from datastore.api import Json, Record

    T = TypeVar("T")

CONFIRMED = "confirmed"
PENDING = "pending"
PENDING_DELETION = "pendingDeletion"
# Annotations for what Calico's record has no field for: the CNI network, and a second interface's routing table.
NETWORK = "projectcalico.org/network"
SOURCE_TABLE = "projectcalico.org/source-table"


@frozen
class Attribute:
    """Who holds an address: the handle it is released by, and what is known of the owner (Calico: `secondary`)."""

    handle: str | None
    owner: Mapping[str, str]
    extra: Mapping[str, Any] = {}


@frozen
class Block:
    """A run of addresses that one node hands out; an ordinal is an address's distance from the block's first.

    allocations: for each ordinal the index of its owner in `attributes`, or None when it is free.
    unallocated: the free ordinals, the longest free first.
    sequence: grows with each write; allocation_sequence holds, per allocated ordinal, its value at that time.
    """

    cidr: str
    affinity: str | None
    allocations: tuple[int | None, ...]
    unallocated: tuple[int, ...]
    attributes: tuple[Attribute, ...]
    sequence: int
    allocation_sequence: Mapping[int, int]
    extra: Mapping[str, Any] = {}


@frozen
class Handle:
    """How many addresses one owner holds in each block."""

    handle_id: str
    blocks: Mapping[str, int]
    extra: Mapping[str, Any] = {}


@frozen
class Affinity:
    """How far a node has come in claiming a block, or in giving it up."""

    state: str
    extra: Mapping[str, Any] = {}


@frozen
class Pool:
    """A range of addresses that blocks are cut from (Calico: IPPool)."""

    name: str
    cidr: str
    block_size: int
    disabled: bool = False
    node_selector: str = "all()"
    namespace_selector: str = ""
    allowed_uses: tuple[str, ...] = ()
    assignment_mode: str = "Automatic"


@frozen
class Endpoint:
    """A wired pod (Calico: WorkloadEndpoint). addresses have no prefix length; source_table 0 means none of its own."""

    name: str
    namespace: str
    orchestrator: str
    pod: str
    network: str
    container_id: str
    ifname: str
    node: str
    host_ifname: str
    mac: str
    addresses: tuple[str, ...]
    source_table: int


def block_of(record: Record) -> Block:
    """Return the block in a record, which must be of the CIDR in its key; raises Corrupt."""
    block = _read(record, _block)
    if block.cidr != keys.block_cidr(record.key):
        raise Corrupt(f"record {record.key} holds block {block.cidr}, not its own; repair it before its use")
    return block


def block_is_full(record: Record) -> bool:
    """Tell whether a block record says, in both its lists, that it has no free address. Nothing else is looked at."""
    allocations = record.value.get("allocations")
    return record.value.get("unallocated") == [] and isinstance(allocations, list) and None not in allocations


def block_json(block: Block) -> Json:
    """Return a block as Calico writes it."""
    attributes = [{**item.extra, "handle_id": item.handle, "secondary": dict(item.owner)} for item in block.attributes]
    return {
        "deleted": False,
        **block.extra,
        "cidr": block.cidr,
        "affinity": block.affinity,
        "allocations": list(block.allocations),
        "unallocated": list(block.unallocated),
        "attributes": attributes,
        "sequenceNumber": block.sequence,
        "sequenceNumberForAllocation": {str(ordinal): at for ordinal, at in block.allocation_sequence.items()},
    }


def handle_of(record: Record) -> Handle:
    """Return the handle in a record; raises Corrupt."""
    return _read(record, lambda value: Handle(
        _text(value.get("handleID") or record.key.rpartition("/")[2]),
        {_text(cidr): _count(count) for cidr, count in value["block"].items()},
        _others(value, "handleID", "block"),
    ))


def handle_json(handle: Handle) -> Json:
    """Return a handle as Calico writes it."""
    return {"deleted": False, **handle.extra, "handleID": handle.handle_id, "block": dict(handle.blocks)}


def affinity_of(record: Record) -> Affinity:
    """Return the affinity in a record; an empty state is old data and means confirmed. Raises Corrupt."""
    return _read(record, lambda value: Affinity(_text(value.get("state") or CONFIRMED), _others(value, "state")))


def affinity_json(affinity: Affinity) -> Json:
    """Return an affinity as Calico writes it."""
    return {"deleted": False, **affinity.extra, "state": affinity.state}


def pool_of(record: Record) -> Pool:
    """Return the pool in an IPPool resource; raises Corrupt."""
    return _read(record, _pool)


def endpoint_of(record: Record) -> Endpoint | None:
    """Return the endpoint in a WorkloadEndpoint resource, or None when it is not one of this plugin's."""
    try:
        metadata, spec = record.value["metadata"], record.value["spec"]
        annotations = metadata["annotations"]
        return Endpoint(
            name=_text(metadata["name"]),
            namespace=_text(metadata["namespace"]),
            orchestrator=_text(spec["orchestrator"]),
            pod=_text(spec.get("pod") or ""),
            network=_text(annotations[NETWORK]),
            container_id=_text(spec["containerID"]),
            ifname=_text(spec["endpoint"]),
            node=_text(spec["node"]),
            host_ifname=_text(spec["interfaceName"]),
            mac=_text(spec.get("mac") or ""),
            addresses=tuple(_text(network).partition("/")[0] for network in spec.get("ipNetworks") or ()),
            source_table=int(annotations.get(SOURCE_TABLE, 0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def endpoint_json(endpoint: Endpoint) -> Json:
    """Return an endpoint as the resource that Calico's tools read."""
    annotations = {NETWORK: endpoint.network}
    if endpoint.source_table:
        annotations[SOURCE_TABLE] = str(endpoint.source_table)
    spec = {
        "orchestrator": endpoint.orchestrator,
        "node": endpoint.node,
        "containerID": endpoint.container_id,
        "pod": endpoint.pod,
        "endpoint": endpoint.ifname,
        "ipNetworks": [f"{address}/{128 if ':' in address else 32}" for address in endpoint.addresses],
        "profiles": [endpoint.network],
        "interfaceName": endpoint.host_ifname,
        "mac": endpoint.mac,
    }
    return {
        "kind": "WorkloadEndpoint",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {
            "name": endpoint.name,
            "namespace": endpoint.namespace,
            "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "annotations": annotations,
        },
        "spec": {name: value for name, value in spec.items() if value},
    }


def _block(value: Json) -> Block:
    known = ("cidr", "affinity", "allocations", "unallocated", "attributes", "sequenceNumber",
             "sequenceNumberForAllocation")
    return Block(
        cidr=_text(value["cidr"]),
        affinity=None if value.get("affinity") is None else _text(value["affinity"]),
        allocations=tuple(None if index is None else _count(index) for index in value["allocations"]),
        unallocated=tuple(map(_count, value["unallocated"])),
        attributes=tuple(map(_attribute, value["attributes"] or ())),
        sequence=_count(value.get("sequenceNumber", 0)),
        allocation_sequence={
            int(ordinal): _count(at) for ordinal, at in (value.get("sequenceNumberForAllocation") or {}).items()
        },
        extra=_others(value, *known),
    )


def _attribute(value: Json) -> Attribute:
    handle = value.get("handle_id")
    owner = {_text(name): _text(text) for name, text in (value.get("secondary") or {}).items()}
    return Attribute(None if handle is None else _text(handle), owner, _others(value, "handle_id", "secondary"))


def _pool(value: Json) -> Pool:
    spec = value["spec"]
    family_default = 122 if ":" in _text(spec["cidr"]) else 26
    return Pool(
        name=_text(value["metadata"]["name"]),
        cidr=_text(spec["cidr"]),
        block_size=_count(spec.get("blockSize") or family_default),
        disabled=bool(spec.get("disabled", False)),
        node_selector=_text(spec.get("nodeSelector") or "all()"),
        namespace_selector=_text(spec.get("namespaceSelector") or ""),
        allowed_uses=tuple(map(_text, spec.get("allowedUses") or ())),
        assignment_mode=_text(spec.get("assignmentMode") or "Automatic"),
    )


def _read(record: Record, read: Callable[[Json], T]) -> T:
    """Apply a reader; a record of another shape is Corrupt, never half understood."""
    try:
        return read(record.value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"record {record.key} is not what its key says ({error!r}); repair it before its use") from error


def _others(value: Json, *known: str) -> Json:
    return {name: item for name, item in value.items() if name not in known}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is not a natural number")
    return value
