"""Messages to the service manager, on real sockets by path and by abstract name."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_node.notify import Notifier, Watchdog


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.socket.settimeout(10)

    def heard(self) -> list[str]:
        """Return the next message, line by line."""
        return self.socket.recv(4096).decode().split("\n")

    def silence(self, seconds: float) -> None:
        """Expect no message for so long."""
        self.socket.settimeout(seconds)
        with pytest.raises(TimeoutError):
            self.socket.recv(1)
        self.socket.settimeout(10)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@cni-calico-test-{os.getpid()}")
    yield made
    made.socket.close()


def test_what_is_said(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    assert notifier.ready("serving")
    assert manager.heard() == ["READY=1", "STATUS=serving"]
    assert notifier.status("two\nlines")
    assert manager.heard() == ["STATUS=two lines"]
    assert notifier.watchdog()
    assert manager.heard() == ["WATCHDOG=1"]
    assert notifier.stopping("3 requests left")
    assert manager.heard() == ["STOPPING=1", "STATUS=3 requests left"]


@pytest.mark.parametrize("env", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_nobody_listens(env: dict[str, str]) -> None:
    notifier = Notifier(env)
    assert not any((notifier.ready("x"), notifier.stopping("x"), notifier.status("x"), notifier.watchdog()))
    assert Watchdog(notifier, lambda: True, {**env, "WATCHDOG_USEC": "1000"}).interval is None


def test_a_manager_that_has_gone(tmp_path: Path) -> None:
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")


def test_a_manager_that_does_not_read(tmp_path: Path) -> None:
    """Its socket fills up; we do not wait for ever."""
    manager = Manager(str(tmp_path / "notify"))
    notifier, sent = Notifier({"NOTIFY_SOCKET": manager.name}), 0
    while notifier.status("x" * 1000):
        sent += 1
    assert sent
    manager.socket.close()


def test_pings_while_healthy(manager: Manager) -> None:
    healthy = threading.Event()
    healthy.set()
    env = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid())}
    watchdog = Watchdog(Notifier(env), healthy.is_set, env)
    assert watchdog.interval == 0.02
    watchdog.start()
    assert [manager.heard() for _ in range(3)] == [["WATCHDOG=1"]] * 3
    healthy.clear()
    time.sleep(0.2)  # one may be under way
    manager.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            manager.heard()
    manager.silence(0.2)
    healthy.set()
    assert manager.heard() == ["WATCHDOG=1"]
    watchdog.stop()
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("asked", [
    {}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "-1"},
    {"WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1"},
])
def test_nobody_waits_for_pings(manager: Manager, asked: dict[str, str]) -> None:
    """Also where they are asked of another process, whose environment we have inherited."""
    env = {"NOTIFY_SOCKET": manager.name, **asked}
    watchdog = Watchdog(Notifier(env), lambda: True, env)
    assert watchdog.interval is None
    watchdog.start()
    manager.silence(0.1)
    watchdog.stop()
