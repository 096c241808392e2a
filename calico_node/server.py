"""The agent's socket: accepts, greets, reads requests, and passes them on to workers. One thread, which never waits."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

from calico_node import protocol
from calico_node.conversation import Conversation
from calico_node.protocol import ProtocolError, Request
from calico_node.service import Service
from calico_node.workers import Workers

BACKLOG = 4096
REQUEST_SECONDS = 30.0  # a connection that has not made its request by then is closed
ALIVE_SECONDS = 0.5
STOPPING = "the agent is stopping"
TICK_SECONDS = 0.02  # while requests wait for a worker
ACCEPT_AT_ONCE = 64
SPARE_DESCRIPTORS = 256  # for what is neither a connection nor a request


class Server:
    """Serves a listening socket until it is told to stop, and then until the last request is answered.

    An ADD is started only after `may_add` has been called: what is queued on disk comes first.
    """

    def __init__(self, listener: socket.socket, service: Service, workers: Workers, descriptors: int) -> None:
        self._listener, self._service, self._workers = listener, service, workers
        self._most_reading = descriptors // 4
        self._most_working = descriptors // 8  # a connection, and about six more each: namespaces, netlink, locks, log
        self._accepts = True
        self._poll = select.epoll()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._reading: dict[int, Conversation] = {}
        self._working: set[Conversation] = set()
        self._held_adds: list[tuple[Conversation, Callable[[], None]]] | None = []
        self._lock = Lock()
        self._last_alive = self.last_turn = time.monotonic()
        self.draining = False
        listener.setblocking(False)
        self._poll.register(listener, select.EPOLLIN)
        self._poll.register(self._wake_read, select.EPOLLIN)

    @property
    def in_flight(self) -> int:
        """How many requests are being worked on, or wait for it."""
        return len(self._working)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._reading) + len(self._working)

    @property
    def ready(self) -> bool:
        """Whether ADDs are served."""
        return self._held_adds is None and not self.draining

    def may_add(self) -> None:
        """Start the ADDs that wait, and from now on each that comes. From any thread."""
        with self._lock:
            held, self._held_adds = self._held_adds or [], None
        for _, job in held:
            self._workers.submit(job)

    def stop(self) -> None:
        """Accept no more, and end `run` when all that is being worked on is answered. From any thread or a signal."""
        self.draining = True
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def run(self) -> None:
        """Serve."""
        while not (self.draining and not self._working):
            if self.draining:
                self._stop_accepting()
            self._accept_or_not()
            busy = self._workers.unserved or self.draining
            for fd, _ in self._poll.poll(TICK_SECONDS if busy else ALIVE_SECONDS):
                if fd == self._listener.fileno():
                    self._accept()
                elif fd == self._wake_read:
                    os.read(fd, 4096)
                else:
                    self._read(fd)
            self._tick()
        for conversation in list(self._reading.values()):
            self._drop(conversation)
        self._stop_accepting()

    def _accept_or_not(self) -> None:
        """Let launchers wait outside while there are no descriptors for more requests: in 2 s they fall back."""
        accepts = len(self._working) < self._most_working
        if accepts != self._accepts and not self.draining:
            self._poll.modify(self._listener, select.EPOLLIN if accepts else 0)
            self._accepts = accepts

    def _stop_accepting(self) -> None:
        """Close the listener: launchers that connect from now on, or whose ADD is not begun, fall back."""
        with self._lock:
            held = list(self._held_adds or ())
            if held:
                self._held_adds = []
        for conversation, _ in held:
            self._decline(conversation, STOPPING)
            self._finish(conversation)
        if self._listener.fileno() >= 0:
            self._poll.unregister(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptors left
                if not self._drop_oldest():
                    time.sleep(TICK_SECONDS)
                return
            conversation = Conversation(connection)
            try:
                conversation.greet()
            except OSError:
                conversation.close()
                continue
            self._reading[conversation.fileno()] = conversation
            self._poll.register(conversation.fileno(), select.EPOLLIN)
            if len(self._reading) > self._most_reading:
                self._drop_oldest()

    def _read(self, fd: int) -> None:
        conversation = self._reading.get(fd)
        if conversation is None:
            return
        try:
            request = conversation.receive()
        except BlockingIOError:
            return
        except (OSError, EOFError, ProtocolError):
            self._drop(conversation)
            return
        if request:
            self._forget(conversation)
            self._dispatch(conversation, request)

    def _dispatch(self, conversation: Conversation, request: Request) -> None:
        why = STOPPING if self.draining else self._service.refusal(request)
        if why:
            self._decline(conversation, why)
            conversation.close()
            return

        def job() -> None:
            try:
                self._service.serve(conversation, request)
            finally:
                self._finish(conversation)

        with self._lock:
            self._working.add(conversation)
            if self._held_adds is not None and request.env.get("CNI_COMMAND") == "ADD":
                self._held_adds.append((conversation, job))
                return
        self._workers.submit(job, self._service.is_urgent(request))

    def _decline(self, conversation: Conversation, why: str) -> None:
        conversation.say(protocol.frame(protocol.DECLINED, why.encode(errors="replace")))

    def _finish(self, conversation: Conversation) -> None:
        """End a conversation; in the worker's thread."""
        with self._lock:
            self._working.discard(conversation)
        conversation.close()
        if self.draining:
            self.stop()

    def _tick(self) -> None:
        self._workers.unstick()
        self.last_turn = now = time.monotonic()
        if now - self._last_alive < ALIVE_SECONDS:
            return
        self._last_alive = now
        with self._lock:
            working = list(self._working)
        for conversation in working:
            conversation.say_alive()
        for conversation in list(self._reading.values()):
            if now - conversation.began < REQUEST_SECONDS:
                break  # they are in the order in which they came
            self._drop(conversation)

    def _drop_oldest(self) -> bool:
        """Drop the connection that has been silent longest; tell whether there was any."""
        oldest = next(iter(self._reading.values()), None)
        if oldest:
            self._drop(oldest)
        return oldest is not None

    def _drop(self, conversation: Conversation) -> None:
        self._forget(conversation)
        conversation.close()

    def _forget(self, conversation: Conversation) -> None:
        """Read no more of a conversation."""
        del self._reading[conversation.fileno()]
        self._poll.unregister(conversation.fileno())
