"""`calicoctl node status`, as people run it, against agents that are well, unwell, strange and absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from calico_node import protocol
from calico_node.latencies import Latency
from calico_node.status import Agent as Facts
from calico_node.status import status
from calicoctl.__main__ import main

from .agent_kit import Agent, Connection, Say, answering

ROOT = Path(__file__).parents[2]
FACTS: dict[str, Any] = {
    "version": "1.2.3", "pid": 77, "started": 1_790_000_000.0, "uptime": 11_530.0, "in_flight": 1, "waiting": 2,
    "del_queue": 3, "connections": 4, "draining": False, "reasons": [],
    "latencies": {"ADD": {"total": Latency(9, .0012345, .0023456, 1.5)}}, "counts": {"ADD": {"0": 8, "11": 1}},
}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the agent and who asks it are root")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "cni.sock")


def well(**changes: Any) -> Say:
    return answering(0, status(Facts(**{**FACTS, **changes})))


def run(path: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["node", "status", "--socket", path, *arguments], prog_name="calicoctl")


@as_root
def test_an_agent_that_is_well(path: str) -> None:
    with Agent(path, well()):
        result = run(path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == """\
Calico process is running.

+--------------------+--------------------------------------+
|      PROPERTY      |                VALUE                 |
+--------------------+--------------------------------------+
| Version            | 1.2.3                                |
| Protocol versions  | 1 to 1                               |
| Process            | 77                                   |
| Started            | 2026-09-21T14:13:20Z, 3 h 12 min ago |
| Requests in flight | 1                                    |
| Requests waiting   | 2                                    |
| DELs queued        | 3                                    |
| Connections        | 4                                    |
+--------------------+--------------------------------------+

Requests since it was started
+------+------+-------+
| VERB | CODE | COUNT |
+------+------+-------+
| ADD  |    0 |     8 |
| ADD  |   11 |     1 |
+------+------+-------+

Durations in the last hour, in milliseconds
+------+-------+-------+--------+------+---------+
| VERB | STAGE | COUNT | MEDIAN | 90%  |   99%   |
+------+-------+-------+--------+------+---------+
| ADD  | total |     9 |   1.23 | 2.35 | 1500.00 |
+------+-------+-------+--------+------+---------+
"""


@as_root
def test_what_it_is_asked(path: str) -> None:
    seen: list[protocol.Request] = []

    def say(connection: Connection) -> None:
        connection.greet()
        seen.append(connection.request())
        connection.answer(0, json.dumps(status(Facts(**FACTS))).encode())
        assert connection.next() == [protocol.TAKEN]

    with Agent(path, say):
        assert run(path).exit_code == 0
    assert (seen[0].plugin, seen[0].env) == ("calico-node", {"CALICO_NODE_COMMAND": "status"})


@as_root
def test_for_programs(path: str) -> None:
    with Agent(path, well()):
        assert json.loads(run(path, "-o", "json").stdout) == status(Facts(**FACTS))
        assert yaml.safe_load(run(path, "-o", "yaml").stdout)["lastHour"]["ADD"]["total"]["p90Ms"] == 2.346


@as_root
@pytest.mark.parametrize(("changes", "headline"), [
    ({"reasons": ["what was queued is being done", "the disk\x1b[2J is full"]},
     "Calico process is running, but not ready: what was queued is being done; the disk\\x1b[2J is full."),
    ({"draining": True, "reasons": ["the agent is stopping"]}, "Calico process is stopping."),
])
def test_not_ready(path: str, changes: dict[str, Any], headline: str) -> None:
    with Agent(path, well(**changes)):
        result, as_json = run(path), run(path, "-o", "json")
    assert (result.exit_code, as_json.exit_code) == (3, 3)
    assert result.stdout.splitlines()[0] == headline
    assert json.loads(as_json.stdout)["ready"] is False


@as_root
def test_just_started(path: str) -> None:
    with Agent(path, well(uptime=0.2, latencies={}, counts={})):
        lines = run(path).stdout.splitlines()
    assert "| Started            | 2026-09-21T14:13:20Z, 0 s ago |" in lines
    assert lines[-1].startswith("+")
    assert not [line for line in lines if "VERB" in line]


@as_root
@pytest.mark.parametrize("seconds", [59, 60, 3600, 86400, 90061])
def test_how_long_ago(path: str, seconds: int) -> None:
    told = {59: "59 s", 60: "1 min 0 s", 3600: "1 h 0 min", 86400: "1 d 0 h", 90061: "1 d 1 h"}[seconds]
    with Agent(path, well(uptime=float(seconds))):
        assert f", {told} ago" in run(path).stdout


@as_root
def test_no_agent(path: str) -> None:
    for _ in range(2):
        result = run(path)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"calicoctl: error: calico-node does not run ({path}: ")
        assert "slower plugin meanwhile; to start it: systemctl start calico-node\n" in result.stderr
        Path(path).touch()  # a file in the socket's place is no agent either


@as_root
@pytest.mark.parametrize(("say", "why"), [
    (lambda connection: connection.socket.recv(1), "no greeting"),
    (lambda connection: None, "without a greeting"),
    (lambda connection: connection.socket.sendall(protocol.GREETING.pack(protocol.MAGIC, 7, 9)), "versions 7 to 9"),
    (lambda connection: connection.socket.sendall(b"HTTP/1.0 400 Bad\r\n"), "no greeting of an agent"),
])
def test_an_agent_that_does_not_answer(path: str, say: Say, why: str) -> None:
    with Agent(path, say):
        result = run(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("calicoctl: error: calico-node did not answer (")
    assert why in result.stderr
    assert "systemctl restart calico-node" in result.stderr


@as_root
@pytest.mark.parametrize(("code", "value"), [(0, []), (0, {"version": "9"}), (4, status(Facts(**FACTS)))])
def test_an_answer_that_is_none(path: str, code: int, value: Any) -> None:
    with Agent(path, answering(code, value)):
        result = run(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is no status" in result.stderr


@as_root
def test_the_socket_from_the_environment(path: str) -> None:
    with Agent(path, well()):
        result = CliRunner(env={"CALICO_CNI_SOCKET": path}).invoke(main, ["node", "status"], prog_name="calicoctl")
    assert result.exit_code == 0


@as_root
def test_who_is_not_root(path: str) -> None:
    program = (f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); from calicoctl.__main__ import main; "
               f"os.setuid(65534); main(['node', 'status', '--socket', {path!r}], prog_name='calicoctl')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "calicoctl: error: the agent speaks to root only: run this as root\n"


@pytest.mark.parametrize("arguments", [["node", "--help"], ["node", "status", "--help"]])
def test_help_has_examples_and_exit_codes(arguments: list[str]) -> None:
    text = CliRunner().invoke(main, arguments, prog_name="calicoctl").stdout
    assert "calicoctl node status -o json" in text
    assert "3  it runs, but is not ready" in text
