"""The agent over HTTP: /metrics, /healthz and /readyz, for whoever is on this host."""

from __future__ import annotations

import socket
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from socketserver import TCPServer, ThreadingMixIn
from threading import Lock, Semaphore, Thread
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client import CollectorRegistry

    Answer = tuple[HTTPStatus, str, bytes]  # status, content type, body
    Page = Callable[[str], Answer]  # from the Accept header

MOST_CONNECTIONS = 8  # at a time; one more is closed unread
PATIENCE = 10.0  # seconds
TICK = 0.2  # seconds between looks at who is overdue
PLAIN = "text/plain; charset=utf-8"
METHODS = "GET, HEAD"


class NotLoopback(Exception):
    """The address is one that other hosts can reach, which nobody has allowed."""


class Web:
    """The server; it listens from its making on, and answers between `start` and `stop`.

    alive: whether the process does its work at all. unready: why it cannot serve requests, empty when it can.
    port 0 takes a free one; `address` says which. patience: seconds that a connection may last, whatever its client
    does. Raises NotLoopback unless others are allowed, OSError.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, alive: Callable[[], bool],
                 unready: Callable[[], Sequence[str]], *, others_allowed: bool = False,
                 patience: float = PATIENCE) -> None:
        self._registry, self._alive, self._unready = registry, alive, unready
        family, place = _place(host, port)
        if not others_allowed and not ip_address(place[0].partition("%")[0]).is_loopback:
            raise NotLoopback(f"{host} is not a loopback address; use 127.0.0.1, [::1], or off")
        self._server = _Server(family, place, {
            "/metrics": self._metrics, "/healthz": self._health, "/readyz": self._readiness,
        }, patience)
        self.address: tuple[str, int] = self._server.socket.getsockname()[:2]
        self._thread = Thread(target=self._server.serve_forever, args=(TICK,), name="web", daemon=True)

    def start(self) -> None:
        """Begin to answer, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and end what connections there are."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _metrics(self, accept: str) -> Answer:
        encode, kind = choose_encoder(accept)
        return HTTPStatus.OK, kind, encode(self._registry)

    def _health(self, _: str) -> Answer:
        return _text(HTTPStatus.OK, "ok") if self._alive() else _text(HTTPStatus.SERVICE_UNAVAILABLE, "not alive")

    def _readiness(self, _: str) -> Answer:
        reasons = [" ".join(reason.split()) for reason in self._unready()]
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, *reasons) if reasons else _text(HTTPStatus.OK, "ready")


def _place(host: str, port: int) -> tuple[int, tuple[str, int]]:
    family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return family, (str(place[0]), port)


def _text(status: HTTPStatus, *lines: str) -> Answer:
    return status, PLAIN, "".join(f"{line}\n" for line in lines).encode()


class _Server(ThreadingMixIn, TCPServer):
    """A thread for each connection, so many and no more, and none for longer than so many seconds.

    http.server's own class asks the name service for the host's name when it binds, which may take long.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 2 * MOST_CONNECTIONS

    def __init__(self, family: int, place: tuple[str, int], pages: dict[str, Page], patience: float) -> None:
        self.address_family, self.pages, self._patience = family, pages, patience
        self._free, self._lock = Semaphore(MOST_CONNECTIONS), Lock()
        self._until: dict[socket.socket, float] = {}
        super().__init__(place, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        with self._lock:
            self._until[request] = time.monotonic() + self._patience
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was to be had
            self._finish(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._finish(request)

    def service_actions(self) -> None:
        self._end(time.monotonic())

    def server_close(self) -> None:
        super().server_close()
        self._end(float("inf"))
        for _ in range(MOST_CONNECTIONS):
            self._free.acquire(timeout=self._patience)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the client has gone."""

    def _finish(self, request: socket.socket) -> None:
        with self._lock:
            self._until.pop(request)
        self._free.release()

    def _end(self, now: float) -> None:
        """Shut the connections that have lasted until now: their threads see the end of it."""
        with self._lock:
            overdue = [request for request, until in self._until.items() if until <= now]
        for request in overdue:
            _shut(request)


def _shut(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended meanwhile


class _Handler(BaseHTTPRequestHandler):
    """One request; the pages are the server's."""

    server: _Server
    server_version, sys_version = "calico-node", ""

    def do_GET(self) -> None:
        """Answer with the page, 404 or, when it cannot be made, 500 and why."""
        page = self.server.pages.get(self.path.partition("?")[0])
        self._send(*(_made(page, self.headers.get("Accept", "")) if page else _text(HTTPStatus.NOT_FOUND, "not found")))

    do_HEAD = do_GET  # noqa: N815  # http.server looks the methods up by these names

    def do_POST(self) -> None:
        """Refuse: 404 where there is nothing, else 405."""
        known = self.path.partition("?")[0] in self.server.pages
        self._send(*_text(HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND, f"use {METHODS}"))

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = do_POST  # noqa: N815

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", METHODS)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: a probe each second is no news."""


def _made(page: Page, accept: str) -> Answer:
    try:
        return page(accept)
    except Exception as error:
        return _text(HTTPStatus.INTERNAL_SERVER_ERROR, f"unexpected {type(error).__name__}: {error}")
