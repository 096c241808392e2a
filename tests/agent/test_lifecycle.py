"""From an agent's start to its end: one at a time, in a place of its own, and no request is lost when it goes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from calico_node import protocol
from datastore.file import FileStore
from tests.netns.machine import Json

from .kit import DUAL, NOWHERE, START_SECONDS, TOOLS, Agent, Site, ended, silent, wait_until

NOBODY = 65534
ONLY_AGENT = {"CALICO_PYTHON_PLUGIN": NOWHERE}
SILENCE = 2.0  # after which a launcher gives an agent up


def refused(site: Site, *options: str) -> str:
    """Return the one line that an agent says that cannot begin."""
    before = len(site.said.read_text())
    process = site.agent().launch(*options)
    assert process.wait(60) == 1
    said = site.said.read_text()[before:]
    assert said.startswith("calico-node: ")
    assert said.count("\n") == 1, said
    return said


def test_sigterm_drains(site: Site, agent: Agent) -> None:
    """50 requests in flight are all answered by the agent that is told to end; who comes later uses the plugin."""
    pods, late = [site.machine.pod() for _ in range(50)], site.machine.pod()
    store = FileStore(str(site.machine.datastore))
    with store.exclusive():
        started = [site.start("ADD", pod, env=ONLY_AGENT) for pod in pods]
        wait_until(lambda: agent.status()["inFlight"] == 51, why="the requests did not come in")  # and this one
        agent.send(signal.SIGTERM)
        wait_until(lambda: not connects(site.socket), why="it still listens")
        later = site.start("ADD", late)
        time.sleep(2 * SILENCE)  # the launchers must hear that it lives
        assert all(process.poll() is None for process in (*started, later))
    for pod, process in zip((*pods, late), (*started, later), strict=True):
        pod.results["eth0"] = site.finish(process).ok
    assert agent.wait() == 0
    assert not site.socket.exists()
    assert len({address for pod in (*pods, late) for address in pod.addresses()}) == 51
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(site.machine.delete, (*pods, late)))
    site.empty()


def connects(path: Path) -> bool:
    with suppress(OSError), silent(path) as connection:
        return connection.recv(1) != b""
    return False


def test_restarts_under_load(site: Site) -> None:
    """While eight workers add, check and delete pods, the agent is restarted again and again: no verb fails."""
    agent, is_over, rounds = site.agent().start(), threading.Event(), []

    def work() -> int:
        pod, count = site.machine.pod(), 0
        while not is_over.is_set():
            site.machine.add(pod, ipam=DUAL)
            assert site.machine.check(pod, ipam=DUAL).ok == {}
            site.machine.delete(pod, ipam=DUAL)
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(work) for _ in range(8)]
        try:
            for _ in range(4):
                wait_until(partial(is_at_work, agent))
                assert agent.stop() == 0
                agent = site.agent().start()
        finally:
            is_over.set()
        rounds = [each.result() for each in working]
    assert sum(rounds) >= 8
    site.empty()


def is_at_work(agent: Agent) -> bool:
    counts: dict[str, int] = agent.status()["requests"].get("ADD", {})
    return sum(counts.values()) >= 8


def test_the_second_of_two_refuses(site: Site, agent: Agent) -> None:
    """It says who has the socket, and what to do; the first goes on."""
    said = refused(site)
    assert f"process {agent.pid}" in said
    assert str(site.socket) in said
    site.machine.call("ADD", site.machine.pod(), env=ONLY_AGENT)
    assert agent.served("ADD") == 1


def test_two_started_at_once(site: Site) -> None:
    """One of them serves and the other refuses, whichever; a launcher finds the one."""
    for _ in range(4):
        both = [site.agent(), site.agent()]
        for each in both:
            each.launch()
        wait_until(partial(one_has_ended, both))
        loser, winner = sorted(both, key=ended, reverse=True)
        assert loser.wait() == 1
        wait_until(lambda: connects(site.socket))
        assert winner.status()["pid"] == winner.pid
        assert winner.stop() == 0
    assert site.said.read_text().count("another agent") == 4


def one_has_ended(both: list[Agent]) -> bool:
    return any(map(ended, both))


def test_stale_socket_and_lock(site: Site) -> None:
    """What a killed agent leaves keeps neither a launcher from the plugin nor the next agent from serving."""
    killed = site.agent().start()
    killed.kill()
    assert stat.S_ISSOCK(site.socket.stat().st_mode)
    with socket.socket(socket.AF_UNIX) as half:  # killed between bind and rename
        half.bind(f"{site.socket}.new")
    pod = site.machine.pod()
    site.machine.add(pod)
    agent = site.agent().start()
    site.whole(pod)
    assert agent.served("CHECK") == 1
    site.machine.delete(pod)
    agent.stop()
    site.empty()


def test_a_socket_path_that_is_too_long(site: Site) -> None:
    """The agent says so in one line; the launcher uses the plugin."""
    long = site.folder / ("x" * 100) / "cni.sock"
    refused(site, "--socket", str(long))
    pod = site.machine.pod()
    site.machine.add(pod, env={"CALICO_CNI_SOCKET": str(long)})
    site.machine.delete(pod, env={"CALICO_CNI_SOCKET": str(long)})
    site.empty()


def test_a_directory_of_another_user(site: Site) -> None:
    site.socket.parent.mkdir(mode=0o700)
    os.chown(site.socket.parent, NOBODY, NOBODY)
    assert str(site.socket.parent) in refused(site)
    assert list(site.socket.parent.iterdir()) == []


def test_a_directory_that_is_a_link(site: Site) -> None:
    (site.folder / "elsewhere").mkdir(mode=0o700)
    site.socket.parent.symlink_to(site.folder / "elsewhere")
    assert str(site.socket.parent) in refused(site)


def test_a_directory_in_which_others_write(site: Site) -> None:
    """A socket in /tmp is refused, and /tmp stays as it is."""
    site.socket.parent.mkdir()
    for mode in (0o1777, 0o775, 0o757):
        site.socket.parent.chmod(mode)
        assert str(site.socket.parent) in refused(site)
        assert stat.S_IMODE(site.socket.parent.stat().st_mode) == mode


def test_a_directory_that_others_may_enter(site: Site) -> None:
    """It belongs to others as well, who go on; the socket itself is for root."""
    site.socket.parent.mkdir()
    site.socket.parent.chmod(0o755)
    agent = site.agent().start()
    assert stat.S_IMODE(site.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(site.socket.parent.stat().st_mode) == 0o755
    assert agent.stop() == 0


def test_a_new_directory_is_private(site: Site, agent: Agent) -> None:
    assert stat.S_IMODE(site.socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(site.socket.stat().st_mode) == 0o600
    assert agent.stop() == 0


@contextmanager
def greeting(path: Path, words: bytes) -> Iterator[list[bytes]]:
    """Be what listens there and greets so; yields what was then said to it."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    said: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.settimeout(START_SECONDS)
                        connection.sendall(words)
                        said.append(connection.recv(1 << 16))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield said
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            path.unlink()


