"""A host with launcher, Python plugin and agent: a Machine (tests/netns) whose executables are the launcher.

Whatever a test starts is a child that ends with it, also when the test is killed; namespaces are nameless.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calico_node import protocol
from calico_node.client import AgentError, Client, connect
from tests.crash.reader import findings, held
from tests.netns.machine import Answer, Json, Machine, Pod

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
PLUGINS = ("calico", "calico-ipam")
NOWHERE = "/nonexistent/calico.py"
START_SECONDS, END_SECONDS, CALL_SECONDS = 60.0, 90.0, 150.0
ANOTHER_ATTEMPT = 0.02
ASK_STATUS = protocol.Request("calico-node", {"CALICO_NODE_COMMAND": "status"}, b"", 0, None, protocol.NEWEST)
DUAL = {"assign_ipv6": "true"}
Calls = Mapping[str, Sequence[str]]


def seeded(name: str) -> random.Random:
    """Return dice whose seed is printed; CALICO_TEST_SEED chooses another one than usual."""
    seed = os.environ.get("CALICO_TEST_SEED", "1")
    print(f"{name}: CALICO_TEST_SEED={seed}")
    return random.Random(f"{name} {seed}")


def launcher() -> Path:
    """Return the launcher for this machine, built if there is none of this source."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    built, source = ROOT / f"launcher/bin/calico-{arch}", ROOT / "launcher/calico.c"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([str(ROOT / "launcher/build")], check=True, capture_output=True)
    return built


def install(folder: Path) -> Path:
    """Install as install-cni does, then have the launcher in front of the Python plugins; return their folder."""
    prefix, own = folder / "prefix", folder / "bin"
    subprocess.run([sys.executable, "-m", "install", "--prefix", str(prefix)], cwd=ROOT, check=True,
                   env={**os.environ, "CALICO_IPV4POOL_CIDR": "10.7.0.0/16"}, capture_output=True)
    own.mkdir()
    for name in PLUGINS:
        installed = prefix / "opt/cni/bin" / name
        behind = installed.with_name(f"{name}.py")
        shutil.copy2(behind if behind.exists() else installed, own / f"{name}.py")
        shutil.copy2(launcher(), own / name)
        (own / name).chmod(0o755)
    return own


@dataclass
class Threads:
    """Who is in a process: the kernel's ids of its threads."""

    pid: int

    def ids(self) -> set[int]:
        with suppress(FileNotFoundError):
            return {int(name) for name in os.listdir(f"/proc/{self.pid}/task")}
        return set()


def ended(agent: Agent) -> bool:
    return agent.process is not None and agent.process.poll() is not None


