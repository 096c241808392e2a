"""What an ADD makes in the kernel, and that traffic flows through it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from cni_calico.args import Attachment
from cni_calico.errors import ALREADY_ATTACHED, INVALID_CONFIG, INVALID_ENVIRONMENT, INVALID_NETNS, KERNEL

from .machine import ASKED, ASKED_DUAL, Json, Machine

GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::ecee:eeff:feee:eeee"
HOST_MAC = "ee:ee:ee:ee:ee:ee"
FAMILIES: dict[str, Json] = {
    "ipv4": {},
    "ipv6": {"assign_ipv4": "false", "assign_ipv6": "true"},
    "dual": {"assign_ipv6": "true"},
}


@pytest.mark.parametrize("families", FAMILIES)
def test_pods_and_host_reach_each_other(machine: Machine, families: str) -> None:
    """Three pods and the host ping each other at every address, on a host without a default route."""
    pods = [machine.pod() for _ in range(3)]
    for pod in pods:
        machine.add(pod, ipam=FAMILIES[families])
    for pod in pods:
        assert len(pod.addresses()) == (2 if families == "dual" else 1)
        for address in pod.addresses():
            assert machine.host.pings(address), address
            assert all(other.netns.pings(address) for other in pods), address
        assert pod.netns.pings("10.254.0.1" if families != "ipv6" else "fd00:fe::1")
    for pod in pods:
        machine.delete(pod)
    assert machine.left() == []


def test_the_result(machine: Machine) -> None:
    """The result lists host end and pod end, /32 and /128 addresses on the pod's, and the default routes."""
    pod = machine.pod("c1")
    result = machine.add(pod, **ASKED_DUAL)
    name = Attachment("net", "c1", "eth0").host_ifname
    mac = pod.netns.link("eth0")["address"]
    assert result == {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": name, "mac": HOST_MAC, "mtu": 1500},
                       {"name": "eth0", "mac": mac, "sandbox": pod.netns.path, "mtu": 1500}],
        "ips": [{"address": "10.7.0.0/32", "interface": 1}, {"address": "fd00:7::/128", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": GATEWAY4}, {"dst": "::/0", "gw": GATEWAY6}],
    }
    assert name.startswith("cali")
    assert len(name) == 15


def test_the_pod_s_side(machine: Machine) -> None:
    """The pod has its addresses, the gateway on the link, the default routes, and permanent neighbour entries."""
    pod = machine.pod()
    machine.add(pod, **ASKED_DUAL)
    link = pod.netns.link("eth0")
    assert (link["linkinfo"]["info_kind"], link["operstate"], link["mtu"]) == ("veth", "UP", 1500)
    addresses = pod.netns.ip_json("address", "show", "dev", "eth0")[0]["addr_info"]
    assert {(item["local"], item["prefixlen"]) for item in addresses if item["scope"] == "global"} == {
        ("10.7.0.0", 32), ("fd00:7::", 128)}
    routes = [(route["dst"], route.get("gateway"), route.get("scope")) for route in pod.netns.ip_json("route")]
    assert routes == [("default", GATEWAY4, None), (GATEWAY4, None, "link")]
    routes6 = [(route["dst"], route.get("gateway")) for route in pod.netns.ip_json("-6", "route")]
    assert ("default", GATEWAY6) in routes6
    neighbours = {entry["dst"]: entry["lladdr"] for entry in pod.netns.ip_json("neigh", "show", "nud", "permanent")}
    assert neighbours == {GATEWAY4: HOST_MAC, GATEWAY6: HOST_MAC}
    assert pod.netns.sysctl("net/ipv4/ip_forward") == "0"
    assert pod.netns.sysctl("net/ipv6/conf/eth0/accept_dad") == "0"


def test_the_host_s_side(machine: Machine) -> None:
    """The host end has MAC, alias, sysctls, a /32 and a /128 route and permanent neighbour entries."""
    pod = machine.pod("c1")
    name = machine.add(pod, **ASKED_DUAL)["interfaces"][0]["name"]
    link = machine.host.link(name)
    assert (link["address"], link["operstate"], link["ifalias"]) == (HOST_MAC, "UP", "calico:net:c1:eth0")
    route = next(route for route in machine.host.ip_json("-4", "route") if route["dst"] == "10.7.0.0")
    assert (route["dev"], route["scope"], route["protocol"], route["metric"]) == (name, "link", "80", 1024)
    assert any(route["dst"] == "fd00:7::" and route["dev"] == name for route in machine.host.ip_json("-6", "route"))
    mac = pod.netns.link("eth0")["address"]
    neighbours = machine.host.ip_json("neigh", "show", "dev", name, "nud", "permanent")
    assert {(entry["dst"], entry["lladdr"]) for entry in neighbours} == {("10.7.0.0", mac), ("fd00:7::", mac)}
    conf = f"net/ipv4/conf/{name}"
    wanted = {f"{conf}/route_localnet": "1", f"{conf}/proxy_arp": "1", f"{conf}/forwarding": "1",
              f"{conf}/rp_filter": "1", f"net/ipv4/neigh/{name}/proxy_delay": "0", "net/ipv4/ip_forward": "1"}
    conf = f"net/ipv6/conf/{name}"
    wanted |= {f"{conf}/accept_dad": "0", f"{conf}/disable_ipv6": "0", f"{conf}/proxy_ndp": "1",
               f"{conf}/forwarding": "1", f"{conf}/accept_ra": "0", "net/ipv6/conf/all/forwarding": "1"}
    assert {key: machine.host.sysctl(key) for key in wanted} == wanted
    addresses = machine.host.ip_json("-6", "address", "show", "dev", name)[0]["addr_info"]
    assert [item["local"] for item in addresses] == [GATEWAY6]


def test_a_stable_link_local_address(machine: Machine) -> None:
    """Where the host generates link-local addresses in another way, the pod's gateway is still the expected one."""
    machine.host.set_sysctl("net/ipv6/conf/default/addr_gen_mode", 3)
    pod = machine.pod()
    machine.add(pod, ipam=FAMILIES["ipv6"])
    assert machine.host.pings(pod.addresses()[0])


@pytest.mark.parametrize("families", FAMILIES)
def test_a_second_interface(machine: Machine, families: str) -> None:
    """A pod's second interface answers at its address, though gateway and default routes belong to the first (A9)."""
    pod, other = machine.pod(), machine.pod()
    machine.add(other, ipam=FAMILIES[families])
    machine.add(pod, "eth0", ipam=FAMILIES[families])
    machine.add(pod, "net1", ipam=FAMILIES[families])
    assert not set(pod.addresses("eth0")) & set(pod.addresses("net1"))
    for address in (*pod.addresses("eth0"), *pod.addresses("net1")):
        assert machine.host.pings(address), address
        assert other.netns.pings(address), address
    for address in other.addresses():
        assert pod.netns.pings(address, source=pod.addresses("net1")[other.addresses().index(address)])
    for ifname in ("eth0", "net1"):
        assert machine.check(pod, ifname, ipam=FAMILIES[families]).ok == {}
    machine.delete(pod, "net1")
    assert not any("10.7." in str(rule) or "fd00:7" in str(rule)
                   for family in ("-4", "-6") for rule in pod.netns.ip_json(family, "rule"))
    assert all(machine.host.pings(address) for address in pod.addresses("eth0"))
    machine.delete(pod, "eth0")
    machine.delete(other)
    assert machine.left() == []


def test_two_networks_in_one_pod(machine: Machine) -> None:
    """The same container in another network of ours is another attachment."""
    pod = machine.pod()
    machine.add(pod, "eth0")
    machine.add(pod, "eth1", name="net2")
    assert all(machine.host.pings(pod.addresses(ifname)[0]) for ifname in ("eth0", "eth1"))
    machine.delete(pod, "eth1", name="net")
    assert machine.host.pings(pod.addresses("eth1")[0])
    machine.delete(pod, "eth1", name="net2")
    machine.delete(pod, "eth0")
    assert machine.left() == []


def test_mtu_queues_mac_and_forwarding(machine: Machine) -> None:
    """MTU and queues are set on both ends, the MAC is the one asked for, forwarding is on in the pod when wanted."""
    pod = machine.pod()
    result = machine.add(pod, mtu=1400, num_queues=3, container_settings={"allow_ip_forwarding": True},
                         env={"CNI_ARGS": "IgnoreUnknown=1;MAC=02:00:5e:10:00:01"})
    host, inner = machine.host.link(result["interfaces"][0]["name"]), pod.netns.link("eth0")
    assert [link["mtu"] for link in (host, inner)] == [1400, 1400]
    assert [link["num_rx_queues"] for link in (host, inner)] == [3, 3]
    assert inner["address"] == "02:00:5e:10:00:01"
    assert pod.netns.sysctl("net/ipv4/ip_forward") == "1"
    assert machine.host.pings(pod.addresses()[0])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"ipam": {"routes": [{"dst": "10.0.0.0/8"}]}}, {"10.0.0.0/8"}),
        ({"ipam": {"routes": [{"dst": "10.0.0.0/8"}]}, "include_default_routes": True}, {"10.0.0.0/8", "default"}),
        ({"include_default_routes": True}, {"default"}),
    ],
)
def test_routes_asked_for(machine: Machine, more: dict[str, Any], expected: set[str]) -> None:
    """Routes named in `ipam` take the default route's place, or come besides it."""
    pod = machine.pod()
    machine.add(pod, **more)
    assert {route["dst"] for route in pod.netns.ip_json("route")} - {GATEWAY4} == expected
    assert machine.check(pod, **more).ok == {}


