"""The reference plugins of Debian: after ours, as IPAM under ours, and as main plugins over our IPAM."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest

from .chain import Chain, Json, PluginError
from .conftest import needs
from .host import Host, busybox
from .installed import Before, Installed
from .libcni import SHAPED, WEB, address_of

GATEWAY = "169.254.1.1"
BLOCK = 26
OURS = "calico-ipam"
Build = Callable[..., Chain]


@pytest.fixture
def chain(host: Host, net: Installed) -> Build:
    """Build a network of ours followed by other plugins; keywords replace parts of our configuration."""

    def build(*others: Json, **ours: object) -> Chain:
        needs(*(each["type"] for each in others))
        return Chain(host, net.path, [{**net.main, **ours}, *others], net.network)

    return build


@pytest.fixture
def under(host: Host, net: Installed) -> Callable[[Json], Chain]:
    """Build a network with another main plugin and our IPAM under it."""

    def build(main: Json) -> Chain:
        needs(main["type"])
        ours = {key: value for key, value in net.main.items() if key not in ("type", "ipam", "mtu")}
        return Chain(host, net.path, [{**ours, **main, "ipam": {"type": OURS}}], net.network)

    return build


def test_portmap(chain: Build, before: Before, scratch: Path) -> None:
    """portmap after ours maps a port of the host, our CHECK bears with it, and DEL takes it away."""
    needs("iptables")
    host, network = before.host, chain({"type": "portmap", "capabilities": {"portMappings": True}, "snat": True})
    network.runtime = WEB
    (scratch / "index.html").write_text("page of the pod")
    pod = host.pod("pod")
    network.add(pod)
    with host.daemon(*host.inside(pod, busybox(), "httpd", "-f", "-p", "80", "-h", str(scratch))):
        assert host.fetch("127.0.0.1", 8080) == "page of the pod"
    network.check(pod, besides="portmap")
    network.delete(pod)
    assert before.left() == []
    assert "8080" not in host.out("iptables-save")


def test_bandwidth(chain: Build, before: Before) -> None:
    """bandwidth after ours finds the host's veth in our result and shapes it, passes CHECK, and leaves nothing."""
    needs("tc")
    host, network = before.host, chain({"type": "bandwidth", "capabilities": {"bandwidth": True}})
    network.runtime = SHAPED
    pod = host.pod("pod")
    result = network.add(pod)
    assert "tbf" in host.out("tc", "qdisc", "show", "dev", result["interfaces"][0]["name"])
    assert host.ping(address_of(result))
    network.check(pod)
    network.delete(pod)
    assert before.left() == []


def test_tuning(chain: Build, before: Before) -> None:
    """tuning after ours changes a sysctl and the MTU of the pod's interface, and our CHECK bears with it."""
    sysctl = {"net.ipv4.conf.eth0.arp_filter": "1"}
    host, network = before.host, chain({"type": "tuning", "sysctl": sysctl, "mtu": 1300, "dataDir": "/run/tuning"})
    pod = host.pod("pod")
    address = address_of(network.add(pod))
    assert " mtu 1300 " in host.out("ip", "-n", "pod", "link", "show", "eth0")
    assert host.out(*host.inside(pod, busybox(), "sysctl", "-n", "net.ipv4.conf.eth0.arp_filter")) == "1\n"
    assert host.ping(address)
    network.check(pod)
    network.delete(pod)
    assert before.left() == []


def test_firewall(chain: Build, before: Before) -> None:
    """firewall after ours lets a pod's traffic pass where forwarding is dropped by default, and ends with the pod."""
    needs("iptables")
    host, network = before.host, chain({"type": "firewall", "backend": "iptables"})
    host.run("iptables", "-P", "FORWARD", "DROP")
    pods = [host.pod("pod-a"), host.pod("pod-b")]
    here, there = (address_of(network.add(pod)) for pod in pods)
    assert host.ping(there, netns=pods[0])
    for pod in pods:
        network.check(pod)
        network.delete(pod)
    assert before.left() == []
    assert here not in host.out("iptables-save")


def test_all_of_them(chain: Build, before: Before) -> None:
    """portmap, bandwidth, tuning and firewall together pass CHECK after ours, and leave nothing.

    Not portmap: 1.1.1 wants each family's rules in the tables of both, so its CHECK of a mapped port always fails.
    """
    needs("iptables")
    network = chain(
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "tuning", "mtu": 1300, "dataDir": "/run/tuning"},
        {"type": "firewall", "backend": "iptables"},
    )
    network.runtime = WEB | SHAPED
    pod = before.host.pod("pod")
    assert before.host.ping(address_of(network.add(pod)))
    network.check(pod, besides="portmap")
    for _ in range(2):
        network.delete(pod)
        assert before.left() == []


def _host_local(scratch: Path, *subnets: str) -> Json:
    """A host-local configuration with its state in the test's folder."""
    return {
        "type": "host-local",
        "dataDir": str(scratch / "host-local"),
        "ranges": [[{"subnet": each}] for each in subnets],
    }


