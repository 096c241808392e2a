"""A foreign IPAM plugin under ours: how it is run, what its failures become, and that it never outlives us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cni_calico.errors import DELEGATE, INVALID_ENVIRONMENT

from .machine import Json, Machine, eventually

PLUGIN = """#!/usr/bin/python3 -IS
import json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
verb = os.environ["CNI_COMMAND"]
data = sys.stdin.read()
with open(here + "/calls", "a") as calls:
    calls.write(verb + "\\n")
with open(here + "/stdin-" + verb, "w") as seen:
    seen.write(data)
with open(here + "/args", "w") as seen:
    seen.write(os.environ["CNI_ARGS"])
script = json.load(open(here + "/script")).get(verb, {})
time.sleep(script.get("sleep", 0))
sys.stderr.write(script.get("stderr", ""))
sys.stdout.write(script.get("stdout", ""))
sys.exit(script.get("exit", 0))
"""
GIVEN = json.dumps({"cniVersion": "1.0.0", "ips": [{"address": "10.88.0.5/16", "gateway": "10.88.0.1"}],
                    "routes": [{"dst": "10.0.0.0/8"}], "dns": {"domain": "ipam"}})


class Delegate:
    """A scripted IPAM plugin called `scripted`, in a CNI_PATH of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripted").write_text(PLUGIN)
        (folder / "scripted").chmod(0o755)
        self.script(ADD={"stdout": GIVEN})
        self.env = {"CNI_PATH": f"/nonexistent:{folder}"}
        self.conf: Json = {"ipam": {"type": "scripted"}, "cniVersion": "1.0.0"}

    def script(self, **verbs: Json) -> None:
        (self.folder / "script").write_text(json.dumps(verbs))

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        found = file.read_text().split() if file.exists() else []
        file.unlink(missing_ok=True)
        return found


@pytest.fixture
def delegate(tmp_path: Path) -> Delegate:
    folder = tmp_path / "plugins"
    folder.mkdir()
    return Delegate(folder)


def test_all_verbs(machine: Machine, delegate: Delegate) -> None:
    """ADD, CHECK and DEL are passed on with the same stdin; the address becomes a /32, the routes the pod's."""
    pod = machine.pod()
    result = machine.add(pod, env=delegate.env, **delegate.conf)
    assert [ip["address"] for ip in result["ips"]] == ["10.88.0.5/32"]
    assert result["routes"] == [{"dst": "10.0.0.0/8", "gw": "169.254.1.1"}]
    assert result["dns"] == {"domain": "ipam"}
    assert machine.host.pings("10.88.0.5")
    assert machine.check(pod, env=delegate.env, **delegate.conf).ok == {}
    machine.delete(pod, env=delegate.env, **delegate.conf)
    assert delegate.calls() == ["ADD", "CHECK", "DEL"]
    assert json.loads((delegate.folder / "stdin-ADD").read_text()) == machine.conf(**delegate.conf)
    assert machine.left() == []


def test_dns_of_the_configuration_wins(machine: Machine, delegate: Delegate) -> None:
    """Any dns key in the configuration, empty lists too, takes the place of the IPAM's."""
    result = machine.add(machine.pod(), env=delegate.env, dns={"nameservers": []}, **delegate.conf)
    assert result["dns"] == {"nameservers": []}


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ({"stdout": '{"code": 123, "msg": "no more", "details": "of them"}', "exit": 1}, 123, "no more"),
        ({"stdout": "oops", "stderr": "boom", "exit": 1}, DELEGATE, "exit status 1"),
        ({"exit": 3}, DELEGATE, "exit status 3"),
        ({"stdout": "oops"}, DELEGATE, "no CNI result"),
        ({"stdout": ""}, DELEGATE, "no CNI result"),
        ({"stdout": "{}"}, DELEGATE, "no address"),
        ({"stdout": '{"ips": [{"address": "10.0.0.1/99999"}, {"address": 7}]}'}, DELEGATE, "no CNI result"),
        ({"stdout": '{"ips": [{"address": "bogus/24"}]}'}, DELEGATE, "no CNI result"),
        ({"stdout": "[" * 100_000}, DELEGATE, "no CNI result"),
        ({"stdout": '{"ips": [{"address": "10.1.1.1/24"}, {"address": "10.1.1.1/24"}]}'}, DELEGATE, "an address twice"),
        ({"stdout": '{"ips": [{"address": "10.1.1.1/24"}], "dns": {"nameservers": "x"}}'}, DELEGATE, "no CNI result"),
        ({"stdout": '{"code": -7, "msg": "odd"}', "exit": 1}, DELEGATE, "odd"),
        ({"stdout": '{"code": 100000000000000000000000000, "msg": "odd"}', "exit": 1}, DELEGATE, "odd"),
    ],
)
def test_add_failures(machine: Machine, delegate: Delegate, script: Json, code: int, message: str) -> None:
    """A failed ADD of the IPAM plugin is followed by its DEL and passed on (rule A6); nothing is left."""
    delegate.script(ADD=script)
    error = machine.call("ADD", machine.pod(), env=delegate.env, **delegate.conf).error
    assert error["code"] == code
    assert message in error["msg"]
    assert "scripted" in error["msg"]
    assert delegate.calls() == ["ADD", "DEL"]
    assert machine.left() == []


