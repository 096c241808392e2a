"""One verb at a time for an attachment, whoever carries it out: this process, another, or the agent."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

from cni_calico.version import VERSION
from datastore.api import Busy
from datastore.cluster import initialised, require_ready
from datastore.settings import ETCD

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
    known = require_ready(store)
    if known is None and call.command == "ADD" and call.conf.datastore.kind == ETCD:
        initialised(store, VERSION)
    with store.hold(call.attachment.host_ifname, HOLD_SECONDS) as held:
        call.world.still_wanted(call, store)
        yield held


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
