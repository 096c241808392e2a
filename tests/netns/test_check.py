"""CHECK sees every kind of drift, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cni_calico.errors import DRIFT, INCOMPATIBLE_VERSION, INVALID_CONFIG, INVALID_NETNS

from .machine import ASKED_DUAL, Machine, Pod

DUAL = {"assign_ipv6": "true"}
Break = Callable[[Machine, Pod, str], object]


def remove_records(machine: Machine, kind: str) -> None:
    for file in (machine.datastore / "calico").rglob("*.json"):
        if kind in str(file):
            file.unlink()


DRIFTS: dict[str, tuple[Break, str]] = {
    "pod's IPv4 address": (lambda m, p, h: p.netns.ip("addr", "del", "10.7.0.0/32", "dev", "eth0"), "10.7.0.0"),
    "pod's IPv6 address": (lambda m, p, h: p.netns.ip("addr", "del", "fd00:7::/128", "dev", "eth0"), "fd00:7::"),
    "pod's IPv4 default route": (lambda m, p, h: p.netns.ip("route", "del", "default"), "default"),
    "pod's IPv6 default route": (lambda m, p, h: p.netns.ip("-6", "route", "del", "default"), "default"),
    "pod's gateway neighbour": (lambda m, p, h: p.netns.ip("neigh", "del", "169.254.1.1", "dev", "eth0"), "neighbour"),
    "pod's link down": (lambda m, p, h: p.netns.ip("link", "set", "eth0", "down"), "down"),
    "host's link down": (lambda m, p, h: m.host.ip("link", "set", h, "down"), "down"),
    "link gone": (lambda m, p, h: m.host.ip("link", "del", h), "gone"),
    "pod's link renamed": (
        lambda m, p, h: (p.netns.ip("link", "set", "eth0", "down"), p.netns.ip("link", "set", "eth0", "name", "x")),
        "gone"),
    "host's IPv4 route": (lambda m, p, h: m.host.ip("route", "del", "10.7.0.0/32"), "route to 10.7.0.0"),
    "host's IPv6 route": (lambda m, p, h: m.host.ip("-6", "route", "del", "fd00:7::/128", "dev", h), "to fd00:7::"),
    "host's neighbour": (lambda m, p, h: m.host.ip("neigh", "del", "10.7.0.0", "dev", h), "neighbour"),
    "host's MAC": (lambda m, p, h: m.host.ip("link", "set", h, "address", "02:00:00:00:00:09"), "MAC"),
    "proxy_arp": (lambda m, p, h: m.host.set_sysctl(f"net/ipv4/conf/{h}/proxy_arp", 0), "proxy_arp"),
    "forwarding": (lambda m, p, h: m.host.set_sysctl(f"net/ipv4/conf/{h}/forwarding", 0), "forwarding"),
    "rp_filter": (lambda m, p, h: m.host.set_sysctl(f"net/ipv4/conf/{h}/rp_filter", 0), "rp_filter"),
    "IPv6 proxy_ndp": (lambda m, p, h: m.host.set_sysctl(f"net/ipv6/conf/{h}/proxy_ndp", 0), "proxy_ndp"),
    "endpoint record": (lambda m, p, h: remove_records(m, "workloadendpoints"), "record"),
    "block record": (lambda m, p, h: remove_records(m, "/block/"), "10.7.0.0"),
    "handle record": (lambda m, p, h: remove_records(m, "/handle/"), "10.7.0.0"),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_drift(machine: Machine, name: str) -> None:
    """Each thing an ADD made, once taken away, fails CHECK by name; DEL still leaves nothing in the kernel."""
    breaks, word = DRIFTS[name]
    pod = machine.pod()
    host_name = machine.add(pod, **ASKED_DUAL)["interfaces"][0]["name"]
    assert machine.check(pod, ipam=DUAL).ok == {}
    breaks(machine, pod, host_name)
    error = machine.check(pod, ipam=DUAL).error
    assert error["code"] == DRIFT
    assert word in error["msg"]
    assert pod.container_id in error["details"]
    machine.delete(pod, ipam=DUAL)
    assert machine.veths() == []


def test_the_gateway_s_route(machine: Machine) -> None:
    """The link route to the gateway is looked for too, though the default route still stands."""
    pod = machine.pod()
    machine.add(pod)
    pod.netns.ip("route", "replace", "default", "via", "169.254.1.1", "dev", "eth0", "onlink", "proto", "80")
    pod.netns.ip("route", "del", "169.254.1.1")
    assert "169.254.1.1/32" in machine.check(pod).error["msg"]


def test_another_interface_instead(machine: Machine) -> None:
    """An interface of the right name and address that is not ours fails."""
    pod = machine.pod()
    machine.add(pod)
    for command in (("link", "set", "eth0", "down"), ("link", "set", "eth0", "name", "old"),
                    ("link", "add", "eth0", "type", "veth", "peer", "name", "other"), ("link", "set", "eth0", "up")):
        pod.netns.ip(*command)
    assert "not the other end" in machine.check(pod).error["msg"]


def test_what_others_add_is_no_drift(machine: Machine) -> None:
    """More routes, addresses and interfaces, another MTU, a qdisc: chained plugins may do all that (rule C2)."""
    pod = machine.pod()
    host_name = machine.add(pod)["interfaces"][0]["name"]
    pod.netns.ip("route", "add", "10.99.0.0/16", "via", "169.254.1.1", "dev", "eth0")
    pod.netns.ip("address", "add", "10.99.0.1/32", "dev", "eth0")
    pod.netns.ip("link", "set", "eth0", "mtu", "1300")
    pod.netns.ip("link", "add", "x0", "type", "veth", "peer", "name", "x1")
    machine.host.run("tc", "qdisc", "add", "dev", host_name, "root", "tbf", "rate", "1mbit", "burst", "10kb", "latency",
                     "50ms")
    assert machine.check(pod).ok == {}


def test_check_changes_nothing(machine: Machine) -> None:
    """A CHECK leaves kernel and records as they were (rule C5)."""
    pod = machine.pod()
    machine.add(pod)

    def state() -> tuple[object, ...]:
        return machine.left(), machine.host.ip("-4", "route"), pod.netns.ip("-4", "route"), pod.netns.ip("neigh")

    before = state()
    assert machine.check(pod).ok == {}
    assert state() == before


def test_prev_result_is_needed(machine: Machine) -> None:
    """Without prevResult, or with one of another pod, CHECK fails (rule C1)."""
    pod, other = machine.pod(), machine.pod()
    machine.add(pod)
    assert machine.call("CHECK", pod).error["code"] == INVALID_CONFIG
    assert machine.call("CHECK", other, prevResult=pod.results["eth0"]).error["code"] == DRIFT
    assert machine.call("CHECK", pod, cniVersion="0.3.1", prevResult={}).error["code"] == INCOMPATIBLE_VERSION


def test_a_namespace_that_is_gone(machine: Machine) -> None:
    """CHECK of a pod whose namespace is gone fails."""
    pod = machine.pod()
    result = machine.add(pod)
    result["interfaces"][1]["sandbox"] = "/run/netns/gone"
    error = machine.call("CHECK", pod, netns="/run/netns/gone", prevResult=result).error
    assert error["code"] == INVALID_NETNS


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_check_in_older_versions(machine: Machine, version: str) -> None:
    """A result of an older version is enough for CHECK."""
    pod = machine.pod()
    machine.add(pod, cniVersion=version)
    assert machine.check(pod, cniVersion=version).ok == {}
