"""Real etcd servers for tests: started with folders and ports of their own, ended by process id."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datastore.settings import ETCD, Etcd, Settings

START_SECONDS, END_SECONDS = 60.0, 20.0
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")  # with the thread that began it: no server outlives its test


@dataclass
class Member:
    """One server of a cluster. prefix: a command to run it below, e.g. `ip netns exec NAME`; host: its address.

    env: more of its environment.
    """

    name: str
    folder: Path
    host: str = "127.0.0.1"
    scheme: str = "http"
    extra: Sequence[str] = ()
    prefix: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, int] = (0, 0)
    process: subprocess.Popen[bytes] | None = None
    cluster: str = ""

    def __post_init__(self) -> None:
        if not all(self.ports):
            self.ports = free_port(self.host), free_port(self.host)

    @property
    def url(self) -> str:
        """Where clients ask."""
        return f"{self.scheme}://{self.host}:{self.ports[0]}"

    @property
    def peer(self) -> str:
        """Where the other members ask."""
        return f"http://{self.host}:{self.ports[1]}"

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.folder / self.name

    def start(self, state: str = "new") -> None:
        """Start the process; `wait` tells when it serves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*DIES_WITH_US, *self.prefix, "etcd", "--name", self.name, "--data-dir", str(self.data),
                 "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
                 "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer,
                 "--initial-cluster", self.cluster or f"{self.name}={self.peer}", "--initial-cluster-state", state,
                 "--unsafe-no-fsync", *self.extra],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env={"PATH": os.environ["PATH"], "ETCD_UNSUPPORTED_ARCH": "arm64", **self.env})

    def signal(self, number: int) -> None:
        """Send a signal to the server (which `prefix` has exec'd)."""
        assert self.process
        os.kill(self.process.pid, number)

    def pause(self) -> None:
        """Have it stand still, with all its connections open."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait(END_SECONDS)
            self.process = None

    def stop(self) -> None:
        """End it in order; one that is paused, or does not end, is killed."""
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(END_SECONDS)
            self.process = None


@dataclass
class Cluster:
    """Members that serve together. tls: for asking them from here; credentials: name and password likewise."""

    members: list[Member]
    tls: ssl.SSLContext | None = None
    etcd: Etcd = field(default_factory=Etcd)

    def __post_init__(self) -> None:
        whole = ",".join(f"{member.name}={member.peer}" for member in self.members)
        for member in self.members:
            member.cluster = whole
        if self.etcd == Etcd():
            self.etcd = Etcd(endpoints=tuple(member.url for member in self.members))

    def start(self) -> None:
        """Start all and wait until they serve."""
        for member in self.members:
            member.start()
        self.wait()

    def wait(self) -> None:
        """Return when every running member answers with a leader; raises TimeoutError with its log's end."""
        until = time.monotonic() + START_SECONDS
        for member in self.members:
            while member.process:
                try:
                    if int(self.ask("/v3/maintenance/status", {}, member).get("leader", 0)):
                        break
                except OSError:
                    if member.process.poll() is not None or time.monotonic() > until:
                        log = (member.folder / f"{member.name}.log").read_text(errors="replace")
                        raise TimeoutError(f"etcd {member.name} does not serve:\n{log[-2000:]}") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End all."""
        for member in self.members:
            member.stop()

    def ask(self, path: str, body: Mapping[str, Any], member: Member | None = None, seconds: float = 5.0) -> Any:
        """Return a member's answer to a call of the JSON gateway, with nothing of the product's in between."""
        url = (member or next(item for item in self.members if item.process)).url + path
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=seconds, context=self.tls) as answer:  # ours
            return json.load(answer)

    def wipe(self) -> None:
        """Remove every key."""
        self.ask("/v3/kv/deleterange", {"key": b64encode(b"\0").decode(), "range_end": b64encode(b"\0").decode()})

    def settings(self, folder: Path) -> Settings:
        """Return what opens a store in it; `folder` is where the node's lock file is."""
        return Settings(kind=ETCD, etcd=self.etcd, lock_file=str(folder / "ipam.lock"))


@contextmanager
def serving(folder: Path, count: int = 1, **options: Any) -> Iterator[Cluster]:
    """Run a cluster of so many members while the body runs."""
    cluster = Cluster([Member(f"m{number}", folder, **options) for number in range(count)])
    with ExitStack() as ended:
        ended.callback(cluster.stop)
        cluster.start()
        yield cluster


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on just now; of other namespaces' addresses it is asked on loopback."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
