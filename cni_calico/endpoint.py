"""The record of a wired pod: Calico's WorkloadEndpoint (API v3), kept until its DEL.

The name is `<node>-cni-<container>-<interface>`, dashes in a part doubled (libcalico-go lib/names/workloadendpoint.go),
for pods of an orchestrator too: a DEL may come without the pod's name, and may come late, when a successor of the same
pod name is up.
"""

from __future__ import annotations

from cni_calico.args import Attachment
from datastore import keys
from datastore.api import Change, Conflict, Corrupt, Exists, Missing
from datastore.frozen import frozen, replace
from datastore.resources import Endpoint, endpoint_json, endpoint_of
from ipam.count import handle_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cni_calico.args import Args
    from cni_calico.dataplane import Wire, Wired
    from datastore.api import Store

DEFAULT_NAMESPACE = "default"


@frozen
class Found:
    """An endpoint where it is stored."""

    endpoint: Endpoint
    key: str
    revision: int


def save(store: Store, node: str, args: Args, wire: Wire, wired: Wired, is_remote: bool) -> None:
    """Record a wired pod; a record left over from an attachment of the same name is replaced. Raises StoreError.

    is_remote: whether a write may be late, and carried out when the pod has gone: it is made to depend on its handle.
    """
    endpoint = endpoint_for(node, args.pod, args.namespace, wire.attachment, tuple(map(str, wire.addresses)))
    endpoint = replace(endpoint, mac=wired.pod_mac, source_table=wired.source_table)
    key = keys.workload_endpoint(endpoint.namespace, endpoint.name)
    handle = handle_record(store, attachment_of(endpoint).owner({}).handle_id) if is_remote else None
    given = [Change(handle.key, None, handle.revision, keep=True)] if handle else []
    try:
        store.commit(*given, Change(key, endpoint_json(endpoint), None))
    except Exists:
        with store.exclusive():
            store.update(key, endpoint_json(endpoint), store.get(key).revision)


def endpoint_for(node: str, pod: str, namespace: str, attachment: Attachment, addresses: tuple[str, ...]) -> Endpoint:
    """Return the record of an attachment; pod and namespace are empty where the runtime told none."""
    in_kubernetes = bool(pod and namespace)
    return Endpoint(
        name="-".join(map(_part, (node, "cni", attachment.container_id, attachment.ifname))),
        namespace=namespace if in_kubernetes else DEFAULT_NAMESPACE,
        orchestrator="k8s" if in_kubernetes else "cni",
        pod=pod,
        network=attachment.network,
        container_id=attachment.container_id,
        ifname=attachment.ifname,
        node=node,
        host_ifname=attachment.host_ifname,
        mac="",
        addresses=addresses,
        source_table=0,
    )


def usual_key(node: str, args: Args, attachment: Attachment) -> str:
    """Return where the attachment's record is if its ADD was told the same node and pod."""
    endpoint = endpoint_for(node, args.pod, args.namespace, attachment, ())
    return keys.workload_endpoint(endpoint.namespace, endpoint.name)


def told_key(attachment: Attachment, owner: Mapping[str, str]) -> str:
    """Return where the attachment's record is by what one of its allocations says of node and pod."""
    endpoint = endpoint_for(owner.get("node", ""), owner.get("pod", ""), owner.get("namespace", ""), attachment, ())
    return keys.workload_endpoint(endpoint.namespace, endpoint.name)


def find_at(store: Store, attachment: Attachment, *places: str) -> Found | None:
    """Return the attachment's record if it is at one of these keys. Raises StoreError."""
    return next(filter(None, (_read(store, attachment, place) for place in dict.fromkeys(places))), None)


def find(store: Store, attachment: Attachment) -> Found | None:
    """Return the attachment's record, wherever it is, or None. Needs neither node nor pod name. Raises StoreError.

    All names there are, are looked at: for a node's own datastore, and once it is nowhere that is known.
    """
    ending = "-".join(("", _part("cni"), _part(attachment.container_id), _part(attachment.ifname)))
    for key in store.keys(keys.WORKLOAD_ENDPOINTS):
        if key.endswith(ending) and (found := _read(store, attachment, key)):
            return found
    return None


def _read(store: Store, attachment: Attachment, key: str) -> Found | None:
    try:
        record = store.get(key)
    except Missing:
        return None
    endpoint = endpoint_of(record)
    return Found(endpoint, key, record.revision) if endpoint and attachment_of(endpoint) == attachment else None


def forget(store: Store, found: Found | None) -> None:
    """Remove a record that was found, unless it has gone or changed since. Raises StoreError."""
    if found:
        try:
            store.delete(found.key, found.revision)
        except (Missing, Conflict):
            return


def attachment_of(endpoint: Endpoint) -> Attachment:
    """Return whose record it is."""
    return Attachment(endpoint.network, endpoint.container_id, endpoint.ifname)


def attachments(store: Store, damaged: Callable[[Corrupt], object]) -> Iterator[tuple[Attachment, str]]:
    """Yield attachment and node of every record that has one; one that cannot be read is told to `damaged`."""
    for key in store.keys(keys.WORKLOAD_ENDPOINTS):
        try:
            endpoint = endpoint_of(store.get(key))
        except Missing:
            continue
        except Corrupt as error:
            damaged(error)
            continue
        if endpoint:
            yield attachment_of(endpoint), endpoint.node


def _part(text: str) -> str:
    return text.replace("-", "--")
