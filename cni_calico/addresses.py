"""A call's addresses from our own allocator.

It is what `calico` does in-process when `ipam.type` is calico-ipam, and what the executable `calico-ipam` is made of.
"""

from __future__ import annotations

import time

from cni_calico.config import node_name
from cni_calico.errors import ALREADY_ATTACHED, DRIFT, NOT_AVAILABLE, CniError
from cni_calico.netlink import host_networks
from datastore import open_store
from ipam.assign import Request, assign
from ipam.block import describe
from ipam.find import allocations, holdings
from ipam.release import release

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni_calico.args import Attachment
    from cni_calico.skel import Call
    from datastore.api import Store
    from ipam.assign import Assigned
    from ipam.handle import Owner

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def store_of(call: Call) -> Store:
    """Return the datastore the configuration names; raises UnsupportedDatastore."""
    return open_store(call.conf.datastore_type, call.conf.datastore_dir)


def give(call: Call, store: Store) -> tuple[Assigned, ...]:
    """Assign what the call asks for; raises IpamError, StoreError, CniError.

    Addresses asked for come from CNI_ARGS, then args.cni.ips, then runtimeConfig.ips, as in host-local.
    """
    conf, node = call.conf, node_name(call.conf)
    asked = (call.args.ip, *conf.addresses) if call.args.ip else conf.addresses
    given = assign(store, Request(
        node=node,
        owner=_owner(call, node),
        families=conf.ipam.families,
        addresses=asked,
        pools=conf.ipam.pools,
        env=call.env,
        host_networks=host_networks,
    ))
    call.log.debug("assigned", addresses=",".join(str(item.address) for item in given),
                   blocks=",".join(str(item.block) for item in given))
    return given


def refuse_duplicate(call: Call, store: Store) -> None:
    """Raise CniError 107 when the attachment holds an address already, which stays as it is (rule A7)."""
    for allocation in holdings(store, call.attachment.owner({})):
        raise CniError(ALREADY_ATTACHED, f"address {allocation.address} is already held by "
                                         f"{describe(allocation.attribute)}; delete the attachment first")


def take(store: Store, attachment: Attachment) -> list[str]:
    """Release all the attachment holds; return the addresses."""
    return [str(address) for address in release(store, attachment.owner({}))]


def require(store: Store, attachment: Attachment, addresses: Iterable[str]) -> None:
    """Raise CniError 105 unless each address is recorded as the attachment's."""
    held = {str(allocation.address) for allocation in holdings(store, attachment.owner({}))}
    for address in addresses:
        if address not in held:
            raise CniError(DRIFT, f"address {address} is not recorded as held by container {attachment.container_id} "
                                  f"interface {attachment.ifname}; delete and add the attachment to repair it")


def attachments(store: Store, network: str) -> set[Attachment]:
    """Return the attachments of a network that hold addresses."""
    from cni_calico.args import Attachment

    owners = (allocation.attribute.owner for allocation in allocations(store))
    return {
        Attachment(network, owner["container"], owner["interface"])
        for owner in owners
        if owner.get("network") == network and "container" in owner and "interface" in owner
    }


def require_room(call: Call, store: Store) -> None:
    """Raise CniError 50 unless an ADD would find an address of each family (rule T1). Writes nothing."""
    from ipam.pool import all_pools, seedable
    from ipam.usage import has_room, why_exhausted

    node = node_name(call.conf)
    store.check_writable()
    for family in call.conf.ipam.families:
        pools = all_pools(store, family)
        if not pools and seedable(call.env, family):
            continue
        if not has_room(store, node, family, call.conf.ipam.pools):
            raise CniError(NOT_AVAILABLE, why_exhausted(store, family, pools, pools))


def _owner(call: Call, node: str) -> Owner:
    """Return the attachment as owner, with what Calico stores of it (node, pod, time) and the boot it lives in."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
    attributes = {"node": node, "timestamp": f"{stamp}.{int(now % 1 * 10**9):09} +0000 UTC", "boot": _boot_id()}
    if call.args.pod:
        attributes |= {"pod": call.args.pod, "namespace": call.args.namespace or "default"}
    return call.attachment.owner(attributes)


def _boot_id() -> str:
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
