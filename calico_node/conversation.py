"""One connection, from its greeting to its end: what a launcher asks, and how it is answered."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from struct import pack, unpack
from threading import Lock

from calico_node import protocol
from calico_node.protocol import Inbox, ProtocolError, Request

ANSWER_SECONDS = 30.0  # how long a launcher may take to take its answer
RECEIVE_BYTES = 1 << 14  # most requests are shorter; a buffer that is cut to size leaves a hole in the heap
MOST_DESCRIPTORS = 8  # received at once; only the first is kept
PEER_CREDENTIALS = "=iII"  # struct ucred: pid, uid, gid


class Conversation:
    """A connection that the agent has accepted."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._inbox = Inbox()
        self._frames: list[tuple[int, bytes]] = []
        self._sending = Lock()
        self.netns = -1
        self.began = time.monotonic()
        self.asked = 0.0

    def fileno(self) -> int:
        """Return the connection's descriptor."""
        return self._connection.fileno()

    def greet(self) -> None:
        """Say who we are; raises OSError, PermissionError for a peer that is neither root nor who we are."""
        size = len(protocol.greeting())
        _, uid, _ = unpack(PEER_CREDENTIALS, self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            raise PermissionError(f"user {uid} may not ask")
        self._connection.setblocking(False)
        if self._connection.send(protocol.greeting(), socket.MSG_NOSIGNAL) != size:
            raise OSError("the greeting was not taken")

    def receive(self) -> Request | None:
        """Take what has come; return the request once it is complete. Raises ProtocolError, OSError, EOFError."""
        data = self._receive()
        if not data:
            raise EOFError
        for frame in self._inbox.feed(data):
            if self.asked:
                raise ProtocolError("something came behind the request")
            self._frames.append(frame)
            if frame[0] == protocol.END:
                self.asked = time.monotonic()
        if not self.asked:
            return None
        request, self._frames = protocol.request_of(self._frames), []
        return request

    def _receive(self) -> bytes:
        """Return what has come; keep the first descriptor that came with it, and no other."""
        space = socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)
        data, messages, flags, _ = self._connection.recvmsg(RECEIVE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        descriptors = [fd for level, kind, body in messages if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                       for fd in unpack(f"={len(body) // 4}i", body[: len(body) // 4 * 4])]
        for fd in descriptors:
            if self.netns < 0:
                self.netns = fd
            else:
                os.close(fd)
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError("there is no room for the descriptor that came with the request")
        return data

    def is_open(self) -> bool:
        """Tell whether the launcher is still there: it neither says anything now, nor has it closed."""
        try:
            return self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def say_alive(self) -> None:
        """Tell the launcher that its request is being worked on; one that has gone is found out later."""
        if self._sending.acquire(blocking=False):
            try:
                with suppress(OSError):
                    self._connection.send(protocol.frame(protocol.ALIVE), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            finally:
                self._sending.release()

    def say(self, frame: bytes) -> bool:
        """Send a frame, which ends what the agent has to say; tell whether the launcher is there to get it."""
        with self._sending:
            try:
                self._connection.setblocking(True)
                self._allow(socket.SO_SNDTIMEO, ANSWER_SECONDS)
                self._connection.sendall(frame, socket.MSG_NOSIGNAL)
            except OSError:
                return False
        return True

    def _allow(self, way: int, seconds: float) -> None:
        """Let the kernel end a wait: with settimeout even a send that is not to wait would do so (say_alive)."""
        whole = int(seconds)
        self._connection.setsockopt(socket.SOL_SOCKET, way, pack("=qq", whole, int((seconds - whole) * 10**6)))

    def was_taken(self) -> bool:
        """Wait until the launcher says that it has passed the answer on, or is gone, or the time for it is over."""
        until = time.monotonic() + ANSWER_SECONDS
        with suppress(OSError, ProtocolError):
            while (left := until - time.monotonic()) > 0:
                self._allow(socket.SO_RCVTIMEO, max(left, 0.001))
                data = self._connection.recv(RECEIVE_BYTES)
                if not data or self._has_taken(data):
                    return bool(data)
        with suppress(OSError, ProtocolError):
            self._connection.shutdown(socket.SHUT_RDWR)  # from here on it cannot say so; what came before counts
            return self._has_taken(self._connection.recv(RECEIVE_BYTES))
        return False

    def _has_taken(self, data: bytes) -> bool:
        return any(kind == protocol.TAKEN for kind, _ in self._inbox.feed(data))

    def close(self) -> None:
        """Close the connection and the descriptor that came with it."""
        self._connection.close()
        if self.netns >= 0:
            os.close(self.netns)
            self.netns = -1
