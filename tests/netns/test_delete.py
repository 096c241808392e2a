"""DEL in every order, with everything already gone, and GC and STATUS beside it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from typing import Any

import pytest

from cni_calico.errors import DATASTORE, INVALID_CONFIG, NOT_AVAILABLE
from datastore import keys
from datastore.file import FileStore

from .machine import NODE, Answer, Machine, Pod

DUAL = {"assign_ipv6": "true"}


def test_del_of_what_never_was(machine: Machine) -> None:
    """DEL without ADD succeeds, with and without a namespace, any number of times (rules D1, D2)."""
    pod = machine.pod()
    for netns in (pod.netns.path, "", "/run/netns/gone", "/proc/self/ns/net", "/etc/passwd", machine.host.path):
        for _ in range(2):
            machine.delete(pod, netns=netns)
    assert machine.left() == []


@pytest.mark.parametrize("netns", ["own", "", "/run/netns/gone", "/etc/passwd", "/proc/self/ns/net"])
def test_del_with_any_netns(machine: Machine, netns: str) -> None:
    """Whatever CNI_NETNS says, the pod's wire and addresses go, and the host's own links stay (D2, D6)."""
    pod = machine.pod()
    machine.add(pod, ipam=DUAL)
    machine.host.ip("link", "add", "eth0", "type", "veth", "peer", "name", "uplink")
    machine.delete(pod, netns=pod.netns.path if netns == "own" else netns, ipam=DUAL)
    assert machine.left() == []
    assert machine.host.link("eth0")
    assert "eth0" not in pod.netns.ip("-o", "link")


THINGS = ("link", "netns", "endpoint", "handle", "pools")


@pytest.mark.parametrize("gone", [some for n in range(6) for some in itertools.combinations(THINGS, n)])
def test_del_with_things_gone(machine: Machine, gone: tuple[str, ...]) -> None:
    """DEL succeeds and leaves nothing with any of what it looks for gone, or all of it."""
    pod = machine.pod()
    name = machine.add(pod)["interfaces"][0]["name"]
    for thing in gone:
        remove(machine, pod, name, thing)
    for _ in range(2):
        machine.delete(pod, netns="" if "netns" in gone else None)
    assert machine.veths() == []
    assert machine.records() == []
    assert machine.allocated() == {} or {"handle", "endpoint"} <= set(gone)
    assert collect(machine, {"cni.dev/valid-attachments": []}).ok == {}
    assert machine.left() == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_pods_deleted_in_any_order(machine: Machine, order: tuple[int, ...]) -> None:
    """Whichever pod goes first, the others stay whole."""
    pods = [machine.pod() for _ in range(3)]
    for pod in pods:
        machine.add(pod, ipam=DUAL)
    for done, index in enumerate(order):
        machine.delete(pods[index], ipam=DUAL)
        for other in order[done + 1 :]:
            assert machine.check(pods[other], ipam=DUAL).ok == {}
    assert machine.left() == []


def remove(machine: Machine, pod: Pod, host_name: str, thing: str) -> None:
    if thing == "link":
        machine.host.ip("link", "del", host_name, check=False)
    elif thing == "netns":
        pod.netns.close()
    else:
        kind = {"endpoint": "workloadendpoints", "handle": "/handle/", "pools": "ippools"}[thing]
        for file in (machine.datastore / "calico").rglob("*.json"):
            if kind in str(file):
                file.unlink()


def test_del_with_nothing_but_a_name(machine: Machine) -> None:
    """DEL needs neither ipam section nor prevResult nor pod name, and takes an odd configuration (rules D3, D7, D9)."""
    pod = machine.pod()
    machine.add(pod, env={"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop"})
    odd = {"type": "calico-ipam", "ipv4_pools": ["gone"], "assign_ipv4": 7}
    env = {"CNI_ARGS": "odd", "CALICO_IPV4POOL_CIDR": "none"}
    machine.delete(pod, ipam=odd, prevResult="odd", mtu="x", nodename="renamed", env=env)
    assert machine.left() == []


def test_dels_at_once(machine: Machine) -> None:
    """Ten DELs of one pod at the same time all succeed (rule R1)."""
    pod = machine.pod()
    machine.add(pod, ipam=DUAL)
    processes = [start(machine, "DEL", pod) for _ in range(10)]
    assert [finish(process).ok for process in processes] == [{}] * 10
    assert machine.left() == []


def test_a_late_del_of_an_earlier_container(machine: Machine) -> None:
    """A DEL of a container whose pod has a successor of the same name leaves the successor alone."""
    args = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=shop"}
    old, new = machine.pod(), machine.pod()
    machine.add(old, env=args)
    machine.add(new, env=args)
    machine.delete(old, env=args)
    assert machine.check(new, env=args).ok == {}
    machine.delete(new, env=args)
    assert machine.left() == []


def test_full_and_read_only_disk(machine: Machine) -> None:
    """On a full or read-only disk DEL fails clearly, still unwires the pod, and succeeds later (rule R11)."""
    machine.datastore.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", machine.datastore], check=True)
    try:
        pod = machine.pod()
        machine.add(pod)
        filler = machine.datastore / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        error = machine.call("DEL", pod).error
        assert error["code"] == DATASTORE
        assert "No space left" in error["msg"]
        assert machine.veths() == []
        assert machine.call("STATUS", None).error["code"] == NOT_AVAILABLE
        assert machine.call("ADD", machine.pod()).error["code"] == DATASTORE
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,ro", machine.datastore], check=True)
        assert "Read-only" in machine.call("DEL", pod).error["msg"]
        assert "not writable" in machine.call("STATUS", None).error["msg"]
        subprocess.run(["mount", "-o", "remount,rw", machine.datastore], check=True)
        machine.delete(pod)
        assert machine.left() == []
    finally:
        subprocess.run(["umount", machine.datastore], check=True)


def test_a_torn_block_is_named(machine: Machine) -> None:
    """A damaged record fails ADD and DEL with the file's name; it is never overwritten."""
    pod = machine.pod()
    machine.add(pod)
    block = next((machine.datastore / "calico/ipam/v2/assignment").rglob("*.json"))
    block.write_text('{"key":')
    for verb in ("ADD", "DEL"):
        error = machine.call(verb, pod if verb == "DEL" else machine.pod()).error
        assert error["code"] == DATASTORE
        assert str(block) in error["msg"]
    assert block.read_text() == '{"key":'
    assert machine.veths() == []


