"""After a reboot with the datastore kept: what pods of the former boot held is reclaimed, once, and nothing else is.

A boot cannot be had here, so records are made those of a former one: each allocation says in which it was made.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datastore import keys
from datastore.file import FileStore

from .machine import NODE, Answer, Machine, Pod, eventually

DUAL = {"assign_ipv6": "true"}
BEFORE = "00000000-0000-0000-0000-000000000000"


def store(machine: Machine) -> FileStore:
    return FileStore(str(machine.datastore))


def age(machine: Machine, *pods: Pod, **change: str) -> None:
    """Make the pods' allocations those of a former boot, and the node one that has not given an address since."""
    records, ids = store(machine), {pod.container_id for pod in pods}
    for family in (4, 6):
        for record in list(records.records(keys.blocks(family))):
            for attribute in record.value["attributes"]:
                if attribute["secondary"].get("container") in ids:
                    attribute["secondary"] |= {"boot": BEFORE, **change}
            records.update(record.key, record.value, record.revision)
    for record in list(records.records(keys.HANDLES)):
        if "boot" in record.value and any(container in record.key for container in ids):
            records.update(record.key, {**record.value, "boot": BEFORE}, record.revision)
    forget_boot(machine)


def forget_boot(machine: Machine) -> None:
    records = store(machine)
    host = records.get(keys.host(NODE))
    records.update(host.key, {**host.value, "boot": BEFORE}, host.revision)


def unplug(machine: Machine, *pods: Pod) -> None:
    for pod in pods:
        machine.host.ip("link", "del", pod.results["eth0"]["interfaces"][0]["name"])


def endpoints(machine: Machine) -> set[str]:
    return {record.value["spec"]["containerID"] for record in store(machine).records(keys.WORKLOAD_ENDPOINTS)}


