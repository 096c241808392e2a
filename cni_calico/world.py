"""How a verb reaches what is outside of it: the datastore, namespaces, the kernel, whoever asked.

This is the way of a process that serves one verb and ends; the agent serves many (calico_node/warm.py).
"""

from __future__ import annotations

from cni_calico import netns, node
from datastore import open_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import TypeVar

    from cni_calico.netlink import Refusal, Socket
    from cni_calico.skel import Call
    from datastore.api import Store
    from datastore.settings import Settings

    T = TypeVar("T")


class Gone(Exception):
    """Whoever asked for the verb does not wait for its result any more."""


class Declined(Exception):
    """This call is not for this process to serve; nothing has been done. Its text says why."""


class World:
    """What a verb is given; each method says what it does and what it raises."""

    def accept(self, call: Call) -> None:
        """Raise what keeps this call from being served here at all, before anything is done."""

    def still_wanted(self, call: Call, store: Store) -> None:
        """Raise Gone when nobody waits any more; asked once an attachment is held, before anything is done to it."""

    def deliver(self) -> bool:
        """Hand over what has been written to stdout; tell whether it was taken."""
        return True

    def lap(self, stage: str) -> None:
        """Note that a stage of the verb has come to its end (queue, config, ipam, wiring, record)."""

    def open_store(self, settings: Settings, seconds: float) -> Store:
        """Return the store that the configuration names (datastore/__init__.py). Raises UnsupportedDatastore."""
        return open_store(settings, rebuilt=bool(node.boot_id()), seconds=seconds)

    def open_netns(self, path: str) -> AbstractContextManager[int]:
        """Return a descriptor of the pod's namespace, for as long as the context lasts. Raises CniError 8."""
        return netns.opened(path)

    def is_own_netns(self, path: str) -> bool:
        """Tell whether the path is of the namespace that the host's end goes to."""
        return netns.is_own(path)

    def give(self, store: Store, step: Callable[[Store], T]) -> T:
        """Take a step that gives an attachment something in the store, which is handed to it. Raises what it does."""
        return step(store)

    def free(self, store: Store, step: Callable[[Store], T]) -> T:
        """Take a step that frees what an attachment has in the store, which is handed to it. Raises what it does."""
        return step(store)

    def delete_link(self, host: Socket, name: str) -> Refusal | None:
        """Delete a link of the host; return the kernel's refusal."""
        return host.delete_links([name])[0]