@pytest.mark.parametrize(
    ("env", "more", "expected"),
    [
        ({"CNI_ARGS": "IP=10.7.3.4"}, {}, ["10.7.3.4"]),
        ({}, {"args": {"cni": {"ips": ["10.7.3.5/24"]}}}, ["10.7.3.5"]),
        ({}, {"runtimeConfig": {"ips": ["10.7.3.6"]}}, ["10.7.3.6"]),
        ({"CNI_ARGS": "IP=10.7.3.7"}, {"args": {"cni": {"ips": ["fd00:7::9"]}}}, ["10.7.3.7", "fd00:7::9"]),
    ],
)
def test_addresses_asked_for(machine: Machine, env: dict[str, str], more: dict[str, Any], expected: list[str]) -> None:
    """An address may be asked for in three ways; the next to ask for it is told who has it."""
    pod = machine.pod()
    machine.add(pod, env=env, **more)
    assert pod.addresses() == expected
    assert machine.host.pings(expected[0])
    error = machine.call("ADD", machine.pod(), env=env, **more).error
    assert pod.container_id in error["msg"]
    assert machine.allocated() == dict.fromkeys(expected, pod.container_id)


def test_behind_another_plugin(machine: Machine) -> None:
    """As a later plugin of a list it appends to prevResult and keeps its indexes (rule A4)."""
    previous = {"interfaces": [{"name": "br0"}], "ips": [{"address": "10.1.0.2/24", "interface": 0}],
                "routes": [{"dst": "10.1.0.0/16"}], "dns": {"domain": "x"}}
    pod = machine.pod()
    result = machine.add(pod, prevResult=previous)
    assert [item["name"] for item in result["interfaces"]][::2] == ["br0", "eth0"]
    assert [ip["interface"] for ip in result["ips"]] == [0, 2]
    assert result["routes"][0] == {"dst": "10.1.0.0/16"}
    assert result["dns"] == {"domain": "x"}
    assert machine.check(pod).ok == {}