def check(machine: Machine, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `calicoctl ipam check` in the host's namespace."""
    config = machine.datastore.parent / "calicoctl.cfg"
    config.write_text(json.dumps({"apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig",
                                  "spec": {"datastoreDir": str(machine.datastore)}}))
    return machine.host.run(sys.executable, "-m", "calicoctl", "-c", str(config), "ipam", *options, check=False,
                            cwd=Path(__file__).parents[2])


def test_the_first_add_reclaims(machine: Machine) -> None:
    """Addresses and records of the former boot's pods are gone after the first ADD; pods of this boot are whole."""
    old, new = [machine.pod() for _ in range(3)], machine.pod()
    for pod in old:
        machine.add(pod, ipam=DUAL)
    unplug(machine, *old)
    age(machine, *old)
    machine.add(new, ipam=DUAL)
    assert set(machine.allocated().values()) == {new.container_id} == endpoints(machine)
    assert machine.check(new, ipam=DUAL).ok == {}
    for pod in (*old, new):
        machine.delete(pod, netns="")
    assert machine.left() == []


def test_calico_ipam_reclaims(machine: Machine) -> None:
    """So does `calico-ipam` below another main plugin: it has no veth, but no boot is outlived by any pod."""
    def ipam(verb: str, pod: Pod | None, **more: Any) -> Answer:
        return machine.call(verb, pod, plugin="calico-ipam", type="ptp", **more)

    old, lives, new = (machine.pod() for _ in range(3))
    for pod in (old, lives):
        ipam("ADD", pod).ok.clear()
    age(machine, old)
    ipam("ADD", new).ok.clear()
    assert set(machine.allocated().values()) == {lives.container_id, new.container_id}


@pytest.mark.parametrize("change", [{"boot": ""}, {"node": "n2"}, {"container": ""}, {"interface": ""}])
def test_what_is_not_provably_gone_stays(machine: Machine, change: dict[str, str]) -> None:
    """Allocations without boot, of another node, or of no pod (tunnels) are not touched."""
    old = machine.pod()
    address = machine.add(old)["ips"][0]["address"].partition("/")[0]
    unplug(machine, old)
    age(machine, old, **change)
    machine.add(machine.pod())
    assert address in machine.allocated()


def test_a_living_veth_stays(machine: Machine) -> None:
    """Whatever its record says: a pod whose veth is there lives, and keeps address and record."""
    pod = machine.pod()
    machine.add(pod, ipam=DUAL)
    age(machine, pod)
    machine.add(machine.pod())
    assert pod.container_id in machine.allocated().values()
    assert pod.container_id in endpoints(machine)
    assert machine.check(pod, ipam=DUAL).ok == {}
    assert pod.netns.pings("10.254.0.1")


def test_only_once_a_boot(machine: Machine) -> None:
    """The second ADD of a boot looks at nothing of the kind any more."""
    old, new = machine.pod(), machine.pod()
    machine.add(old)
    unplug(machine, old)
    age(machine, old)
    records = store(machine)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    host = records.get(keys.host(NODE))
    records.update(host.key, {**host.value, "boot": boot}, host.revision)
    machine.add(new)
    assert set(machine.allocated().values()) == {old.container_id, new.container_id}
    forget_boot(machine)
    machine.add(machine.pod())
    assert old.container_id not in machine.allocated().values()
    assert records.get(keys.host(NODE)).value["boot"] == boot


def test_many_first_adds_at_once(machine: Machine) -> None:
    """One of them reclaims, the others wait for it; no address is given twice."""
    old = [machine.pod() for _ in range(6)]
    for pod in old:
        machine.add(pod)
    unplug(machine, *old)
    age(machine, *old)
    pods = [machine.pod() for _ in range(8)]
    running = [(pod, subprocess.Popen(machine.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                      env=machine.environment("ADD", pod.container_id, pod.netns.path)))
               for pod in pods]
    for _, process in running:
        assert process.stdin
        process.stdin.write(json.dumps(machine.conf()))
        process.stdin.close()
        process.stdin = None
    for pod, process in running:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        pod.results["eth0"] = json.loads(out)
    assert set(machine.allocated().values()) == {pod.container_id for pod in pods}
    assert all(machine.check(pod).ok == {} for pod in pods)


def test_a_torn_block_is_made_anew(machine: Machine) -> None:
    """A block that a power cut tore is set right by the first ADD: pods that live keep their addresses, none else."""
    pool = {"CALICO_IPV4POOL_CIDR": "10.7.0.0/29", "CALICO_IPV4POOL_BLOCK_SIZE": "30"}
    old, *lives = (machine.pod() for _ in range(5))
    for pod in (old, *lives):
        machine.add(pod, env=pool)
    unplug(machine, old)
    age(machine, old)
    (machine.datastore / "calico/ipam/v2/assignment/ipv4/block/10.7.0.0-30.json").write_text("{")
    new = machine.pod()
    machine.add(new, env=pool)
    assert set(machine.allocated().values()) == {pod.container_id for pod in (*lives, new)}
    assert all(machine.check(pod).ok == {} for pod in (*lives, new))
    assert store(machine).get(keys.host(NODE)).value["boot"] != BEFORE


@pytest.mark.parametrize("first", ["ADD", "DEL", "STATUS", "GC"])
def test_what_a_power_cut_damaged(machine: Machine, first: str) -> None:
    """Whatever verb comes first: the block is made anew with the pods whose veths are there, the others' are free."""
    old, lives, new = machine.pod(), machine.pod(), machine.pod()
    pool = {"CALICO_IPV4POOL_CIDR": "10.7.0.0/30", "CALICO_IPV4POOL_BLOCK_SIZE": "30"}
    for pod in (old, lives):
        machine.add(pod, env=pool)
    unplug(machine, old)
    age(machine, old)
    for file in (machine.datastore / "calico").rglob("*.json"):
        if "/block/" in str(file) or old.container_id in file.name:
            file.write_bytes(bytes(100))
    if first != "ADD":
        assert machine.call(first, old if first == "DEL" else None, env=pool).code == 0
    machine.add(new, env=pool)
    assert set(machine.allocated().values()) == {lives.container_id, new.container_id} == endpoints(machine)
    assert machine.check(lives).ok == {}
    assert check(machine, "check", f"--node={NODE}").returncode == 0
    for pod in (old, lives, new):
        machine.delete(pod, netns="")
    assert machine.left() == []


def test_gc_of_calico_ipam_without_a_list(machine: Machine) -> None:
    """Without any list what is left from before a reboot is released, and nothing else."""
    def ipam(verb: str, pod: Pod | None) -> Answer:
        return machine.call(verb, pod, plugin="calico-ipam", type="ptp")

    old, lives = machine.pod(), machine.pod()
    for pod in (old, lives):
        ipam("ADD", pod).ok.clear()
    age(machine, old)
    assert ipam("GC", None).ok == {}
    assert set(machine.allocated().values()) == {lives.container_id}


def test_gc_without_a_list_knows_a_renamed_link(machine: Machine) -> None:
    """A veth that an operator renamed is known by its alias: its pod lives."""
    pod = machine.pod()
    name = machine.add(pod)["interfaces"][0]["name"]
    for command in (("down",), ("name", "renamed0"), ("up",)):
        machine.host.ip("link", "set", "dev", name, *command)
        name = "renamed0" if "name" in command else name
    assert machine.call("GC", None).ok == {}
    assert pod.container_id in machine.allocated().values()
    machine.host.ip("link", "del", name)
    assert machine.call("GC", None).ok == {}
    assert machine.left() == []


def test_gc_leaves_the_mark_of_a_killed_verb(machine: Machine) -> None:
    """GC that finds a pod alive makes good nothing: the next verb still learns that one was killed."""
    pod = machine.pod()
    link = machine.add(pod)["interfaces"][0]["name"]
    folder = machine.datastore / ".held"
    assert eventually(lambda: not (folder / link).exists())  # an agent lets go a moment after its answer
    folder.mkdir(exist_ok=True)
    (folder / link).write_text("held\n")
    assert machine.call("GC", None).ok == {}
    assert (folder / link).read_text() == "held\n"
    machine.delete(pod)
    assert machine.left() == []


def test_check_with_a_real_kernel(machine: Machine) -> None:
    """calicoctl sees the veths of the host's namespace: living pods are no problem, dead ones are leaked, and released
    from the report; from another namespace nothing at all is judged."""
    lives, dead = machine.pod(), machine.pod()
    for pod in (lives, dead):
        machine.add(pod, ipam=DUAL)
    done = check(machine, "check", f"--node={NODE}")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"Found 2 wired workloads on node {NODE}." in done.stdout
    unplug(machine, dead)
    report = machine.datastore.parent / "report.json"
    done = check(machine, "check", f"--node={NODE}", "-o", str(report))
    assert (done.returncode, "found 2 problems" in done.stdout) == (3, True), done.stdout
    elsewhere = machine.host
    machine.host = dead.netns
    done = check(machine, "check", f"--node={NODE}")
    machine.host = elsewhere
    assert (done.returncode, "no IP is judged by the links here" in done.stdout) == (0, True), done.stdout
    done = check(machine, "release", f"--from-report={report}")
    assert done.stdout.count("Successfully released IP address") == 2, done.stderr
    assert set(machine.allocated().values()) == {lives.container_id} == endpoints(machine)
    assert "in use" in check(machine, "release", f"--ip={lives.addresses()[0]}").stderr
    assert check(machine, "check", f"--node={NODE}").returncode == 0


def test_repair_with_a_real_kernel(machine: Machine) -> None:
    """A torn block of running pods is made anew from their veths; CHECK, DEL and the next ADD work as before."""
    pods = [machine.pod() for _ in range(3)]
    for pod in pods:
        machine.add(pod, ipam=DUAL)
    for file in (machine.datastore / "calico").rglob("*.json"):
        if "/assignment/" in str(file) or "workloadendpoints" in str(file):
            file.write_text("{")
    assert check(machine, "check", f"--node={NODE}", "--repair").returncode == 0
    for pod in pods:
        assert machine.check(pod, ipam=DUAL).ok == {}
    more = machine.pod()
    machine.add(more, ipam=DUAL)
    assert len(machine.allocated()) == 8
    for pod in (*pods, more):
        machine.delete(pod, ipam=DUAL)
    assert machine.left() == []
