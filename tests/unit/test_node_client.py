"""The client of the agent's protocol, against an agent that behaves, and several that do not."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from calico_node import client, protocol
from calico_node.client import Answer, Client

from .agent_kit import Agent, Connection, Say, answering

US = os.geteuid()
ASKED = protocol.Request("calico", {"CNI_COMMAND": "ADD"}, b'{"name": "net"}', 0, (4, 5), 99)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "cni.sock")


def connect(path: str, seconds: float = 2.0) -> Client:
    return client.connect(path, seconds, US)


def after_greeting(rest: Say) -> Say:
    def say(connection: Connection) -> None:
        connection.greet()
        connection.request()
        rest(connection)

    return say


def test_a_request_and_its_answer(path: str) -> None:
    seen: list[protocol.Request] = []
    frames: list[int] = []

    def say(connection: Connection) -> None:
        connection.greet()
        seen.append(connection.request())
        connection.say(protocol.ALIVE)
        connection.say(250, b"a kind of a later version")
        connection.answer(7, b'{"code": 7}')
        frames.extend(connection.next())

    with Agent(path, say), connect(path) as agent:
        assert (agent.version, agent.pid) == (protocol.NEWEST, os.getpid())
        assert agent.ask(ASKED) == Answer(7, b'{"code": 7}')
    asked = seen[0]
    assert (asked.plugin, asked.env, asked.stdin, asked.host_netns, asked.version) == (
        "calico", {"CNI_COMMAND": "ADD"}, b'{"name": "net"}', (4, 5), protocol.NEWEST)
    assert frames == [protocol.TAKEN]


@pytest.mark.parametrize("length", [0, 10, 3_000_000])
def test_a_descriptor_travels_with_the_request(path: str, tmp_path: Path, length: int) -> None:
    """Also where the request is longer than the socket takes at once."""
    (tmp_path / "net").write_text("this one")
    read: list[bytes] = []

    def say(connection: Connection) -> None:
        connection.greet()
        assert len(connection.request().stdin) == length
        assert connection.netns is not None
        read.append(os.read(connection.netns, 100))
        os.close(connection.netns)
        connection.answer(0, b"x" * length)
        connection.next()

    netns = os.open(tmp_path / "net", os.O_RDONLY)
    with Agent(path, say), connect(path) as agent:
        request = protocol.Request("calico", {}, b" " * length, 0, None, 1)
        assert agent.ask(request, netns) == Answer(0, b"x" * length)
    os.close(netns)
    assert read == [b"this one"]


def test_an_answer_that_is_not_taken(path: str) -> None:
    frames: list[int] = []

    def say(connection: Connection) -> None:
        connection.answer(0, b"")
        frames.extend(connection.next())

    with Agent(path, after_greeting(say)), connect(path) as agent:
        agent.send(ASKED)
        assert agent.answer() == Answer(0, b"")
    assert frames == []


def test_nobody_there(path: str) -> None:
    with pytest.raises(client.Absent, match=path):
        connect(path)
    with pytest.raises(client.Absent):
        connect(f"{path}/below/nothing")


def test_nobody_listens(path: str) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)
    left.close()
    with pytest.raises(client.Refused, match=path):
        connect(path)


def test_somebody_else_listens(path: str) -> None:
    with Agent(path, lambda connection: None), pytest.raises(client.NotPermitted, match=f"user {US}, not {US + 1}"):
        client.connect(path, owner=US + 1)


def test_a_backlog_that_stays_full(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0)
    waiting = []
    begun = time.monotonic()
    with pytest.raises(client.Silent):
        while time.monotonic() < begun + 30:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            if waiting[-1].connect_ex(path):
                connect(path, 0.3)
    for one in (*waiting, listener):
        one.close()


@pytest.mark.parametrize("said", [b"", b"cni-"])
def test_a_frozen_agent(path: str, said: bytes) -> None:
    def say(connection: Connection) -> None:
        connection.socket.sendall(said)
        connection.socket.recv(1)

    with Agent(path, say), pytest.raises(client.Silent, match=path):
        connect(path, 0.2)


def test_a_greeting_in_pieces(path: str) -> None:
    def say(connection: Connection) -> None:
        for byte in protocol.greeting():
            connection.socket.sendall(bytes([byte]))
        connection.socket.recv(1)

    with Agent(path, say), connect(path) as agent:
        assert agent.version == protocol.NEWEST


@pytest.mark.parametrize("said", [b"", b"cni-"])
def test_closed_without_a_greeting(path: str, said: bytes) -> None:
    with Agent(path, lambda connection: connection.socket.sendall(said)), pytest.raises(client.Died, match="greeting"):
        connect(path)


def test_another_program(path: str) -> None:
    def say(connection: Connection) -> None:
        connection.socket.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        connection.socket.recv(1)

    with Agent(path, say), pytest.raises(client.NoAgent, match="no greeting"):
        connect(path)


def test_another_version(path: str) -> None:
    def say(connection: Connection) -> None:
        connection.socket.sendall(protocol.GREETING.pack(protocol.MAGIC, 7, 9))
        connection.socket.recv(1)

    with Agent(path, say), pytest.raises(client.OtherVersion, match="7 to 9"):
        connect(path)


def test_declined(path: str) -> None:
    def say(connection: Connection) -> None:
        connection.say(protocol.DECLINED, b"the agent is stopping")

    with Agent(path, after_greeting(say)), connect(path) as agent, pytest.raises(client.Declined) as told:
        agent.ask(ASKED)
    assert told.value.reason == "the agent is stopping"


def test_declined_before_the_request_was_read(path: str) -> None:
    """What it said before it closed counts, though the request could not be sent any more."""
    def say(connection: Connection) -> None:
        connection.greet()
        connection.say(protocol.DECLINED, b"too many")

    with Agent(path, say), connect(path) as agent:
        time.sleep(0.1)
        with pytest.raises(client.Declined, match="too many"):
            agent.ask(ASKED)


@pytest.mark.parametrize("said", [b"", protocol.result(0, b"12345678")[:-3]])
def test_it_dies_before_it_answers(path: str, said: bytes) -> None:
    def say(connection: Connection) -> None:
        connection.socket.sendall(said)

    with Agent(path, after_greeting(say)), connect(path) as agent, pytest.raises(client.Died, match=path):
        agent.ask(ASKED)


def test_it_dies_after_it_has_answered(path: str) -> None:
    """The answer stands."""
    with Agent(path, after_greeting(lambda connection: connection.answer(0, b"{}"))), connect(path) as agent:
        agent.send(ASKED)
        time.sleep(0.1)
        assert agent.answer() == Answer(0, b"{}")
        agent.taken()


def test_silence_of_two_seconds(path: str) -> None:
    def say(connection: Connection) -> None:
        connection.socket.recv(1)

    with Agent(path, after_greeting(say)), connect(path) as agent, pytest.raises(client.Silent, match="2 s"):
        agent.ask(ASKED)


def test_alive_for_too_long(path: str) -> None:
    def say(connection: Connection) -> None:
        for _ in range(20):
            connection.say(protocol.ALIVE)
            time.sleep(0.05)

    with Agent(path, after_greeting(say)), connect(path) as agent, pytest.raises(client.Silent, match=r"within 0\.2 s"):
        agent.ask(ASKED, seconds=0.2)


@pytest.mark.parametrize("said", [
    protocol.frame(protocol.RESULT, b"\0\0"), protocol.HEADER.pack(protocol.RESULT, 2**31),
])
def test_nonsense_for_an_answer(path: str, said: bytes) -> None:
    def say(connection: Connection) -> None:
        connection.socket.sendall(said)
        connection.socket.recv(1)

    with Agent(path, after_greeting(say)), connect(path) as agent, pytest.raises(client.NoAgent):
        agent.ask(ASKED)


def test_the_kit_answers(path: str) -> None:
    with Agent(path, answering(0, {"a": 1})), connect(path) as agent:
        assert agent.ask(ASKED) == Answer(0, b'{"a": 1}')
