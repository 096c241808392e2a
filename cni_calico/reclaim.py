"""After a reboot: addresses of pods of former boots are given back, once, before the first of this boot is given.

No network namespace outlives a boot, so those pods are gone, whatever anybody else believes; and their records, which
were not synced, may be in any state after a power cut (datastore/keys.py), and are set right.
"""

from __future__ import annotations

from functools import partial

from cni_calico import node
from cni_calico.addresses import store_of
from datastore import open_store
from datastore.api import Corrupt
from datastore.cluster import require_ready
from datastore.frozen import replace
from datastore.settings import FILE
from ipam import host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from cni_calico.skel import Call
    from datastore.api import Store
    from ipam.audit.living import Living
    from ipam.cidr import Address

    T = TypeVar("T")

HOLD_SECONDS = 100.0  # one ADD does it for all that wait; a runtime gives each two minutes or more


def once_a_boot(call: Call, store: Store) -> bool:
    """Set right what this node's former boots left, unless this boot has done so; tell whether anything was looked at.

    What is interrupted, or does not come to its end because of a damaged record, is done again by the next ADD. Raises
    StoreError, CniError.
    """
    name, boot = node.name(call.conf), node.boot_id()
    if not boot or host.load(store, name)[0].boot == boot:
        return False
    require_ready(store)
    with store.hold("reclaim", HOLD_SECONDS):
        store.prepare(name)  # others may have done it meanwhile
        if host.load(store, name)[0].boot != boot and _recover(call, store, name):
            memory, revision = host.load(store, name)
            host.save(store, name, replace(memory, boot=boot, borrowed=()), revision)
    return True


def recovering(verbs: Mapping[str, Callable[[Call], T]]) -> dict[str, Callable[[Call], T]]:
    """Return the verbs, each carried out again when it meets a damaged record that `once_a_boot` may set right.

    So what comes before the first ADD of a boot does not fail for what a power cut left; nobody else pays for it.
    """
    def twice(verb: Callable[[Call], T]) -> Callable[[Call], T]:
        def carried_out(call: Call) -> T:
            try:
                return verb(call)
            except Exception as error:
                damaged = isinstance(error, Corrupt) or isinstance(error.__cause__, Corrupt)
                if not damaged or not once_a_boot(call, store_of(call)):
                    raise
            return verb(call)

        return carried_out

    return {name: twice(verb) for name, verb in verbs.items()}


def _recover(call: Call, store: Store, name: str) -> bool:
    """Set right, and tell whether nothing is left to do."""
    from cni_calico import facts
    from cni_calico.netlink import Socket
    from ipam.audit.reclaim import reclaim_own

    with Socket() as kernel:
        living = facts.one_by_one(name, kernel)
        if call.conf.datastore.kind == FILE:
            freed, finished = _recover_files(call, store, living)
        else:
            freed, finished = reclaim_own(store, living, partial(facts.forget_endpoint, store))
    if freed:
        call.log.info("reclaimed what was left from before the reboot", addresses=",".join(map(str, freed)))
    return finished


def _recover_files(call: Call, store: Store, living: Living) -> tuple[tuple[Address, ...], bool]:
    from cni_calico import facts
    from ipam.audit.reclaim import recover
    from ipam.audit.repair import Craft

    craft = Craft(facts.owner_of_endpoint, facts.endpoint_of_wire)
    return recover(store, open_store(call.conf.datastore), lambda: facts.everything(living.node), craft,
                   lambda what: call.log.info("set right after the reboot", what=what), living)
