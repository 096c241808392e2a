"""What the service manager wants to know (sd_notify(3), sd_watchdog_enabled(3)); without one, nothing happens."""

from __future__ import annotations

import os
import socket
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE = 1.0  # seconds that a full socket is waited for
MICROSECONDS = 1e6


class Notifier:
    """The way to the service manager that NOTIFY_SOCKET names: a path, or @ and an abstract name.

    A message that does not arrive is lost, as with sd_notify's usual use: the manager's own deadlines are what counts.
    """

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        name = env.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self.listens = name.startswith(("/", "@"))

    def ready(self, status: str) -> bool:
        """Say that the start is done. Returns whether it was sent, as all of these do."""
        return self._send("READY=1", _status(status))

    def stopping(self, status: str) -> bool:
        """Say that the end has begun."""
        return self._send("STOPPING=1", _status(status))

    def status(self, text: str) -> bool:
        """Say in one line what goes on; `systemctl status` shows it."""
        return self._send(_status(text))

    def watchdog(self) -> bool:
        """Say that all is well."""
        return self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> bool:
        if not self.listens:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(PATIENCE)
            try:
                out.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return False
        return True


class Watchdog:
    """Pings twice as often as WATCHDOG_USEC asks for, from a thread of its own, and only while the agent is healthy.

    `interval` is the seconds between pings, None where nobody waits for any. `healthy` must not block.
    """

    def __init__(self, notifier: Notifier, healthy: Callable[[], bool], env: Mapping[str, str] = os.environ) -> None:
        self._notifier, self._healthy = notifier, healthy
        self.interval = _interval(env) if notifier.listens else None
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to ping, if anybody waits for it."""
        if self.interval is not None:
            self._thread.start()

    def stop(self) -> None:
        """End the pings."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self.interval):
            if self._healthy():
                self._notifier.watchdog()


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"


def _interval(env: Mapping[str, str]) -> float | None:
    usec, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    for_us = not pid or pid == str(os.getpid())
    return int(usec) / MICROSECONDS / 2 if for_us and usec.isascii() and usec.isdigit() and int(usec) else None
