"""The record of a wired pod: Calico's WorkloadEndpoint (API v3), kept until its DEL.

The name is `<node>-cni-<container>-<interface>`, dashes in a part doubled (libcalico-go lib/names/workloadendpoint.go),
for pods of an orchestrator too: a DEL may come without the pod's name, and may come late, when a successor of the same
pod name is up.
"""

from __future__ import annotations

import time

from cni_calico.args import Attachment
from datastore import keys
from datastore.api import Conflict, Exists, Missing
from datastore.frozen import frozen
from ipam.cidr import BITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni_calico.args import Args
    from cni_calico.dataplane import Wire, Wired
    from datastore.api import Json, Store

# Annotations for what Calico's record has no field for: the CNI network, and a second interface's routing table.
NETWORK = "projectcalico.org/network"
SOURCE_TABLE = "projectcalico.org/source-table"
DEFAULT_NAMESPACE = "default"


@frozen
class Endpoint:
    """One attachment as recorded."""

    attachment: Attachment
    node: str
    addresses: tuple[str, ...]
    source_table: int = 0


def save(store: Store, attachment: Attachment, node: str, args: Args, wire: Wire, wired: Wired) -> None:
    """Record a wired pod; a record left over from an attachment of the same name is replaced. Raises StoreError."""
    key = keys.workload_endpoint(_namespace(args), _name(attachment, node))
    value = _json(attachment, node, args, wire, wired)
    try:
        store.create(key, value)
    except Exists:
        with store.exclusive():
            store.update(key, value, store.get(key).revision)


def find(store: Store, attachment: Attachment) -> Endpoint | None:
    """Return the attachment's record, or None. Needs neither node nor pod name. Raises StoreError."""
    for key in _keys(store, attachment):
        try:
            endpoint = _read(store.get(key).value)
        except Missing:
            continue
        if endpoint and endpoint.attachment == attachment:
            return endpoint
    return None


def forget(store: Store, attachment: Attachment) -> bool:
    """Remove the attachment's record, and only its; tell whether there was one. Raises StoreError."""
    removed = False
    for key in _keys(store, attachment):
        try:
            record = store.get(key)
            endpoint = _read(record.value)
            if endpoint and endpoint.attachment == attachment:
                store.delete(key, record.revision)
                removed = True
        except (Missing, Conflict):
            continue  # another DEL of the same attachment was faster
    return removed


def all_endpoints(store: Store) -> Iterator[Endpoint]:
    """Yield every record that says which network it belongs to. Raises StoreError."""
    for record in store.records(keys.WORKLOAD_ENDPOINTS):
        endpoint = _read(record.value)
        if endpoint:
            yield endpoint


def _keys(store: Store, attachment: Attachment) -> list[str]:
    ending = f"-{_part('cni')}-{_part(attachment.container_id)}-{_part(attachment.ifname)}"
    return [key for key in store.keys(keys.WORKLOAD_ENDPOINTS) if key.endswith(ending)]


def _name(attachment: Attachment, node: str) -> str:
    return "-".join(map(_part, (node, "cni", attachment.container_id, attachment.ifname)))


def _part(text: str) -> str:
    return text.replace("-", "--")


def _namespace(args: Args) -> str:
    return args.namespace if args.pod and args.namespace else DEFAULT_NAMESPACE


def _json(attachment: Attachment, node: str, args: Args, wire: Wire, wired: Wired) -> Json:
    in_kubernetes = bool(args.pod and args.namespace)
    spec = {
        "orchestrator": "k8s" if in_kubernetes else "cni",
        "node": node,
        "containerID": attachment.container_id,
        "pod": args.pod,
        "endpoint": attachment.ifname,
        "ipNetworks": [f"{address}/{BITS[address.family]}" for address in wire.addresses],
        "profiles": [attachment.network],
        "interfaceName": attachment.host_ifname,
        "mac": wired.pod_mac,
    }
    annotations = {NETWORK: attachment.network}
    if wired.source_table:
        annotations[SOURCE_TABLE] = str(wired.source_table)
    return {
        "kind": "WorkloadEndpoint",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {
            "name": _name(attachment, node),
            "namespace": _namespace(args),
            "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "annotations": annotations,
        },
        "spec": {name: value for name, value in spec.items() if value},
    }


def _read(value: Json) -> Endpoint | None:
    """Return the endpoint in a record, or None when it is not one of this plugin's."""
    try:
        spec = value["spec"]
        annotations = value["metadata"]["annotations"]
        addresses = tuple(text.partition("/")[0] for text in spec.get("ipNetworks") or ())
        attachment = Attachment(annotations[NETWORK], spec["containerID"], spec["endpoint"])
        return Endpoint(attachment, spec["node"], addresses, int(annotations.get(SOURCE_TABLE, 0)))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
