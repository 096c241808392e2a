"""Connections that say nothing, or nonsense, or too much; few descriptors; who is not root. Launchers are served on."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from calico_node import protocol

from .kit import NOWHERE, Agent, Site, many_descriptors, seeded, silent, wait_until

ONLY_AGENT = {"CALICO_PYTHON_PLUGIN": NOWHERE}
SILENT = 5000
NOBODY = 65534


def serves(site: Site, agent: Agent, count: int = 4) -> None:
    """Require that pods come and go, by the agent alone."""
    before, pods = agent.served("ADD"), [site.machine.pod() for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda pod: site.machine.add(pod, env=ONLY_AGENT), pods))
        list(pool.map(lambda pod: site.machine.delete(pod, env=ONLY_AGENT), pods))
    assert agent.served("ADD") == before + count
    for pod in pods:
        pod.netns.close()
    site.empty()


def test_thousands_that_say_nothing(site: Site, agent: Agent) -> None:
    """5,000 connections are open and silent, the oldest are closed for the newest, and launchers are served."""
    with many_descriptors(SILENT + 500), ExitStack() as opened:
        connections = [opened.enter_context(silent(site.socket)) for _ in range(SILENT)]
        serves(site, agent)
        assert agent.status()["connections"] <= 4097
        assert connections[-1].recv(100) == protocol.greeting()
    wait_until(lambda: agent.status()["connections"] == 1, why="closed connections are kept")
    serves(site, agent)


def random_bytes(dice: random.Random, _: bytes) -> bytes:
    return dice.randbytes(dice.randrange(1, 5000))


def giant_length(dice: random.Random, _: bytes) -> bytes:
    return protocol.HEADER.pack(dice.randrange(30), dice.choice([1 << 31, (1 << 32) - 1, protocol.MOST_BYTES + 1]))


def half_frame(dice: random.Random, request: bytes) -> bytes:
    return request[: dice.randrange(1, len(request))]


def one_byte_is_other(dice: random.Random, request: bytes) -> bytes:
    at = dice.randrange(len(request))
    return request[:at] + bytes([request[at] ^ (1 << dice.randrange(8))]) + request[at + 1 :]


def more_behind(dice: random.Random, request: bytes) -> bytes:
    return request + dice.randbytes(dice.randrange(1, 100))


def many_frames(_: random.Random, __: bytes) -> bytes:
    return protocol.frame(protocol.ENV, b"CNI_X=1") * (protocol.MOST_FRAMES + 1)


def short_numbers(dice: random.Random, _: bytes) -> bytes:
    kind = dice.choice([protocol.NO_NETNS, protocol.HOST_NETNS, protocol.END])
    return protocol.frame(kind, b"x" * dice.randrange(3)) + protocol.frame(protocol.END, b"")


GARBAGE = [random_bytes, giant_length, half_frame, one_byte_is_other, more_behind, many_frames, short_numbers]


@pytest.mark.parametrize("what", GARBAGE, ids=lambda what: what.__name__)
def test_garbage(site: Site, agent: Agent, what: Callable[[random.Random, bytes], bytes]) -> None:
    """It does no harm to others, and what came is answered, or the connection is closed."""
    dice, pod = seeded(f"garbage {what.__name__}"), site.machine.pod()
    request = protocol.request(site.request("CHECK", pod))
    for _ in range(40):
        with silent(site.socket) as connection, suppress(BrokenPipeError, ConnectionResetError):
            assert connection.recv(protocol.GREETING.size) == protocol.greeting()
            connection.sendall(what(dice, request))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
    wait_until(lambda: agent.status()["connections"] == 1)
    assert "Traceback" not in site.said.read_text()
    serves(site, agent)


def test_slow_senders(site: Site, agent: Agent) -> None:
    """Those that send byte for byte hold up nobody, and are answered in the end."""
    request = protocol.request(site.request("STATUS", site.machine.pod()))
    with ExitStack() as opened:
        connections = [opened.enter_context(silent(site.socket)) for _ in range(100)]
        for at in range(0, len(request), 97):
            for connection in connections:
                connection.sendall(request[at : at + 97])
            if at == 97:
                serves(site, agent)
        for connection in connections:
            assert connection.recv(protocol.GREETING.size) == protocol.greeting()
            inbox, kinds = protocol.Inbox(), []
            while protocol.RESULT not in kinds:
                data = connection.recv(1 << 16)
                assert data
                kinds += [kind for kind, _ in inbox.feed(data)]
    assert agent.served("STATUS") == 100


def test_many_descriptors(site: Site, agent: Agent) -> None:
    """Descriptors that nobody asked for are closed again."""
    agent.at_rest()
    before = len(agent.at_rest()[0])
    with many_descriptors(2000), ExitStack() as opened:
        ends = [end for _ in range(120) for end in os.pipe()]
        try:
            for number in range(40):
                connection = opened.enter_context(silent(site.socket))
                with suppress(BrokenPipeError, ConnectionResetError):
                    for _ in range(3):
                        socket.send_fds(connection, [protocol.HEADER.pack(99, 0)], ends[: 1 + number * 6])
                        time.sleep(0.001)
            serves(site, agent)
        finally:
            for end in ends:
                os.close(end)
    wait_until(lambda: agent.status()["connections"] == 1)
    assert len(agent.at_rest()[0]) <= before + 1


def test_few_descriptors(site: Site) -> None:
    """With few descriptors and many connections, each request is answered in the end: by the agent or the plugin."""
    agent = site.agent(prefix=("prlimit", "--nofile=300")).start()
    pods = [site.machine.pod() for _ in range(40)]
    with many_descriptors(2000), ExitStack() as opened:
        for _ in range(200):
            opened.enter_context(silent(site.socket))
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda pod: site.machine.call("ADD", pod), pods))
    for pod, answer in zip(pods, answers, strict=True):
        assert answer.code == 0, answer.body
        pod.results["eth0"] = answer.ok
    assert len({address for pod in pods for address in pod.addresses()}) == 40
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(site.machine.delete, pods))
    site.empty()
    serves(site, agent)


AS_NOBODY = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
folder = os.open(sys.argv[1], os.O_PATH)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    connection.connect(f"/proc/self/fd/{folder}/cni.sock")
except OSError as error:
    print(type(error).__name__)
    sys.exit()
try:
    print(connection.recv(100))
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("mode", [0o600, 0o666], ids=["as-it-is", "opened-by-mistake"])
def test_who_is_not_root(site: Site, agent: Agent, mode: int) -> None:
    """He cannot connect; if he can, because somebody changed the socket's mode, he is not greeted."""
    site.socket.chmod(mode)
    site.socket.parent.chmod(0o700 if mode == 0o600 else 0o711)
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(site.socket.parent)], capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() in (("PermissionError",) if mode == 0o600 else ("b''", "ConnectionResetError"))
    serves(site, agent, 1)