def test_a_pod_cannot_use_another_s_address(machine: Machine) -> None:
    """Packets a pod sends from another pod's address are dropped by the host."""
    victim, thief, target = machine.pod(), machine.pod(), machine.pod()
    for pod in (victim, thief, target):
        machine.add(pod)
    stolen = victim.addresses()[0]
    thief.netns.ip("address", "add", f"{stolen}/32", "dev", "eth0")
    assert victim.netns.pings(target.addresses()[0], source=stolen)
    assert not thief.netns.pings(target.addresses()[0], source=stolen)
    assert machine.host.pings(stolen)


def test_the_interface_is_there_already(machine: Machine) -> None:
    """A second ADD of a live interface fails, and leaves wire, address and record as they are (rules A2, A7)."""
    pod = machine.pod()
    machine.add(pod)
    before = machine.left()
    for _ in range(2):
        assert machine.call("ADD", pod).error["code"] == ALREADY_ATTACHED
    assert machine.left() == before
    assert machine.check(pod).ok == {}
    machine.delete(pod)
    assert machine.left() == []


def test_a_foreign_interface_of_that_name(machine: Machine) -> None:
    """An interface of somebody else in the pod fails the ADD, which leaves it alone and nothing behind."""
    pod = machine.pod()
    pod.netns.ip("link", "add", "eth0", "type", "veth", "peer", "name", "other")
    assert machine.call("ADD", pod).error["code"] == ALREADY_ATTACHED
    assert machine.left() == []
    assert pod.netns.link("eth0")