@pytest.mark.parametrize("network", ["net", "net2"])
def test_a_torn_endpoint_record(machine: Machine, network: str) -> None:
    """A damaged record keeps neither DEL from taking its pod's wire and addresses, nor GC from collecting others."""
    torn, other = machine.pod(), machine.pod()
    machine.add(torn, name=network)
    machine.add(other)
    file = next((machine.datastore / "calico/resources").rglob(f"*{torn.container_id.replace('-', '--')}*.json"))
    file.write_text("{")
    error = collect(machine, {"cni.dev/valid-attachments": []}).error
    assert (error["code"], str(file) in error["msg"]) == (DATASTORE, True)
    assert machine.allocated().get(other.addresses()[0]) is None
    error = machine.call("DEL", torn, name=network).error
    assert (error["code"], str(file) in error["msg"]) == (DATASTORE, True)
    assert machine.veths() == []
    assert machine.allocated() == {}
    file.unlink()
    machine.delete(torn, name=network)
    assert machine.left() == []


def test_gc_goes_past_a_torn_block(machine: Machine) -> None:
    """GC collects what it can although one block cannot be read, and then says so."""
    env = {"CALICO_IPV4POOL_CIDR": "10.7.0.0/28", "CALICO_IPV4POOL_BLOCK_SIZE": "30"}
    for _ in range(5):
        machine.add(machine.pod(), env=env)
    torn = machine.datastore / "calico/ipam/v2/assignment/ipv4/block/10.7.0.0-30.json"
    torn.write_text("{")
    assert str(torn) in collect(machine, {"cni.dev/valid-attachments": []}).error["msg"]
    assert machine.veths() == []
    assert len(machine.records()) == 4  # the handles of the pods in the torn block


