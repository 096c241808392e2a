"""A TCP proxy before an etcd server that counts HTTP requests and bytes: what a client costs, told by nobody but it."""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64decode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.ground import BenchError
from bench.rows import Json

PIECE = 1 << 18  # bytes read at a time
WORDS = {  # what people call the record at a key; the first that fits
    "/assignment/": "block", "/handle/": "handle", "/ipam/v2/config": "config", "/block/": "affinity",
    "/ipam/v2/host/": "host", "/workloadendpoints/": "endpoint", "/ippools/": "pool", "/ipreservations/": "reservation",
    "/nodes/": "node", "/clusterinformations/": "cluster information", "/felixconfigurations/": "Felix configuration",
}  # fmt: skip
END_OF_HEAD = b"\r\n\r\n"


@dataclass
class Request:
    """One HTTP request as it went over the wire. sent, received: bytes, heads included; what: see `described`."""

    path: str
    what: str
    sent: int
    received: int = 0


class Wire:
    """The proxy. url: where clients ask; its threads end with `close`."""

    def __init__(self, url: str) -> None:
        server = urlsplit(url)
        self._server = (server.hostname, server.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._connections = 0
        self._sockets: list[socket.socket] = []
        self._errors: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self) -> tuple[list[Request], int]:
        """Return the requests since this was asked last, and how many connections were made meanwhile.

        Raises BenchError where something was sent that cannot be counted, and was not passed on.
        """
        if self._errors:
            raise BenchError(self._errors[0])
        with self._lock:
            requests, self._requests = self._requests, []
            connections, self._connections = self._connections, 0
        return requests, connections

    def close(self) -> None:
        """End all connections."""
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                with self._lock:
                    self._connections += 1
                counted = _Counted(self._add)
                for pumped in ((client, server, counted.sent), (server, client, counted.received)):
                    threading.Thread(target=self._pump, args=pumped, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, count: Callable[[bytes], None]) -> None:
        """Carry bytes in one direction until either side ends it, or something cannot be counted."""
        try:
            while piece := source.recv(PIECE):
                count(piece)
                target.sendall(piece)
        except ValueError as error:
            self._errors.append(str(error))
        except OSError:
            pass  # one side has ended it
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _add(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)


class _Counted:
    """One connection's requests, one after the other. Raises ValueError for what is no HTTP/1.1 with its length."""

    def __init__(self, add: Callable[[Request], None]) -> None:
        self._add, self._rest = add, b""
        self._latest = Request("", "", 0)

    def sent(self, piece: bytes) -> None:
        """Take what the client says; a request counts once all of it is there, so before it is answered."""
        self._rest += piece
        while END_OF_HEAD in self._rest:
            head, _, rest = self._rest.partition(END_OF_HEAD)
            line, *fields = head.decode("latin-1").split("\r\n")
            lengths = [int(field.partition(":")[2]) for field in fields if field.lower().startswith("content-length:")]
            if not line.endswith(" HTTP/1.1") or len(lengths) != 1:
                raise ValueError(f"cannot count {line!r}")
            if len(rest) < lengths[0]:
                return
            path = line.split(" ")[1]
            body, self._rest = rest[: lengths[0]], rest[lengths[0]:]
            self._latest = Request(path, described(path, body), len(head) + len(END_OF_HEAD) + len(body))
            self._add(self._latest)

    def received(self, piece: bytes) -> None:
        """Take what the server says: it belongs to the latest request."""
        self._latest.received += len(piece)


def described(path: str, body: bytes) -> str:
    """Return what a request asks for: `get block`, `keys block`, `read pool?, handle`, `write handle, -block`.

    `?` is behind what is only sent if it has changed, `-` before what is removed; what it cannot tell is the path.
    """
    asked: Json = json.loads(body)
    if path == "/v3/kv/range":
        verb = "get" if "range_end" not in asked else "keys" if asked.get("keys_only") else "list"
        return f"{verb} {_word(asked)}"
    operations: list[Json] = asked.get("success", [])
    if path == "/v3/kv/txn" and operations:
        verb = "read" if all("request_range" in operation for operation in operations) else "write"
        return f"{verb} {', '.join(map(_operation, operations))}"
    return path


def _operation(operation: Json) -> str:
    put, gone, asked = (operation.get(f"request_{kind}") for kind in ("put", "delete_range", "range"))
    if asked:
        return _word(asked) + ("?" if "min_mod_revision" in asked else "")
    return _word(put) if put else f"-{_word(gone or {})}"


def _word(asked: Json) -> str:
    key = b64decode(asked.get("key", "")).decode(errors="replace")
    if "/ipam/v2/host/" in key and key.endswith("/"):
        return "affinity"
    return next((word for part, word in WORDS.items() if part in key), key)


def told(requests: Sequence[Request]) -> str:
    """Return what requests asked for, in order, as one line."""
    return "; ".join(each.what for each in requests)
