"""After a reboot: addresses of pods of former boots are given back, once, before the first of this boot is given.

No network namespace outlives a boot, so those pods are gone, whatever anybody else believes.
"""

from __future__ import annotations

from cni_calico import node
from datastore.frozen import replace
from ipam import host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_calico.skel import Call
    from datastore.api import Store

HOLD_SECONDS = 100.0  # one ADD does it for all that wait; a runtime gives each two minutes or more


def once_a_boot(call: Call, store: Store) -> None:
    """Reclaim what this node's former boots left, unless this boot has done so. Raises StoreError, CniError.

    What is interrupted, or does not come to its end because of a damaged record, is done again by the next ADD.
    """
    name, boot = node.name(call.conf), node.boot_id()
    if not boot or host.load(store, name)[0].boot == boot:
        return
    with store.hold("reclaim", HOLD_SECONDS):
        if host.load(store, name)[0].boot != boot and _reclaim(call, store, name):
            memory, revision = host.load(store, name)
            host.save(store, name, replace(memory, boot=boot), revision)


def _reclaim(call: Call, store: Store, name: str) -> bool:
    """Reclaim, and tell whether nothing is left to do."""
    from cni_calico.facts import one_by_one
    from cni_calico.netlink import Socket
    from ipam.audit.reclaim import reclaim

    with Socket() as kernel:
        freed, finished = reclaim(store, one_by_one(name, kernel))
    if freed:
        call.log.info("reclaimed what was left from before the reboot", addresses=",".join(map(str, freed)))
    return finished
