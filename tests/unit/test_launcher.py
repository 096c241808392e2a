"""The native launcher beside an agent that does as it is told: docs/agent-protocol.md, line by line, for each build."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from calico_node import protocol
from cni_calico.__main__ import CALICO
from cni_calico.skel import run as run_skel

from .launcher_kit import BUILDS, HURRIED_WRITE, HURRY, PATIENCE, Host, Line, agent, build

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler (apt-get install gcc libc6-dev)")
BIG = bytes(range(256)) * (8 << 11)  # 4 MiB, more than any socket buffer holds


@pytest.fixture(scope="module", params=BUILDS)
def flavour(request: pytest.FixtureRequest) -> str:
    """Each build."""
    return str(request.param)


@pytest.fixture(scope="module")
def launcher(flavour: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher."""
    return build(tmp_path_factory.mktemp("launcher") / "launcher", *BUILDS[flavour])


@pytest.fixture(scope="module")
def hasty(flavour: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher, with a deadline of one second."""
    return build(tmp_path_factory.mktemp("hasty") / "launcher", *BUILDS[flavour], *HURRY)


@pytest.fixture
def host(tmp_path: Path, launcher: Path) -> Host:
    """A host where it is installed."""
    return Host(tmp_path, launcher)


def served(line: Line, code: int = 0, stdout: bytes = b"done\n") -> bool:
    """Be a good agent; return whether the answer was taken."""
    line.greet()
    line.request()
    line.say(protocol.ALIVE)
    line.result(code, stdout)
    return line.is_taken()


def error_of(stdout: bytes) -> int:
    """The code in an error, its form looked at."""
    assert stdout.endswith(b"}\n") and stdout.count(b"\n") == 1
    error = json.loads(stdout)
    assert list(error) == ["cniVersion", "code", "msg", "details"]
    assert json.dumps(error, separators=(",", ":")).encode() + b"\n" == stdout
    assert error["cniVersion"] == "1.1.0"
    assert "no such file" not in stdout.decode().lower() and "not found" not in stdout.decode()  # rule D8
    return int(error["code"])


# The agent answers.

@pytest.mark.parametrize("name", ["calico", "calico-ipam"])
def test_the_request(name: str, host: Host) -> None:
    """Name, environment, stdin and network namespace of the launcher arrive, and nothing else of the environment."""
    host.name, host.more = name, {"CALICO_X": "1=2", "CNIX": "no", "PYTHONPATH": "no", "XCNI_": "no", "CNI_ARGS": ""}
    with agent(host.socket, served) as told:
        done = host.run(b'{"name": "net"}')
    assert (done.returncode, done.stdout, done.stderr, told.said) == (0, b"done\n", b"", [True])
    request = protocol.request_of(told.lines[0].frames)
    assert request.plugin == name
    assert request.env == {key: value for key, value in host.env.items() if key.startswith(("CNI_", "CALICO_"))}
    assert (request.stdin, request.netns_errno, request.version) == (b'{"name": "net"}', 0, 1)
    own = os.stat("/proc/self/ns/net")
    assert request.host_netns == (own.st_dev, own.st_ino)
    assert [kind for kind, _ in told.lines[0].frames][-2:] == [protocol.END, protocol.TAKEN]
    assert host.facts is None


def test_environment_that_is_not_text(host: Host) -> None:
    """Bytes are passed on as they are; the mark of a lost agent is the launcher's own to set."""
    environment = {**{os.fsencode(k): os.fsencode(v) for k, v in host.env.items()}, b"CNI_ARGS": b"\xff\"\n",
                   b"CALICO_AGENT_LOST": b"1"}
    with agent(host.socket, served) as told:
        assert host.run(env=environment).returncode == 0
    payloads = [payload for kind, payload in told.lines[0].frames if kind == protocol.ENV]
    assert b"CNI_ARGS=\xff\"\n" in payloads
    assert not [payload for payload in payloads if payload.startswith(b"CALICO_AGENT_LOST")]


@pytest.mark.parametrize("size", [0, 1, 65536, len(BIG)])
def test_sizes(size: int, host: Host) -> None:
    """Stdin and answer are whole, whatever their size."""
    with agent(host.socket, lambda line: served(line, 0, BIG[:size])) as told:
        done = host.run(BIG[:size])
    assert (done.returncode, done.stdout == BIG[:size], told.said) == (0, True, [True])
    assert protocol.request_of(told.lines[0].frames).stdin == BIG[:size]


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (255, 255), (256, 1), (1 << 31, 1)])
def test_exit_code(code: int, status: int, host: Host) -> None:
    """It is the agent's; what is no exit code is not taken for success."""
    with agent(host.socket, lambda line: served(line, code)):
        assert host.run().returncode == status


