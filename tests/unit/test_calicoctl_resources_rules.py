"""What Calico refuses is refused, by field, and leaves nothing behind; what it takes is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datastore import keys
from datastore.file import FileStore
from ipam.affinity import own_blocks
from ipam.assign import Request, assign
from ipam.handle import Owner

from .resources_kit import Place, endpoint, many, node, pool, resource


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def refused(place: Place, given: dict[str, Any]) -> str:
    """Hand a resource to `create`; return why it was refused. Nothing was made, not even the datastore."""
    said = place.fails("create", "-f", "-", stdin=many(given))
    assert not place.directory.exists()
    return said


def taken(place: Place, given: dict[str, Any]) -> None:
    place.create(given)


@pytest.mark.parametrize(("spec", "field", "reason"), [
    ({"cidr": "10.1.0.1/16"}, "spec.cidr = '10.1.0.1/16'", "did you mean 10.1.0.0/16?"),
    ({"cidr": "10.1.0.0"}, "spec.cidr = '10.1.0.0'", "expected a CIDR"),
    ({"cidr": "10.1.0.0/33"}, "spec.cidr", "expected a CIDR"),
    ({"cidr": "10.1.0.0/255.255.0.0"}, "spec.cidr", "expected a CIDR"),
    ({"cidr": "10.1/16"}, "spec.cidr", "expected a CIDR"),
    ({}, "spec.cidr = ''", "expected a CIDR"),
    ({"cidr": "169.254.7.0/24"}, "spec.cidr", "169.254.0.0/16"),
    ({"cidr": "0.0.0.0/0"}, "spec.cidr", "169.254.0.0/16"),
    ({"cidr": "fe80::/64"}, "spec.cidr", "fe80::/10"),
    ({"cidr": "10.1.0.0/27"}, "spec.cidr", "smaller than one block (/26)"),
    ({"cidr": "10.1.0.0/27", "disabled": True}, "spec.cidr", "smaller than one block (/26)"),
    ({"cidr": "10.0.0.0/8", "blockSize": 19}, "spec.blockSize = '19'", "20 to 32"),
    ({"cidr": "10.0.0.0/8", "blockSize": 33}, "spec.blockSize = '33'", "20 to 32"),
    ({"cidr": "fd00::/64", "blockSize": 115}, "spec.blockSize = '115'", "116 to 128"),
    ({"cidr": "fd00::/64", "ipipMode": "Always"}, "spec.ipipMode = 'Always'", "no IPIP for IPv6"),
    ({"cidr": "10.0.0.0/8", "ipipMode": "Always", "vxlanMode": "CrossSubnet"}, "spec.vxlanMode", "not both"),
    ({"cidr": "10.0.0.0/8", "ipipMode": "always"}, "spec.ipipMode = 'always'", "Never, Always, CrossSubnet"),
    ({"cidr": "10.0.0.0/8", "vxlanMode": "On"}, "spec.vxlanMode = 'On'", "Never, Always, CrossSubnet"),
    ({"cidr": "10.0.0.0/8", "assignmentMode": "Auto"}, "spec.assignmentMode = 'Auto'", "Automatic or Manual"),
    ({"cidr": "10.0.0.0/8", "nodeSelector": "rack == r1"}, "spec.nodeSelector", "a string in quotes"),
    ({"cidr": "10.0.0.0/8", "nodeSelector": "global()"}, "spec.nodeSelector", "global() bears on namespaces"),
    ({"cidr": "10.0.0.0/8", "namespaceSelector": "has(x)"}, "spec.namespaceSelector", "take Tunnel out"),
    ({"cidr": "10.0.0.0/8", "allowedUses": ["Workload"], "namespaceSelector": "x ="}, "spec.namespaceSelector", "=="),
    ({"cidr": "10.0.0.0/8", "allowedUses": ["workload"]}, "spec.allowedUses = 'workload'", "LoadBalancer"),
    ({"cidr": "10.0.0.0/8", "allowedUses": ["LoadBalancer", "Workload"]}, "spec.allowedUses", "excludes other uses"),
    ({"cidr": "10.0.0.0/8", "allowedUses": ["LoadBalancer"], "vxlanMode": "Always"}, "spec.vxlanMode", "Never"),
    ({"cidr": "10.0.0.0/8", "allowedUses": ["LoadBalancer"], "nodeSelector": "has(x)"}, "spec.nodeSelector", "all()"),
    ({"cidr": "10.0.0.0/8", "allowedUses": ["LoadBalancer"], "disableBGPExport": True}, "spec.disableBGPExport",
     "False"),
])
def test_pools_refused(place: Place, spec: dict[str, Any], field: str, reason: str) -> None:
    said = refused(place, resource("IPPool", "p", spec))
    assert said.startswith("failed to create 'IPPool' resource: [error with field spec.")
    assert field in said
    assert reason in said


@pytest.mark.parametrize(("spec", "stored"), [
    ({"cidr": "FD00:0::/64"}, {"cidr": "fd00::/64", "blockSize": 122}),
    ({"cidr": "10.1.0.0/32", "blockSize": 32}, {"cidr": "10.1.0.0/32", "blockSize": 32}),
    ({"cidr": "10.1.0.0/20", "blockSize": 0, "ipipMode": "", "allowedUses": []},
     {"blockSize": 26, "ipipMode": "Never", "allowedUses": ["Workload", "Tunnel"]}),
    ({"cidr": "10.1.0.0/20", "allowedUses": ["Workload"], "namespaceSelector": "has(x)"},
     {"namespaceSelector": "has(x)"}),
    ({"cidr": "10.1.0.0/20", "allowedUses": ["LoadBalancer"], "nodeSelector": "all()"}, {"nodeSelector": "all()"}),
    ({"cidr": "10.1.0.0/20", "nodeSelector": "rack in {'a', 'b'} && !has(gpu)"}, {"ipipMode": "Never"}),
])
def test_pools_taken(place: Place, spec: dict[str, Any], stored: dict[str, Any]) -> None:
    taken(place, resource("IPPool", "p", spec))
    record = place.store.get(keys.ippool("p")).value["spec"]
    assert {name: record[name] for name in stored} == stored


def test_all_findings_are_told_at_once(place: Place) -> None:
    said = refused(place, pool("P_1", "10.0.0.0/8", blockSize=12, vxlanMode="On"))
    assert "error with the following fields: metadata.name = 'P_1'" in said
    assert "; spec.blockSize = '12'" in said
    assert "; spec.vxlanMode = 'On'" in said


def test_what_cannot_be_changed_of_a_pool(place: Place) -> None:
    place.create(pool("p", "10.1.0.0/16"), pool("lb", "10.2.0.0/16", allowedUses=["LoadBalancer"]))
    before = [place.store.get(key).value for key in place.store.keys(keys.IPPOOLS)]
    for given, field in (
        (pool("p", "10.1.0.0/17"), "spec.cidr = '10.1.0.0/17' (cannot be changed; it is 10.1.0.0/16)"),
        (pool("p", "10.1.0.0/16", blockSize=27), "spec.blockSize = '27' (cannot be changed; it is 26)"),
        (pool("lb", "10.2.0.0/16"), "spec.allowedUses = 'Workload, Tunnel'"),
    ):
        assert field in place.fails("apply", "-f", "-", stdin=many(given))
    assert [place.store.get(key).value for key in place.store.keys(keys.IPPOOLS)] == before


def test_pools_do_not_overlap(place: Place) -> None:
    place.create(pool("p", "10.1.0.0/16"), pool("v6", "fd00::/64"))
    for cidr in ("10.1.0.0/16", "10.1.2.0/24", "10.0.0.0/8"):
        said = place.fails("create", "-f", "-", stdin=many(pool("q", cidr)))
        assert "overlaps pool p, 10.1.0.0/16" in said
    taken(place, pool("q", "10.2.0.0/16"))


def test_a_pool_over_blocks_of_another_size_is_refused(place: Place) -> None:
    """Blocks outlive their pool while they hold addresses."""
    place.create(pool("p", "10.1.0.0/24", blockSize=28))
    owner = Owner("net.a", {"node": "n1"})
    assign(FileStore(str(place.directory)), Request("n1", owner, env={}))
    block = own_blocks(place.store, "n1", 4)[0]
    place.ok("delete", "ippool", "p")
    said = place.fails("create", "-f", "-", stdin=many(pool("q", "10.1.0.0/16")))
    assert f"spec.blockSize = '26' (there is a block of another size, {block})" in said
    taken(place, pool("q", "10.1.0.0/16", blockSize=28))


@pytest.mark.parametrize("text", ["10.1.0.0/24/1", "10.1.0.1/24", "10.1.0", "", "fd00::g"])
def test_reservations_refused(place: Place, text: str) -> None:
    said = refused(place, resource("IPReservation", "r", {"reservedCIDRs": ["10.0.0.0/8", text]}))
    assert f"spec.reservedCIDRs = '{text}'" in said


@pytest.mark.parametrize(("spec", "field"), [
    ({"bgp": {}}, "spec.bgp = '{}'"),
    ({"bgp": {"ipv4Address": "fd00::1/64"}}, "spec.bgp.ipv4Address = 'fd00::1/64'"),
    ({"bgp": {"ipv4Address": "10.0.0.1/x"}}, "spec.bgp.ipv4Address = '10.0.0.1/x'"),
    ({"bgp": {"ipv6Address": "10.0.0.1/24"}}, "spec.bgp.ipv6Address = '10.0.0.1/24'"),
    ({"bgp": {"asNumber": 4294967296}}, "spec.bgp.asNumber = '4294967296'"),
    ({"bgp": {"asNumber": "1.65536"}}, "spec.bgp.asNumber = '1.65536'"),
    ({"bgp": {"asNumber": -1}}, "spec.bgp.asNumber = '-1'"),
    ({"bgp": {"routeReflectorClusterID": "x"}}, "spec.bgp.routeReflectorClusterID = 'x'"),
    ({"ipv4VXLANTunnelAddr": "10.0.0.1/32"}, "spec.ipv4VXLANTunnelAddr = '10.0.0.1/32'"),
    ({"vxlanTunnelMACAddr": "66:0"}, "spec.vxlanTunnelMACAddr = '66:0'"),
    ({"wireguard": {"interfaceIPv6Address": "10.0.0.1"}}, "spec.wireguard.interfaceIPv6Address = '10.0.0.1'"),
    ({"addresses": [{"type": "InternalIP"}]}, "spec.addresses.address = ''"),
    ({"orchRefs": [{"nodeName": "n1"}]}, "spec.orchRefs.orchestrator = ''"),
])
def test_nodes_refused(place: Place, spec: dict[str, Any], field: str) -> None:
    assert field in refused(place, node("n1", spec))


def test_a_node_with_everything_is_taken(place: Place) -> None:
    spec = {
        "bgp": {"asNumber": "1.10", "ipv4Address": "10.0.0.1/24", "ipv6Address": "fd00::1/64",
                "ipv4IPIPTunnelAddr": "10.1.0.1", "routeReflectorClusterID": "244.0.0.1"},
        "ipv4VXLANTunnelAddr": "10.1.0.2", "vxlanTunnelMACAddr": "66:2f:c1:00:00:01",
        "orchRefs": [{"orchestrator": "k8s", "nodeName": "n1"}],
        "wireguard": {"interfaceIPv4Address": "10.1.0.3"},
        "addresses": [{"address": "10.0.0.1/24", "type": "CalicoNodeIP"}, {"address": "10.0.0.1"}],
        "interfaces": [{"name": "eth0", "addresses": ["10.0.0.1"]}],
    }
    taken(place, node("host-1.example.org", spec))
    assert place.store.get(keys.node("host-1.example.org")).value["spec"] == spec


@pytest.mark.parametrize(("given", "field"), [
    (node("N1"), "metadata.name = 'N1'"),
    (node("-n"), "metadata.name = '-n'"),
    (node("a" * 254), "metadata.name = 'aaa"),
    (node("n1", labels={"a b": "c"}), "metadata.labels = 'a b'"),
    (node("n1", labels={"a": "-c"}), "metadata.labels.a = '-c'"),
    (node("n1", labels={"a": "c" * 64}), "metadata.labels.a = 'ccc"),
    (resource("IPAMConfiguration", "mine", {}), "metadata.name = 'mine'"),
    (resource("IPAMConfiguration", "default", {}, labels={"a": "b"}), "neither labels nor annotations"),
])
def test_names_and_labels_refused(place: Place, given: dict[str, Any], field: str) -> None:
    assert field in refused(place, given)


@pytest.mark.parametrize(("spec", "field"), [
    ({"node": "", }, "spec.node = ''"),
    ({"pod": "-web"}, "spec.pod = '-web'"),
    ({"orchestrator": "cni", "containerID": ""}, "spec.containerID = ''"),
    ({"orchestrator": "mesos"}, "spec.workload = ''"),
    ({"interfaceName": ""}, "spec.interfaceName = ''"),
    ({"interfaceName": "calico-is-too-long"}, "spec.interfaceName = 'calico-is-too-long'"),
    ({"ipNetworks": ["10.1.0.0/24"]}, "spec.ipNetworks = '10.1.0.0/24'"),
    ({"ipNetworks": ["fd00::1/64"]}, "spec.ipNetworks = 'fd00::1/64'"),
    ({"mac": "x"}, "spec.mac = 'x'"),
    ({"ipv4Gateway": "fd00::1"}, "spec.ipv4Gateway = 'fd00::1'"),
    ({"ipv6Gateway": "fd00::1/64"}, "spec.ipv6Gateway = 'fd00::1/64'"),
    ({"allowSpoofedSourcePrefixes": ["10.0"]}, "spec.allowSpoofedSourcePrefixes = '10.0'"),
    ({"ipNATs": [{"internalIP": "10.1.0.2", "externalIP": "192.0.2.1"}]}, "spec.ipNATs.internalIP = '10.1.0.2'"),
    ({"ipNATs": [{"internalIP": "10.1.0.1", "externalIP": "x"}]}, "spec.ipNATs.externalIP = 'x'"),
    ({"ports": [{"name": "web", "protocol": "TCP", "port": 65536}]}, "spec.ports.port = '65536'"),
])
def test_endpoints_refused(place: Place, spec: dict[str, Any], field: str) -> None:
    assert field in refused(place, endpoint(**spec))


@pytest.mark.parametrize(("spec", "name"), [
    ({"pod": "web-1"}, "n1-k8s-web--1-eth0"),
    ({"orchestrator": "cni", "node": "n-1"}, "n--1-cni-c0ffee-eth0"),
    ({"orchestrator": "libnetwork"}, "n1-libnetwork-libnetwork-eth0"),
    ({"orchestrator": "mesos", "workload": "w"}, "n1-mesos-w-eth0"),
])
def test_names_of_endpoints(place: Place, spec: dict[str, Any], name: str) -> None:
    """Calico's rule; a name that does not follow it is refused, and a missing one is made."""
    given = endpoint(**spec)
    wrong = {**given, "metadata": {"name": "other"}}
    assert f"expected {name}" in refused(place, wrong)
    taken(place, given)
    assert place.store.keys(keys.WORKLOAD_ENDPOINTS) == [keys.workload_endpoint("default", name)]
