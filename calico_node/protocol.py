"""What launcher and agent say to each other, as bytes; docs/agent-protocol.md is the contract. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct

MAGIC = b"cni-cali"
OLDEST, NEWEST = 1, 1
GREETING = Struct("<8sII")
HEADER = Struct("<II")
NUMBER = Struct("<I")
IDENTITY = Struct("<QQ")

PLUGIN, ENV, STDIN, NO_NETNS, HOST_NETNS, END, TAKEN = range(1, 8)
ALIVE, RESULT, DECLINED = 17, 18, 19

MOST_BYTES, MOST_FRAMES = 64 << 20, 4096
VARIABLES = ("CNI_", "CALICO_", "ETCD_", "DATASTORE_TYPE", "NO_DEFAULT_POOLS")  # what a launcher passes on


class ProtocolError(Exception):
    """What came is no request that the contract allows."""


@dataclass(frozen=True)
class Request:
    """What a launcher asks for. host_netns is (device, inode) of its network namespace, None where it did not say.

    netns_errno: why CNI_NETNS could not be opened, 0 when it was or is not set.
    """

    plugin: str
    env: Mapping[str, str]
    stdin: bytes
    netns_errno: int
    host_netns: tuple[int, int] | None
    version: int


def greeting() -> bytes:
    """Return what the agent says first."""
    return GREETING.pack(MAGIC, OLDEST, NEWEST)


def version_of(greeted: bytes) -> int | None:
    """Return the newest version that both sides speak, None when there is none. Raises ProtocolError."""
    if len(greeted) != GREETING.size or not greeted.startswith(MAGIC):
        raise ProtocolError("no greeting of an agent")
    _, oldest, newest = GREETING.unpack(greeted)
    chosen = min(newest, NEWEST)
    return chosen if chosen >= max(oldest, OLDEST) else None


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return HEADER.pack(kind, len(payload)) + payload


def result(code: int, stdout: bytes) -> bytes:
    """Return the RESULT frame."""
    return frame(RESULT, NUMBER.pack(code) + stdout)


def request(asked: Request) -> bytes:
    """Return the frames of a request, PLUGIN to END."""
    parts = [frame(PLUGIN, _encoded(asked.plugin))]
    parts += [frame(ENV, _encoded(f"{name}={value}")) for name, value in asked.env.items()]
    parts.append(frame(STDIN, asked.stdin))
    if asked.netns_errno:
        parts.append(frame(NO_NETNS, NUMBER.pack(asked.netns_errno)))
    if asked.host_netns:
        parts.append(frame(HOST_NETNS, IDENTITY.pack(*asked.host_netns)))
    parts.append(frame(END, NUMBER.pack(asked.version)))
    return b"".join(parts)


class Inbox:
    """Bytes as they come in, in pieces of any size, to frames as they are complete. Raises ProtocolError when fed."""

    def __init__(self, most_bytes: int = MOST_BYTES, most_frames: int = MOST_FRAMES) -> None:
        self._data = bytearray()
        self._bytes_left, self._frames_left = most_bytes, most_frames

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take what came; yield the frames that are complete now, as (kind, payload)."""
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise ProtocolError("the request is too long")
        self._data += data
        at = 0
        while len(self._data) - at >= HEADER.size:
            kind, length = HEADER.unpack_from(self._data, at)
            if length > self._bytes_left + len(self._data):
                raise ProtocolError("the request is too long")
            if len(self._data) - at - HEADER.size < length:
                break
            self._frames_left -= 1
            if self._frames_left < 0:
                raise ProtocolError("the request has too many parts")
            begin = at + HEADER.size
            at = begin + length
            yield kind, bytes(self._data[begin:at])
        del self._data[:at]


def request_of(frames: Iterator[tuple[int, bytes]] | list[tuple[int, bytes]]) -> Request:
    """Return the request that frames, PLUGIN to END, make. Raises ProtocolError."""
    plugin, env, stdin = "", {}, []
    netns_errno, host_netns, version = 0, None, 0
    for kind, payload in frames:
        if kind == PLUGIN:
            plugin = _decoded(payload)
        elif kind == ENV:
            name, _, value = _decoded(payload).partition("=")
            if name.startswith(VARIABLES):
                env[name] = value
        elif kind == STDIN:
            stdin.append(payload)
        elif kind == NO_NETNS:
            netns_errno = _numbers(NUMBER, payload)[0]
        elif kind == HOST_NETNS:
            device, inode = _numbers(IDENTITY, payload)
            host_netns = device, inode
        elif kind == END:
            version = _numbers(NUMBER, payload)[0]
    if not OLDEST <= version <= NEWEST:
        raise ProtocolError(f"the launcher chose protocol version {version}, which was not offered")
    return Request(plugin, env, b"".join(stdin), netns_errno, host_netns, version)


def _numbers(form: Struct, payload: bytes) -> tuple[int, ...]:
    if len(payload) != form.size:
        raise ProtocolError("a frame has the wrong length")
    return form.unpack(payload)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