@pytest.mark.parametrize("words", [
    protocol.GREETING.pack(protocol.MAGIC, protocol.NEWEST + 1, protocol.NEWEST + 9),
    protocol.GREETING.pack(protocol.MAGIC, 0, 0),
    protocol.GREETING.pack(b"somebody", 1, 1),
    protocol.GREETING.pack(protocol.MAGIC, 1, 1)[:9],
    b"",
], ids=["newer", "older", "another", "half", "silent"])
def test_an_agent_of_another_kind(site: Site, words: bytes) -> None:
    """A launcher that cannot understand who listens tells him nothing, and uses the plugin as if nobody did."""
    pod = site.machine.pod()
    with greeting(site.socket, words) as said:
        site.machine.add(pod)
    assert said == [b""]
    site.whole(pod)
    site.machine.delete(pod)
    site.empty()


def test_a_newer_agent_that_speaks_ours_too(site: Site) -> None:
    """The launcher chooses its own version; when the agent then hangs up, the plugin takes over."""
    pod = site.machine.pod()
    with greeting(site.socket, protocol.GREETING.pack(protocol.MAGIC, 1, 7)) as said:
        site.machine.add(pod)
    frames = list(protocol.Inbox().feed(said[0]))
    assert frames[-1] == (protocol.END, protocol.NUMBER.pack(1))
    assert protocol.request_of(frames).env["CNI_CONTAINERID"] == pod.container_id
    site.whole(pod)


def test_a_launcher_that_chose_what_was_not_offered(site: Site, agent: Agent) -> None:
    """It gets no answer, and nothing is done."""
    pod = site.machine.pod()
    data = protocol.request(site.request("ADD", pod))
    with silent(site.socket) as connection:
        assert connection.recv(protocol.GREETING.size) == protocol.greeting()
        connection.sendall(data[:-4] + protocol.NUMBER.pack(protocol.NEWEST + 1))
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert agent.served("ADD") == 0
    assert site.machine.left() == []


def test_log_file(site: Site, agent: Agent) -> None:
    """Each verb is in the log file that its configuration names, whole, however many write and turn the file over."""
    log = site.folder / "logs/calico.log"
    conf: Json = {"log_file_path": str(log), "log_file_max_size": 1, "log_file_max_count": 3}
    pods = [site.machine.pod() for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda pod: site.machine.add(pod, **conf), pods))
        list(pool.map(lambda pod: site.machine.delete(pod, **conf), pods))
    text = log.read_text()
    for pod in pods:
        assert any(pod.container_id in line and "ADD" in line for line in text.splitlines())
    assert agent.served("ADD") == 10
    assert not any(str(log) in name for name in os.listdir(f"/proc/{agent.pid}/fd"))
    site.empty()


def test_help_and_version(site: Site) -> None:
    for option in ("--help", "--version"):
        done = site.machine.host.run(str(TOOLS / "calico-node"), option)
        assert done.stdout