def test_an_agent_that_is_not_root(site: Site) -> None:
    """A launcher trusts no other user that listens there."""
    site.socket.parent.mkdir(mode=0o700)
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        listener.bind(str(site.socket))
        child = os.fork()
        if not child:
            status = 1
            try:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                listener.listen()  # whose credentials a client sees
                os.kill(os.getpid(), signal.SIGSTOP)
                connection, _ = listener.accept()
                said = b""
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(protocol.greeting())
                    said = connection.recv(1)
                status = said != b""
            finally:
                os._exit(status)
        try:
            os.waitpid(child, os.WUNTRACED)
            os.kill(child, signal.SIGCONT)
            pod = site.machine.pod()
            site.machine.add(pod)
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGCONT)
            _, how = os.waitpid(child, 0)
        assert how == 0, "the launcher told him something"
    site.whole(pod)


def test_results_that_nobody_reads(site: Site, agent: Agent) -> None:
    """An ADD whose launcher ends without taking the answer is undone."""
    pod = site.machine.pod()
    client = agent.client()
    client.send(site.request("ADD", pod), pod.netns.fd)
    assert client.answer().code == 0
    client.close()
    wait_until(lambda: site.machine.left() == [], why="it is not undone")
    serves(site, agent, 1)


def test_socket_is_all_there_is(site: Site, agent: Agent) -> None:
    """Nothing else of the agent is open to anybody."""
    assert agent.status()["connections"] == 1
    assert not [line for line in Path(f"/proc/{agent.pid}/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
