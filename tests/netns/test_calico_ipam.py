"""The executable `calico-ipam`, as a main plugin would run it."""

from __future__ import annotations

from typing import Any

import pytest

from cni_calico.errors import ALREADY_ATTACHED, DRIFT, INVALID_CONFIG, NO_ADDRESS, NOT_AVAILABLE

from .machine import Answer, Json, Machine, Pod

DUAL = {"assign_ipv6": "true"}


def ipam(machine: Machine, verb: str, pod: Pod | None, ifname: str = "eth0", **more: Any) -> Answer:
    return machine.call(verb, pod, ifname, plugin="calico-ipam", type="ptp", **more)


def test_the_result(machine: Machine) -> None:
    """The result has the block's prefix length and Calico's gateway, no interfaces, and the routes of `ipam` alone."""
    pod = machine.pod()
    result = ipam(machine, "ADD", pod, ipam={**DUAL, "routes": [{"dst": "10.0.0.0/8", "gw": "10.7.0.1"}]}).ok
    ipv4, ipv6 = sorted(machine.allocated())
    assert result == {
        "cniVersion": "1.1.0",
        "ips": [{"address": f"{ipv4}/26", "gateway": "169.254.1.1"},
                {"address": f"{ipv6}/122", "gateway": "fe80::ecee:eeff:feee:eeee"}],
        "routes": [{"dst": "10.0.0.0/8", "gw": "10.7.0.1"}],
    }
    assert machine.veths() == []


def test_an_address_asked_for(machine: Machine) -> None:
    """An address asked for has its own prefix length, as Calico's."""
    result = ipam(machine, "ADD", machine.pod(), env={"CNI_ARGS": "IP=10.7.3.4/24"}).ok
    assert result["ips"][0]["address"] == "10.7.3.4/32"


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_the_first_versions(machine: Machine, version: str) -> None:
    """A main plugin of the first versions gets ip4 and ip6."""
    result = ipam(machine, "ADD", machine.pod(), cniVersion=version, ipam=DUAL).ok
    ipv4, ipv6 = sorted(machine.allocated())
    assert result["ip4"] == {"ip": f"{ipv4}/26", "gateway": "169.254.1.1"}
    assert result["ip6"]["ip"] == f"{ipv6}/122"


def test_twice(machine: Machine) -> None:
    """A second ADD of the same attachment fails and leaves the address; another interface of the pod gets its own."""
    pod = machine.pod()
    ipam(machine, "ADD", pod).ok.clear()
    assert ipam(machine, "ADD", pod).error["code"] == ALREADY_ATTACHED
    address = ipam(machine, "ADD", pod, "eth1").ok["ips"][0]["address"].removesuffix("/26")
    assert ipam(machine, "DEL", pod).ok == {}
    assert list(machine.allocated()) == [address]
    for _ in range(2):
        assert ipam(machine, "DEL", pod, "eth1").ok == {}
    assert machine.left() == []


def test_check(machine: Machine) -> None:
    """CHECK wants every address that is recorded in prevResult, and at least one."""
    pod = machine.pod()
    result = ipam(machine, "ADD", pod).ok
    more = {**result, "ips": [*result["ips"], {"address": "10.99.0.1/24"}]}
    assert ipam(machine, "CHECK", pod, prevResult=more).ok == {}
    other: Json = {**result, "ips": [{"address": "10.99.0.1/24"}]}
    assert ipam(machine, "CHECK", pod, prevResult=other).error["code"] == DRIFT
    assert ipam(machine, "CHECK", pod).error["code"] == INVALID_CONFIG
    assert ipam(machine, "DEL", pod).ok == {}
    assert ipam(machine, "CHECK", pod, prevResult=result).error["code"] == DRIFT


def test_gc(machine: Machine) -> None:
    """GC releases what is not in the list, of its network only; without a list it releases nothing."""
    pods = [machine.pod() for _ in range(3)]
    for pod in pods:
        ipam(machine, "ADD", pod).ok.clear()
    ipam(machine, "ADD", pods[0], name="net2").ok.clear()
    assert ipam(machine, "GC", None).ok == {}
    assert len(machine.allocated()) == 4
    conf: Json = {"cni.dev/valid-attachments": [{"containerID": pods[1].container_id, "ifname": "eth0"}]}
    assert ipam(machine, "GC", None, **conf).ok == {}
    assert sorted(machine.allocated().values()) == sorted([pods[0].container_id, pods[1].container_id])


def test_status_and_exhaustion(machine: Machine) -> None:
    """A full pool is code 101 on ADD and 50 on STATUS; a dual-stack shortfall frees the other family."""
    env = {"CALICO_IPV4POOL_CIDR": "10.7.0.0/24", "CALICO_IPV6POOL_CIDR": "fd00:7::/127",
           "CALICO_IPV6POOL_BLOCK_SIZE": "127"}
    for _ in range(2):
        ipam(machine, "ADD", machine.pod(), env=env, ipam=DUAL).ok.clear()
    error = ipam(machine, "ADD", machine.pod(), env=env, ipam=DUAL).error
    assert error["code"] == NO_ADDRESS
    assert "IPv6" in error["msg"]
    assert len(machine.allocated()) == 4
    assert ipam(machine, "STATUS", None, env=env, ipam=DUAL).error["code"] == NOT_AVAILABLE
    assert ipam(machine, "STATUS", None, env=env).ok == {}
