"""The launcher, built with sanitizers, against agents that say anything and environments that hold anything.

LAUNCHER_FUZZ_SECONDS (default 20) is how long it goes on, LAUNCHER_FUZZ_SEED where it begins (docs/testing.md).
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from calico_node import protocol

from .launcher_kit import BUILDS, PATIENCE, SANITIZERS, Agent, Line, agent, build

SECONDS = float(os.environ.get("LAUNCHER_FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("LAUNCHER_FUZZ_SEED", "1"))
FELL_BACK = (77, b"fallen back\n")
SEEDS = (
    protocol.greeting() + protocol.frame(protocol.ALIVE) * 3 + protocol.result(0, b'{"cniVersion":"1.1.0"}\n'),
    protocol.greeting() + protocol.frame(99, b"x" * 40) + protocol.result(1, b"error\n"),
    protocol.greeting() + protocol.frame(protocol.ALIVE) + protocol.frame(protocol.DECLINED, b"stopping"),
    protocol.GREETING.pack(protocol.MAGIC, 1, 3) + protocol.result(300, b"") + protocol.frame(protocol.ALIVE),
)
NUMBERS = (0, 1, 3, 4, 5, 255, 256, 4096, 1 << 16, 64 << 20, (64 << 20) + 1, 1 << 31, (1 << 32) - 1)
WORDS = (b"", b".", b"..", b"/", b"eth0", b"a/b", b"a b", b"c0ffee", b"x" * 16, b"x" * 231, b"\xff", b"\n", b"%s", b'"')

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler (apt-get install gcc libc6-dev)")


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sanitized build."""
    return build(tmp_path_factory.mktemp("fuzz") / "calico", *BUILDS["sanitized"])


def mutated(dice: random.Random, data: bytes) -> bytes:
    """Change a few things in a stream of bytes."""
    stream = bytearray(data)
    for _ in range(dice.choice((0, 1, 1, 2, 4))):
        at = dice.randrange(len(stream) + 1)
        match dice.randrange(6):
            case 0:
                stream[at:at + 1] = bytes([dice.randrange(256)])
            case 1:
                del stream[at:]
            case 2:
                del stream[at:at + dice.randrange(1, 9)]
            case 3:
                stream[at:at] = dice.randbytes(dice.randrange(1, 20))
            case 4:
                at -= at % 4
                stream[at:at + 4] = dice.choice(NUMBERS).to_bytes(4, "little")
            case _:
                stream += stream[at:]
    return bytes(stream)


def expected(stream: bytes) -> tuple[int, bytes]:
    """What the launcher makes of what an agent says, by the protocol's Python side: exit code and stdout."""
    try:
        if protocol.version_of(stream[:16]) is None:
            return FELL_BACK
        for kind, payload in protocol.Inbox(1 << 62, 1 << 62).feed(stream[16:]):
            if len(payload) > protocol.MOST_BYTES or kind == protocol.DECLINED:
                break
            if kind == protocol.RESULT:
                if len(payload) < 4:
                    continue
                code = protocol.NUMBER.unpack(payload[:4])[0]
                return code if code < 256 else 1, payload[4:]
    except protocol.ProtocolError:
        pass
    return FELL_BACK


def test_agents_that_say_anything(launcher: Path, tmp_path: Path) -> None:
    """Answer or fall-back, as the contract has it, and nothing that a sanitizer finds."""
    dice, place, tries = random.Random(SEED), tmp_path / "sock", 0
    plugin = tmp_path / "plugin"
    plugin.write_text("#!/bin/sh\necho fallen back\nexit 77\n")
    plugin.chmod(0o755)
    env = {"CNI_COMMAND": "CHECK", "CALICO_CNI_SOCKET": str(place), "CALICO_PYTHON_PLUGIN": str(plugin), **SANITIZERS}
    stream = b""

    def says(line: Line) -> None:
        line.socket.sendall(stream)
        line.socket.shutdown(socket.SHUT_WR)
        line.is_taken()

    until = time.monotonic() + SECONDS / 2
    with agent(place, says) as told:
        while time.monotonic() < until:
            stream = mutated(dice, dice.choice(SEEDS))
            done = subprocess.run([launcher], env=env, input=b"{}", capture_output=True, timeout=PATIENCE, check=False)
            assert (done.returncode, done.stdout) == expected(stream), (tries, stream, done)
            tries += 1
            forget_broken_pipes(told)
    assert tries
    print(f"{tries} streams")


def forget_broken_pipes(told: Agent) -> None:
    """A launcher that has enough hangs up while the agent still talks."""
    told.failures[:] = [error for error in told.failures if not isinstance(error, ConnectionError)]


def test_environments_that_hold_anything(launcher: Path, tmp_path: Path) -> None:
    """A DEL for the queue is one file in it, or an error and no file, and nothing anywhere else."""
    dice, tries = random.Random(SEED), 0
    queue = tmp_path / "queue"
    until = time.monotonic() + SECONDS / 2
    while time.monotonic() < until:
        container_id, ifname, netns, more = (
            mutated(dice, dice.choice(WORDS)).replace(b"\0", b"") for _ in range(4)
        )
        env = {b"CNI_COMMAND": b"DEL", b"CNI_CONTAINERID": container_id, b"CNI_IFNAME": ifname, b"CNI_NETNS": netns,
               b"CALICO_CNI_SOCKET": b"/nonexistent", b"CALICO_CNI_QUEUE": os.fsencode(queue), b"CALICO_X" + more: more,
               **{os.fsencode(name): os.fsencode(value) for name, value in SANITIZERS.items()}}
        env = {name.replace(b"=", b""): value for name, value in env.items()}
        done = subprocess.run([launcher], env=env, input=dice.randbytes(dice.randrange(50)), capture_output=True,
                              timeout=PATIENCE, check=False, cwd=tmp_path)
        files = sorted(os.listdir(queue)) if queue.exists() else []
        told = (tries, container_id, ifname, done, files)
        if container_id and ifname:
            assert (done.returncode, done.stdout, len(files)) == (0, b"", 1), told
            protocol.request_of(list(protocol.Inbox().feed((queue / files[0]).read_bytes())))
            (queue / files[0]).unlink()
        else:
            assert (done.returncode, files) == (1, []), told
        assert sorted(os.listdir(tmp_path)) in ([], ["queue"]), told
        tries += 1
    assert tries
    print(f"{tries} environments")