def _reservations(scratch: Path) -> list[str]:
    """The addresses that host-local has given away."""
    found = (each.name for each in (scratch / "host-local").rglob("*") if each.is_file())
    return [name for name in found if name != "lock" and not name.startswith("last_reserved_ip")]


def test_host_local_under_ours(chain: Build, before: Before, scratch: Path) -> None:
    """host-local under ours gives addresses of both families, which answer from the host; DEL gives them back."""
    needs("host-local")
    network = chain(ipam=_host_local(scratch, "10.95.0.0/24", "fd00:95::/64"))
    pod = before.host.pod("pod")
    result = network.add(pod)
    addresses = [ipaddress.ip_interface(each["address"]) for each in result["ips"]]
    assert [(each.version, each.network.prefixlen) for each in addresses] == [(4, 32), (6, 128)]
    assert all(before.host.ping(str(each.ip)) for each in addresses)
    network.check(pod)
    network.delete(pod)
    assert before.left() == []
    assert _reservations(scratch) == []


def test_static_under_ours(chain: Build, before: Before) -> None:
    """static under ours gives exactly the configured addresses of both families."""
    needs("static")
    addresses = [{"address": "10.95.0.9/24"}, {"address": "fd00:95::9/64"}]
    network = chain(ipam={"type": "static", "addresses": addresses})
    pod = before.host.pod("pod")
    result = network.add(pod)
    assert [each["address"] for each in result["ips"]] == ["10.95.0.9/32", "fd00:95::9/128"]
    assert before.host.ping("10.95.0.9")
    assert before.host.ping("fd00:95::9")
    network.check(pod)
    network.delete(pod)
    assert before.left() == []


def test_failing_ipam_under_ours(chain: Build, before: Before, scratch: Path) -> None:
    """A foreign IPAM with no address left fails the ADD with its own text, and leaves nothing."""
    needs("host-local")
    network = chain(ipam=_host_local(scratch, "10.95.0.0/30"))
    given = []
    with pytest.raises(PluginError, match="no IP addresses available"):
        for number in range(4):
            given.append(before.host.pod(f"pod-{number}"))
            network.add(given[-1])
    for pod in given:
        network.delete(pod)
    assert before.left() == []
    assert _reservations(scratch) == []


def test_ours_after_another_plugin(chain: Build, before: Before) -> None:
    """An ADD that another plugin has already given an interface is refused, and leaves nothing of ours."""
    pod = before.host.pod("pod")
    network = chain()
    network.add(pod)
    twice = Chain(network.host, network.path, network.plugins, network.name)
    with pytest.raises(PluginError):
        twice.add(pod)
    network.delete(pod)
    assert before.left() == []


def _gave_one_of_the_pool(result: Json, net: Installed) -> str:
    """The address of a result: one of the pool, with its block's mask and the gateway that nobody owns."""
    (entry,) = result["ips"]
    assert net.owns(entry["address"])
    assert ipaddress.ip_interface(entry["address"]).network.prefixlen == BLOCK
    assert entry["gateway"] == GATEWAY
    return address_of(result)


def _goes_away(network: Chain, pod: str, before: Before, extra: frozenset[str] = frozenset()) -> None:
    """Assert that DEL, and a second one, succeed and leave nothing but what the main plugin keeps for all its pods."""
    for _ in range(2):
        network.delete(pod)
        assert [each for each in before.left() if each not in extra] == []


def test_ours_under_ptp(under: Callable[[Json], Chain], before: Before) -> None:
    """ptp works with our IPAM: the host reaches the pod, and the pod reaches another pod."""
    network = under({"type": "ptp", "ipMasq": False})
    pods = [before.host.pod("pod-a"), before.host.pod("pod-b")]
    here, there = (_gave_one_of_the_pool(network.add(pod), before.installed) for pod in pods)
    assert before.host.ping(here)
    assert before.host.ping(there)
    network.check(pods[0])
    network.delete(pods[1])
    _goes_away(network, pods[0], before)


def test_ours_under_bridge(under: Callable[[Json], Chain], before: Before) -> None:
    """bridge works with our IPAM: two pods on the bridge reach each other."""
    network = under({"type": "bridge", "bridge": "br-test"})
    pods = [before.host.pod("pod-a"), before.host.pod("pod-b")]
    here, there = (_gave_one_of_the_pool(network.add(pod), before.installed) for pod in pods)
    assert here != there
    assert before.host.ping(there, netns=pods[0])
    network.check(pods[1])  # not the first: the bridge's own MAC may have changed with its second port
    network.delete(pods[1])
    _goes_away(network, pods[0], before, frozenset({"br-test"}))


def test_ours_under_macvlan(under: Callable[[Json], Chain], before: Before) -> None:
    """macvlan works with our IPAM: two pods on one card reach each other."""
    network = under({"type": "macvlan", "master": "uplink0", "mode": "bridge"})
    pods = [before.host.pod("pod-a"), before.host.pod("pod-b")]
    _, there = (_gave_one_of_the_pool(network.add(pod), before.installed) for pod in pods)
    assert before.host.ping(there, netns=pods[0])
    network.check(pods[0])
    network.delete(pods[1])
    _goes_away(network, pods[0], before)
