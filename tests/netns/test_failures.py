"""Every system call of an ADD fails or kills it once: nothing is lost, nothing is left, nothing is given twice.

strace injects the fault into the real, installed executable; nothing of the plugin is replaced.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .machine import Machine, Pod

DUAL = {"assign_ipv6": "true"}
# The calls by which an ADD changes the kernel and the datastore.
CALLS = ("sendto", "recvfrom", "setns", "rename", "write", "mkdir", "unlink", "flock", "openat")
ADD_SECONDS = 0.08

PYTHON_ONLY = pytest.mark.python_only("strace injects into the system calls of the plugin's own process")
pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


def strace(*options: str) -> tuple[str, ...]:
    return ("strace", "-f", "-qq", *options)


def calls_of_an_add(machine: Machine, tmp_path: Path) -> dict[str, int]:
    """Count the calls of one ADD on a machine as the tests will find it, Python's own start left out."""
    pod, log = machine.pod(), tmp_path / "strace"
    machine.call("ADD", pod, ipam=DUAL, prefix=strace("-o", str(log), "-e", f"trace={','.join(CALLS)}"))
    machine.delete(pod, ipam=DUAL)
    names = re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.M)
    return {name: names.count(name) for name in CALLS}


def first_own(machine: Machine, tmp_path: Path, call: str) -> int:
    """Return which of the calls is the first of the verb itself, after the interpreter and its imports."""
    pod, log = machine.pod(), tmp_path / "strace-order"
    machine.call("ADD", pod, ipam=DUAL, prefix=strace("-o", str(log), "-e", f"trace={call},ioctl"))
    machine.delete(pod, ipam=DUAL)
    before = 0
    for line in log.read_text().splitlines():
        if "NS_GET_NSTYPE" in line:
            return before + 1
        before += f" {call}(" in line
    raise AssertionError(f"no look at the namespace in {log}")


@PYTHON_ONLY
@pytest.mark.parametrize("call", [call for call in CALLS if call != "openat"])
def test_each_call_fails_once(machine: Machine, tmp_path: Path, call: str) -> None:
    """An ADD one of whose calls fails ends with an error and nothing left, or goes on and is whole."""
    neighbour = machine.pod()
    machine.add(neighbour, ipam=DUAL)
    before = machine.left()
    count, failed = calls_of_an_add(machine, tmp_path)[call], 0
    for number in range(first_own(machine, tmp_path, call), count + 1):
        pod = machine.pod()
        inject = strace("-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={number}")
        answer = machine.call("ADD", pod, ipam=DUAL, prefix=inject)
        if answer.code:
            failed += 1
            assert answer.body is None or answer.error["msg"], number  # none where stdout itself failed
            assert answer.body or call == "write", number
            assert machine.veths() == machine.veths()[:1], (number, answer.body)
            assert sorted(machine.left()) == sorted(before), (number, answer.body)
        else:
            pod.results["eth0"] = answer.ok
            assert machine.check(pod, ipam=DUAL).ok == {}
            machine.delete(pod, ipam=DUAL)
        pod.netns.close()
    assert failed or call in ("write", "unlink", "mkdir", "flock", "recvfrom"), f"no {call} of {count} made an ADD fail"
    assert machine.check(neighbour, ipam=DUAL).ok == {}


@PYTHON_ONLY
@pytest.mark.parametrize("call", ["sendto", "rename", "write", "setns", "unlink"])
def test_killed_at_each_call(machine: Machine, tmp_path: Path, call: str) -> None:
    """An ADD killed at any call, at once followed by DEL, leaves nothing, and a new ADD of the same pod works."""
    neighbour = machine.pod()
    machine.add(neighbour, ipam=DUAL)
    before = machine.left()
    count = calls_of_an_add(machine, tmp_path)[call]
    for number in range(first_own(machine, tmp_path, call), count + 1):
        pod = machine.pod()
        inject = strace("-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        killed = subprocess.run([*inject, *machine.command()], input=json.dumps(machine.conf(ipam=DUAL)), text=True,
                                env=machine.environment("ADD", pod.container_id, pod.netns.path), capture_output=True,
                                check=False)
        assert killed.returncode != 0
        assert killed.stdout == "" or call in ("write", "unlink")  # the last of them come behind the answer
        if number % 2:
            machine.delete(pod, ipam=DUAL)
            assert sorted(machine.left()) == sorted(before), number
        else:  # without a DEL in between (rule A11): what the killed one had made is taken away first
            again = machine.call("ADD", pod, ipam=DUAL)
            is_recorded = any(pod.container_id in str(path) for path in machine.records())
            assert again.code == 0 or (is_recorded and again.error["code"] == 107)  # it had done all but answer
            assert set(machine.allocated().values()) == {neighbour.container_id, pod.container_id}
            machine.delete(pod, ipam=DUAL)
        machine.add(pod, ipam=DUAL)
        assert machine.check(pod, ipam=DUAL).ok == {}
        machine.delete(pod, ipam=DUAL)
        assert sorted(machine.left()) == sorted(before), number
        pod.netns.close()


def test_killed_at_random_a_hundred_times(machine: Machine) -> None:
    """A hundred ADDs killed at random moments, each at once followed by DEL: nothing lost, double or left."""
    neighbours = [machine.pod() for _ in range(3)]
    for neighbour in neighbours:
        machine.add(neighbour, ipam=DUAL)
    before, random_moments, outcomes = machine.left(), random.Random(7), set()
    for _ in range(100):
        pod = machine.pod()
        outcomes.add(kill_after(machine, pod, random_moments.uniform(0, ADD_SECONDS)))
        machine.delete(pod, ipam=DUAL)
        assert machine.veths() == machine.veths()[:3]
        pod.netns.close()
    assert sorted(machine.left()) == sorted(before)
    assert all(machine.check(neighbour, ipam=DUAL).ok == {} for neighbour in neighbours)
    assert -signal.SIGKILL in outcomes, "no ADD was killed before it was done"


def kill_after(machine: Machine, pod: Pod, seconds: float) -> int:
    env = machine.environment("ADD", pod.container_id, pod.netns.path)
    with subprocess.Popen(machine.command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, env=env) as process:
        assert process.stdin
        process.stdin.write(json.dumps(machine.conf(ipam=DUAL)).encode())
        process.stdin.close()
        time.sleep(seconds)
        process.kill()
        return process.wait()
