"""`calico-ipam -upgrade` with the real host-local: its files, its lock, and the pods that go on living."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from datastore import keys
from datastore.file import FileStore
from datastore.hostlocal import Folder
from ipam.pool import seed_default_pools

from .machine import NODE, POOL, Json, Machine, Pod

HOST_LOCAL = Path("/usr/lib/cni/host-local")
RANGES = [[{"subnet": "10.7.0.0/27"}], [{"subnet": "fd00:7::/120"}]]


class HostLocal:
    """The reference plugin, its dataDir, and a datastore with pools that have its ranges."""

    def __init__(self, machine: Machine, data_dir: Path) -> None:
        self.machine, self.data_dir = machine, data_dir
        self.folder = data_dir / "net"
        self.conf = data_dir.with_suffix(".json")
        self.conf.write_text(json.dumps({"cniVersion": "1.0.0", "name": "net", "ipam": {
            "type": "host-local", "dataDir": str(data_dir), "ranges": RANGES}}))
        seed_default_pools(FileStore(str(machine.datastore)), POOL, (4, 6))

    def start(self, verb: str, pod: Pod) -> subprocess.Popen[str]:
        with self.conf.open() as stdin:
            return subprocess.Popen([HOST_LOCAL], stdin=stdin, stdout=subprocess.PIPE, text=True,
                                    env=self.machine.environment(verb, pod.container_id, pod.netns.path))

    def add(self, pod: Pod) -> list[str]:
        body = answer(self.start("ADD", pod))
        return [ip["address"].partition("/")[0] for ip in body["ips"]]

    def upgrade(self) -> subprocess.CompletedProcess[str]:
        env = {"CALICO_DATASTORE_DIR": str(self.machine.datastore), "NODENAME": NODE}
        return subprocess.run([*self.machine.command("calico-ipam"), "-upgrade", "--network", "net", "--data-dir",
                               str(self.data_dir), "--conf-dir", str(self.data_dir / "none")],
                              env=env, capture_output=True, text=True, timeout=60, check=False)


def answer(process: subprocess.Popen[str]) -> Json:
    stdout, _ = process.communicate(timeout=60)
    found: Json = json.loads(stdout or "{}")
    return found


def waits(process: subprocess.Popen[str]) -> bool:
    """Tell whether a process is still there after it has had the time to end."""
    time.sleep(0.3)
    return process.poll() is None


@pytest.fixture
def host_local(machine: Machine, tmp_path: Path) -> HostLocal:
    if not HOST_LOCAL.exists():
        pytest.skip(f"{HOST_LOCAL} is not installed (containernetworking-plugins)")
    return HostLocal(machine, tmp_path / "networks")


def test_pods_keep_their_addresses(machine: Machine, host_local: HostLocal) -> None:
    """What host-local gave is held afterwards by the same pods: no ADD gets it, CHECK finds it, DEL gives it back."""
    pods = [machine.pod() for _ in range(5)]
    given = {pod.container_id: host_local.add(pod) for pod in pods}
    assert answer(host_local.start("DEL", pods.pop())) == {}
    done = host_local.upgrade()
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 addresses moved" in done.stdout
    assert not host_local.folder.exists()
    held = {address: pod.container_id for pod in pods for address in given[pod.container_id]}
    assert machine.allocated() == held

    conf: Json = {"plugin": "calico-ipam", "type": "ptp", "ipam": {"assign_ipv6": "true"}}
    for pod in pods:
        ips = [{"address": f"{address}/26"} for address in given[pod.container_id]]
        assert machine.call("CHECK", pod, prevResult={"cniVersion": "1.1.0", "ips": ips}, **conf).ok == {}
    for _ in range(20):
        ips = machine.call("ADD", machine.pod(), **conf).ok["ips"]
        assert not {ip["address"].partition("/")[0] for ip in ips} & held.keys()
    for pod in pods:
        assert machine.call("DEL", pod, **conf).ok == {}
    assert not held.keys() & machine.allocated().keys()


def test_it_waits_for_the_lock(machine: Machine, host_local: HostLocal) -> None:
    """While the folder is locked by us, host-local's ADD waits; it goes on when we are done, and is picked up next."""
    host_local.add(machine.pod())
    late = machine.pod()
    with Folder(str(host_local.folder)).locked():
        process = host_local.start("ADD", late)
        assert waits(process)
        assert not (host_local.folder / "10.7.0.3").exists()
    assert [ip["address"] for ip in answer(process)["ips"]] == ["10.7.0.3/27", "fd00:7::3/120"]
    assert host_local.upgrade().returncode == 0
    assert machine.allocated()["10.7.0.3"] == late.container_id


def test_an_add_that_waited_too_long(machine: Machine, host_local: HostLocal) -> None:
    """An ADD that waits for the lock until the folder is gone fails, for its runtime to repeat; it gets no address."""
    host_local.add(machine.pod())
    folder = Folder(str(host_local.folder))
    with folder.locked():
        process = host_local.start("ADD", machine.pod())
        assert waits(process)
        for name in folder.names():
            folder.remove(name)
        folder.remove_all()
    assert answer(process)["code"]
    assert process.returncode == 1
    assert not host_local.folder.exists()


def test_what_is_left_stays_reserved(machine: Machine, host_local: HostLocal) -> None:
    """The address of a file that tells no container is given to nobody, until the file is gone."""
    host_local.add(machine.pod())
    (host_local.folder / "10.7.0.0").touch()
    done = host_local.upgrade()
    assert done.returncode == 1
    assert done.stderr.startswith(f"calico-ipam: left: {host_local.folder}/10.7.0.0: ")
    assert len(done.stderr.splitlines()) == 1
    [record] = FileStore(str(machine.datastore)).records(keys.IPRESERVATIONS)
    assert record.value["spec"]["reservedCIDRs"] == ["10.7.0.0/32"]
    assert machine.call("ADD", machine.pod(), plugin="calico-ipam").ok["ips"][0]["address"] != "10.7.0.0/26"
    by_name = machine.call("ADD", machine.pod(), plugin="calico-ipam", env={"CNI_ARGS": "IP=10.7.0.0"})
    assert by_name.error["code"] == 102
    (host_local.folder / "10.7.0.0").unlink()
    assert host_local.upgrade().returncode == 0
    assert machine.call("ADD", machine.pod(), plugin="calico-ipam", env={"CNI_ARGS": "IP=10.7.0.0"}).ok
