"""Calico's v3 resources as typed values: pools, reservations, nodes, endpoints.

Field names are Calico's (api/pkg/apis/projectcalico/v3). What is read here is what the allocator and the plugin need;
people's tools keep the resource itself (calicoctl/).
"""

from __future__ import annotations

import time

from datastore.fields import count, read, text, texts, truth
from datastore.frozen import frozen, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from datastore.api import Json, Record

# Annotations for what Calico's record has no field for: the CNI network, and a second interface's routing table.
NETWORK = "projectcalico.org/network"
SOURCE_TABLE = "projectcalico.org/source-table"


@frozen
class Pool:
    """A range of addresses that blocks are cut from (Calico: IPPool).

    refusal: why nothing may be assigned from it though it is not disabled: it is being deleted, or its status says so.
    revision: of its record, None where it is of none.
    """

    name: str
    cidr: str
    block_size: int
    disabled: bool = False
    node_selector: str = "all()"
    namespace_selector: str = ""
    allowed_uses: tuple[str, ...] = ()
    assignment_mode: str = "Automatic"
    refusal: str = ""
    revision: int | None = None


@frozen
class Reservation:
    """Ranges of addresses that are never assigned unless asked for (Calico: IPReservation)."""

    name: str
    cidrs: tuple[str, ...]


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


def pool_of(record: Record) -> Pool:
    """Return the pool in an IPPool resource; raises Corrupt."""
    return replace(read(record, _pool), revision=record.revision)


def reservation_of(record: Record) -> Reservation:
    """Return the reservation in an IPReservation resource; raises Corrupt."""
    return read(record, lambda value: Reservation(
        text(value["metadata"]["name"]), tuple(map(text, value["spec"].get("reservedCIDRs") or ()))
    ))


def node_labels_of(record: Record) -> Mapping[str, str]:
    """Return the labels of a Node resource; raises Corrupt."""
    return read(record, lambda value: texts(value["metadata"].get("labels")))


def endpoint_of(record: Record) -> Endpoint | None:
    """Return the endpoint in a WorkloadEndpoint resource, or None when it is not one of this plugin's."""
    try:
        metadata, spec = record.value["metadata"], record.value["spec"]
        annotations = metadata["annotations"]
        return Endpoint(
            name=text(metadata["name"]),
            namespace=text(metadata["namespace"]),
            orchestrator=text(spec["orchestrator"]),
            pod=text(spec.get("pod") or ""),
            network=text(annotations[NETWORK]),
            container_id=text(spec["containerID"]),
            ifname=text(spec["endpoint"]),
            node=text(spec["node"]),
            host_ifname=text(spec["interfaceName"]),
            mac=text(spec.get("mac") or ""),
            addresses=tuple(text(network).partition("/")[0] for network in spec.get("ipNetworks") or ()),
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


def _pool(value: Json) -> Pool:
    spec = value["spec"]
    family_default = 122 if ":" in text(spec["cidr"]) else 26
    return Pool(
        name=text(value["metadata"]["name"]),
        cidr=text(spec["cidr"]),
        block_size=count(spec.get("blockSize") or family_default),
        disabled=truth(spec.get("disabled"), False),
        node_selector=text(spec.get("nodeSelector") or "all()"),
        namespace_selector=text(spec.get("namespaceSelector") or ""),
        allowed_uses=tuple(map(text, spec.get("allowedUses") or ())),
        assignment_mode=text(spec.get("assignmentMode") or "Automatic"),
        refusal=_refusal(value),
    )


def _refusal(value: Json) -> str:
    """Return why the resource may not be assigned from: deletionTimestamp, or condition Allocatable=False."""
    if value["metadata"].get("deletionTimestamp"):
        return "it is being deleted"
    for condition in (value.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Allocatable" and condition.get("status") == "False":
            return f"its status says {text(condition.get('reason') or 'not allocatable')}"
    return ""