def test_a_stray_file(machine: Machine) -> None:
    """A file that is no record, such as an editor's copy, disturbs nobody."""
    pod = machine.pod()
    machine.add(pod)
    for folder in ("resources/v3/projectcalico.org/workloadendpoints/default", "ipam/v2/assignment/ipv4/block"):
        (machine.datastore / "calico" / folder / "copy of x.json").write_text("x")
    assert machine.check(pod).ok == {}
    machine.delete(pod)
    assert machine.veths() == []
    assert machine.allocated() == {}


def test_another_ipam_type_by_now(machine: Machine) -> None:
    """A pod added with our IPAM is released also when the configuration names another by the time of DEL (R12)."""
    pod = machine.pod()
    machine.add(pod)
    conf: dict[str, Any] = {"cniVersion": "1.0.0"}
    conf["ipam"] = {"type": "host-local", "ranges": [[{"subnet": "10.66.0.0/24"}]],
                    "dataDir": str(machine.datastore / "host-local")}
    machine.delete(pod, **conf)
    assert machine.left() == []


def test_reboot_with_the_datastore_kept(machine: Machine) -> None:
    """After a reboot (links and namespaces gone, records kept) late DELs and GC clean up, and addresses come back."""
    pods = [machine.pod() for _ in range(3)]
    for pod in pods:
        machine.add(pod, ipam=DUAL)
    for name in machine.veths():
        machine.host.ip("link", "del", name)
    machine.delete(pods[0], netns="")
    assert collect(machine, {"cni.dev/valid-attachments": []}).ok == {}
    assert machine.left() == []


def test_datastore_lost_and_links_kept(machine: Machine) -> None:
    """With the records lost, DEL still takes the wire away, and GC finds pods by their links' aliases."""
    pods = [machine.pod() for _ in range(2)]
    for pod in pods:
        machine.add(pod)
    shutil.rmtree(machine.datastore)
    machine.delete(pods[0])
    assert len(machine.veths()) == 1
    assert collect(machine, {"cni.dev/valid-attachments": None}).ok == {}
    assert machine.left() == []


def collect(machine: Machine, conf: dict[str, Any]) -> Answer:
    return machine.call("GC", None, **conf)


def valid(*pods: Pod) -> list[dict[str, str]]:
    return [{"containerID": pod.container_id, "ifname": "eth0"} for pod in pods]


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc(machine: Machine, key: str) -> None:
    """GC removes what is not in the list and only of its own network; the rest keeps working (rules G1, G2, G6)."""
    live, dead, other = machine.pod(), machine.pod(), machine.pod()
    machine.add(live)
    machine.add(dead, ipam=DUAL)
    machine.add(other, name="net2")
    assert collect(machine, {key: valid(live)}).ok == {}
    assert set(machine.allocated().values()) == {live.container_id, other.container_id}
    assert machine.check(live).ok == {}
    assert machine.check(other, name="net2").ok == {}
    assert "eth0" not in dead.netns.ip("-o", "link")


@pytest.mark.parametrize("empty", [None, []])
def test_gc_with_nothing_valid(machine: Machine, empty: list[Any] | None) -> None:
    """null and [] both mean that nothing is valid (rule G3)."""
    machine.add(machine.pod())
    assert collect(machine, {"cni.dev/valid-attachments": empty}).ok == {}
    assert machine.left() == []


