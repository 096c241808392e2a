"""A machine for one test: its own network, mount and process namespaces, gone with the process that holds them.

Nothing of it has a name on the real machine: two copies of a test never meet, and a killed test leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

PTP_UPLINK = ("172.31.255.1", "172.31.255.2")  # the host's own address and its router's, on the link to the outside
OUTSIDE = "outside"  # the namespace behind the default route, where the host has one

# PID 1 of the machine: private /run, writable layers over the two folders that runtimes and plugins write to by habit,
# then a sleep that reaps every orphan (SIGCHLD stays ignored across exec). It prints its process id as the real machine
# sees it, which it reads before it mounts a /proc of its own.
_INIT = """
set -e
read -r pid rest </proc/self/stat
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/layers
for folder in lib log; do
    mkdir /run/layers/$folder /run/layers/$folder.work
    layer=/run/layers/$folder
    mount -t overlay overlay -o lowerdir=/var/$folder,upperdir=$layer,workdir=$layer.work /var/$folder
done
ip link set lo up
trap '' CHLD
echo "$pid"
exec sleep infinity
"""

# What asks a web server for its page: busybox-static's own wget dies in the name service.
_FETCH = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as wire:
    wire.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print(wire.makefile().read().partition("\\n\\n")[2], end="")
"""


class UnavailableError(Exception):
    """This machine cannot provide a part that a test needs."""


@dataclass(frozen=True)
class Kernel:
    """What the kernel of a host shows: the names of its links and its routes."""

    links: frozenset[str]
    routes: frozenset[str]


class Host:
    """A machine of our own: commands run inside its namespaces and die with it."""

    def __init__(self) -> None:
        """Start the machine, with loopback up and nothing else."""
        self.env: dict[str, str] = {}  # what all that is run on it is told
        if os.geteuid() != 0:
            raise UnavailableError("needs root, for network namespaces")
        for each in ("busybox", "ip", "unshare", "nsenter", "setpriv"):
            if shutil.which(each) is None:
                raise UnavailableError(f"{each} is not installed")
        namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sh", "-c", _INIT],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        first = self._holder.stdout.readline().strip()
        if not first:
            _, errors = self._holder.communicate()
            raise UnavailableError(f"no namespaces of our own here: {errors.strip()}")
        self._init = int(first)

    def close(self) -> None:
        """Kill every process of the machine; its mounts, links and namespaces go with the last one."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)
        self._holder.communicate()

    @property
    def netns(self) -> str:
        """The path of the machine's network namespace."""
        return f"/proc/{self._holder.pid}/ns/net"

    def argv(self, *command: str) -> list[str]:
        """The command line that runs a command on this machine."""
        proc = f"/proc/{self._holder.pid}/ns"
        return [
            "nsenter",
            f"--mount={proc}/mnt",
            f"--net={proc}/net",
            f"--pid={proc}/pid_for_children",
            *("setpriv", "--pdeathsig", "KILL"),
            *command,
        ]

    def run(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; with check, a failure shows what it printed."""
        done = subprocess.run(
            self.argv(*command),
            env={**os.environ, **self.env, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def out(self, *command: str) -> str:
        """What a command prints."""
        return self.run(*command).stdout

    @contextlib.contextmanager
    def daemon(self, *command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A process that runs beside the test, and is killed at the end of the block."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
        process = subprocess.Popen(self.argv(*command), **options)
        try:
            yield process
        finally:
            end(process)

    def pod(self, name: str) -> str:
        """Make a network namespace for a pod, and say its path."""
        self.run("ip", "netns", "add", name)
        return f"/run/netns/{name}"

    def inside(self, netns: str, *command: str) -> Sequence[str]:
        """The command line, for run and daemon, that runs a command in a pod's network namespace."""
        return ("nsenter", f"--net={netns}", *command)

    def uplink(self, *, default_route: bool) -> None:
        """Give the machine a network card with a router behind it, perhaps a default route, and forwarding."""
        own, router = PTP_UPLINK
        self.pod(OUTSIDE)
        self.run("ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "uplink0", "netns", OUTSIDE)
        self.run("ip", "address", "add", f"{own}/30", "dev", "uplink0")
        self.run("ip", "link", "set", "uplink0", "up")
        self.run("ip", "-n", OUTSIDE, "address", "add", f"{router}/30", "dev", "uplink0")
        self.run("ip", "-n", OUTSIDE, "link", "set", "uplink0", "up")
        self.run("ip", "-n", OUTSIDE, "route", "add", "default", "via", own)
        if default_route:
            self.run("ip", "route", "add", "default", "via", router)
        self.run(busybox(), "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def kernel(self) -> Kernel:
        """The links and the routes of both families, as the kernel lists them now."""
        links = self.out("ip", "-o", "link", "show").splitlines()
        routes = [*self.out("ip", "-4", "route").splitlines(), *self.out("ip", "-6", "route").splitlines()]
        return Kernel(
            frozenset(line.split(": ")[1].split("@")[0] for line in links),
            frozenset(line.strip() for line in routes if "fe80::" not in line),
        )

    def ping(self, address: str, *, netns: str | None = None) -> bool:
        """Whether an address answers within three seconds, asked from the host or from a pod."""
        command = (busybox(), "ping", "-c", "1", "-W", "3", address)
        return self.run(*(self.inside(netns, *command) if netns else command), check=False).returncode == 0

    def fetch(self, address: str, port: int, *, netns: str | None = None) -> str:
        """The page that a web server sends to the host, or to a pod; it may need a moment to come up."""
        command = (sys.executable, "-IS", "-c", _FETCH, address, str(port))
        full = self.inside(netns, *command) if netns else command
        return eventually(lambda: self.run(*full, check=False).stdout, f"a page from {address}:{port}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill what a host's command line runs: the child of nsenter, so that nsenter reaps it, not the machine's PID 1."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        pids = [int(each) for each in children.read_text().split()]
    except OSError:
        pids = []
    for pid in pids or [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def busybox() -> str:
    """Where busybox is, which must be the statically linked one; no host starts without it."""
    return shutil.which("busybox") or "busybox"


T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, *, seconds: float = 10) -> T:
    """Look again and again until there is something, and fail by name when there is nothing in time."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.05)
    return seen