def test_stdin_in_pieces(host: Host) -> None:
    """The writer may be slow."""
    with agent(host.socket, served) as told:
        child = subprocess.Popen([host.executable], env=host.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin
        for piece in (b"a", b"b" * 5000, b"c"):
            time.sleep(0.1)
            child.stdin.write(piece)
            child.stdin.flush()
        assert child.communicate(timeout=PATIENCE)[0] == b"done\n"
    assert protocol.request_of(told.lines[0].frames).stdin == b"a" + b"b" * 5000 + b"c"


def test_netns_is_passed(host: Host, tmp_path: Path) -> None:
    """The descriptor is of the very file, and of no other."""
    (tmp_path / "netns").write_text("this one")
    host.more = {"CNI_NETNS": str(tmp_path / "netns")}
    with agent(host.socket, lambda line: (served(line), *map(os.fstat, line.descriptors),
                                          fcntl.fcntl(line.descriptors[0], fcntl.F_GETFL))) as told:
        assert host.run(BIG).returncode == 0
    taken, status, flags = told.said[0]
    assert taken and status.st_ino == (tmp_path / "netns").stat().st_ino
    assert flags & os.O_ACCMODE == os.O_RDONLY and flags & os.O_NONBLOCK


def test_netns_that_would_block(host: Host, tmp_path: Path) -> None:
    """A pipe that nobody writes to does not hold the launcher up."""
    os.mkfifo(tmp_path / "fifo")
    host.more = {"CNI_NETNS": str(tmp_path / "fifo")}
    with agent(host.socket, served) as told:
        assert host.run().returncode == 0
    assert len(told.lines[0].descriptors) == 1


@pytest.mark.parametrize(("path", "errno"), [("missing", 2), ("bin/calico/x", 20), ("", 0)])
def test_netns_that_cannot_be_opened(path: str, errno: int, host: Host) -> None:
    """The agent hears why; of one that is not set it hears nothing."""
    host.more = {"CNI_NETNS": path and str(host.root / path)}
    with agent(host.socket, served) as told:
        assert host.run().returncode == 0
    assert protocol.request_of(told.lines[0].frames).netns_errno == errno
    assert told.lines[0].descriptors == []


def test_frames_that_mean_nothing_yet(host: Host) -> None:
    """A newer agent may say more, in pieces of any size."""
    def talkative(line: Line) -> bool:
        line.greet(protocol.GREETING.pack(protocol.MAGIC, 0, 99))
        line.request()
        answer = protocol.frame(99, BIG) + protocol.frame(20) + protocol.frame(protocol.ALIVE, b"more")
        for byte in protocol.frame(protocol.ALIVE):
            line.socket.sendall(bytes([byte]))
            time.sleep(0.01)
        line.socket.sendall(answer + protocol.result(0, b"done\n"))
        return line.is_taken()

    with agent(host.socket, talkative) as told:
        assert host.run().stdout == b"done\n"
    assert told.said == [True] and protocol.request_of(told.lines[0].frames).version == 1


def test_patience_with_an_agent_that_works(host: Host) -> None:
    """ALIVE keeps the launcher waiting beyond two seconds."""
    def slow(line: Line) -> bool:
        line.greet()
        line.request()
        for _ in range(6):
            line.say(protocol.ALIVE)
            time.sleep(0.5)
        line.result(0, b"done\n")
        return line.is_taken()

    with agent(host.socket, slow) as told:
        assert host.run().stdout == b"done\n"
    assert told.said == [True]


# Who takes the answer.

@pytest.mark.parametrize("redirections", [">&-", "<&0 >&- 2>&-", ">/dev/full"])
def test_nobody_takes_the_answer(redirections: str, host: Host) -> None:
    """It is not TAKEN, and does not get anywhere else: the socket never becomes stdout."""
    with agent(host.socket, served) as told:
        assert host.shell(redirections).returncode == 1
    assert told.said == [False]
    assert host.facts is None


def test_reader_that_has_gone(host: Host) -> None:
    """A broken pipe is an exit code, not a signal, and not TAKEN."""
    reading, writing = os.pipe()
    os.close(reading)
    with agent(host.socket, served) as told:
        assert host.run(stdout=writing).returncode == 1
    os.close(writing)
    assert told.said == [False]


def test_nothing_to_take(host: Host) -> None:
    """The empty answer of a DEL is taken whatever stdout is."""
    with agent(host.socket, lambda line: served(line, 0, b"")) as told:
        assert host.shell(">&-").returncode == 0
    assert told.said == [True]


def test_killed_launcher(host: Host) -> None:
    """The agent sees that the answer was not taken."""
    def kills(line: Line) -> bool:
        line.greet()
        line.request()
        child.kill()
        child.wait()
        with suppress(BrokenPipeError):
            line.result(0, b"done\n")
        return line.is_taken()

    with agent(host.socket, kills) as told:
        child = subprocess.Popen([host.executable], env=host.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        child.wait(PATIENCE)
    assert told.said == [False]


# Falling back.

def early(greeting: bytes) -> Callable[[Line], None]:
    """An agent that says this and hangs up."""
    return lambda line: line.greet(greeting)


def quiet(line: Line) -> bool:
    """Say nothing until the launcher hangs up."""
    return line.is_taken()


def greets(line: Line, greeting: bytes = protocol.greeting()) -> bool:
    """Greet, and get no request."""
    line.greet(greeting)
    return line.is_taken()


NEWER = protocol.GREETING.pack(protocol.MAGIC, 2, 9)
OLDER = protocol.GREETING.pack(protocol.MAGIC, 0, 0)
UNFIT: dict[str, Callable[[Line], object]] = {
    "newer": early(NEWER + protocol.result(0, b"no\n")),
    "older": early(OLDER + protocol.result(0, b"no\n")),
    "garbage": early(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "half a greeting": early(protocol.greeting()[:15]),
    "nothing": early(b""),
    "no greeting": quiet,
    "half, then nothing": lambda line: greets(line, b"cni-"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_agent_that_does_not_greet(kind: str, host: Host, tmp_path: Path) -> None:
    """The plugin gets stdin as nobody has touched it, and arguments, environment and answer are its own."""
    (tmp_path / "stdin").write_bytes(b"config")
    host.more = {"CALICO_AGENT_LOST": "1", "OTHER": "kept"}
    with agent(host.socket, UNFIT[kind]), (tmp_path / "stdin").open("rb") as stdin:
        done = host.run(stdin)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"answer of calico.py\n", b"")
    facts = host.facts
    assert facts and not facts["is_lost"] and b"CALICO_AGENT_LOST" not in facts["env"]
    assert facts["env"][b"OTHER"] == b"kept"
    assert (facts["stdin"], facts["offset"], facts["others"]) == (b"config", 0, 0)
    assert facts["file"][1] == (tmp_path / "stdin").stat().st_ino


def test_late_greeting(host: Host) -> None:
    """Within two seconds it is in time."""
    def late(line: Line) -> bool:
        time.sleep(1)
        return served(line)

    with agent(host.socket, late) as told:
        assert host.run().stdout == b"done\n"
    assert told.said == [True]


def absent(host: Host) -> Iterator[None]:
    """No socket at all."""
    yield


def refused(host: Host) -> Iterator[None]:
    """A socket that nobody listens on any more."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(host.socket))
    yield


def crowded(host: Host) -> Iterator[None]:
    """A frozen agent whose backlog is full."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.socket))
        listener.listen(0)
        waiting = []
        with suppress(BlockingIOError):
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(str(host.socket))
        yield
        for each in waiting:
            each.close()


def remote(host: Host) -> Iterator[None]:
    """A path too long for a socket."""
    host.more = {"CALICO_CNI_SOCKET": "/" + "x" * 5000}
    yield


STRANGER = f"""\
import contextlib, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(1, flush=True)
while True:
    connection, _ = listener.accept()
    with contextlib.suppress(OSError):
        connection.send({protocol.greeting()!r})
    time.sleep(0.1)
    connection.close()
"""


def another_user(host: Host) -> Iterator[None]:
    """A socket of somebody who is neither root nor us."""
    if os.geteuid():
        pytest.skip("needs root")
    for folder in (host.root, *host.root.parents[:3]):
        folder.chmod(0o755)
    (host.root / "theirs").mkdir()
    os.chown(host.root / "theirs", 65534, 65534)
    host.more = {"CALICO_CNI_SOCKET": str(host.root / "theirs/sock")}
    child = subprocess.Popen(["/usr/bin/python3", "-c", STRANGER, str(host.root / "theirs/sock")], user=65534,
                             group=65534, extra_groups=[], stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"1\n"
    yield
    child.kill()
    child.communicate()


@pytest.mark.parametrize("situation", [absent, refused, crowded, remote, another_user])
def test_no_agent(situation: Callable[[Host], Iterator[None]], host: Host) -> None:
    """The plugin is started as if it had been called itself."""
    steps = situation(host)
    next(steps)
    for name in ("calico", "calico-ipam"):
        host.name = name
        done = host.run(b"config")
        assert (done.returncode, done.stdout) == (7, f"answer of {name}.py\n".encode())
        facts = host.facts
        assert facts and facts["stdin"] == b"config" and not facts["is_lost"] and facts["others"] == 0
    next(steps, None)


def test_backlog_that_gets_room(host: Host) -> None:
    """A full backlog is tried again."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.socket))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(host.socket))
            child = subprocess.Popen([host.executable], env=host.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            time.sleep(0.5)
            listener.settimeout(PATIENCE)
            listener.accept()[0].close()
            connection, _ = listener.accept()
            with connection:
                assert served(Line(connection))
    assert child.communicate(timeout=PATIENCE)[0] == b"done\n"


def gone(line: Line) -> None:
    """Die with the request in hand."""
    line.greet()
    line.request()


def gone_working(line: Line) -> None:
    """Die at work."""
    gone(line)
    line.say(protocol.ALIVE)


def gone_answering(line: Line) -> None:
    """Die within the answer."""
    gone_working(line)
    line.socket.sendall(protocol.result(0, b"done\n")[:-1])


def silent(line: Line) -> bool:
    """Freeze with the request in hand."""
    gone(line)
    return line.is_taken()


def silent_working(line: Line) -> bool:
    """Freeze at work."""
    gone_working(line)
    return line.is_taken()


def never_reads(line: Line) -> None:
    """Freeze before the request is read."""
    line.greet()
    time.sleep(3)


def babbles(line: Line) -> None:
    """Answer with nonsense."""
    gone(line)
    line.socket.sendall(protocol.HEADER.pack(protocol.RESULT, 1 << 31) + b"x" * 100)


def stammers(line: Line) -> None:
    """Answer with a RESULT that has no exit code."""
    gone(line)
    line.say(protocol.RESULT, b"\0\0\0")


@pytest.mark.parametrize(
    "script", [gone, gone_working, gone_answering, silent, silent_working, never_reads, babbles, stammers]
)
@pytest.mark.parametrize("stdin", [b"config", BIG], ids=["small", "big"])
def test_agent_that_is_lost(script: Callable[[Line], object], stdin: bytes, host: Host) -> None:
    """The plugin gets stdin again, from the beginning, and hears that the agent was lost if that had all of it."""
    if script is never_reads and stdin != BIG:
        pytest.skip("a small request fits the buffers: that is silence")
    with agent(host.socket, script):
        done = host.run(stdin)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"answer of calico.py\n", b"")
    facts = host.facts
    assert facts and facts["is_lost"] == (script is not never_reads)
    assert (facts["stdin"] == stdin, facts["offset"], facts["others"]) == (True, 0, 0)


def declines(line: Line) -> bool:
    """Do not do it."""
    gone(line)
    line.say(protocol.DECLINED, b"the agent is stopping")
    return line.is_taken()


def declines_at_once(line: Line) -> None:
    """Do not do it, whatever it is."""
    line.greet()
    line.say(protocol.DECLINED)


@pytest.mark.parametrize("script", [declines, declines_at_once])
def test_agent_that_declines(script: Callable[[Line], object], host: Host) -> None:
    """The plugin gets stdin again, and nothing has been done that it must take back."""
    host.more = {"CALICO_AGENT_LOST": "1"}
    with agent(host.socket, script):
        assert host.run(b"config").returncode == 7
    facts = host.facts
    assert facts and not facts["is_lost"] and facts["stdin"] == b"config"


def test_refusal_within_the_request(host: Host) -> None:
    """An agent may answer, and hang up, before it has read everything."""
    def refuses(line: Line) -> None:
        line.greet()
        line.result(1, b"too long\n")

    with agent(host.socket, refuses):
        done = host.run(BIG)
    assert (done.returncode, done.stdout) == (1, b"too long\n")


# What else starts the plugin, and how it finds it.

@pytest.mark.parametrize("arguments", [["-v"], ["--help"], ["one", "two words"]])
def test_arguments(arguments: list[str], host: Host) -> None:
    """They are for the plugin, even with CNI_COMMAND set."""
    with agent(host.socket, served) as told:
        assert host.run(b"", *arguments).returncode == 7
    facts = host.facts
    assert facts and facts["arguments"] == arguments and told.lines == []


@pytest.mark.parametrize("command", ["", None])
def test_no_command(command: str | None, host: Host) -> None:
    """The plugin says how it is used."""
    env = {name: value for name, value in host.env.items() if name != "CNI_COMMAND"}
    with agent(host.socket, served) as told:
        assert host.run(env=env if command is None else {**env, "CNI_COMMAND": command}).returncode == 7
    assert told.lines == []


def test_plugin_elsewhere(host: Host) -> None:
    """CALICO_PYTHON_PLUGIN names it."""
    (host.bin / "calico.py").rename(host.root / "elsewhere.py")
    host.more = {"CALICO_PYTHON_PLUGIN": str(host.root / "elsewhere.py")}
    assert host.run().stdout == b"answer of elsewhere.py\n"


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to, lambda path, to: shutil.copy(to, path)])
def test_names(link: Callable[[Path, Path], object], host: Host) -> None:
    """The name that is called counts: of a copy, a hard link, a symbolic link."""
    (host.bin / "calico-ipam").unlink()
    link(host.bin / "calico-ipam", host.bin / "calico")
    host.name = "calico-ipam"
    assert host.run().stdout == b"answer of calico-ipam.py\n"
    with agent(host.socket, served) as told:
        host.run()
    assert protocol.request_of(told.lines[0].frames).plugin == "calico-ipam"


def test_name_by_argument(host: Host) -> None:
    """An executable of another name goes by argv[0]."""
    (host.bin / "calico").rename(host.bin / "launcher")
    with agent(host.socket, served) as told:
        for called in ("/x/calico-ipam", "calico-ipam", "whatever"):
            subprocess.run([called], executable=host.bin / "launcher", env=host.env, stdin=subprocess.DEVNULL,
                           capture_output=True, check=True)
    plugins = [protocol.request_of(line.frames).plugin for line in told.lines]
    assert plugins == ["calico-ipam", "calico-ipam", "calico"]


@pytest.mark.parametrize("redirections", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("script", [early(b""), declines])
def test_closed_descriptors(redirections: str, script: Callable[[Line], object], host: Host) -> None:
    """The plugin sees them closed, as it would have without the launcher, and nothing else is open."""
    closed = {"<": 0, ">": 1, "2": 2}
    with agent(host.socket, script if "<" not in redirections else greets):
        assert host.shell(redirections).returncode == 7
    facts = host.facts
    assert facts and facts["open"] == sorted({0, 1, 2} - {closed[word[0]] for word in redirections.split()})
    assert facts["others"] == 0 and facts["stdin"] == (None if "<" in redirections else b"{}")


@pytest.mark.parametrize("script", [early(b""), gone])
def test_signals_are_as_they_came(script: Callable[[Line], object], host: Host) -> None:
    """Neither ignored nor blocked, or both where they were."""
    plugin = host.root / "signals.sh"
    plugin.write_text("#!/bin/sh\nexec grep -E '^Sig(Blk|Ign)' /proc/self/status\n")
    plugin.chmod(0o755)
    host.more = {"CALICO_PYTHON_PLUGIN": str(plugin)}
    for ignored in (False, True):
        def prepare(ignored: bool = ignored) -> None:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN if ignored else signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1} if ignored else set())

        with agent(host.socket, script):
            told = host.run(b"", preexec_fn=prepare, restore_signals=False).stdout
        assert told == subprocess.run([plugin], preexec_fn=prepare, restore_signals=False, capture_output=True,
                                      check=True).stdout


def test_unreadable_stdin(host: Host) -> None:
    """The plugin says what is wrong with it."""
    folder = os.open("/", os.O_RDONLY)
    with agent(host.socket, greets):
        assert host.run(folder).returncode == 1  # the plugin of these tests dies of it
    os.close(folder)


def test_stdin_without_end(host: Host) -> None:
    """There is a limit."""
    with agent(host.socket, greets), Path("/dev/zero").open("rb") as zeros:
        done = host.run(zeros)
    assert (done.returncode, error_of(done.stdout)) == (1, 5)


# VERSION.

class Answer:
    """A stdout."""

    data = b""

    def write(self, data: bytes, /) -> int:
        """Keep it."""
        self.data += data
        return len(data)


@pytest.mark.parametrize("stdin", [b"", b'{"cniVersion":"1.1.0"}', BIG[:65536]])
def test_version(stdin: bytes, host: Host) -> None:
    """To the byte what the Python plugin says, without agent and plugin."""
    answer = Answer()
    run_skel(CALICO, {"CNI_COMMAND": "VERSION"}, None, answer)
    host.command = "VERSION"
    host.without_python()
    with agent(host.socket, served) as told:
        done = host.run(stdin)
    assert (done.returncode, done.stdout, done.stderr, told.lines) == (0, answer.data, b"", [])
    assert host.shell("<&-").stdout == answer.data
    assert host.shell(">&-").returncode == 1


def test_version_while_stdin_stays_open(host: Host) -> None:
    """Nobody has to close it."""
    host.command = "VERSION"
    reading, writing = os.pipe()
    assert host.run(reading).returncode == 0
    os.close(reading)
    os.close(writing)


# Time is up.

def test_deadline_of_an_agent_at_work(hasty: Path, tmp_path: Path) -> None:
    """Try again, says the launcher, and closes."""
    def endless(line: Line) -> bool:
        line.greet()
        line.request()
        with suppress(BrokenPipeError):
            while True:
                line.say(protocol.ALIVE)
                time.sleep(0.2)
        return line.is_taken()

    host = Host(tmp_path, hasty)
    with agent(host.socket, endless) as told:
        done = host.run()
    assert (done.returncode, error_of(done.stdout), told.said, host.facts) == (1, 11, [False], None)


def test_deadline_of_stdin(hasty: Path, tmp_path: Path) -> None:
    """A runtime that never ends its configuration."""
    host = Host(tmp_path, hasty)
    reading, writing = os.pipe()
    with agent(host.socket, greets):
        done = host.run(reading)
    os.close(reading)
    os.close(writing)
    assert (done.returncode, error_of(done.stdout)) == (1, 11)


@pytest.mark.parametrize("flags", [HURRY, HURRIED_WRITE], ids=["deadline", "time to write"])
def test_runtime_that_does_not_read(flags: list[str], flavour: str, tmp_path: Path) -> None:
    """It has not taken the answer."""
    host = Host(tmp_path, build(tmp_path / "launcher", *BUILDS[flavour], *flags))
    reading, writing = os.pipe()
    with agent(host.socket, lambda line: served(line, 0, BIG)) as told:
        assert host.run(stdout=writing).returncode == 1
    os.close(reading)
    os.close(writing)
    assert told.said == [False]


# No Python on the host.

@pytest.fixture
def bare(host: Host) -> Host:
    """A host without Python, and a DEL for it."""
    host.without_python()
    host.command = "DEL"
    return host


def fnv(*parts: bytes) -> str:
    """FNV-1a of the parts and a zero byte between them."""
    value = 0xCBF29CE484222325
    for byte in b"\0".join(parts):
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{value:016x}"


@pytest.mark.parametrize("command", ["ADD", "CHECK", "GC", "STATUS", "NONSENSE"])
@pytest.mark.parametrize("script", [early(b""), gone, declines])
def test_error_without_python(command: str, script: Callable[[Line], object], bare: Host) -> None:
    """Try again later."""
    bare.command = command
    with agent(bare.socket, script):
        done = bare.run()
    assert (done.returncode, error_of(done.stdout)) == (1, 11)
    assert not bare.queue.exists()


@pytest.mark.parametrize("name", ["calico", "calico-ipam"])
@pytest.mark.parametrize("script", [None, early(b""), gone, silent, declines])
def test_queued(name: str, script: Callable[[Line], object] | None, bare: Host) -> None:
    """The file has the request as the socket carries it, its name tells whose it is, and only root may read it."""
    bare.name, bare.more = name, {"CNI_NETNS": "/nonexistent", "CNI_CONTAINERID": "a_B.c-9", "SECRET": "x"}
    if script:
        with agent(bare.socket, script):
            done = bare.run(b"config", umask=0o777)
    else:
        done = bare.run(b"config", umask=0)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (file,) = bare.queue.iterdir()
    assert file.name == f"{fnv(name.encode(), b'a_B.c-9', b'eth0', b'config')}.del"
    assert (stat.S_IMODE(bare.queue.stat().st_mode), stat.S_IMODE(file.stat().st_mode)) == (0o700, 0o600)
    frames = list(protocol.Inbox().feed(file.read_bytes()))
    assert (frames[0][0], frames[-1][0]) == (protocol.PLUGIN, protocol.END)
    request = protocol.request_of(frames)
    assert (request.plugin, request.stdin, request.netns_errno, request.version) == (name, b"config", 2, 1)
    assert request.env == {key: value for key, value in bare.env.items() if key.startswith(("CNI_", "CALICO_"))}


def test_queued_twice(bare: Host) -> None:
    """One file per attachment and configuration, and nothing half-written."""
    for stdin in (b"one", b"one", b"two"):
        assert bare.run(stdin).returncode == 0
    assert sorted(path.suffix for path in bare.queue.iterdir()) == [".del", ".del"]


def test_queued_at_once(bare: Host) -> None:
    """Launchers side by side do not harm each other's files."""
    children = [subprocess.Popen([bare.executable], env=bare.env, stdin=subprocess.PIPE) for _ in range(20)]
    for child in children:
        child.communicate(BIG[:50000], timeout=PATIENCE)
    assert {child.returncode for child in children} == {0}
    (file,) = bare.queue.iterdir()
    assert protocol.request_of(list(protocol.Inbox().feed(file.read_bytes()))).stdin == BIG[:50000]


def test_queue_is_bounded(bare: Host) -> None:
    """What is in it may be queued again, what is new may not; nor may what is too long."""
    assert bare.run().returncode == 0
    for number in range(4095):
        (bare.queue / f"{number:016x}.del").touch()
    assert bare.run().returncode == 0
    bare.more = {"CNI_CONTAINERID": "another"}
    done = bare.run()
    assert (done.returncode, error_of(done.stdout)) == (1, 11)
    assert len(list(bare.queue.iterdir())) == 4096


def test_request_too_long_for_the_queue(bare: Host) -> None:
    """One MiB."""
    done = bare.run(BIG[: 1 << 20])
    assert (done.returncode, error_of(done.stdout)) == (1, 11)
    assert list(bare.queue.iterdir()) == []


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_IFNAME"])
def test_nobody_s_del(variable: str, bare: Host) -> None:
    """What names no attachment is not queued."""
    bare.more = {variable: ""}
    done = bare.run()
    assert (done.returncode, error_of(done.stdout)) == (1, 4)
    assert not list(bare.root.rglob("*.del"))


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_IFNAME"])
@pytest.mark.parametrize("hostile", ["..", "../../x", "a/b", "-a", "a b", "a\n", "\u00e4", "x" * 5000, '"', "%s%n"])
def test_hostile_identifier(variable: str, hostile: str, bare: Host) -> None:
    """It does not become part of a path; whether it is valid is for the agent to say."""
    bare.more = {variable: hostile}
    assert bare.run().returncode == 0
    (file,) = bare.root.rglob("*.del")
    assert file.parent == bare.queue
    assert re.fullmatch(r"[0-9a-f]{16}\.del", file.name)


@pytest.mark.parametrize("place", ["bin/calico", "bin/calico/below", "x" * 300, "x" * 5000])
def test_queue_that_cannot_be(place: str, bare: Host) -> None:
    """The runtime hears that the DEL was not done."""
    bare.more = {"CALICO_CNI_QUEUE": str(bare.root / place)}
    done = bare.run()
    assert (done.returncode, error_of(done.stdout)) == (1, 11)


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace (apt-get install strace)")
@pytest.mark.parametrize("fault", ["fsync:error=EIO", "renameat:error=EIO", "write:error=ENOSPC:when=1"])
def test_disk_that_fails(fault: str, flavour: str, bare: Host) -> None:
    """A DEL that may not be on the disk is not answered as done, and no half file stays."""
    if flavour == "sanitized":
        pytest.skip("LeakSanitizer and strace do not go together")
    call = ["strace", "-qq", "-o", "/dev/null", "-e", f"inject={fault}", str(bare.executable)]
    done = subprocess.run(call, env=bare.env, input=b"", capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert fault.startswith("write") or error_of(done.stdout) == 11
    assert [path.name for path in bare.queue.iterdir() if path.suffix != ".del"] == []


def test_closed_stdin_of_a_del(bare: Host) -> None:
    """There is nothing to queue."""
    done = bare.shell("<&-")
    assert (done.returncode, error_of(done.stdout)) == (1, 5)


def test_agent_that_has_come_up_meanwhile(bare: Host) -> None:
    """It gets the DEL that it may have missed, and the file goes."""
    with agent(bare.socket, early(b""), lambda line: (len(list(bare.queue.iterdir())), served(line, 0, b""))) as told:
        done = bare.run(b"config")
    assert (done.returncode, done.stdout) == (0, b"")
    assert told.said[1] == (1, True)
    assert protocol.request_of(told.lines[1].frames).stdin == b"config"
    assert list(bare.queue.iterdir()) == []


@pytest.mark.parametrize("second", [early(b""), gone, declines, silent])
def test_agent_that_has_not(second: Callable[[Line], object], bare: Host) -> None:
    """The DEL stays queued, and is answered as done."""
    with agent(bare.socket, early(b""), second):
        done = bare.run()
    assert (done.returncode, done.stdout) == (0, b"")
    assert len(list(bare.queue.iterdir())) == 1


def test_agent_that_fails_meanwhile(bare: Host) -> None:
    """Its error is passed on, and the DEL stays queued."""
    with agent(bare.socket, early(b""), lambda line: served(line, 1, b"error\n")):
        done = bare.run()
    assert (done.returncode, done.stdout) == (1, b"error\n")
    assert len(list(bare.queue.iterdir())) == 1


def test_interpreter_that_is_gone(host: Host) -> None:
    """A plugin whose Python was removed cannot be run either."""
    (host.bin / "calico.py").write_text("#!/nonexistent/python3 -IS\n")
    done = host.run()
    assert (done.returncode, error_of(done.stdout)) == (1, 11)


# The build.

def elf_of(path: Path) -> tuple[int, bool]:
    """The machine that an executable is for, and whether it needs a dynamic linker."""
    image = path.read_bytes()
    machine, = struct.unpack_from("<H", image, 18)
    at, = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    kinds = [struct.unpack_from("<I", image, at + size * number)[0] for number in range(count)]
    assert image[:5] == b"\x7fELF\x02"
    return machine, 3 in kinds  # PT_INTERP


def test_cross_compiled(tmp_path: Path) -> None:
    """For 64-bit ARM: static, stripped, and it answers where there is an emulator."""
    zig = subprocess.run([sys.executable, "-m", "ziglang", "version"], capture_output=True, check=False)
    if zig.returncode:
        pytest.skip("no ziglang here (pip install ziglang)")
    script = Path(__file__).parents[2] / "launcher/build"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run([script, "--arch", "arm64", "--output", tmp_path / "calico"], env={**os.environ, "PATH": path},
                   check=True, timeout=280)
    assert elf_of(tmp_path / "calico") == (183, False)  # EM_AARCH64
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if emulator:
        done = subprocess.run([emulator, tmp_path / "calico"], env={"CNI_COMMAND": "VERSION"}, capture_output=True,
                              stdin=subprocess.DEVNULL, check=True, timeout=PATIENCE)
        assert json.loads(done.stdout)["cniVersion"] == "1.1.0"


def test_built_the_same_twice(tmp_path: Path) -> None:
    """For this machine: static, and byte for byte what it was."""
    script = Path(__file__).parents[2] / "launcher/build"
    for name in ("one", "two"):
        subprocess.run([script, "--output", tmp_path / name], check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert not elf_of(tmp_path / "one")[1]
    for words in (["--arch", "mips"], ["--what"], ["--arch"]):
        assert subprocess.run([script, *words], capture_output=True, check=False).returncode
    assert b"examples:" in subprocess.run([script, "--help"], capture_output=True, check=True).stdout
