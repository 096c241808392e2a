"""An answer of etcd's gateway that goes on: a JSON object to a line, in HTTP's chunks, for as long as the server likes.

`http.client` reads such an answer, too, but after a silence (a timeout) its connection can be read no more.
"""

from __future__ import annotations

import json
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from datastore.api import Json

HEAD_SECONDS = 5.0  # for the head of the answer, and for what is left of a record of TLS that has begun
MOST_BYTES = 64 << 20  # of one line
PIECE = 1 << 16
END_OF_HEAD = b"\r\n\r\n"


def lines(sock: socket.socket, silence: float) -> Iterator[Json]:
    """Yield the objects of the answer to a request that was sent, and {} after each `silence` seconds without a word.

    It ends with the answer. Raises OSError, and ValueError for what is no such answer.
    """
    sock.settimeout(HEAD_SECONDS)
    answer = _Answer()
    while not answer.is_over:
        piece = _next(sock, silence)
        if piece is None:
            yield {}
        elif not piece:
            return
        else:
            yield from answer.take(piece)


def _next(sock: socket.socket, silence: float) -> bytes | None:
    """Return what has come, empty at the end, None after a silence."""
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
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError(f"no stream of etcd's: {line[:80]!r}")
                yield value

    def _chunk(self) -> bytes | None:
        """Return the next chunk, None when it has not come whole (RFC 9112 section 7.1)."""
        head, found, rest = self._raw.partition(b"\r\n")
        if not found:
            return None
        size = int(head.split(b";")[0], 16)
        if size == 0:
            self.is_over = True
            return None
        if size > MOST_BYTES:
            raise ValueError(f"a chunk of {size} bytes")
        if len(rest) < size + 2:
            return None
        self._raw = rest[size + 2 :]
        return rest[:size]


def _limit(data: bytes) -> None:
    if len(data) > MOST_BYTES:
        raise ValueError(f"a line of more than {MOST_BYTES} bytes")
