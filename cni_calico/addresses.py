"""A call's addresses from our own allocator.

It is what `calico` does in-process when `ipam.type` is calico-ipam, and what the executable `calico-ipam` is made of.
"""

from __future__ import annotations

import time

from cni_calico import node
from cni_calico.args import Attachment
from cni_calico.errors import ALREADY_ATTACHED, DRIFT, NOT_AVAILABLE, CniError
from cni_calico.netlink import host_networks
from datastore import SECONDS
from datastore.cluster import require_ready
from datastore.frozen import frozen
from datastore.settings import FILE
from ipam.assign import Request, assign
from ipam.audit.living import BOOT
from ipam.audit.living import why_gone as proof
from ipam.block import describe
from ipam.borrowed import near_blocks
from ipam.find import allocations, holdings
from ipam.pool import Criteria, all_pools, default_pool, seedable
from ipam.release import release

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from cni_calico.skel import Call
    from datastore.api import Corrupt, Store
    from ipam.audit.living import Living
    from ipam.cidr import Address
    from ipam.handle import Assigned, Owner

STATUS_SECONDS = 2.0  # STATUS says soon that there is no datastore
NAMESPACE_NAMES = ("kubernetes.io/metadata.name", "projectcalico.org/name")


def store_of(call: Call) -> Store:
    """Return the datastore the configuration names; raises UnsupportedDatastore."""
    return call.world.open_store(call.conf.datastore, STATUS_SECONDS if call.command == "STATUS" else SECONDS)


def give(call: Call, store: Store, traces: Mapping[str, str]) -> tuple[Assigned, ...]:
    """Assign what the call asks for; raises IpamError, StoreError, CniError.

    Addresses asked for come from CNI_ARGS, then args.cni.ips, then runtimeConfig.ips, as in host-local. `traces` are
    attributes by which the pod's end can be proven later (cni_calico/facts.py).
    """
    conf, name = call.conf, node.name(call.conf)
    request = Request(
        node=name,
        owner=_owner(call, name, traces),
        families=conf.ipam.families,
        addresses=(*call.args.addresses, *conf.addresses),
        pools=conf.ipam.pools,
        namespace=_criteria(call, name).namespace,
        env=call.env,
        host_networks=host_networks,
    )
    tries: list[bool] = []

    def step(at: Store) -> tuple[Assigned, ...]:
        if tries:  # the first may have been written in part
            take(at, call.attachment)
        tries.append(True)
        return assign(at, request)

    given = call.world.give(store, step)
    call.log.debug("assigned", addresses=",".join(str(item.address) for item in given),
                   blocks=",".join(str(item.block) for item in given))
    return given


def refuse_duplicate(call: Call, store: Store) -> None:
    """Raise CniError 107 when the attachment holds an address already, which stays as it is (rule A7)."""
    for allocation in holdings(store, call.attachment.owner({})):
        raise CniError(ALREADY_ATTACHED, f"address {allocation.address} is already held by "
                                         f"{describe(allocation.attribute)}; delete the attachment first")


def take(store: Store, attachment: Attachment, hints: Collection[Address] = ()) -> list[str]:
    """Release all the attachment holds; return the addresses. `hints` are addresses another record says it holds."""
    return [str(address) for address in release(store, attachment.owner({}), hints)]


def require(store: Store, attachment: Attachment, addresses: Iterable[str]) -> None:
    """Raise CniError 105 unless each address is recorded as the attachment's."""
    held = {str(allocation.address) for allocation in holdings(store, attachment.owner({}))}
    for address in addresses:
        if address not in held:
            raise CniError(DRIFT, f"address {address} is not recorded as held by container {attachment.container_id} "
                                  f"interface {attachment.ifname}; delete and add the attachment to repair it")


def given_since(store: Store, attachment: Attachment, moment: int) -> bool:
    """Tell whether the attachment has an address that was given after the moment (ns since 1970).

    A time that is still to come tells of a clock that was set back, and of nothing else.
    """
    stamps = (item.attribute.owner.get("timestamp") or "" for item in holdings(store, attachment.owner({})))
    return any(stamp(moment) < each <= stamp(time.time_ns()) for each in stamps)


def tidy_up(call: Call, store: Store) -> None:
    """Free what has rested and remove what nobody has, where the datastore is this node's alone. Raises StoreError."""
    from ipam.collect import collect  # for GC only

    if call.conf.datastore.kind == FILE:
        collect(store)


@frozen
class Known:
    """What an attachment holds, and what is told of its pod: attributes of its allocations, or of other records."""

    addresses: tuple[Address, ...]
    told: tuple[Mapping[str, str], ...]


def attachments(call: Call, store: Store, damaged: Callable[[Corrupt], object]) -> dict[Attachment, Known]:
    """Return the attachments of the call's network with what they hold: all; in a datastore of many nodes this one's.

    Blocks that cannot be read are told to `damaged`.
    """
    network, found = call.conf.name, dict[Attachment, Known]()
    among = None if call.conf.datastore.kind == FILE else near_blocks(store, node.name(call.conf))
    for allocation in allocations(store, damaged, among):
        owner = allocation.attribute.owner
        if owner.get("network") == network and "container" in owner and "interface" in owner:
            attachment = Attachment(network, owner["container"], owner["interface"])
            known = found.get(attachment, Known((), ()))
            found[attachment] = Known((*known.addresses, allocation.address), (*known.told, owner))
    return found


def why_gone(call: Call, living: Living, attachment: Attachment, known: Known) -> str:
    """Return why an attachment's pod is provably gone, by the runtime's list if GC has one; empty when it may live."""
    valid = call.conf.valid_attachments
    listed = None if valid is None else (attachment.container_id, attachment.ifname) in valid
    reasons = [proof(told, living, listed) for told in known.told]
    return reasons[0] if all(reasons) else ""


def require_room(call: Call, store: Store) -> None:
    """Raise CniError 50 unless an ADD would find an address of each family (rule T1). Writes nothing."""
    from ipam.usage import has_room, why_exhausted  # for STATUS only

    criteria = _criteria(call, node.name(call.conf))
    store.check_writable()
    require_ready(store)
    for family in call.conf.ipam.families:
        pools = all_pools(store, family)
        if not pools and seedable(call.env, family):
            default_pool(call.env, family, tuple)  # that a first ADD could make it
        elif not has_room(store, criteria, family):
            raise CniError(NOT_AVAILABLE, f"no free IPv{family} address: {why_exhausted(store, criteria, family)}")


def _criteria(call: Call, node_name: str) -> Criteria:
    """Return what pools must suit; of a namespace its name is known, as the labels Kubernetes and Calico give it."""
    name = call.args.namespace
    return Criteria(node_name, call.conf.ipam.pools, namespace=dict.fromkeys(NAMESPACE_NAMES, name) if name else None)


def _owner(call: Call, node_name: str, traces: Mapping[str, str]) -> Owner:
    """Return the attachment as owner, with what Calico stores of it (node, pod, time) and the boot it lives in."""
    attributes = {"node": node_name, "timestamp": stamp(time.time_ns()), BOOT: node.boot_id(), **traces}
    if call.args.pod:
        attributes |= {"pod": call.args.pod, "namespace": call.args.namespace or "default"}
    return call.attachment.owner(attributes)


def stamp(moment: int) -> str:
    """Return a time (ns since 1970) as Calico stores it, which later times come behind, also as text."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(moment // 10**9))}.{moment % 10**9:09} +0000 UTC"
