"""The three ways in which a verb is carried out, each behind the same executables (docs/testing.md).

python: the Python plugin alone; agent: launcher and agent; killed: launcher, and an agent that is killed at random.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from calico_node.client import AgentError, connect

ROOT = Path(__file__).parents[1]
PYTHON, AGENT, KILLED = WAYS = ("python", "agent", "killed")
PLUGINS = ("calico", "calico-ipam")
LIVES = (0.03, 0.3)  # how long an agent lives in the way `killed`, in seconds, between these
START_SECONDS = 60.0

# What the plugin behind a launcher does first: note that it was needed, and whether an agent had died before.
NOTE = "open({path!r}, 'ab', 0).write(b'L' if os.environ.get('CALICO_AGENT_LOST') else b'-')\n"


def put_launcher(launcher: Path, installed: Path) -> Path:
    """Return the installed executables with the launcher in front of each, in a folder beside theirs."""
    own = installed.with_name(f"{installed.name}-launched")
    if own.exists():
        return own
    half = own.with_suffix(".half")
    shutil.copytree(installed, half, symlinks=True)
    for name in PLUGINS:
        lines = (half / name).read_text().splitlines(keepends=True)
        lines.insert(lines.index(next(line for line in lines if line.startswith("from "))),
                     NOTE.format(path=str(own / "fallbacks")))
        (half / f"{name}.py").write_text("".join(lines))
        (half / f"{name}.py").chmod(0o755)
        (half / name).unlink()
        shutil.copy2(launcher, half / name)
    (half / "fallbacks").touch()
    return half.rename(own)


def build_launcher(folder: Path) -> Path:
    """Compile the launcher; without a compiler, the one that is there for this machine. Raises FileNotFoundError."""
    built = folder / "calico"
    source, compiler = ROOT / "launcher/calico.c", shutil.which("cc")
    if compiler:
        subprocess.run([compiler, "-std=c11", "-Os", "-static", "-o", str(built), str(source)], check=True)
    else:
        arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        shutil.copy2(ROOT / f"launcher/bin/calico-{arch}", built)
    built.chmod(0o755)
    return built


class Nursery:
    """Where agents come from (tests/nursery.py)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen([sys.executable, str(ROOT / "tests/nursery.py")], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True, cwd=ROOT,
                                         env={**os.environ, "PYTHONPATH": str(ROOT)})

    def close(self) -> None:
        """End it, and all agents with it."""
        self._process.kill()
        self._process.communicate()

    def ask(self, **request: Any) -> int:
        """Return the number that a request is answered with."""
        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            (answer,) = json.loads(self._process.stdout.readline()).values()
        return int(answer)


class Agent:
    """`calico-node` in a network namespace, with socket, queue and log in a folder of the test's."""

    def __init__(self, nursery: Nursery, netns: str, folder: Path) -> None:
        self._nursery, self._netns, self._folder = nursery, netns, folder
        self.socket, self.queue, self.log = folder / "run/cni.sock", folder / "queue", folder / "agent.log"
        self._pid = 0

    @property
    def env(self) -> dict[str, str]:
        """What a launcher must be told to find it."""
        return {"CALICO_CNI_SOCKET": str(self.socket), "CALICO_CNI_QUEUE": str(self.queue)}

    def start(self) -> None:
        arguments = ["--socket", str(self.socket), "--queue", str(self.queue), "--metrics-address", "off"]
        self._pid = self._nursery.ask(netns=self._netns, env={"PATH": "/usr/bin:/usr/sbin"}, arguments=arguments,
                                      log=str(self.log))

    def end(self, number: int) -> int:
        """Send it a signal; return its exit code once it has ended."""
        pid, self._pid = self._pid, 0
        return self._nursery.ask(pid=pid, signal=number) if pid else 0

    def await_greeting(self) -> None:
        """Wait until it serves."""
        deadline = threading.Event()
        timer = threading.Timer(START_SECONDS, deadline.set)
        timer.start()
        try:
            while not deadline.wait(0.005):
                with suppress(AgentError, OSError):
                    connect(str(self.socket)).close()
                    return
        finally:
            timer.cancel()
        raise AssertionError(f"no agent: {self.log.read_text() if self.log.exists() else 'no log'}")


class Way:
    """How the verbs of one test are carried out; this one: by the Python plugin alone."""

    name = PYTHON

    def bin_dir(self, installed: Path) -> Path:
        """Return the folder of the executables, after those that install-cni has put into a folder."""
        return installed

    @contextmanager
    def serving(self, netns: str, folder: Path) -> Iterator[Mapping[str, str]]:
        """Have what this way needs in a host's namespace; yields variables for all that runs there."""
        yield {}


class WithAgent(Way):
    """Launcher and agent. An agent that is told to stop must end well."""

    name = AGENT

    def __init__(self, launcher: Path, nursery: Nursery) -> None:
        self._launcher, self._nursery = launcher, nursery

    def bin_dir(self, installed: Path) -> Path:
        return put_launcher(self._launcher, installed)

    @contextmanager
    def serving(self, netns: str, folder: Path) -> Iterator[Mapping[str, str]]:
        held = os.open(netns, os.O_RDONLY)  # whoever made it may end before the agent
        agent = Agent(self._nursery, f"/proc/{os.getpid()}/fd/{held}", folder / self.name)
        agent.log.parent.mkdir()
        try:
            agent.start()
            agent.await_greeting()
            with self._meanwhile(agent):
                yield agent.env
            code = agent.end(signal.SIGTERM)
        finally:
            agent.end(signal.SIGKILL)
            os.close(held)
        self._look_back(agent, code)

    @contextmanager
    def _meanwhile(self, agent: Agent) -> Iterator[None]:
        yield

    def _look_back(self, agent: Agent, code: int) -> None:
        """See that the agent left nothing but its lock."""
        said = agent.log.read_text(errors="replace")
        assert code == 0, f"the agent ended with {code}: {said[-4000:]}"
        assert "\nTraceback" not in said, said[-8000:]
        assert not agent.queue.exists() or not list(agent.queue.iterdir())
        assert not agent.socket.exists()


class Killed(WithAgent):
    """Launcher, and an agent that is killed at random and begins again at once."""

    name = KILLED
    kills = 0  # of all tests

    def __init__(self, launcher: Path, nursery: Nursery, seed: str, lives: tuple[float, float] = LIVES) -> None:
        super().__init__(launcher, nursery)
        self._dice, self.lives = random.Random(seed), lives

    @contextmanager
    def _meanwhile(self, agent: Agent) -> Iterator[None]:
        stop = threading.Event()
        killer = threading.Thread(target=self._kill, args=(agent, stop))
        killer.start()
        try:
            yield
        finally:
            stop.set()
            killer.join()
        agent.await_greeting()

    def _kill(self, agent: Agent, stop: threading.Event) -> None:
        while not stop.wait(self._dice.uniform(*self.lives)):
            agent.end(signal.SIGKILL)
            agent.start()
            Killed.kills += 1
