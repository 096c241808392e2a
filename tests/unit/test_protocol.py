"""Launcher, agent and the page that is the contract between them say the same; requests survive being cut anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_node import protocol
from calico_node.protocol import Inbox, ProtocolError, Request

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/agent-protocol.md").read_text()
LAUNCHER = (ROOT / "launcher/calico.c").read_text()
NAMES = ("PLUGIN", "ENV", "STDIN", "NO_NETNS", "HOST_NETNS", "END", "TAKEN", "ALIVE", "RESULT", "DECLINED")
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=40)
REQUESTS = st.builds(
    Request,
    plugin=st.sampled_from(["calico", "calico-ipam"]),
    env=st.dictionaries(st.sampled_from(["CNI_ARGS", "CNI_PATH", "CALICO_X", "CNI_COMMAND"]), TEXT),
    stdin=st.binary(max_size=300),
    netns_errno=st.integers(0, 200),
    host_netns=st.none() | st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    version=st.just(protocol.NEWEST),
)


def test_the_page_has_every_kind() -> None:
    """The table of frames numbers each kind as the agent does."""
    told = {name: int(number) for number, name in re.findall(r"^\| \w* *\| (\d+) \| ([A-Z_]+) \|", PAGE, re.MULTILINE)}
    assert told == {name: getattr(protocol, name) for name in NAMES}


def test_the_launcher_numbers_them_alike() -> None:
    """What the launcher's source enumerates is what the agent does."""
    found = re.search(r"enum \{ (LOST, PLUGIN[^}]*) \};", LAUNCHER)
    assert found
    number = -1
    for word in found.group(1).split(", "):
        name, _, value = word.partition(" = ")
        number = int(value) if value else number + 1
        assert name == "LOST" or number == getattr(protocol, name), name


def test_greeting() -> None:
    """The agent's own greeting is understood; another magic, or none, is nobody's."""
    assert protocol.version_of(protocol.greeting()) == protocol.NEWEST
    for wrong in (b"", b"HTTP/1.1 400 Bad", protocol.greeting()[:-1]):
        with pytest.raises(ProtocolError):
            protocol.version_of(wrong)


@pytest.mark.parametrize(("oldest", "newest", "chosen"), [(1, 1, 1), (1, 9, 1), (2, 9, None), (0, 0, None)])
def test_versions(oldest: int, newest: int, chosen: int | None) -> None:
    """The newest that both speak is taken, where there is one."""
    assert protocol.version_of(protocol.GREETING.pack(protocol.MAGIC, oldest, newest)) == chosen


@given(REQUESTS, st.lists(st.integers(1, 50), max_size=30))
def test_a_request_arrives_however_it_is_cut(asked: Request, cuts: list[int]) -> None:
    """Frames come out whole and in order, whatever pieces the bytes come in."""
    data, inbox, frames = protocol.request(asked), Inbox(), []
    for cut in [*cuts, len(data)]:
        frames += list(inbox.feed(data[:cut]))
        data = data[cut:]
    assert frames[-1][0] == protocol.END
    assert protocol.request_of(frames) == asked


def test_other_variables_are_left_out_and_unknown_frames_skipped() -> None:
    """The environment holds what the contract says; what a newer launcher adds is passed over."""
    asked = Request("calico", {"CNI_X": "1"}, b"{}", 0, None, 1)
    more = protocol.frame(99, b"?") + protocol.frame(protocol.ENV, b"LD_PRELOAD=/x") + protocol.request(asked)
    assert protocol.request_of(Inbox().feed(more)) == asked


def test_stdin_in_pieces() -> None:
    """The pieces of stdin, in order, are the whole."""
    pieces = b"".join(protocol.frame(protocol.STDIN, piece) for piece in (b"{", b"", b"}"))
    end = protocol.frame(protocol.END, protocol.NUMBER.pack(1))
    assert protocol.request_of(Inbox().feed(pieces + end)).stdin == b"{}"


@pytest.mark.parametrize(
    "data",
    [
        protocol.HEADER.pack(protocol.STDIN, 2**32 - 1),
        protocol.frame(protocol.END, b"1"),
        protocol.frame(protocol.END, protocol.NUMBER.pack(0)),
        protocol.frame(protocol.END, protocol.NUMBER.pack(2)),
        protocol.frame(protocol.HOST_NETNS, b"123"),
    ],
    ids=["a length beyond all bounds", "a short number", "version 0", "a version not offered", "half an identity"],
)
def test_what_is_no_request(data: bytes) -> None:
    """It is told, not guessed at."""
    with pytest.raises(ProtocolError):
        protocol.request_of(Inbox().feed(data + protocol.frame(protocol.END, b"")))


def test_bounds() -> None:
    """A request that is too long, or in too many parts, is no request."""
    with pytest.raises(ProtocolError):
        list(Inbox(most_bytes=10).feed(b"x" * 11))
    with pytest.raises(ProtocolError):
        list(Inbox(most_frames=3).feed(protocol.frame(99) * 4))
    assert len(list(Inbox(most_frames=3).feed(protocol.frame(99) * 3))) == 3