def descriptors(pid: int) -> list[str]:
    """Return what the descriptors of a process lead to."""
    found = []
    with suppress(FileNotFoundError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def state(pid: int) -> str:
    """Return R, S, T, t, Z …, empty when there is no such process (proc_pid_stat(5))."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def wait_until(what: Callable[[], Any], seconds: float = START_SECONDS, why: str = "") -> Any:
    """Return the first true answer; fail when there is none in time, which is long."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, why or "it did not happen"
        time.sleep(ANOTHER_ATTEMPT)
    return answer


class Agent:
    """`calico-node` on a socket and queue of the test, in a host's namespace, with what it said."""

    def __init__(self, site: Site, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None,
                 netns: str = "") -> None:
        self.site, self.prefix, self.env = site, tuple(prefix), dict(env or {})
        self.netns = netns or site.machine.host.path
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def launch(self, *options: str) -> subprocess.Popen[bytes]:
        """Begin; what it says goes to the end of the site's log."""
        command = ["nsenter", f"--net={self.netns}", "setpriv", "--pdeathsig", "KILL", *self.prefix,
                   str(TOOLS / "calico-node"), "--socket", str(self.site.socket), "--queue", str(self.site.queue),
                   "--metrics-address", "off", *options]
        env = {"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "PYTHONPATH": str(ROOT), **self.env}
        with self.site.said.open("ab") as said:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=env)
        return self.process

    def start(self, *options: str) -> Agent:
        """Begin, and wait until it serves ADDs."""
        process = self.launch(*options)

        def is_ready() -> bool:
            assert process.poll() is None, self.site.said.read_text(errors="replace")[-2000:]
            with suppress(AgentError, OSError):
                return bool(self.status()["ready"]) and self.status()["pid"] == process.pid
            return False

        wait_until(is_ready, why="the agent did not become ready")
        return self

    def client(self) -> Client:
        return connect(str(self.site.socket), seconds=START_SECONDS)

    def status(self) -> Json:
        with self.client() as client:
            found: Json = json.loads(client.ask(ASK_STATUS).stdout)
            return found

    def served(self, verb: str) -> int:
        """Return how many of a verb it has carried out, with whatever outcome, once it is carrying out none."""
        found: Json = wait_until(lambda: (now := self.status())["inFlight"] == 1 and now)["requests"]
        return sum(count for name, codes in found.items() if name.split()[-1] == verb for count in codes.values())

    def send(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)
        wait_until(lambda: state(self.pid) in ("T", "t", "Z", ""))

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Return the exit code once it has ended."""
        assert self.process
        return self.process.wait(END_SECONDS)

    def stop(self) -> int:
        """End it as systemd would; return its exit code."""
        self.thaw()
        self.send(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        """End it in any way."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def at_rest(self) -> tuple[list[str], int]:
        """Return descriptors and number of threads once neither changes while nothing is asked of it."""
        def look() -> tuple[list[str], int]:
            return sorted(re.sub("[0-9]+", "N", name) for name in descriptors(self.pid)), len(Threads(self.pid).ids())

        before, since = look(), time.monotonic()
        deadline = since + START_SECONDS
        while time.monotonic() < min(deadline, since + 1):
            time.sleep(0.1)
            if (now := look()) != before:
                before, since = now, time.monotonic()
        return before


@dataclass
class Site:
    """A machine whose `calico` is the launcher, and agents on its one socket."""

    machine: Machine
    folder: Path
    agents: list[Agent] = field(default_factory=list)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket, self.queue = self.folder / "run/cni.sock", self.folder / "queue"
        self.said = self.folder / "agent.log"
        self.said.touch()
        self.machine.env |= {"CALICO_CNI_SOCKET": str(self.socket), "CALICO_CNI_QUEUE": str(self.queue)}

    def agent(self, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None, netns: str = "") -> Agent:
        """Return an agent that is yet to be started."""
        self.agents.append(Agent(self, prefix, env, netns))
        return self.agents[-1]

    def close(self) -> None:
        for agent in self.agents:
            agent.close()
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.communicate()
        self.machine.close()

    def start(self, verb: str, pod: Pod, prefix: Sequence[str] = (), plugin: str = "calico",
              env: Mapping[str, str] | None = None, stdin: bool = True, **conf: Any) -> subprocess.Popen[bytes]:
        """Start one launcher; its stdin has been written, or is left open."""
        environment = self.machine.environment(verb, pod.container_id, pod.netns.path, **(env or {}))
        process = subprocess.Popen([*prefix, *self.machine.command(plugin)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        self.children.append(process)
        if stdin:
            self.give(process, **conf)
        return process

    def give(self, process: subprocess.Popen[bytes], **conf: Any) -> None:
        """Write the configuration to a launcher."""
        assert process.stdin
        process.stdin.write(json.dumps(self.machine.conf(**conf)).encode())
        process.stdin.close()
        process.stdin = None

    def finish(self, process: subprocess.Popen[bytes]) -> Answer:
        out, err = process.communicate(timeout=CALL_SECONDS)
        self.children.remove(process)
        return Answer(process.returncode, json.loads(out) if out else None, err.decode())

    def request(self, verb: str, pod: Pod, ifname: str = "eth0", plugin: str = "calico",
                **conf: Any) -> protocol.Request:
        """Return what a launcher would ask."""
        env = self.machine.environment(verb, pod.container_id, pod.netns.path, ifname)
        passed = {name: value for name, value in env.items() if name.startswith(protocol.VARIABLES)}
        where = os.fstat(self.machine.host.fd)
        return protocol.Request(plugin, passed, json.dumps(self.machine.conf(**conf)).encode(), 0,
                                (where.st_dev, where.st_ino), protocol.NEWEST)

    def calicoctl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        config = self.folder / "calicoctl.cfg"
        config.write_text(f"apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\n"
                          f"spec:\n  datastoreType: file\n  datastoreDir: {self.machine.datastore}\n")
        command = [str(TOOLS / "calicoctl"), "-c", str(config), *arguments]
        return self.machine.host.run(*command, input=stdin, env={"PATH": "/usr/bin:/usr/sbin"})

    def whole(self, pod: Pod, **conf: Any) -> None:
        """Require that the pod has what its last ADD said, once, and nothing else has it."""
        assert self.machine.check(pod, **conf).ok == {}
        mine = sorted(address for address, who in held(self.machine.datastore).items() if who == pod.container_id)
        assert mine == sorted(pod.addresses())

    def sound(self) -> None:
        """Require that the store's files agree with each other."""
        found = findings(self.machine.datastore)
        assert found == [], found

    def empty(self) -> None:
        """Require that nothing of any pod is left, nor of a request."""
        left = [*self.machine.left(), *queued(self.queue)]
        assert left == [], left  # kit's own asserts are not explained by pytest
        self.sound()


def queued(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def tracing(agent: Agent, log: Path, *options: str, thread: int = 0) -> subprocess.Popen[bytes]:
    """Trace one thread of the agent, or all of them, from now on."""
    whom = ["-p", str(thread)] if thread else ["-f", "-p", str(agent.pid)]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "strace", "-qq", "-o", str(log), *options, *whom],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    agent.site.children.append(process)
    threads = {thread} if thread else Threads(agent.pid).ids()
    wait_until(lambda: all(_tracer(agent.pid, each) for each in threads), why="strace does not trace")
    return process


def _tracer(pid: int, thread: int) -> int:
    with suppress(FileNotFoundError):
        found = re.search(r"^TracerPid:\s+(\d+)", Path(f"/proc/{pid}/task/{thread}/status").read_text(), re.M)
        return int(found[1]) if found else 0
    return 1


def untraced(process: subprocess.Popen[bytes]) -> None:
    """Have a trace end, if the traced has not."""
    if process.poll() is None:
        process.terminate()
    process.wait(END_SECONDS)


@contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Let this process have so many descriptors while the body runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count) if hard < 0 else min(max(soft, count), hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def silent(path: Path) -> socket.socket:
    """Return a connection that says nothing."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    patience = struct.pack("ll", int(START_SECONDS), 0)  # a Python timeout would not wait for a place in the backlog
    found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    try:
        found.connect(str(path))
    except BaseException:
        found.close()
        raise
    found.settimeout(START_SECONDS)
    return found
