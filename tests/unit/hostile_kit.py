"""A server at a socket that says whatever a test wants said."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from datastore.etcdclient import Client
from datastore.settings import Etcd

RANGE, STATUS, WATCH = "/v3/kv/range", "/v3/maintenance/status", "/v3/watch"
HEADER = {"revision": "5"}
BOUND = 30.0  # seconds in which all ends that would otherwise not end at all
Handler = Callable[[socket.socket, bytes], object]


class Server:
    """Answers each request on each connection with what the handler sends; a handler that returns True hangs up."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self._handler, self._tls, self.requests = handler, tls, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain, (
                self._tls.wrap_socket(plain, server_side=True) if self._tls else plain) as sock:
            while request := _request(sock):
                self.requests += 1
                if self._handler(sock, request):
                    return


def _request(sock: socket.socket) -> bytes:
    """Return a whole request, nothing when there is none any more."""
    said = b""
    while b"\r\n\r\n" not in said:
        piece = sock.recv(65536)
        if not piece:
            return b""
        said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    while len(body) < size:
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body


def answer(body: object, status: str = "200 OK") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(data), data)


def error(code: int, message: str) -> bytes:
    return answer({"error": message, "code": code, "message": message}, "400 Bad Request")


def always(said: bytes, hangs_up: bool = False) -> Handler:
    """Return a handler that says always the same."""
    def say(sock: socket.socket, request: bytes) -> bool:
        sock.sendall(said)
        return hangs_up

    return say


def client(*servers: Server, **more: Any) -> Client:
    return Client(Etcd(endpoints=tuple(server.url for server in servers), **more))


def ended(began: float) -> bool:
    """Tell whether something ended at all: how long exactly is the machine's."""
    return time.monotonic() - began < BOUND


OK_HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
