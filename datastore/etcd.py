"""The distributed datastore: Calico's records in etcd v3, at Calico's own keys, in Calico's own JSON.

A record's revision is etcd's `mod_revision`, and every write is one transaction that compares it, so of two writers
only one succeeds, on whatever machine. What must not happen twice on one node at a time waits at a lock file there.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from contextlib import contextmanager, suppress

from datastore import SECONDS, keys
from datastore.api import Busy, Conflict, Corrupt, Exists, Missing, Record, Torn, Unwritable
from datastore.etcdclient import Client, Compacted, Patience, TooLarge
from datastore.highwater import HighWater
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
    from datastore.settings import Settings
    from datastore.snapshot import Snapshot

    Lock = Callable[[str, float], AbstractContextManager[None]]

RANGE, TXN, STATUS = "/v3/kv/range", "/v3/kv/txn", "/v3/maintenance/status"
PAGE_RECORDS, PAGE_KEYS = 200, 10_000
MOST_CHANGES = 128  # etcd's own limit of one transaction (--max-txn-ops)
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
        self._revision = 0  # of the latest answer
        self._high_water = HighWater(os.path.join(os.path.dirname(lock_file), "etcd-revision"))
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
        kept = [_unchanged(change.key, change.revision) for change in changes if change.keep]
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
        self._transact([_unchanged(torn.key, revision)], [{"request_put": kept}, _operation(torn.key, value)],
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
        before = self._high_water.seen()
        self._prepare(node, sorted(self._names))
        if self._revision < before:
            return True
        self._high_water.note(self._revision)
        return False

    def accept(self) -> None:
        """Have `prepare` take etcd as it is now for the newest."""
        self._high_water.note(self._revision, lower=True)

    def share(self, other: Store) -> None:
        """Know what another store of the same cluster has read or written for its verb."""
        if not isinstance(other, EtcdStore):
            return
        self._node, self._names = other._node or self._node, self._names | other._names
        self._breaks = min(self._breaks, other._breaks)
        if other._is_stale:
            self._forget()
            return
        for key, item in other._read.items():
            self._read[key] = _newest(item, self._read.get(key))
        if other._snapshot is None or self._snapshot is None or other._snapshot.revision > self._snapshot.revision:
            self._snapshot = other._snapshot

    def _prepare(self, node: str, names: list[str]) -> None:
        self._is_stale = False
        snapshot = self._cache.snapshot(node, self._client.breaks)
        if snapshot is None:
            self._load(node, names)
            return
        blocks = next_blocks(snapshot, node)
        kept = {key: self._cache.block(key) for key in blocks}
        answers, revision = self._ranges([*changes(snapshot), *(_newer(key, kept[key]) for key in blocks),
                                          *whole(map(one, names))])
        split = len(snapshot.ranges)
        if self._cache.snapshot(node, self._client.breaks) is None or not is_current(
                snapshot, answers[:split], revision):
            self._load(node, names)
            return
        self._snapshot = snapshot
        for key, answer in zip((*blocks, *names), answers[split:], strict=True):
            found = answer.get("kvs") or ([kept[key]] if int(answer.get("count", 0)) and kept.get(key) else [None])
            self._read[key] = found[0]
        for key in blocks:
            self._cache.keep_block(key, self._read[key])

    def check_writable(self) -> None:
        """Raise Unreachable when no majority of servers answers, and Unwritable when one has no room left."""
        self._call(RANGE, {"key": b64(keys.IPAM_CONFIG), "keys_only": True})
        alarms = self._call(STATUS, {}).body.get("errors") or []
        if any("NOSPACE" in str(alarm) for alarm in alarms):
            raise Unwritable("etcd takes no writes: it has no room left (alarm NOSPACE); compact and defragment it, or "
                             "raise its quota, then `etcdctl alarm disarm`")

    def _load(self, node: str, names: list[str]) -> None:
        """Read all that `prepare` promises."""
        ranges, breaks = ranges_of(node), self._client.breaks
        answers, revision = self._ranges(whole((*ranges, *map(one, names))))
        self._snapshot = taken(ranges, answers[: len(ranges)], revision, breaks)
        self._cache.keep(node, self._snapshot)
        for key, answer in zip(names, answers[len(ranges) :], strict=True):
            self._read[key] = (answer.get("kvs") or [None])[0]

    def _ranges(self, requests: list[Json]) -> tuple[list[Json], int]:
        """Return the answers to requests for ranges, all of one revision, and that revision."""
        answer = self._call(TXN, {"success": requests})
        self._revision = answer.revision
        return [item.get("response_range", {}) for item in answer.body["responses"]], answer.revision

    def _item(self, key: str) -> Json | None:
        """Return the key-value of a key, None when there is none."""
        self._refresh()
        if key in self._read:
            item = self._read[key]
            return _newest(item, self._cache.block(key)) if key.startswith(keys.BLOCKS) else item
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
        return self._client.call(path, body, self._patience, again)

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

    def _write(self, changes: list[tuple[str, Json | None, int | None]], kept: Sequence[Json] = ()) -> int:
        """Make all these changes, or none; return the revision they have. Raises as `commit`."""
        return self._transact([*kept, *(_unchanged(key, revision) for key, _, revision in changes)],
                              [_operation(key, value) for key, value, _ in changes], changes)

    def _transact(
        self, compare: list[Json], success: list[Json], changes: list[tuple[str, Json | None, int | None]]
    ) -> int:
        if len(success) > MOST_CHANGES:
            raise TooLarge(f"{len(success)} changes in one transaction: etcd takes {MOST_CHANGES}")
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
        now = [_found(item) for item in answer.body["responses"]]
        if answer.doubtful:
            return _own_revision(changes, now)
        raise _refusal(changes, now)


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
            self._prepare(self._node, sorted(self._names))

    def _written(self, changes: list[tuple[str, Json | None, int | None]], revision: int) -> None:
        """Remember what was written as far as it was read here, and blocks for those to come."""
        self._revision = revision
        if any(key.startswith(keys.BLOCKS) for key, _, _ in changes):
            self._high_water.note(revision)
        for key, value, _ in changes:
            data = None if value is None else b64encode(dumps(value)).decode()
            item = data and {"key": b64(key), "value": data, "mod_revision": str(revision)}
            if key in self._read:
                self._read[key] = item or None
            if key.startswith(keys.BLOCKS):
                self._cache.keep_block(key, item or None)
            if self._snapshot and self._snapshot.covers(*one(key)):
                self._snapshot = None


def _newest(item: Json | None, other: Json | None) -> Json | None:
    """Return the key-value of two of the same key that was written later."""
    if item and other:
        return max(item, other, key=lambda each: int(each["mod_revision"]))
    return item or other


def _newer(key: str, kept: Json | None) -> Json:
    """Return the request for a key-value that is newer than the one kept, and for how many there are."""
    since = {"min_mod_revision": str(int(kept["mod_revision"]) + 1)} if kept else {}
    return {"request_range": {"key": b64(key), **since}}


def _own_revision(changes: list[tuple[str, Json | None, int | None]], now: list[Json | None]) -> int:
    """Return the revision of a write that an attempt without an answer has made, as its records are still there.

    Raises Unwritable where others have written since: nobody can tell then whether it was made.
    """
    revisions = {int(found["mod_revision"]) for found in now if found}
    is_ours = len(revisions) <= 1 and all(
        (found is None) if value is None else found is not None and b64decode(found.get("value", "")) == dumps(value)
        for (_, value, _), found in zip(changes, now, strict=True)
    )
    untouched = all(
        (found is None) if revision is None else found is not None and int(found["mod_revision"]) == revision
        for (_, _, revision), found in zip(changes, now, strict=True)
    )
    if is_ours and not untouched:
        return revisions.pop() if revisions else 0
    raise Unwritable(f"{changes[0][0]} was being written when a server went away, and others have written since: "
                     "it may have been written")


def _refusal(changes: list[tuple[str, Json | None, int | None]], now: list[Json | None]) -> Exception:
    """Return why a transaction was not carried out: the first record that is not as it was expected to be."""
    for (key, _, revision), found in zip(changes, now, strict=True):
        if revision is None and found:
            return Exists(f"{key} is already in etcd")
        if revision is not None and not found:
            return Missing(f"{key} is not in etcd")
        if found and int(found["mod_revision"]) != revision:
            return Conflict(f"{key} has changed since it was read")
    return Conflict(f"{changes[0][0]} has changed since it was read")


def _unchanged(key: str, revision: int | None) -> Json:
    """Return the comparison that holds as long as a record has its revision, or does not exist (None)."""
    if revision is None:
        return {"key": b64(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
    return {"key": b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def _operation(key: str, value: Json | None) -> Json:
    if value is None:
        return {"request_delete_range": {"key": b64(key)}}
    return {"request_put": {"key": b64(key), "value": b64encode(dumps(value)).decode()}}


def _found(response: Json) -> Json | None:
    """Return the key-value in the response of a range for one key, None when there was none."""
    found = response.get("response_range", {}).get("kvs")
    return found[0] if found else None
