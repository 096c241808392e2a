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
from datastore.holds import Holds
from datastore.jsontext import dumps, loads
from datastore.lock import flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from datastore.api import Change, Held, Json
    from datastore.etcdclient import Answer
    from datastore.settings import Settings

    Lock = Callable[[str, float], AbstractContextManager[None]]

RANGE, TXN, STATUS = "/v3/kv/range", "/v3/kv/txn", "/v3/maintenance/status"
PAGE_RECORDS, PAGE_KEYS = 200, 10_000
MOST_CHANGES = 128  # etcd's own limit of one transaction (--max-txn-ops)
LOCK_SECONDS = 10.0  # the lock saves conflicts, nothing more: whoever waited so long goes on without
DAMAGED = "/damaged"  # before the key of a record that was damaged, and the revision behind it


def open_etcd(settings: Settings, seconds: float) -> EtcdStore:
    """Return the store; no server is asked yet. seconds: how long its calls may wait for silent ones in all."""
    return EtcdStore(Client(settings.etcd), settings.lock_file, seconds)


class EtcdStore:
    """A Store (datastore/api.py) in an etcd cluster, for one thread; the client may be shared.

    lock_file: what this node's writers hold in turn; beside it are the names that are held.
    """

    def __init__(self, client: Client, lock_file: str, seconds: float = SECONDS, lock: Lock = flock) -> None:
        self._client, self._lock_file, self._lock = client, lock_file, lock
        self._patience = Patience(seconds)
        self._holds = Holds(os.path.join(os.path.dirname(lock_file), "held"))
        self._depth = 0

    def get(self, key: str) -> Record:
        """Return the record at the key; raises Missing, Corrupt, Unreachable."""
        found = self._call(RANGE, {"key": _b64(key)}).body.get("kvs")
        if not found:
            raise Missing(f"{key} is not in etcd")
        return _record(found[0])

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
        if changes:
            self._write([(change.key, change.value, change.revision) for change in changes])

    def records(self, prefix: str) -> Iterator[Record]:
        """Yield every record below the prefix in key order, as it was when the first one was read if etcd can."""
        return map(_record, self._pages(prefix, {"limit": PAGE_RECORDS}))

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below the prefix in order, without reading the records."""
        return [_text(item["key"]) for item in self._pages(prefix, {"limit": PAGE_KEYS, "keys_only": True})]

    def scan(self, prefix: str, torn: Callable[[Torn], object]) -> Iterator[Record]:
        """Yield every record below the prefix; what cannot be read is told to `torn`."""
        for item in self._pages(prefix, {"limit": PAGE_RECORDS}):
            try:
                yield _record(item)
            except Corrupt as error:
                key = _text(item["key"])
                torn(Torn(key, key, str(error)))

    def mend(self, torn: Torn, value: Json | None) -> None:
        """Keep a damaged record below `/damaged` and put a value in its place, or nothing. Raises Missing, Conflict."""
        found = self._call(RANGE, {"key": _b64(torn.key)}).body.get("kvs")
        if not found:
            raise Missing(f"{torn.key} is not in etcd")
        revision = int(found[0]["mod_revision"])
        kept = {"key": _b64(f"{DAMAGED}{torn.key}/{revision}"), "value": found[0].get("value", "")}
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

    def check_writable(self) -> None:
        """Raise Unreachable when no majority of servers answers, and Unwritable when one has no room left."""
        self._call(RANGE, {"key": _b64(keys.IPAM_CONFIG), "keys_only": True})
        alarms = self._call(STATUS, {}).body.get("errors") or []
        if any("NOSPACE" in str(alarm) for alarm in alarms):
            raise Unwritable("etcd takes no writes: it has no room left (alarm NOSPACE); compact and defragment it, or "
                             "raise its quota, then `etcdctl alarm disarm`")

    def _call(self, path: str, body: Json) -> Answer:
        return self._client.call(path, body, self._patience)

    def _pages(self, prefix: str, body: Json) -> Iterator[Json]:
        """Yield the key-values below a prefix, page by page, of one revision as long as that is not compacted."""
        start, revision = prefix, 0
        while True:
            asked = {"key": _b64(start), "range_end": _b64(_end(prefix)), "revision": str(revision), **body}
            try:
                answer = self._call(RANGE, asked)
            except Compacted:
                revision = 0
                continue
            found = answer.body.get("kvs") or []
            yield from found
            if not answer.body.get("more"):
                return
            start, revision = _text(found[-1]["key"]) + "\0", revision or answer.revision

    def _write(self, changes: list[tuple[str, Json | None, int | None]]) -> int:
        """Make all these changes, or none; return the revision they have. Raises as `commit`."""
        return self._transact([_unchanged(key, revision) for key, _, revision in changes],
                              [_operation(key, value) for key, value, _ in changes], changes)

    def _transact(
        self, compare: list[Json], success: list[Json], changes: list[tuple[str, Json | None, int | None]]
    ) -> int:
        if len(success) > MOST_CHANGES:
            raise TooLarge(f"{len(success)} changes in one transaction: etcd takes {MOST_CHANGES}")
        failure = [{"request_range": {"key": _b64(key)}} for key, _, _ in changes]
        answer = self._call(TXN, {"compare": compare, "success": success, "failure": failure})
        if answer.body.get("succeeded"):
            return answer.revision
        now = [_found(item) for item in answer.body["responses"]]
        if answer.doubtful:
            return _own_revision(changes, now)
        raise _refusal(changes, now)


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
        return {"key": _b64(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
    return {"key": _b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def _operation(key: str, value: Json | None) -> Json:
    if value is None:
        return {"request_delete_range": {"key": _b64(key)}}
    return {"request_put": {"key": _b64(key), "value": b64encode(dumps(value)).decode()}}


def _found(response: Json) -> Json | None:
    """Return the key-value in the response of a range for one key, None when there was none."""
    found = response.get("response_range", {}).get("kvs")
    return found[0] if found else None


def _record(item: Json) -> Record:
    """Return the record in a key-value; raises Corrupt. Old hosts and affinities have no value (Calico)."""
    key = _text(item["key"])
    data = b64decode(item.get("value", ""))
    try:
        value = loads(data) if data or not key.startswith(keys.HOSTS) else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Corrupt(f"record {key} in etcd is damaged: it does not hold a JSON object; restore or repair it")
    return Record(key, value, int(item["mod_revision"]))


def _b64(text: str) -> str:
    return b64encode(text.encode("utf-8", "surrogateescape")).decode()


def _text(b64: str) -> str:
    return b64decode(b64).decode("utf-8", "surrogateescape")


def _end(prefix: str) -> str:
    """Return the first key behind all those that begin with the prefix, which ends with a plain character."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
