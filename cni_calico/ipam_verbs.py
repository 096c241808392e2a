"""The verbs of `calico-ipam`.

It serves main plugins that wire in their own way, and knows nothing of their interfaces: an attachment is gone when the
runtime says so, or the node has been rebooted since.
"""

from __future__ import annotations

from functools import partial

from cni_calico import addresses, node
from cni_calico.attached import attached, collecting
from cni_calico.config import GATEWAY
from cni_calico.errors import DRIFT, INVALID_CONFIG, CniError
from cni_calico.facts import one_by_one
from cni_calico.netlink import Socket
from cni_calico.reclaim import once_a_boot, recovering
from cni_calico.result import Ip, Result
from datastore.cluster import require_ready
from datastore.undo import Undo, all_of, fail
from ipam.cidr import BITS
from ipam.find import holdings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from cni_calico.args import Attachment
    from cni_calico.skel import Call
    from datastore.api import Corrupt, Store
    from ipam.cidr import Address
    from ipam.handle import Assigned


def add(call: Call) -> Result:
    """Assign; the result has the block's mask (an address asked for has its own) and Calico's gateway."""
    store = addresses.store_of(call)
    once_a_boot(call, store)
    with attached(call, store) as held, Undo() as undo:
        if held.is_cut_off:
            addresses.take(store, call.attachment)
        addresses.refuse_duplicate(call, store)
        held.begin()
        undo.push(addresses.take, store, call.attachment)
        given = addresses.give(call, store, {})
        call.world.lap("ipam")
        result = Result(ips=tuple(map(_ip, given)), routes=call.conf.ipam.routes, dns=call.conf.dns)
        call.answer(result)
        held.done()
    return result


def delete(call: Call) -> None:
    """Release; having nothing is no error."""
    store = addresses.store_of(call)
    with attached(call, store) as held:
        held.begin()
        call.world.free(store, partial(addresses.take, attachment=call.attachment))
    call.world.lap("ipam")


def check(call: Call) -> None:
    """Raise CniError 105 unless prevResult has every address recorded as this attachment's, and there is one."""
    if call.conf.previous is None:
        raise CniError(INVALID_CONFIG, "CHECK needs prevResult, which the configuration does not have")
    held = {str(item.address) for item in holdings(addresses.store_of(call), call.attachment.owner({}))}
    told = {ip.bare for ip in call.conf.previous.ips}
    if not held or not held <= told:
        raise CniError(DRIFT, f"addresses recorded for container {call.attachment.container_id} interface "
                              f"{call.attachment.ifname} are {', '.join(sorted(held)) or 'none'}, but prevResult has "
                              f"{', '.join(sorted(told)) or 'none'}; delete and add the attachment to repair it")


def gc(call: Call) -> None:
    """Release what belongs to no valid attachment; without a list only what is left from before a reboot."""
    store = addresses.store_of(call)
    require_ready(store)
    damaged: list[Corrupt] = []
    held = addresses.attachments(call, store, damaged.append)
    with Socket() as host:
        living = one_by_one(node.name(call.conf), host)
        gone = [item for item in sorted(held, key=str) if addresses.why_gone(call, living, item, held[item])]
    releases = (partial(_release, call, store, item, held[item].addresses) for item in gone)
    all_of(*releases, partial(addresses.tidy_up, call, store), store.tidy, *(partial(fail, error) for error in damaged))


def status(call: Call) -> None:
    """Raise CniError 50 unless an address of each family could be assigned."""
    addresses.require_room(call, addresses.store_of(call))


VERBS = recovering({"ADD": add, "DEL": delete, "CHECK": check, "GC": gc, "STATUS": status})


def _ip(given: Assigned) -> Ip:
    address = given.address
    prefix = BITS[address.family] if given.requested else given.block.prefix
    return Ip(f"{address}/{prefix}", str(GATEWAY[address.family]))


def _release(call: Call, store: Store, attachment: Attachment, held: Collection[Address]) -> None:
    with collecting(call, store, attachment) as is_free:
        freed = addresses.take(store, attachment, held) if is_free else []
    call.log.info("GC released", attachment=attachment.alias, addresses=",".join(freed))
