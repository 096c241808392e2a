"""A network of nameless namespaces: a hub, servers and hosts around it, and what can go wrong between them.

Nothing has a name on the real machine, and nothing is left of it when the test ends, however it ends.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.etcd import Cluster, Member
from tests.netns.machine import Netns

from .forks import enter

T = TypeVar("T")
PORT, PEER_PORT = 2379, 2380
ANY = f"tcp dport {PORT}"
DROP, REJECT = f"{ANY} drop", f"{ANY} reject with tcp reset"


@dataclass
class Place:
    """A namespace at the hub, and its address."""

    netns: Netns
    address: str

    @contextmanager
    def suffering(self, out: str, into: str = "") -> Iterator[None]:
        """Filter what leaves it (and comes in) by nftables rules while the body runs."""
        rules = "add table inet fault\n"
        for hook, rule in (("output", out), ("input", into)):
            if rule:
                rules += (f"add chain inet fault {hook} {{ type filter hook {hook} priority 0; }}\n"
                          f"add rule inet fault {hook} {rule}\n")
        self.netns.run("nft", "-f", "-", input=rules)
        try:
            yield
        finally:
            self.netns.run("nft", "delete", "table", "inet", "fault")


class Site:
    """A hub, and places that reach each other by it."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.hub = Netns()
        self.hub.run("ip", "-batch", "-", input="link add hub type bridge\naddr add 10.99.0.1/24 dev hub\n"
                                                "link set hub up\n")

    def place(self) -> Place:
        """Make another one."""
        number = len(self.places) + 10
        found = Place(Netns(), f"10.99.0.{number}")
        self.places.append(found)
        self.hub.ip("link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", found.netns.path)
        self.hub.ip("link", "set", f"v{number}", "master", "hub", "up")
        found.netns.run("ip", "-batch", "-", input=f"addr add {found.address}/24 dev eth0\nlink set eth0 up\n")
        return found

    def close(self) -> None:
        """Let the kernel take it all away."""
        for netns in (self.hub, *(place.netns for place in self.places)):
            netns.close()

    def inside(self, task: Callable[[], T]) -> T:
        """Return what a task gives in the hub's namespace, in a thread of its own."""
        outcome: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                enter(self.hub.path)
                outcome.append(task())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return outcome[0]

    @contextmanager
    def serving(
        self, folder: Path, count: int = 3, extra: Sequence[str] = (), below: Sequence[str] = ()
    ) -> Iterator[Cluster]:
        """Run a cluster, each member in a place of its own. extra: options of etcd; below: runs the last member."""
        places = [self.place() for _ in range(count)]
        cluster = Cluster([
            Member(f"m{number}", folder, host=place.address, ports=(PORT, PEER_PORT), extra=extra,
                   prefix=("nsenter", f"--net={place.netns.path}", *(below if number == count - 1 else ())))
            for number, place in enumerate(places)])
        with ExitStack() as ended:
            ended.callback(cluster.stop)
            for member in cluster.members:
                member.start()
            self.inside(cluster.wait)
            yield cluster


@contextmanager
def site() -> Iterator[Site]:
    """Have a site while the body runs."""
    found = Site()
    try:
        yield found
    finally:
        found.close()


def leader(cluster: Cluster) -> Member:
    """Return the member that leads, as soon as there is one; to be asked inside the hub."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for member in cluster.members:
            try:
                said = cluster.ask("/v3/maintenance/status", {}, member, 1.0)
            except OSError:
                continue
            if said.get("leader", "0") == said["header"]["member_id"]:
                return member
        time.sleep(0.1)
    raise TimeoutError("nobody leads")


def etcdctl(member: Member, *arguments: str) -> str:
    """Return what etcd's own tool says."""
    done = subprocess.run([*member.prefix, "etcdctl", f"--endpoints={member.url}", *arguments], capture_output=True,
                          text=True, timeout=60, check=False, env={"PATH": "/usr/bin:/bin", "ETCDCTL_API": "3"})
    assert not done.returncode, done.stderr
    return done.stdout

