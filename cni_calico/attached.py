"""One verb at a time for an attachment, whoever carries it out: this process, another, or the agent."""

from __future__ import annotations

from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni_calico.skel import Call
    from datastore.api import Store

HOLD_SECONDS = 60.0  # how long one verb waits for another of the same attachment


@contextmanager
def attached(call: Call, store: Store) -> Iterator[bool]:
    """Keep other verbs from the call's attachment; yields whether one of them was cut off half-way. Raises Gone, Busy.

    A verb that is carried out in place of a lost agent counts as one that was: nobody knows how far the agent came.
    """
    with store.hold(call.attachment.host_ifname, HOLD_SECONDS) as interrupted:
        call.world.still_wanted()
        yield interrupted or call.resumed
