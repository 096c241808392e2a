"""Asking the agent, from Python: what the launcher does in C (docs/agent-protocol.md), without its falling back."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calico_node import protocol

if TYPE_CHECKING:
    from types import TracebackType

SOCKET = "/run/calico/cni.sock"
GREETING_SECONDS = 2.0
SILENCE_SECONDS = 2.0
ANSWER_SECONDS = 100.0
RETRY_SECONDS = 0.01
PIECE = 1 << 16
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
ROOT = 0


class AgentError(Exception):
    """The agent did not answer; the message says what happened, on which socket."""


class Absent(AgentError):
    """There is no socket: the agent does not run, or somewhere else."""


class Refused(AgentError):
    """There is a socket but nobody listens: the agent has ended without removing it."""


class NotPermitted(AgentError):
    """One of the two sides is not root."""


class Silent(AgentError):
    """It has said nothing for too long: it is frozen, or overwhelmed."""


class OtherVersion(AgentError):
    """The agent speaks no version of the protocol that is spoken here."""


class NoAgent(AgentError):
    """Whoever listens says what no agent says."""


class Died(AgentError):
    """The connection ended before the answer."""


class Declined(AgentError):
    """The agent will not do this one, and has done nothing of it; `reason` is its own words."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: the agent declined: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Answer:
    """The exit code and what stdout would have got."""

    code: int
    stdout: bytes


class Client:
    """A connection that has been greeted. `version` is the protocol's that both speak, `pid` the agent's."""

    def __init__(self, connection: socket.socket, path: str, version: int, pid: int) -> None:
        self._socket, self._path, self.version, self.pid = connection, path, version, pid
        self._inbox = protocol.Inbox()
        self._frames: deque[tuple[int, bytes]] = deque()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: TracebackType | type[BaseException] | BaseException | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def ask(self, asked: protocol.Request, netns: int | None = None, seconds: float = ANSWER_SECONDS) -> Answer:
        """Send a request, wait for its answer and say that it was taken; the request's version becomes `version`.

        netns: a descriptor of the network namespace. Raises Declined, Silent, Died, NoAgent.
        """
        self.send(asked, netns)
        answer = self.answer(seconds)
        self.taken()
        return answer

    def send(self, asked: protocol.Request, netns: int | None = None) -> None:
        """Send a request; that an agent has ended meanwhile, and what it may have said before, `answer` tells.

        Raises Silent.
        """
        data = protocol.request(replace(asked, version=self.version))
        self._socket.settimeout(SILENCE_SECONDS)
        try:
            sent = socket.send_fds(self._socket, [data], [] if netns is None else [netns])
            self._socket.sendall(data[sent:])
        except TimeoutError:
            raise Silent(f"{self._path}: the agent took no request for {SILENCE_SECONDS:g} s") from None
        except (BrokenPipeError, ConnectionResetError):
            return

    def answer(self, seconds: float = ANSWER_SECONDS) -> Answer:
        """Wait for the answer for so long, and for any sign of life for SILENCE_SECONDS. Raises as `ask`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            kind, payload = self.receive()
            if kind == protocol.DECLINED:
                raise Declined(self._path, payload.decode(errors="replace"))
            if kind == protocol.RESULT:
                return self._result(payload)
        raise Silent(f"{self._path}: no answer within {seconds:g} s")

    def receive(self) -> tuple[int, bytes]:
        """Return the next frame, as kind and payload. Raises Silent, Died, NoAgent."""
        while not self._frames:
            try:
                self._frames.extend(self._inbox.feed(self._piece()))
            except protocol.ProtocolError as error:
                raise NoAgent(f"{self._path}: {error}") from None
        return self._frames.popleft()

    def taken(self) -> None:
        """Say that the answer has been taken; an agent that has ended meanwhile cannot be told."""
        with suppress(OSError):
            self._socket.sendall(protocol.frame(protocol.TAKEN))

    def _result(self, payload: bytes) -> Answer:
        if len(payload) < protocol.NUMBER.size:
            raise NoAgent(f"{self._path}: an answer without an exit code")
        return Answer(protocol.NUMBER.unpack_from(payload)[0], payload[protocol.NUMBER.size:])

    def _piece(self) -> bytes:
        self._socket.settimeout(SILENCE_SECONDS)
        return _received(self._socket, PIECE, f"{self._path}: the agent said nothing for {SILENCE_SECONDS:g} s",
                         f"{self._path}: the agent ended before it had answered")


def connect(path: str = SOCKET, seconds: float = GREETING_SECONDS, owner: int = ROOT) -> Client:
    """Connect to the agent and read its greeting, all within so many seconds.

    owner: the user that the agent has to be. Raises AgentError: one of the kinds above, but Declined; and OSError for a
    path that no socket can have.
    """
    until = time.monotonic() + seconds
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _reach(connection, path, until)
        pid, uid, _ = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        if uid != owner:
            raise NotPermitted(f"{path}: whoever listens there is user {uid}, not {owner}")
        return Client(connection, path, _greeted(connection, path, until), pid)
    except BaseException:
        connection.close()
        raise


def _reach(connection: socket.socket, path: str, until: float) -> None:
    """Connect; a full backlog is tried again until then."""
    connection.setblocking(False)
    while (failed := connection.connect_ex(path)) == errno.EAGAIN and time.monotonic() < until:
        time.sleep(RETRY_SECONDS)
    if failed:
        raise _unreached(path, failed)


def _unreached(path: str, failed: int) -> AgentError:
    said = os.strerror(failed)
    if failed in {errno.ENOENT, errno.ENOTDIR}:
        return Absent(f"{path}: {said}")
    if failed in {errno.EACCES, errno.EPERM}:
        return NotPermitted(f"{path}: {said}")
    if failed == errno.EAGAIN:
        return Silent(f"{path}: the agent accepts no connection")
    return Refused(f"{path}: {said}")


def _greeted(connection: socket.socket, path: str, until: float) -> int:
    greeting = b""
    while len(greeting) < protocol.GREETING.size:
        connection.settimeout(max(until - time.monotonic(), RETRY_SECONDS))
        greeting += _received(connection, protocol.GREETING.size - len(greeting),
                              f"{path}: no greeting; the agent is frozen, or overwhelmed",
                              f"{path}: closed without a greeting")
    return _version(greeting, path)


def _received(connection: socket.socket, most: int, silent: str, dead: str) -> bytes:
    """Return some of what has come; raises Silent or Died with these words."""
    try:
        data = connection.recv(most)
    except TimeoutError:
        raise Silent(silent) from None
    except ConnectionResetError:
        data = b""
    if not data:
        raise Died(dead)
    return data


def _version(greeting: bytes, path: str) -> int:
    try:
        version = protocol.version_of(greeting)
    except protocol.ProtocolError as error:
        raise NoAgent(f"{path}: {error}") from None
    if version is None:
        _, oldest, newest = protocol.GREETING.unpack(greeting)
        raise OtherVersion(f"{path}: the agent speaks protocol versions {oldest} to {newest}, "
                           f"here {protocol.OLDEST} to {protocol.NEWEST} are spoken")
    return version
