"""What the tests of the launcher share: its builds, an agent that does as it is told, and a plugin that tells."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calico_node import protocol
from calico_node.protocol import Request

SOURCE = Path(__file__).parents[2] / "launcher" / "calico.c"
CC = shutil.which("cc") or "cc"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
BUILDS = {
    "static": ["-Os", "-static", "-s", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"],
    "sanitized": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
HURRY = ["-DDEADLINE_MS=1000"]
HURRIED_WRITE = ["-DDEADLINE_MS=5000"]  # a fifth of it is for writing the answer
# What a sanitizer finds ends the process with a code that nothing else has.
SANITIZERS = {"ASAN_OPTIONS": "exitcode=98", "UBSAN_OPTIONS": "exitcode=98:print_stacktrace=1"}
PATIENCE = 60.0  # seconds; nothing here takes that long

# A plugin that writes down how it was started, and answers with its name.
PLUGIN = """\
#!/usr/bin/python3 -IS
import json, os, sys
def descriptor(fd):
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return [status.st_dev, status.st_ino]
facts = {"arguments": sys.argv[1:], "open": [fd for fd in range(3) if descriptor(fd)], "file": descriptor(0)}
facts["others"] = len([fd for fd in range(3, 99) if descriptor(fd)])
facts["env"] = {os.fsencode(name).hex(): os.fsencode(value).hex() for name, value in os.environ.items()}
try:
    facts["offset"] = os.lseek(0, 0, os.SEEK_CUR)
except OSError:
    facts["offset"] = None
facts["stdin"] = sys.stdin.buffer.read().hex() if sys.stdin else None
with open(__file__ + ".facts", "w") as file:
    json.dump(facts, file)
name = os.path.basename(__file__)
if sys.stdout:
    print("answer of", name, flush=True)
os._exit(7)
"""


def build(to: Path, *flags: str) -> Path:
    """Compile the launcher with these flags."""
    subprocess.run([CC, *STRICT, *flags, str(SOURCE), "-o", str(to)], check=True, timeout=PATIENCE)
    return to


@dataclass
class Line:
    """One connection of a launcher to the agent."""

    socket: socket.socket
    descriptors: list[int] = field(default_factory=list)
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    _inbox: protocol.Inbox = field(default_factory=protocol.Inbox)

    def greet(self, data: bytes = protocol.greeting()) -> None:
        """Say what an agent says first."""
        self.socket.sendall(data)

    def request(self) -> Request:
        """Read the request, to its end."""
        while not any(kind == protocol.END for kind, _ in self.frames):
            if not self._read():
                raise AssertionError("the launcher hung up within its request")
        return protocol.request_of(self.frames)

    def say(self, kind: int, payload: bytes = b"") -> None:
        """Send a frame."""
        self.socket.sendall(protocol.frame(kind, payload))

    def result(self, code: int = 0, stdout: bytes = b"") -> None:
        """Answer."""
        self.socket.sendall(protocol.result(code, stdout))

    def is_taken(self) -> bool:
        """Wait for the end of the connection; tell whether TAKEN came before."""
        with suppress(ConnectionResetError):
            while self._read():
                pass
        return any(kind == protocol.TAKEN for kind, _ in self.frames)

    def _read(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, 8)
        self.descriptors += descriptors
        self.frames += self._inbox.feed(data)
        return bool(data)


Script = Callable[[Line], Any]


@dataclass
class Agent:
    """An agent: each connection is one script's, in turn; the last one's again when there are more."""

    scripts: list[Script]
    lines: list[Line] = field(default_factory=list)
    said: list[Any] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)


@contextmanager
def agent(path: Path, *scripts: Script) -> Iterator[Agent]:
    """Listen there; what a script returns is in `said`, in turn. Raises what a script raised."""
    told = Agent(list(scripts))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener, told))
        thread.start()
        try:
            yield told
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
            path.unlink()
    for line in told.lines:
        for descriptor in line.descriptors:
            os.close(descriptor)
    if told.failures:
        raise told.failures[0]


def _serve(listener: socket.socket, told: Agent) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.settimeout(PATIENCE)
        with connection:
            told.lines.append(Line(connection))
            script = told.scripts[min(len(told.lines), len(told.scripts)) - 1]
            try:
                told.said.append(script(told.lines[-1]))
            except BaseException as error:
                told.failures.append(error)


@dataclass
class Host:
    """A bin directory with the launcher under both names, the plugin beside it, and a runtime's call."""

    root: Path
    launcher: Path
    command: str = "ADD"
    name: str = "calico"
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Install."""
        self.bin.mkdir()
        for name in ("calico", "calico-ipam"):
            shutil.copy(self.launcher, self.bin / name)
            (self.bin / f"{name}.py").write_text(PLUGIN)
            (self.bin / f"{name}.py").chmod(0o755)

    @property
    def bin(self) -> Path:
        """Where the executables are."""
        return self.root / "bin"

    @property
    def socket(self) -> Path:
        """Where the agent listens."""
        return self.root / "cni.sock"

    @property
    def queue(self) -> Path:
        """Where DELs wait."""
        return self.root / "var/queue"

    @property
    def env(self) -> dict[str, str]:
        """The environment of a call."""
        places = {"CALICO_CNI_SOCKET": str(self.socket), "CALICO_CNI_QUEUE": str(self.queue)}
        call = {"CNI_COMMAND": self.command, "CNI_CONTAINERID": "c0ffee", "CNI_IFNAME": "eth0"}
        return {**places, **call, "PATH": "/usr/bin:/bin", **SANITIZERS, **self.more}

    @property
    def executable(self) -> Path:
        """The launcher, as it is called."""
        return self.bin / self.name

    def without_python(self) -> None:
        """Take the Python plugin away."""
        for path in self.bin.glob("*.py"):
            path.unlink()

    def run(self, stdin: Any = b"{}", *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Call the launcher; stdin is bytes, or a file."""
        source = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": self.env, **source, **options}
        done = subprocess.run([self.executable, *arguments], timeout=PATIENCE, check=False, **options)
        assert done.returncode >= 0 and done.returncode != 98, done
        return done

    def shell(self, redirections: str, stdin: bytes = b"{}") -> subprocess.CompletedProcess[bytes]:
        """Call the launcher with redirections of a shell, `>&-` say."""
        done = subprocess.run(["/bin/sh", "-c", f'exec "$0" {redirections}', self.executable], env=self.env,
                              input=stdin, capture_output=True, timeout=PATIENCE, check=False)
        assert done.returncode >= 0 and done.returncode != 98, done
        return done

    @property
    def facts(self) -> Mapping[str, Any] | None:
        """How the Python plugin was started; None when it was not."""
        path = self.bin / f"{self.name}.py.facts"
        if not path.exists():
            return None
        facts: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        env = {bytes.fromhex(name): bytes.fromhex(value) for name, value in facts["env"].items()}
        stdin = None if facts["stdin"] is None else bytes.fromhex(facts["stdin"])
        return {**facts, "env": env, "stdin": stdin, "is_lost": env.get(b"CALICO_AGENT_LOST") == b"1"}
