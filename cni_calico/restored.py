"""After etcd was set back to an older copy: what this node's pods have is written anew before another pod gets it.

etcd's revision only grows. Where it is lower than one that this node has seen, all that was written since the copy is
unknown there: addresses of pods that live would be given again, and addresses of pods that ended be held for ever. The
kernel knows better. Other nodes do the same for theirs, each at its next ADD, or at once where the agent runs.
"""

from __future__ import annotations

import time
from contextlib import suppress

from cni_calico import addresses, facts
from cni_calico.args import Attachment
from cni_calico.netlink import Socket
from datastore import keys
from datastore.api import Busy, Exists
from datastore.resources import endpoint_json
from ipam.assign import Request, assign
from ipam.audit.living import BOOT, identity
from ipam.audit.reclaim import gone
from ipam.errors import Changed, IpamError
from ipam.find import holdings
from ipam.release import Wanted, release_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_calico.log import Log
    from datastore.api import Store
    from ipam.audit.living import Living, Wire
    from ipam.cidr import Address
    from ipam.handle import Owner

HOLD_SECONDS = 60.0


def set_right(store: Store, name: str, log: Log) -> None:
    """Write anew what this node's pods have, and release what its former ones had. Raises StoreError.

    What could not be done is done at the node's next ADD: until `accept`, each finds the datastore older than it was.
    """
    with store.hold("restored", HOLD_SECONDS):
        if not store.prepare(name):
            return  # somebody else has
        log.warning("etcd was set back to an older copy; what this node's pods have is written anew")
        living = facts.everything(name)
        for wire in living.wires:
            _assert(store, living, wire, log)
        with Socket() as host:  # a DEL may have unwired meanwhile what was just given back to it
            released = _release_gone(store, facts.looked_up(facts.everything(name), host))
        store.accept()
    log.info("set right after etcd was set back", pods=len(living.wires), released=",".join(released))


def _release_gone(store: Store, living: Living) -> list[str]:
    """Release what pods hold that ended since the copy was made; return the addresses."""
    released: list[str] = []
    for item in gone(store, living):
        attachment = Attachment(*identity(item.attribute.owner))
        with suppress(Busy, Changed), store.hold(attachment.host_ifname, 0, keep_mark=True):
            facts.forget_endpoint(store, item.attribute.owner)
            wanted = Wanted(item.address, item.attribute.handle, item.sequence)
            released += map(str, release_addresses(store, [wanted]).freed)
    return released


def _assert(store: Store, living: Living, wire: Wire, log: Log) -> None:
    """Have the addresses of a pod that lives be its own again, and its endpoint's record there."""
    attachment = Attachment(*identity(wire.owner.attributes))
    owner = attachment.owner({"node": living.node, BOOT: living.boot, **facts.traces(attachment),
                              "timestamp": addresses.stamp(time.time_ns())})
    held = {item.address for item in holdings(store, owner)}
    for address in wire.addresses:
        if address not in held:
            _give(store, living.node, owner, address, log)
    found = facts.endpoint_of_wire(living.node, wire, owner.attributes)
    try:
        store.create(keys.workload_endpoint(found.namespace, found.name), endpoint_json(found))
    except Exists:
        return


def _give(store: Store, name: str, owner: Owner, address: Address, log: Log) -> None:
    try:
        assign(store, Request(name, owner, families=(), addresses=(address,), use="", regardless=True))
    except IpamError as error:
        log.error("a pod of this node has an address that is another's since etcd was set back; delete the pod",
                  address=str(address), handle=owner.handle_id, why=str(error))
