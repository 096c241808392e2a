"""A connection of HTTP on which nobody is waited for longer than was said, however little comes at a time.

A socket's timeout is one for each piece that comes; here the whole request and the whole answer have one together.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from urllib.parse import urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from typing import Any

MOST_BYTES = 64 << 20  # of one answer
PIECE = 1 << 16
ERRORS = (OSError, http.client.HTTPException, ValueError)


class _Within(io.RawIOBase):
    """What comes from a socket, all of it within what is its timeout at first, and no more than MOST_BYTES."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        super().__init__()
        self._sock, self._raw, self._count = sock, raw, 0
        self._until = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        """Tell that it is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come into a buffer and return its length. Raises OSError."""
        self._sock.settimeout(_left(self._until))
        count: int = self._raw.readinto(buffer) or 0
        self._count += count
        if self._count > MOST_BYTES:
            raise OSError(f"an answer of more than {MOST_BYTES} bytes")
        return count

    def close(self) -> None:
        """Let go of the socket."""
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer that comes within its socket's timeout as a whole."""

    def __init__(self, sock: socket.socket, *args: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.fp = io.BufferedReader(_Within(sock, self.fp.detach()))

    def whole(self) -> bytes:
        """Return the body, read in pieces: a length that is announced is not believed. Raises ERRORS."""
        pieces = list(iter(lambda: self.read(PIECE), b""))
        if self.length:
            raise http.client.IncompleteRead(b"", self.length)
        return b"".join(pieces)


class Connection(http.client.HTTPConnection):
    """A connection to an endpoint; everything done with it raises ERRORS."""

    response_class = _Response

    def __init__(self, endpoint: str) -> None:
        url = urlsplit(endpoint)
        super().__init__(url.hostname or "", url.port)
        self._until = 0.0

    def within(self, seconds: float) -> None:
        """Say how long what is done next may last, all together."""
        self._until = time.monotonic() + seconds

    def connect(self) -> None:
        """Connect to one of the addresses, which share the time."""
        self.sock = reached(socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM), self._until)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def secure(self, context: ssl.SSLContext) -> None:
        """Go on with TLS."""
        self.sock.settimeout(_left(self._until))
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)

    def send(self, data: Any) -> None:
        """Send something in pieces, each within what is left of the time."""
        for start in range(0, len(data), PIECE):
            self.sock.settimeout(_left(self._until))
            self.sock.sendall(data[start : start + PIECE])

    def ask(self, path: str, data: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a request and return status and body of the answer."""
        self.request("POST", path, body=data, headers=headers)
        self.sock.settimeout(_left(self._until))
        with self.getresponse() as response:
            return response.status, response.whole()  # type: ignore[attr-defined]  # it is of our response_class


def reached(addresses: list[Any], until: float) -> socket.socket:
    """Return a socket that is connected to one of the addresses. Raises OSError as the last one did."""
    failure: OSError = OSError("no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        limit = _left(until) / (len(addresses) - number)
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # IPv6 that this machine has not
            failure = error
            continue
        try:
            sock.settimeout(limit)
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _left(until: float) -> float:
    """Return the seconds that are left. Raises TimeoutError."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
