"""An answer of etcd's gateway that goes on: a JSON object to a line, in HTTP's chunks, for as long as the server likes.

`http.client` reads such an answer, too, but after a silence (a timeout) its connection can be read no more.
"""

from __future__ import annotations

import json
import select
import time

from datastore.etcdanswer import has_header, is_key_value, is_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from datastore.api import Json

HEAD_SECONDS = 5.0  # for the head of the answer, and for what is left of a record of TLS that has begun
MOST_BYTES = 64 << 20  # of one line
MOST_OF_A_SIZE = 1 << 10  # of the line before a chunk
PIECE = 1 << 16
END_OF_HEAD = b"\r\n\r\n"


def lines(sock: socket.socket, silence: float) -> Iterator[Json]:
    """Yield the objects of the answer to a request that was sent, and {} after each `silence` seconds without a word.

    Less than an object is silence, too. It ends with the answer. Raises OSError, and ValueError for what is no such
    answer: the objects have the shape of a watch's (`_is_sound`).
    """
    sock.settimeout(HEAD_SECONDS)
    answer, until = _Answer(), time.monotonic() + silence
    while not answer.is_over:
        piece = _next(sock, until - time.monotonic())
        if piece == b"":
            return
        objects = [{}] if piece is None else list(answer.take(piece))
        yield from objects
        if objects:
            until = time.monotonic() + silence


def _next(sock: socket.socket, silence: float) -> bytes | None:
    """Return what has come, empty at the end, None after a silence."""
    if silence <= 0:
        return None
    pending = getattr(sock, "pending", None)  # of TLS: what has come and was not read yet
    if not (pending and pending()):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if not poll.poll(silence * 1000):
            return None
    return sock.recv(PIECE)


class _Answer:
    """The bytes of an answer as they come."""

    def __init__(self) -> None:
        self.is_over = False
        self._has_head = False
        self._raw, self._line = b"", b""

    def take(self, piece: bytes) -> Iterator[Json]:
        """Yield the objects that have come to their end. Raises ValueError."""
        self._raw += piece
        if not self._has_head:
            head, found, rest = self._raw.partition(END_OF_HEAD)
            if not found:
                _limit(self._raw)
                return
            if b" 200 " not in head.split(b"\r\n")[0] or b"chunked" not in head.lower():
                raise ValueError(f"no stream of etcd's: {head[:80]!r}")
            self._has_head, self._raw = True, rest
        while (chunk := self._chunk()) is not None:
            *whole, self._line = (self._line + chunk).split(b"\n")
            _limit(self._line)
            for line in filter(None, whole):
                yield _object(line)

    def _chunk(self) -> bytes | None:
        """Return the next chunk, None when it has not come whole (RFC 9112 section 7.1)."""
        head, found, rest = self._raw.partition(b"\r\n")
        if not found and len(head) <= MOST_OF_A_SIZE:
            return None
        size = int(head.split(b";")[0][:MOST_OF_A_SIZE], 16)
        if size == 0:
            self.is_over = True
            return None
        if not 0 < size <= MOST_BYTES:
            raise ValueError(f"a chunk of {size} bytes")
        if len(rest) < size + 2:
            return None
        self._raw = rest[size + 2 :]
        return rest[:size]


def _object(line: bytes) -> Json:
    """Return the object on a line. Raises ValueError."""
    try:
        value = json.loads(line)
    except RecursionError:
        value = None
    if not (isinstance(value, dict) and _is_sound(value.get("result", {}))):
        raise ValueError(f"no stream of etcd's: {line[:80]!r}")
    return value


def _is_sound(result: object) -> bool:
    """Tell whether a result has the shape that a watch's has (etcd's rpc.proto, WatchResponse)."""
    if not (isinstance(result, dict) and has_header(result, is_needed=False)):
        return False
    events = result.get("events", [])
    return (is_number(result.get("compact_revision", "0")) and isinstance(events, list)
            and all(isinstance(event, dict) and is_key_value(event.get("kv")) for event in events))


def _limit(data: bytes) -> None:
    if len(data) > MOST_BYTES:
        raise ValueError(f"a line of more than {MOST_BYTES} bytes")