def test_the_same_container_in_a_new_namespace(machine: Machine) -> None:
    """An ADD without DEL of a container whose namespace was replaced takes the stale wire's place (rule A11)."""
    pod = machine.pod("c1")
    machine.add(pod)
    again = machine.pod("c1")
    machine.add(again)
    assert len(machine.veths()) == 1
    assert list(machine.allocated().values()) == ["c1"]
    assert machine.host.pings(again.addresses()[0])
    machine.delete(again)
    assert machine.left() == []


def test_a_route_that_leads_elsewhere(machine: Machine) -> None:
    """A host route that would win over the pod's own fails the ADD, naming the interface that has it."""
    machine.host.ip("link", "add", "stale0", "type", "veth", "peer", "name", "stale1")
    machine.host.ip("link", "set", "stale0", "up")
    machine.host.ip("route", "add", "10.7.0.0/32", "dev", "stale0")
    error = machine.call("ADD", machine.pod(), **ASKED).error
    assert error["code"] == KERNEL
    assert "10.7.0.0" in error["msg"]
    assert "stale0" in error["msg"]
    assert machine.left() == []


@pytest.mark.parametrize("path", ["/nonexistent/ns", "/etc/passwd", "/proc/self/ns/uts", "/", "\u00e9", "/dev/null"])
def test_what_is_no_network_namespace(machine: Machine, path: str) -> None:
    """A CNI_NETNS that is not a network namespace is code 8, and nothing is left."""
    assert machine.call("ADD", machine.pod(), netns=path).error["code"] == INVALID_NETNS
    assert machine.left() == []


@pytest.mark.parametrize("mac", ["01:00:5e:00:00:01", "00:00:00:00:00:00", "zz", "02:00:00:00:00"])
def test_bad_macs(machine: Machine, mac: str) -> None:
    """A MAC that no interface can have is refused before anything is made."""
    assert machine.call("ADD", machine.pod(), runtimeConfig={"MAC": mac}).error["code"] == INVALID_CONFIG
    assert machine.left() == []


def test_a_pattern_is_no_interface_name(machine: Machine) -> None:
    """eth%d, which the kernel would make eth0 of, is refused; DEL takes it for the name of nothing."""
    pod = machine.pod()
    assert machine.call("ADD", pod, "eth%d").error["code"] == INVALID_ENVIRONMENT
    machine.delete(pod, "eth%d")
    assert machine.left() == []


def test_an_mtu_too_small_for_ipv6(machine: Machine) -> None:
    """An MTU that IPv6 cannot live with is named as such, not as the sysctl that is missing then."""
    error = machine.call("ADD", machine.pod(), mtu=1000, ipam=FAMILIES["dual"]).error
    assert error["code"] == INVALID_CONFIG
    assert "1280" in error["msg"]
    assert machine.left() == []
    machine.add(machine.pod(), mtu=1000)


