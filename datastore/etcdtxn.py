"""Parts of etcd's transactions as the gateway's JSON, and what their answers mean; pure."""

from __future__ import annotations

from base64 import b64decode, b64encode

from datastore.api import Conflict, Exists, Missing, Unwritable
from datastore.jsontext import dumps
from datastore.snapshot import b64, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from datastore.api import Json

    Written = tuple[str, Json | None, int | None]  # key, value, the revision that it had


def name_only(key: str) -> Json:
    """Return the request for a record without its value."""
    return {"request_range": {"key": b64(key), "keys_only": True}}


def revisions_in(answers: list[Json]) -> dict[str, int]:
    """Return the revisions of the records in answers for one key each."""
    return {text(item["key"]): int(item["mod_revision"]) for answer in answers for item in answer.get("kvs") or ()}


def newest(item: Json | None, other: Json | None) -> Json | None:
    """Return the key-value of two of the same key that was written later."""
    if item and other:
        return max(item, other, key=lambda each: int(each["mod_revision"]))
    return item or other


def newer(key: str, kept: Json | None) -> Json:
    """Return the request for a key-value that is newer than the one kept, and for how many there are."""
    since = {"min_mod_revision": str(int(kept["mod_revision"]) + 1)} if kept else {}
    return {"request_range": {"key": b64(key), **since}}


def own_revision(changes: Sequence[Written], now: list[Json | None]) -> int:
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
    if untouched:
        raise Conflict(f"{changes[0][0]} could not be written: what it depends on has changed since it was read")
    if is_ours:
        return revisions.pop() if revisions else 0
    raise Unwritable(f"{changes[0][0]} was being written when a server went away, and others have written since: "
                     "it may have been written")


def refusal(changes: Sequence[Written], now: list[Json | None]) -> Exception:
    """Return why a transaction was not carried out: the first record that is not as it was expected to be."""
    for (key, _, revision), found in zip(changes, now, strict=True):
        if revision is None and found:
            return Exists(f"{key} is already in etcd")
        if revision is not None and not found:
            return Missing(f"{key} is not in etcd")
        if found and int(found["mod_revision"]) != revision:
            return Conflict(f"{key} has changed since it was read")
    return Conflict(f"{changes[0][0]} has changed since it was read")


def unchanged(key: str, revision: int | None) -> Json:
    """Return the comparison that holds as long as a record has its revision, or does not exist (None)."""
    if revision is None:
        return {"key": b64(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
    return {"key": b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def operation(key: str, value: Json | None) -> Json:
    """Return the request that writes a value, or removes the record (None)."""
    if value is None:
        return {"request_delete_range": {"key": b64(key)}}
    return {"request_put": {"key": b64(key), "value": b64encode(dumps(value)).decode()}}


def item_in(response: Json) -> Json | None:
    """Return the key-value in the response of a range for one key, None when there was none."""
    found = response.get("response_range", {}).get("kvs")
    return found[0] if found else None
