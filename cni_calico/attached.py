"""One verb at a time for an attachment, whoever carries it out: this process, another, or the agent."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

from cni_calico import node
from cni_calico.endpoint import usual_key
from cni_calico.errors import CniError
from cni_calico.version import VERSION
from datastore import keys
from datastore.api import Busy
from datastore.cluster import initialised, require_ready
from datastore.settings import ETCD, FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni_calico.args import Attachment
    from cni_calico.skel import Call
    from datastore.api import Held, Store

HOLD_SECONDS = 60.0  # how long one verb waits for another of the same attachment


@contextmanager
def attached(call: Call, store: Store) -> Iterator[Held]:
    """Keep other verbs from the call's attachment while the body runs. Raises Gone, Busy, NotReady."""
    with store.hold(call.attachment.host_ifname, HOLD_SECONDS) as held:
        call.world.still_wanted(call, store)
        _prepare(call, store)
        if require_ready(store) is None and call.command == "ADD" and call.conf.datastore.kind == ETCD:
            initialised(store, VERSION)
        yield held


def _prepare(call: Call, store: Store) -> None:
    """Tell a store to which each read is a round trip what is about to be read; a DEL does without a node's name."""
    if call.conf.datastore.kind == FILE:
        return
    try:
        name = node.name(call.conf)
    except CniError:
        return
    is_older = store.prepare(name, keys.handle(call.attachment.owner({}).handle_id),
                             usual_key(name, call.args, call.attachment))
    if is_older and call.command == "ADD":
        from cni_calico.restored import set_right  # for what seldom happens

        set_right(store, name, call.log)


@contextmanager
def collecting(call: Call, store: Store, attachment: Attachment) -> Iterator[bool]:
    """Keep verbs from an attachment that GC looks at; yields False when one of them is at it just now. Raises Gone.

    Whether one was cut off half-way stays known: GC makes nothing good that it leaves.
    """
    with ExitStack() as held:
        try:
            held.enter_context(store.hold(attachment.host_ifname, 0, keep_mark=True))
        except Busy:
            call.log.info("GC left an attachment that is being worked on", attachment=attachment.alias)
            yield False
            return
        call.world.still_wanted(call, store)
        yield True
