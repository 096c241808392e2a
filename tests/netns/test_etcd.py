"""`calico` on etcd, which runs in the host's namespace: verbs, a closed datastore, a lost server, a restored one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_calico.errors import NOT_AVAILABLE, TRY_AGAIN_LATER
from tests.etcd import START_SECONDS, Member
from tests.ways import AGENT, KILLED, Way

from .machine import NODE, Machine, Pod, eventually

BLOCKS = "/calico/ipam/v2/assignment/"
ROUND_TRIPS = re.compile(r'^grpc_server_handled_total\{.*grpc_service="etcdserverpb.KV".*\} (\S+)$', re.M)


class Etcd:
    """One server on the machine's loopback, asked by etcd's own tools."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self._machine, self._folder = machine, folder
        self.member = Member("m0", folder, prefix=("nsenter", f"--net={machine.host.path}"))

    def start(self) -> None:
        self.member.start()
        until = time.monotonic() + START_SECONDS
        while self.ctl("endpoint", "health", check=False).returncode:
            assert time.monotonic() < until, (self._folder / "m0.log").read_text()[-2000:]

    def ctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ("etcdctl", "--endpoints", self.member.url, *arguments)
        return self._machine.host.run(*command, check=check, env={**os.environ, "ETCDCTL_API": "3"})

    def records(self, prefix: str) -> dict[str, Any]:
        """Return the values below a prefix."""
        lines = self.ctl("get", "--prefix", prefix).stdout.splitlines()
        return {key: json.loads(value) for key, value in zip(lines[::2], lines[1::2], strict=True)}

    def held(self) -> dict[str, str]:
        """Return container by ordinal and block."""
        found = {}
        for block in self.records(BLOCKS).values():
            for ordinal, index in enumerate(block["allocations"]):
                if index is not None:
                    found[f"{block['cidr']} {ordinal}"] = block["attributes"][index]["secondary"]["container"]
        return found

    def round_trips(self) -> int:
        """Return how many calls for keys it has answered, by its own count."""
        said = self._machine.host.run("curl", "-s", f"{self.member.url}/metrics").stdout
        return sum(int(float(count)) for count in ROUND_TRIPS.findall(said))

    def restore(self, snapshot: Path) -> None:
        """Set it back to a snapshot, as an operator would."""
        self.member.stop()
        shutil.rmtree(self.member.data)
        self.ctl("snapshot", "restore", str(snapshot), "--name", "m0", "--data-dir", str(self.member.data),
                 "--initial-cluster", f"m0={self.member.peer}", "--initial-advertise-peer-urls", self.member.peer)
        self.start()


@pytest.fixture(name="etcd")
def _etcd(machine: Machine, tmp_path: Path) -> Iterator[Etcd]:
    found = Etcd(machine, tmp_path / "etcd")
    machine.env |= {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": found.member.url}
    try:
        found.start()
        yield found
    finally:
        found.member.stop()


def conf(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"ipam_lock_file": str(tmp_path / "run/ipam.lock"), **more}


def added(machine: Machine, tmp_path: Path, count: int) -> list[Pod]:
    pods = [machine.pod() for _ in range(count)]
    for pod in pods:
        machine.add(pod, **conf(tmp_path))
    return pods


def test_a_pod_comes_and_goes(machine: Machine, etcd: Etcd, tmp_path: Path) -> None:
    """An empty etcd is initialised as Calico would; records are at Calico's keys; none of a pod is left."""
    first, second = added(machine, tmp_path, 2)
    assert machine.check(first, **conf(tmp_path)).ok == {}
    assert sorted(etcd.held().values()) == sorted(pod.container_id for pod in (first, second))
    known = etcd.records("/calico/resources/v3/projectcalico.org/")
    assert known["/calico/resources/v3/projectcalico.org/clusterinformations/default"]["spec"]["datastoreReady"] is True
    endpoint = f"/calico/resources/v3/projectcalico.org/workloadendpoints/default/{NODE}-cni-"
    assert len([key for key in known if key.startswith(endpoint)]) == 2
    machine.delete(first, **conf(tmp_path))
    machine.delete(first, **conf(tmp_path))
    assert machine.call("GC", None, **conf(tmp_path, **{"cni.dev/valid-attachments": []})).ok == {}
    assert etcd.held() == {}
    assert etcd.records("/calico/ipam/v2/handle/") == {}
    assert machine.left() == []


def test_a_closed_datastore(machine: Machine, etcd: Etcd, tmp_path: Path) -> None:
    """With datastoreReady false ADD and DEL are to be tried again, and STATUS says so; nothing is changed."""
    pod, = added(machine, tmp_path, 1)
    key = "/calico/resources/v3/projectcalico.org/clusterinformations/default"
    information = etcd.records(key)[key]
    etcd.ctl("put", key, json.dumps({**information, "spec": {**information["spec"], "datastoreReady": False}}))
    for verb, who in (("ADD", machine.pod()), ("DEL", pod)):
        error = machine.call(verb, who, **conf(tmp_path)).error
        assert (error["code"], "datastoreReady" in error["msg"]) == (TRY_AGAIN_LATER, True)
    assert machine.call("STATUS", None, **conf(tmp_path)).error["code"] == NOT_AVAILABLE
    assert list(etcd.held().values()) == [pod.container_id]
    etcd.ctl("put", key, json.dumps(information))
    machine.delete(pod, **conf(tmp_path))
    assert etcd.held() == {}


def test_no_server(machine: Machine, etcd: Etcd, tmp_path: Path, way: Way) -> None:
    """ADD and DEL say which endpoints did not answer; when one is back they succeed."""
    if way.name == KILLED:
        pytest.skip("each verb takes as long as its patience lasts")
    pod, = added(machine, tmp_path, 1)
    etcd.member.kill()
    late = machine.pod()
    for verb, who in (("ADD", late), ("DEL", pod)):
        error = machine.call(verb, who, **conf(tmp_path)).error
        assert (error["code"], etcd.member.url in error["msg"]) == (TRY_AGAIN_LATER, True)
    assert machine.call("STATUS", None, **conf(tmp_path)).error["code"] == NOT_AVAILABLE
    etcd.start()
    machine.delete(pod, **conf(tmp_path))
    machine.add(late, **conf(tmp_path))
    assert list(etcd.held().values()) == [late.container_id]


def test_an_older_copy(machine: Machine, etcd: Etcd, tmp_path: Path) -> None:
    """etcd is set back: the pod made since keeps its address, and what one that ended since had is given back."""
    ended, kept = added(machine, tmp_path, 2)
    etcd.ctl("snapshot", "save", str(tmp_path / "copy"))
    since, = added(machine, tmp_path, 1)
    machine.delete(ended, **conf(tmp_path))
    etcd.restore(tmp_path / "copy")
    last, = added(machine, tmp_path, 1)
    assert last.addresses() != since.addresses()
    assert eventually(lambda: sorted(etcd.held().values()) == sorted(
        pod.container_id for pod in (kept, since, last))), etcd.held()
    for pod in (kept, since, last):
        assert machine.check(pod, **conf(tmp_path)).ok == {}
        machine.delete(pod, **conf(tmp_path))
    assert etcd.held() == {}


def test_round_trips(machine: Machine, etcd: Etcd, tmp_path: Path, way: Way) -> None:
    """A warm ADD by the agent takes three round trips, as etcd itself counts them."""
    if way.name != AGENT:
        pytest.skip("only an agent is warm")
    added(machine, tmp_path, 3)
    before = etcd.round_trips()
    added(machine, tmp_path, 1)
    assert etcd.round_trips() - before == 3
