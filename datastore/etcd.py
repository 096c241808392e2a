"""The distributed datastore: Calico's records in etcd v3, at Calico's own keys, in Calico's own JSON.

A record's revision is etcd's `mod_revision`, and every write is one transaction that compares it, so of two writers
only one succeeds, on whatever machine. What must not happen twice on one node at a time waits at a lock file there.
"""

from __future__ import annotations

import os
from base64 import b64encode
from contextlib import contextmanager, suppress

from datastore import SECONDS, highwater, keys
from datastore.api import Busy, Corrupt, Missing, Record, Torn, Unreachable, Unwritable
from datastore.cluster import cluster_of, require_ready
from datastore.etcdclient import Client, Compacted, Patience, TooLarge
from datastore.etcdtxn import (
    item_in,
    name_only,
    newer,
    newest,
    operation,
    own_revision,
    refusal,
    revisions_in,
    unchanged,
)
from datastore.highwater import HighWater, Seen
from datastore.holds import Holds
from datastore.jsontext import dumps
from datastore.lock import flock
from datastore.snapshot import (
    Cache,
    b64,
    changes,
    end_of,
    is_current,
    next_blocks,
    one,
    ranges_of,
    record_of,
    taken,
    text,
    whole,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from datastore.api import Change, Held, Json, Store
    from datastore.etcdclient import Answer
    from datastore.etcdtxn import Written
    from datastore.settings import Settings
    from datastore.snapshot import Snapshot

    Lock = Callable[[str, float], AbstractContextManager[None]]

RANGE, TXN, STATUS = "/v3/kv/range", "/v3/kv/txn", "/v3/maintenance/status"
PAGE_RECORDS, PAGE_KEYS = 200, 10_000
MOST_CHANGES = 128  # etcd's own limit of one transaction (--max-txn-ops)
MOST_AT_ONCE = 96  # records that are read together, beside what decides on addresses
MOST_SEEN = 256  # records of lists whose values are kept
LOCK_SECONDS = 10.0  # the lock saves conflicts, nothing more: whoever waited so long goes on without
DAMAGED = "/damaged"  # before the key of a record that was damaged, and the revision behind it


def open_etcd(settings: Settings, seconds: float) -> EtcdStore:
    """Return the store; no server is asked yet. seconds: how long its calls may wait for silent ones in all."""
    return EtcdStore(Client(settings.etcd), settings.lock_file, seconds)


class EtcdStore:
    """A Store (datastore/api.py) in an etcd cluster, for one thread and one verb; client and cache may be shared.

    lock_file: what this node's writers hold in turn; beside it are the names that are held. What `prepare` has read is
    not read again, until a write here changes it or is refused.
    """

    def __init__(
        self, client: Client, lock_file: str, seconds: float = SECONDS, lock: Lock = flock, cache: Cache | None = None
    ) -> None:
        self._client, self._lock_file, self._lock, self._cache = client, lock_file, lock, cache or Cache()
        self._snapshot: Snapshot | None = None
        self._read: dict[str, Json | None] = {}
        self._node, self._names, self._is_stale = "", frozenset[str](), False
        self._others = frozenset[str]()  # what those read who share with this one
        self._revision = 0  # of the latest answer
        self._high_water = HighWater(os.path.join(os.path.dirname(lock_file), "etcd-seen"))
        self._mark_name = ""  # under which this node keeps what it has seen
        self._seen: dict[str, Json] = {}  # what get and records gave
        self._breaks = client.breaks
        self._patience = Patience(seconds)
        self._holds = Holds(os.path.join(os.path.dirname(lock_file), "held"))
        self._depth = 0

    def get(self, key: str) -> Record:
        """Return the record at the key; raises Missing, Corrupt, Unreachable."""
        item = self._item(key)
        if item is None:
            raise Missing(f"{key} is not in etcd")
        self._seen[key] = item
        return record_of(item)

    def create(self, key: str, value: Json) -> Record:
        """Store a new record; raises Exists."""
        return Record(key, value, self._write([(key, value, None)]))

    def update(self, key: str, value: Json, revision: int) -> Record:
        """Replace the record that still has this revision; raises Conflict, Missing."""
        return Record(key, value, self._write([(key, value, revision)]))

    def delete(self, key: str, revision: int) -> None:
        """Remove the record that still has this revision; raises Conflict, Missing."""
        self._write([(key, None, revision)])

    def commit(self, *changes: Change) -> None:
        """Write several records in one transaction; raises Exists, Conflict, Missing, TooLarge."""
        kept = [unchanged(change.key, change.revision) for change in changes if change.keep]
        written = [(change.key, change.value, change.revision) for change in changes if not change.keep]
        if written:
            self._write(written, kept)

    def records(self, prefix: str) -> Iterator[Record]:
        """Yield every record below the prefix in key order, as it was when the first one was read if etcd can."""
        return map(record_of, self._below(prefix, {"limit": PAGE_RECORDS}))

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below the prefix in order, without reading the records."""
        return [text(item["key"]) for item in self._below(prefix, {"limit": PAGE_KEYS, "keys_only": True})]

    def scan(self, prefix: str, torn: Callable[[Torn], object]) -> Iterator[Record]:
        """Yield every record below the prefix; what cannot be read is told to `torn`."""
        for item in self._below(prefix, {"limit": PAGE_RECORDS}):
            try:
                yield record_of(item)
            except Corrupt as error:
                key = text(item["key"])
                torn(Torn(key, key, str(error)))

    def mend(self, torn: Torn, value: Json | None) -> None:
        """Keep a damaged record below `/damaged` and put a value in its place, or nothing. Raises Missing, Conflict."""
        found = self._call(RANGE, {"key": b64(torn.key)}).body.get("kvs")
        if not found:
            raise Missing(f"{torn.key} is not in etcd")
        revision = int(found[0]["mod_revision"])
        kept = {"key": b64(f"{DAMAGED}{torn.key}/{revision}"), "value": found[0].get("value", "")}
        self._transact([unchanged(torn.key, revision)], [{"request_put": kept}, operation(torn.key, value)],
                       [(torn.key, value, revision)])

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock file while the body runs; re-enterable. Where it is not to be had, go on without.

        The transactions keep writers apart; the lock keeps those of one node from making each other try again
        (Calico: acquireIPAMLockBestEffort).
        """
        if self._depth:
            yield
            return
        lock = None
        with suppress(OSError, Busy):
            os.makedirs(os.path.dirname(self._lock_file), mode=0o755, exist_ok=True)
            lock = self._lock(self._lock_file, LOCK_SECONDS)
            lock.__enter__()
        self._depth = 1
        try:
            yield
        finally:
            self._depth = 0
            if lock:
                lock.__exit__(None, None, None)

    def hold(self, name: str, seconds: float, keep_mark: bool = False) -> AbstractContextManager[Held]:
        """Keep this node's others from holding the same name (datastore/api.py). Raises Busy, Unwritable."""
        return self._holds.hold(name, seconds, keep_mark)

    def tidy(self) -> None:
        """Remove lock files of killed holders (datastore/holds.py). Raises Unwritable."""
        self._holds.tidy()

    def prepare(self, node: str, *names: str) -> bool:
        """Read together what a verb of a node is about to read: the records of these keys, pools, settings, its block.

        One round trip; two where something has changed since the node's last verb. Tell whether etcd was restored.
        """
        self._node, self._names = node, self._names | set(names)
        before, self._revision = self._high_water.all(), 0
        marks = dict.fromkeys(seen.block for seen in before.values() if seen.block)
        revisions = self._prepare(node, sorted(self._names), list(marks))
        self._mark_name = self._name_of_mark()
        mark = before.get(self._mark_name, Seen())
        now = revisions.get(mark.block, mark.block_revision)  # one that is gone tells nothing
        if self._revision < mark.revision or now < mark.block_revision:
            return True
        self._note(Seen(self._revision))
        return False

    def accept(self) -> None:
        """Have `prepare` take etcd as it is now for the newest."""
        self._note(Seen(self._revision), lower=True)

    def share(self, other: Store) -> None:
        """Know what another store of the same cluster has read or written for its verb, as far as it matters here."""
        if not isinstance(other, EtcdStore):
            return
        self._node, self._mark_name = other._node or self._node, other._mark_name or self._mark_name
        self._others |= other._names
        self._breaks, self._revision = min(self._breaks, other._breaks), max(self._revision, other._revision)
        if not self._names:  # of nobody's own verb
            self._patience = min(self._patience, other._patience, key=lambda each: each.left)
        if other._is_stale:
            self._forget()
            return
        for key, item in other._read.items():
            if not self._names or key in self._names or key.startswith(keys.BLOCKS):
                self._read[key] = newest(item, self._read.get(key))
        if other._snapshot is None or self._snapshot is None or other._snapshot.revision > self._snapshot.revision:
            self._snapshot = other._snapshot

    def _prepare(self, node: str, names: list[str], marks: Sequence[str] = ()) -> dict[str, int]:
        """Read what `prepare` promises; return the revisions that the marks, other keys, have now."""
        self._is_stale = False
        snapshot = self._cache.snapshot(node, self._client.breaks)
        if snapshot is None:
            return self._load(node, names, marks)
        blocks = next_blocks(snapshot, node)
        kept = {key: self._cache.block(key) for key in blocks}
        answers, revision = self._ranges([*changes(snapshot), *(newer(key, kept[key]) for key in blocks),
                                          *whole(map(one, names)), *map(name_only, marks)])
        split, end = len(snapshot.ranges), len(answers) - len(marks)
        if self._cache.snapshot(node, self._client.breaks) is None or not is_current(
                snapshot, answers[:split], revision):
            return self._load(node, names, marks)
        self._snapshot = snapshot
        for key, answer in zip((*blocks, *names), answers[split:end], strict=True):
            found = answer.get("kvs") or ([kept[key]] if int(answer.get("count", 0)) and kept.get(key) else [None])
            self._read[key] = found[0]
        for key in blocks:
            self._cache.keep_block(key, self._read[key])
        return revisions_in(answers[end:])

    def _note(self, seen: Seen, lower: bool = False) -> None:
        if self._mark_name:
            self._high_water.note(self._mark_name, seen, lower)

    def _name_of_mark(self) -> str:
        """Return under which name this node keeps what it has seen of this datastore, empty where that has no GUID."""
        try:
            cluster = cluster_of(self)
        except Corrupt:
            return ""
        return highwater.name(cluster.guid, self._node) if cluster else ""

    def check_writable(self) -> None:
        """Raise Unreachable when no majority of servers answers, and Unwritable when one has no room left."""
        self._call(RANGE, {"key": b64(keys.IPAM_CONFIG), "keys_only": True})
        alarms = self._call(STATUS, {}).body.get("errors") or []
        if any("NOSPACE" in str(alarm) for alarm in alarms):
            raise Unwritable("etcd takes no writes: it has no room left (alarm NOSPACE); compact and defragment it, or "
                             "raise its quota, then `etcdctl alarm disarm`")

    def _load(self, node: str, names: list[str], marks: Sequence[str]) -> dict[str, int]:
        """Do the same without anything to go by."""
        ranges, breaks = ranges_of(node), self._client.breaks
        answers, revision = self._ranges([*whole((*ranges, *map(one, names))), *map(name_only, marks)])
        self._snapshot, end = taken(ranges, answers[: len(ranges)], revision, breaks), len(answers) - len(marks)
        self._cache.keep(node, self._snapshot)
        for key, answer in zip(names, answers[len(ranges) : end], strict=True):
            self._read[key] = (answer.get("kvs") or [None])[0]
        return revisions_in(answers[end:])

    def _ranges(self, requests: list[Json]) -> tuple[list[Json], int]:
        """Return the answers to requests for ranges, all of one revision, and that revision."""
        answer = self._call(TXN, {"success": requests})
        return [item.get("response_range", {}) for item in answer.body["responses"]], answer.revision

    def _item(self, key: str) -> Json | None:
        """Return the key-value of a key, None when there is none."""
        self._refresh()
        if key in self._read:
            item = self._read[key]
            return newest(item, self._cache.block(key)) if key.startswith(keys.BLOCKS) else item
        if self._snapshot and self._snapshot.covers(*one(key)):
            return self._snapshot.items.get(key)
        found: list[Json] | None = self._call(RANGE, {"key": b64(key)}).body.get("kvs")
        return found[0] if found else None

    def _below(self, prefix: str, body: Json) -> Iterator[Json]:
        """Yield the key-values below a prefix."""
        self._refresh()
        if self._snapshot and self._snapshot.covers(prefix, end_of(prefix)):
            yield from self._snapshot.below(prefix, end_of(prefix))
            return
        for item in self._pages(prefix, body):
            if len(self._seen) < MOST_SEEN and "value" in item:
                self._seen[text(item["key"])] = item
            yield item

    def _call(self, path: str, body: Json, again: Json | None = None) -> Answer:
        """Ask; a majority answers all but STATUS, and never with an older revision unless etcd was restored."""
        answer = self._client.call(path, body, self._patience, again)
        if path != STATUS:
            if answer.revision < self._revision:
                raise Unreachable(f"etcd was set back to an older copy just now (revision {answer.revision} after "
                                  f"{self._revision}); try again")
            self._revision = answer.revision
        return answer

    def _pages(self, prefix: str, body: Json) -> Iterator[Json]:
        """Yield the key-values below a prefix, page by page, of one revision as long as that is not compacted."""
        start, revision = prefix, 0
        while True:
            asked = {"key": b64(start), "range_end": b64(end_of(prefix)), "revision": str(revision), **body}
            try:
                answer = self._call(RANGE, asked)
            except Compacted:
                revision = 0
                continue
            found = answer.body.get("kvs") or []
            yield from found
            if not answer.body.get("more"):
                return
            start, revision = text(found[-1]["key"]) + "\0", revision or answer.revision

    def _write(self, changes: Sequence[Written], kept: Sequence[Json] = ()) -> int:
        """Make all these changes, or none; return the revision they have. Raises as `commit`."""
        return self._transact([*kept, *(unchanged(key, revision) for key, _, revision in changes)],
                              [operation(key, value) for key, value, _ in changes], changes)

    def _transact(self, compare: list[Json], success: list[Json], changes: Sequence[Written]) -> int:
        compare = [*compare, *self._open_still(changes)]
        if max(len(compare), len(success)) > MOST_CHANGES:
            raise TooLarge(f"{len(success)} changes that depend on {len(compare)} records, in one transaction: etcd "
                           f"takes {MOST_CHANGES} of each")
        failure = [{"request_range": {"key": b64(key)}} for key, _, _ in changes]
        body = {"compare": compare, "success": success, "failure": failure}
        again = {**body, "compare": [*compare, *self._as_read(compare)]}
        try:
            answer = self._call(TXN, body if self._client.breaks == self._breaks else again, again)
        except BaseException:
            self._forget()
            raise
        if answer.body.get("succeeded"):
            self._written(changes, answer.revision)
            return answer.revision
        self._forget()
        now = [item_in(item) for item in answer.body["responses"]]
        if answer.doubtful:
            return own_revision(changes, now)
        raise refusal(changes, now)

    def _open_still(self, changes: Sequence[Written]) -> list[Json]:
        """Return the comparison by which a datastore that was closed meanwhile gets no more allocations."""
        said = self._snapshot and self._snapshot.items.get(keys.CLUSTER_INFORMATION)
        if not said or not any(key.startswith(keys.BLOCKS) for key, _, _ in changes):
            return []
        return [unchanged(keys.CLUSTER_INFORMATION, int(said["mod_revision"]))]

    def _as_read(self, compare: list[Json]) -> list[Json]:
        """Return comparisons of records with what they were, beside those of their revisions; of blocks, if not of all.

        They are for when a connection has broken: etcd may have been restored, and revisions are given anew then.
        """
        found = []
        for item in sorted(compare, key=lambda each: not text(each["key"]).startswith(keys.BLOCKS)):
            seen = self._seen.get(text(item["key"]))
            if seen and seen["mod_revision"] == item.get("mod_revision"):
                found.append({"key": item["key"], "target": "VALUE", "result": "EQUAL", "value": seen.get("value", "")})
        return found[: MOST_CHANGES - len(compare)]

    def _forget(self) -> None:
        """Read anew from now on: what was read may have changed since."""
        self._read.clear()
        self._snapshot, self._is_stale = None, bool(self._node)

    def _refresh(self) -> None:
        if self._is_stale:
            others = sorted(self._others - self._names)
            self._prepare(self._node, [*sorted(self._names), *others][:MOST_AT_ONCE])
            require_ready(self)

    def _written(self, changes: Sequence[Written], revision: int) -> None:
        """Remember what was written as far as it was read here, and blocks for those to come."""
        blocks = [key for key, value, _ in changes if value is not None and key.startswith(keys.BLOCKS)]
        if blocks:
            self._note(Seen(revision, blocks[0], revision))
        for key, value, _ in changes:
            data = None if value is None else b64encode(dumps(value)).decode()
            item = data and {"key": b64(key), "value": data, "mod_revision": str(revision)}
            if key in self._read:
                self._read[key] = item or None
            if key.startswith(keys.BLOCKS):
                self._cache.keep_block(key, item or None)
            if self._snapshot and self._snapshot.covers(*one(key)):
                self._snapshot = None