def test_gc_without_a_list(machine: Machine) -> None:
    """Without any list only attachments whose wire is gone are removed: their pod is provably gone (rule G3)."""
    live, dead = machine.pod(), machine.pod()
    machine.add(live)
    machine.host.ip("link", "del", machine.add(dead)["interfaces"][0]["name"])
    assert machine.call("GC", None).ok == {}
    assert set(machine.allocated().values()) == {live.container_id}
    assert machine.check(live).ok == {}


def test_gc_with_a_bad_list(machine: Machine) -> None:
    """A list that cannot be understood is an error, and nothing is removed."""
    pod = machine.pod()
    machine.add(pod)
    for odd in ([7], "x", {"a": 1}, [{"containerID": pod.container_id}]):
        assert collect(machine, {"cni.dev/valid-attachments": odd}).error["code"] == INVALID_CONFIG
    assert machine.check(pod).ok == {}


def test_status(machine: Machine) -> None:
    """STATUS is ready before the first pod, not ready (50) once the pool is full, and takes no time on a held lock."""
    small = {"CALICO_IPV4POOL_CIDR": "10.7.0.0/30", "CALICO_IPV4POOL_BLOCK_SIZE": "30"}
    assert machine.call("STATUS", None, env=small).ok == {}
    assert not machine.datastore.exists()
    for _ in range(4):
        machine.add(machine.pod(), env=small)
    error = machine.call("STATUS", None, env=small).error
    assert error["code"] == NOT_AVAILABLE
    assert "default-ipv4-ippool" in error["msg"]
    assert "4 of 4" in error["msg"]
    machine.delete(machine.pods[0])
    with FileStore(str(machine.datastore)).exclusive():
        start_time = time.monotonic()
        assert machine.call("STATUS", None, env=small).ok == {}
        assert time.monotonic() - start_time < 10  # not the lock's 60 s


def test_status_without_a_name_or_pool(machine: Machine) -> None:
    """STATUS says what an ADD would miss."""
    conf: dict[str, Any] = {"nodename": "", "nodename_file": "/nonexistent", "nodename_file_optional": False}
    assert "/nonexistent" in machine.call("STATUS", None, **conf).error["msg"]
    assert "pool" in machine.call("STATUS", None, env={"NO_DEFAULT_POOLS": "true"}).error["msg"]
    assert "10.7.0.1/16" in machine.call("STATUS", None, env={"CALICO_IPV4POOL_CIDR": "10.7.0.1/16"}).error["msg"]
    machine.add(machine.pod())
    block = machine.datastore / "calico/ipam/v2/assignment/ipv4/block/10.7.0.0-26.json"
    block.write_text("{")
    assert str(block) in machine.call("STATUS", None).error["msg"]


def test_a_renamed_node(machine: Machine) -> None:
    """A pod added under one node name is checked and deleted under another (rule D7)."""
    pod = machine.pod()
    machine.add(pod)
    assert machine.check(pod, nodename="other").ok == {}
    machine.delete(pod, nodename="other")
    assert machine.left() == []
    assert FileStore(str(machine.datastore)).keys(keys.affinities(NODE, 4))


def start(machine: Machine, verb: str, pod: Pod) -> subprocess.Popen[str]:
    process = subprocess.Popen(machine.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=machine.environment(verb, pod.container_id, pod.netns.path))
    assert process.stdin
    process.stdin.write(json.dumps(machine.conf()))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> Answer:
    out, err = process.communicate(timeout=120)
    return Answer(process.returncode, json.loads(out) if out else None, err)


def test_rights(machine: Machine) -> None:
    """Records are readable by root only, and the log by all, whatever the runtime's umask (rule P12)."""
    for number, mask in enumerate((0, 0o777)):
        log = machine.datastore.parent / f"log-{number}/cni.log"
        old = os.umask(mask)
        try:
            machine.add(machine.pod(), log_file_path=str(log))
        finally:
            os.umask(old)
        assert (log.stat().st_mode & 0o777, log.parent.stat().st_mode & 0o777) == (0o644, 0o755)
    modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in machine.datastore.rglob("*")}
    assert modes == {True: 0o700, False: 0o600}