def test_the_host_end_s_mac_is_held(machine: Machine) -> None:
    """A MAC that another program sets just after the link appears, as udev may, is set right again."""
    pod = machine.pod()
    name = machine.add(pod)["interfaces"][0]["name"]
    machine.host.ip("link", "set", name, "address", "02:00:00:00:00:99")
    code = ("import sys\nfrom cni_calico import dataplane\nfrom cni_calico.netlink import Socket\n"
            "with Socket() as host:\n link = host.link(sys.argv[1])\n"
            " dataplane._hold_mac(link.name, link.index, host)")
    machine.host.run(sys.executable, "-c", code, name)
    assert machine.host.link(name)["address"] == HOST_MAC
    assert machine.host.pings(pod.addresses()[0])


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_a_route_that_leads_nowhere(machine: Machine, kind: str) -> None:
    """A host route that would swallow the pod's packets fails the ADD in plain words."""
    machine.host.ip("route", "add", kind, "10.7.0.0/32")
    error = machine.call("ADD", machine.pod(), **ASKED).error
    assert "leads nowhere" in error["msg"]
    assert machine.left() == []


def test_an_address_of_the_host(machine: Machine) -> None:
    """A pool that has an address of the host itself is told as that."""
    machine.host.ip("address", "add", "10.7.0.0/32", "dev", "lo")
    assert "an address of the host" in machine.call("ADD", machine.pod(), **ASKED).error["msg"]
    assert machine.left() == []


def test_ipv6_alone_makes_no_ipv4_pool(machine: Machine) -> None:
    """A pod with IPv6 only, routed to IPv4 only, needs no IPv4 pool and gets no route."""
    pod = machine.pod()
    machine.add(pod, ipam={**FAMILIES["ipv6"], "routes": [{"dst": "10.0.0.0/8"}]})
    assert pod.netns.ip_json("route") == []
    assert not list(machine.datastore.rglob("default-ipv4-ippool*"))


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_descriptors(machine: Machine, closed: tuple[int, ...]) -> None:
    """Whatever of stdin, stdout and stderr is closed, nothing is written into a file that took its place."""
    pod = machine.pod()
    log = machine.datastore.parent / "cni.log"
    redirections = " ".join(f"{fd}<&-" if fd == 0 else f"{fd}>&-" for fd in closed)
    prefix = ("sh", "-c", f'exec "$@" {redirections}', "sh")
    answer = machine.call("ADD", pod, prefix=prefix, log_file_path=str(log))
    assert answer.code == (0 if closed == (2,) else 1)
    if 0 not in closed:
        assert len(log.read_text().splitlines()) == len(set(log.read_text().splitlines()))
    machine.delete(pod)
    assert machine.left() == []
    for file in machine.datastore.rglob("*"):
        assert file.is_dir() or "ADD" not in file.read_text()


def test_every_failure_is_logged(machine: Machine) -> None:
    """A verb that is refused before it begins has its line in the log file too."""
    log = machine.datastore.parent / "cni.log"
    cases: dict[str, Json] = {"mtu": {"mtu": "x"}, "9.9.9": {"cniVersion": "9.9.9"}, "a/b": {"name": "a/b"}}
    for word, more in cases.items():
        assert machine.call("ADD", machine.pod(), log_file_path=str(log), **more).code == 1
        assert word in log.read_text().splitlines()[-1]


def test_datastores_to_come(machine: Machine) -> None:
    """A datastore type of a later release is a clear error with key and value (code 2)."""
    for kind in ("etcd", "kubernetes"):
        for verb in ("ADD", "DEL"):
            error = machine.call(verb, machine.pod(), datastore_type=kind).error
            assert error["code"] == 2
            assert "datastore_type" in error["msg"]
            assert kind in error["msg"]
