"""A tiny agent: it answers each connection as a test says."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from calico_node import protocol

Say = Callable[["Connection"], None]


class Connection:
    """An accepted connection, and what came with it."""

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.netns: int | None = None
        self._inbox = protocol.Inbox()

    def greet(self) -> None:
        self.socket.sendall(protocol.greeting())

    def request(self) -> protocol.Request:
        """Receive a request, and the descriptor that comes with it."""
        frames: list[tuple[int, bytes]] = []
        while not frames or frames[-1][0] != protocol.END:
            data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, 1)
            self.netns = descriptors[0] if descriptors else self.netns
            frames += self._inbox.feed(data)
        return protocol.request_of(frames)

    def say(self, kind: int, payload: bytes = b"") -> None:
        self.socket.sendall(protocol.frame(kind, payload))

    def answer(self, code: int, stdout: bytes) -> None:
        self.socket.sendall(protocol.result(code, stdout))

    def next(self) -> list[int]:
        """Return the kinds of frames that come next; none where the other side has closed."""
        return [kind for kind, _ in self._inbox.feed(self.socket.recv(1 << 16))]


class Agent:
    """Listens on a path; each connection is handled as `say` does, in a thread that ends with the test."""

    def __init__(self, path: str, say: Say) -> None:
        self.path, self._say = path, say
        self.failed: BaseException | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        os.unlink(self.path)
        if self.failed:
            raise self.failed

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            with accepted:
                accepted.settimeout(10)
                try:
                    self._say(Connection(accepted))
                except (BrokenPipeError, ConnectionResetError):
                    continue  # a client may go away at any time
                except Exception as error:
                    self.failed = error


def answering(code: int, value: Any) -> Say:
    """Answer any request so, once it is there."""
    def say(connection: Connection) -> None:
        connection.greet()
        connection.request()
        connection.answer(code, json.dumps(value).encode())
        connection.next()

    return say
