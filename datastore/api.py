"""The Store protocol: what every datastore can do, and the errors it may answer with.

A store maps a key (Calico's own etcd path, datastore/keys.py) to one JSON object and a revision. Writers compare and
swap on the revision, so two of them can never overwrite each other unseen.
"""

from __future__ import annotations

from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any, Protocol

    Json = dict[str, Any]
else:
    Protocol = object  # `typing` costs 4 ms at import; a protocol's base matters to type checkers only


class StoreError(Exception):
    """Something about the datastore itself: the message says what, and about which record."""


class Missing(StoreError):
    """There is no record at the key."""


class Exists(StoreError):
    """A record is already there, where one was to be created."""


class Conflict(StoreError):
    """The record has changed since it was read: read it again and decide anew."""


class Corrupt(StoreError):
    """A record cannot be read as what it should be. It is never guessed at, and never overwritten."""


class Busy(StoreError):
    """The datastore's lock was not to be had in time; the message names who holds it."""


class Unwritable(StoreError):
    """The datastore could not be read or written at all (full, read-only, no permission)."""


class Unreachable(Unwritable):
    """No server of the datastore answered in time; the message names them, and what each of them did."""


class Refused(Unwritable):
    """The datastore's servers will not serve us as we are configured (certificate, password, permission)."""


class NotReady(StoreError):
    """The datastore is closed for changes, until whoever closed it opens it again (Calico: DatastoreReady)."""


class UnsupportedDatastore(StoreError):
    """`datastore_type` names a kind of datastore that this release does not have."""

    def __init__(self, kind: str) -> None:
        super().__init__(f'datastore_type "{kind}" is not supported by this release; those that are: "file", "etcdv3"')
        self.kind = kind


@frozen
class Record:
    """One stored object: its key, its JSON value, and the revision to give back when it is changed."""

    key: str
    value: Json
    revision: int


@frozen
class Change:
    """One record's part in a commit. value None removes the record; revision None means that there must be none yet.

    keep: the record is not touched, but must still have the revision; `value` means nothing then.
    """

    key: str
    value: Json | None
    revision: int | None
    keep: bool = False


@frozen
class Torn:
    """A record that cannot be read: its key (empty where only its content told it), its file, and what is wrong."""

    key: str
    file: str
    reason: str


@frozen
class Held:
    """A name that is held. interrupted: whether a former holder was killed after it had begun; was_done: after all.

    begin: to be called before the first step that would have to be made good if the holder were killed.
    done: to be called when all is done, and whoever asked for it knows.
    """

    interrupted: bool
    was_done: bool
    begin: Callable[[], None]
    done: Callable[[], None]

    @property
    def is_cut_off(self) -> bool:
        """Whether what there is may be left from a former holder's work, of which nobody was told."""
        return self.interrupted and not self.was_done


class Store(Protocol):
    """What allocator, plugin and tools use. Every method may raise Corrupt, Unwritable and (when it writes) Busy."""

    def get(self, key: str) -> Record:
        """Return the record at the key; raises Missing."""

    def create(self, key: str, value: Json) -> Record:
        """Store a new record; raises Exists."""

    def update(self, key: str, value: Json, revision: int) -> Record:
        """Replace the record that still has this revision; raises Conflict, Missing."""

    def delete(self, key: str, revision: int) -> None:
        """Remove the record that still has this revision; raises Conflict, Missing."""

    def commit(self, *changes: Change) -> None:
        """Write several records, or none of them; raises Exists, Conflict, Missing.

        A store that a killed process can leave between two writes makes them in the order given.
        """

    def records(self, prefix: str) -> Iterator[Record]:
        """Yield every record below a key prefix that ends in '/', in key order, one at a time in memory."""

    def keys(self, prefix: str) -> list[str]:
        """Return the keys that `records` would, in order, without reading the records."""

    def scan(self, prefix: str, torn: Callable[[Torn], object]) -> Iterator[Record]:
        """Yield every record below the prefix in no order, never all names in memory; `torn` is told what is damaged.

        It also finds damaged records that `records` and `keys` leave out, because nothing is left to tell their keys.
        """

    def mend(self, torn: Torn, value: Json | None) -> None:
        """Keep a damaged record where nobody looks for records, and put a value in its place, or nothing.

        At no time is there neither. The damaged one may be one that can be read and makes no sense. Raises Missing, and
        Conflict where the Torn has no key and its record can be read by now.
        """

    def prepare(self, node: str, *names: str) -> bool:
        """Be told what a verb of a node is about to read: the records of these keys, and what decides on addresses.

        Where each read is a round trip, they are made together, and what they gave is given until it may have changed.
        Tell whether the datastore is older than this node has seen it: set back to a former copy.
        """

    def accept(self) -> None:
        """Have `prepare` take the datastore as it is now for the newest."""

    def share(self, other: Store) -> None:
        """Know what another store, of the same datastore, has read after `prepare`."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold off this node's other writers: one wait instead of a storm of conflicts. Re-enterable."""

    def hold(self, name: str, seconds: float, keep_mark: bool = False) -> AbstractContextManager[Held]:
        """Keep others on this node from holding the same name while the body runs; raises Busy after `seconds`.

        Where the last holder was killed after it had begun, this one is told so. The next one is told, too, if the body
        fails, or with keep_mark: for whoever only looks, and makes good nothing.
        """

    def tidy(self) -> None:
        """Remove what killed processes have left that nobody would look at again."""

    def check_writable(self) -> None:
        """Raise Unwritable when a write would fail; quick, and writes nothing."""