def test_a_later_failure_releases(machine: Machine, delegate: Delegate) -> None:
    """When the wiring fails after the IPAM plugin has assigned, it is run with DEL."""
    machine.host.ip("link", "add", "x0", "type", "veth", "peer", "name", "x1")
    machine.host.ip("link", "set", "x0", "up")
    machine.host.ip("route", "add", "10.88.0.5/32", "dev", "x0")
    assert machine.call("ADD", machine.pod(), env=delegate.env, **delegate.conf).error
    assert delegate.calls() == ["ADD", "DEL"]
    assert machine.left() == []


def test_a_failing_del_is_an_error_in_words_that_count(machine: Machine, delegate: Delegate) -> None:
    """A failing DEL of the IPAM plugin is an error (rule D4), without words that go-cni swallows; the wire is gone."""
    pod = machine.pod()
    machine.add(pod, env=delegate.env, **delegate.conf)
    delegate.script(DEL={"stdout": '{"code": 100, "msg": "lease not found"}', "exit": 1})
    error = machine.call("DEL", pod, env=delegate.env, **delegate.conf).error
    assert "not found" not in json.dumps(error)
    assert machine.left() == []
    delegate.script()
    machine.delete(pod, env=delegate.env, **delegate.conf)


@pytest.mark.parametrize(("path", "code"), [("", INVALID_ENVIRONMENT), ("/nonexistent", DELEGATE)])
def test_no_such_plugin(machine: Machine, delegate: Delegate, path: str, code: int) -> None:
    """A plugin that is not on CNI_PATH, or no CNI_PATH, is named."""
    error = machine.call("ADD", machine.pod(), env={"CNI_PATH": path}, **delegate.conf).error
    assert (error["code"], "scripted" in error["msg"]) == (code, True)
    assert machine.left() == []


@pytest.mark.parametrize(("versions", "asked"), [(["1.0.0"], False), (["1.0.0", "1.1.0"], True), (None, False)])
def test_status_and_gc(machine: Machine, delegate: Delegate, versions: list[str] | None, asked: bool) -> None:
    """STATUS and GC go on to a plugin that knows 1.1.0; an older one, or one without VERSION, has no opinion (T5)."""
    version = {"stdout": json.dumps({"cniVersion": "1.0.0", "supportedVersions": versions}), "exit": int(not versions)}
    refusal = {"stdout": '{"code": 50, "msg": "not today"}', "exit": 1}
    delegate.script(VERSION=version, STATUS=refusal)
    conf: Json = {**delegate.conf, "cniVersion": "1.1.0"}
    answer = machine.call("STATUS", None, env=delegate.env, **conf)
    assert delegate.calls() == (["VERSION", "STATUS"] if asked else ["VERSION"])
    assert answer.code == int(asked)
    if asked:
        assert "not today" in answer.error["msg"]
    listed: Json = {**conf, "cni.dev/valid-attachments": []}
    assert machine.call("GC", None, env=delegate.env, **listed).ok == {}
    assert delegate.calls() == (["VERSION", "GC"] if asked else ["VERSION"])


def test_cni_args_are_passed_over(machine: Machine, delegate: Delegate) -> None:
    """A plugin that knows none of an orchestrator's arguments is told to pass over them, as Calico does."""
    machine.add(machine.pod(), env={**delegate.env, "CNI_ARGS": "K8S_POD_NAME=a;IgnoreUnknown=1"}, **delegate.conf)
    assert (delegate.folder / "args").read_text() == "IgnoreUnknown=1;K8S_POD_NAME=a;IgnoreUnknown=1"


def test_an_add_after_one_that_was_killed(machine: Machine, delegate: Delegate) -> None:
    """An ADD without DEL of a pod whose ADD was killed after the IPAM plugin had assigned runs its DEL first (A11)."""
    delegate.script(ADD={"sleep": 60, "stdout": GIVEN})
    pod = machine.pod()
    env = machine.environment("ADD", pod.container_id, pod.netns.path, **delegate.env)
    with subprocess.Popen(machine.command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env) as process:
        assert process.stdin
        process.stdin.write(json.dumps(machine.conf(**delegate.conf)).encode())
        process.stdin.close()
        assert eventually((delegate.folder / "stdin-ADD").exists)
        process.kill()
    delegate.script(ADD={"stdout": GIVEN})
    delegate.calls()
    assert machine.call("ADD", pod, netns="/run/netns/gone", env=delegate.env, **delegate.conf).code == 1
    assert delegate.calls() == []
    machine.add(pod, env=delegate.env, **delegate.conf)  # that the one before failed early does not matter
    assert delegate.calls() == ["DEL", "ADD"]


def test_a_hung_plugin_dies_with_us(machine: Machine, delegate: Delegate) -> None:
    """When the runtime kills an ADD, its IPAM plugin dies too and holds no pipe of the runtime (rules P10, P11)."""
    delegate.script(ADD={"sleep": 60, "stdout": GIVEN})
    pod = machine.pod()
    env = machine.environment("ADD", pod.container_id, pod.netns.path, **delegate.env)
    process = subprocess.Popen(machine.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    assert process.stdin
    process.stdin.write(json.dumps(machine.conf(**delegate.conf)).encode())
    process.stdin.close()
    process.stdin = None
    assert eventually((delegate.folder / "stdin-ADD").exists)
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    start = time.monotonic()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=5)
    assert time.monotonic() - start < 5
    assert eventually(lambda: not os.path.exists(f"/proc/{child}")
                      or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z")
    delegate.script()
    machine.delete(pod, env=delegate.env, **delegate.conf)
    assert machine.left() == []
