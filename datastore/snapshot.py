"""What decides where a node's addresses come from, as it was read from etcd, and whether it still is what etcd has.

A verb asks for it together with its own first reads, in one transaction: of each range how many records it has, and
whether one has changed since. So what is kept is as right as what would be read anew, for no round trip of its own;
a watch would tell of a change a little later than that (docs/design.md).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from threading import Lock

from datastore import keys
from datastore.api import Corrupt, Record
from datastore.frozen import frozen
from datastore.jsontext import loads
from datastore.model import host_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from datastore.api import Json

    Range = tuple[str, str]

MOST_BLOCKS = 64  # of which the last writing is remembered: a node assigns from one or two at a time


@frozen
class Snapshot:
    """The key-values of a node's ranges at one revision. breaks: of the client's connections until then."""

    ranges: tuple[Range, ...]
    counts: tuple[int, ...]
    items: Mapping[str, Json]
    revision: int
    breaks: int

    def covers(self, start: str, end: str) -> bool:
        """Tell whether all keys from start to before end are in one of the ranges."""
        return any(first <= start and end <= last for first, last in self.ranges)

    def below(self, start: str, end: str) -> list[Json]:
        """Return the key-values from start to before end, in key order."""
        return [self.items[key] for key in sorted(self.items) if start <= key < end]


class Cache:
    """The latest snapshot of each node, and the latest writing of blocks; for any number of threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._snapshots: dict[str, Snapshot] = {}
        self._blocks: dict[str, Json] = {}

    def snapshot(self, node: str, breaks: int) -> Snapshot | None:
        """Return the node's; None where a connection has broken since: etcd may have been restored meanwhile."""
        with self._lock:
            found = self._snapshots.get(node)
            if found and found.breaks != breaks:
                self._snapshots.clear()
                self._blocks.clear()
                return None
            return found

    def keep(self, node: str, snapshot: Snapshot) -> None:
        """Remember the node's latest."""
        with self._lock:
            self._snapshots[node] = snapshot

    def block(self, key: str) -> Json | None:
        """Return the key-value of a block as it was last written or read here."""
        with self._lock:
            return self._blocks.get(key)

    def keep_block(self, key: str, item: Json | None) -> None:
        """Remember the key-value of a block; None that there is none any more."""
        with self._lock:
            self._blocks.pop(key, None)
            if item:
                self._blocks[key] = item
                if len(self._blocks) > MOST_BLOCKS:
                    del self._blocks[next(iter(self._blocks))]


def ranges_of(node: str) -> tuple[Range, ...]:
    """Return what an ADD of a node reads before it takes an address: settings, pools, reservations, its own records.

    Small ones: etcd reads all records of a range to tell which is newest.
    """
    return (
        one(keys.CLUSTER_INFORMATION),
        (keys.IPPOOLS, end_of(keys.IPPOOLS)),
        (keys.IPRESERVATIONS, end_of(keys.IPRESERVATIONS)),
        one(keys.node(node)),
        one(keys.IPAM_CONFIG),
        one(keys.host(node)),
        (f"{keys.host(node)}/", end_of(f"{keys.host(node)}/")),
    )


def one(key: str) -> Range:
    """Return the range of a single key."""
    return key, key + "\0"


def end_of(prefix: str) -> str:
    """Return the first key behind all those that begin with the prefix, which ends with a plain character."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def whole(ranges: Iterable[Range]) -> list[Json]:
    """Return the requests that read the ranges."""
    return [{"request_range": _asked(item)} for item in ranges]


def changes(snapshot: Snapshot) -> list[Json]:
    """Return the requests that tell what has changed in its ranges since, one answer for each."""
    since = {"min_mod_revision": str(snapshot.revision + 1), "keys_only": True, "limit": 1}
    return [{"request_range": {**_asked(item), **since}} for item in snapshot.ranges]


def is_current(snapshot: Snapshot, answers: Sequence[Json], revision: int) -> bool:
    """Tell by the answers to `changes`, of a revision, whether the ranges are as they were."""
    return revision >= snapshot.revision and all(
        not answer.get("kvs") and int(answer.get("count", 0)) == count
        for answer, count in zip(answers, snapshot.counts, strict=True)
    )


def taken(ranges: tuple[Range, ...], answers: Sequence[Json], revision: int, breaks: int) -> Snapshot:
    """Return the snapshot that the answers to `whole` make."""
    items = {text(item["key"]): item for answer in answers for item in answer.get("kvs") or ()}
    return Snapshot(ranges, tuple(int(answer.get("count", 0)) for answer in answers), items, revision, breaks)


def next_blocks(snapshot: Snapshot, node: str) -> list[str]:
    """Return the keys of the blocks that the node will assign from next, as far as it remembers."""
    item = snapshot.items.get(keys.host(node))
    try:
        room = host_of(record_of(item)).room if item else {}
    except Corrupt:
        return []
    return [keys.block(6 if ":" in cidr else 4, cidr) for cidr in dict.fromkeys(room.values())]


def record_of(item: Json) -> Record:
    """Return the record in a key-value; raises Corrupt. Old hosts and affinities have no value (Calico)."""
    key = text(item["key"])
    data = b64decode(item.get("value", ""))
    try:
        value = loads(data) if data or not key.startswith(keys.HOSTS) else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Corrupt(f"record {key} in etcd is damaged: it does not hold a JSON object; restore or repair it")
    return Record(key, value, int(item["mod_revision"]))


def b64(key: str) -> str:
    """Return a key as the gateway takes it."""
    return b64encode(key.encode("utf-8", "surrogateescape")).decode()


def text(key: str) -> str:
    """Return a key that the gateway gave."""
    return b64decode(key).decode("utf-8", "surrogateescape")


def _asked(item: Range) -> Json:
    return {"key": b64(item[0]), "range_end": b64(item[1])}
