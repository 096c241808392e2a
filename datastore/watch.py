"""Following a part of etcd: what is there, then every change, through lost connections, compactions and restores.

etcd's watch over the JSON gateway (api-guide, "watch"): one JSON object to a line, for as long as the stream lasts. It
is asked with a leader required, so a server that has lost the others ends it; and where nothing is said for a while
the cluster is asked for its revision, so that a connection that is cut without a word is noticed.
"""

from __future__ import annotations

import time

from datastore.api import Unreachable, Unwritable
from datastore.etcdclient import Compacted, Patience
from datastore.frozen import frozen
from datastore.snapshot import b64, end_of, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from datastore.api import Json
    from datastore.etcdclient import Client

RANGE, WATCH = "/v3/kv/range", "/v3/watch"
PAGE = 200
SILENCE_SECONDS = 10.0
ASK_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


@frozen
class Listed:
    """All there is, at a revision: at first, and whenever changes in between could not be told.

    restored: whether etcd is older than it was: it was set back to a former copy.
    """

    items: Mapping[str, Json]
    revision: int
    restored: bool


@frozen
class Changed:
    """One key-value as it is now, None when it is gone, at a revision."""

    key: str
    item: Json | None
    revision: int


@frozen
class Quiet:
    """Nothing has been said for a while, and the cluster is still there."""


@frozen
class Lost:
    """etcd cannot be reached, and why: what was told is what was true until then."""

    why: str


class Follower:
    """What is below a prefix that ends in '/'. `stop` ends it, from any thread, within `silence` seconds.

    silence: after how long without a word the cluster is asked whether it is still there, and the same.
    """

    def __init__(self, client: Client, prefix: str, silence: float = SILENCE_SECONDS) -> None:
        self._client, self._prefix, self._silence = client, prefix, silence
        self._revision = 0
        self._is_over = False

    def stop(self) -> None:
        """Have `follow` come to its end."""
        self._is_over = True

    def follow(self) -> Iterator[Listed | Changed | Quiet | Lost]:
        """Yield what there is, and from then on what happens; each change once, in etcd's order."""
        pause = FIRST_PAUSE
        is_known = False
        while not self._is_over:
            try:
                if not is_known:
                    yield self._list()
                    is_known = True
                for said in self._changes():
                    pause = FIRST_PAUSE
                    yield said
            except (Compacted, _Restored):
                is_known = False
            except Unwritable as error:
                yield Lost(str(error))
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _list(self) -> Listed:
        items: dict[str, Json] = {}
        start, revision, more = self._prefix, 0, True
        while more:
            asked = {"key": b64(start), "range_end": b64(end_of(self._prefix)), "limit": PAGE,
                     "revision": str(revision)}
            answer = self._client.call(RANGE, asked, Patience(ASK_SECONDS))
            found = answer.body.get("kvs") or []
            items |= {text(item["key"]): item for item in found}
            revision, more = revision or answer.revision, bool(answer.body.get("more"))
            start = text(found[-1]["key"]) + "\0" if found else start
        before, self._revision = self._revision, revision
        return Listed(items, revision, restored=revision < before)

    def _changes(self) -> Iterator[Changed | Quiet]:
        """Yield changes until the stream ends. Raises Compacted, _Restored, Unwritable."""
        self._require_not_restored()  # a watch from a revision that is still to come says nothing until then
        asked = {"create_request": {"key": b64(self._prefix), "range_end": b64(end_of(self._prefix)),
                                    "start_revision": str(self._revision + 1)}}
        for message in self._client.stream(WATCH, asked, Patience(ASK_SECONDS), self._silence):
            if self._is_over:
                return
            if "error" in message:
                raise Unreachable(f"etcd ends the watch: {message['error']}")
            if not message:
                self._require_not_restored()
                yield Quiet()
                continue
            result = message.get("result", {})
            if result.get("canceled"):
                if int(result.get("compact_revision", 0)):
                    raise Compacted(int(result["compact_revision"]))
                return
            for event in result.get("events") or ():
                yield self._changed(event)
            self._revision = max(self._revision, int(result.get("header", {}).get("revision", 0)))

    def _changed(self, event: Json) -> Changed:
        item = event["kv"]
        is_gone = event.get("type") == "DELETE"
        return Changed(text(item["key"]), None if is_gone else item, int(item["mod_revision"]))

    def _require_not_restored(self) -> None:
        asked = {"key": b64(self._prefix), "keys_only": True, "limit": 1}
        if self._client.call(RANGE, asked, Patience(ASK_SECONDS)).revision < self._revision:
            raise _Restored


class _Restored(Exception):
    """etcd's revision is lower than one that was seen."""
