"""`calicoctl get, create, apply, replace, delete, label, validate` on a real datastore directory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from calicoctl.resources.resources import create
from datastore import keys
from datastore.api import Record
from datastore.file import FileStore
from datastore.resources import pool_of
from ipam.assign import Request, assign
from ipam.errors import BadRequest
from ipam.handle import Owner

from .resources_kit import Place, endpoint, many, node, pool, resource

EXISTS = "resource already exists: "


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def give(place: Place, pod: str, node: str = "n1") -> list[str]:
    """Assign an address as the plugin does; return it."""
    owner = Owner(f"net.{pod}", {"node": node, "container": pod, "interface": "eth0", "network": "net"})
    return [str(item.address) for item in assign(place.store, Request(node, owner, env={"NO_DEFAULT_POOLS": "true"}))]


def test_a_pool_is_created_with_calicos_defaults(place: Place) -> None:
    assert place.create(pool("p", "10.1.0.0/16")) == "Successfully created 1 'IPPool' resource(s)\n"
    record = place.store.get(keys.ippool("p")).value
    assert (record["kind"], record["apiVersion"]) == ("IPPool", "projectcalico.org/v3")
    assert record["metadata"].keys() == {"name", "uid", "creationTimestamp"}
    assert record["spec"] == {
        "cidr": "10.1.0.0/16", "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Never", "natOutgoing": False,
        "disabled": False, "disableBGPExport": False, "nodeSelector": "all()",
        "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic",
    }


def test_the_allocator_uses_what_create_wrote(place: Place) -> None:
    """A pool of its own block size, for nodes of one rack, with a reservation in it."""
    place.create(node("n1", labels={"rack": "r1"}), node("n2"),
                 pool("p", "10.1.0.0/24", blockSize=29, nodeSelector='rack == "r1"'),
                 pool("q", "10.2.0.0/24", nodeSelector="!has(rack)"),
                 resource("IPReservation", "r", {"reservedCIDRs": ["10.1.0.0/30", "10.1.0.4"]}))
    first = give(place, "a", "n1")[0]
    assert first.startswith("10.1.0.")
    assert first not in {f"10.1.0.{last}" for last in range(5)}
    assert {key.rpartition("-")[2] for key in place.store.keys(keys.blocks(4))} == {"29"}
    assert give(place, "b", "n2")[0].startswith("10.2.0.")


def test_several_kinds_are_told_without_a_kind(place: Place) -> None:
    assert place.create(pool("p", "10.1.0.0/16"), node("n1")) == "Successfully created 2 resource(s)\n"
    again = place.fails("create", "-f", "-", stdin=many(pool("p", "10.1.0.0/16"), node("n1")))
    assert again == f"failed to create any resources: [{EXISTS}IPPool(p), {EXISTS}Node(n1)]"
    alone = place.fails("create", "-f", "-", stdin=many(node("n1")))
    assert alone == f"failed to create 'Node' resource: [{EXISTS}Node(n1)]"


def test_partial_success(place: Place) -> None:
    """What can be made is made; the rest is told, with exit code 1."""
    place.create(node("n1"))
    said = place.fails("create", "-f", "-", stdin=many(node("n1"), node("n2")),
                       stdout="Partial success: created 1 out of 2 'Node' resources:\n")
    assert said == f"hit error: [{EXISTS}Node(n1)]"
    assert place.ok("create", "--skip-exists", "-f", "-", stdin=many(node("n1"), node("n3"))) == \
        "Successfully created 1 'Node' resource(s)\n"
    assert [item["metadata"]["name"] for item in place.get("nodes")["items"]] == ["n1", "n2", "n3"]


def test_apply_creates_and_then_replaces(place: Place) -> None:
    """The spec is replaced; labels are added to; identity and unknown fields of the record stay."""
    first = pool("p", "10.1.0.0/16", natOutgoing=True)
    first["metadata"]["labels"] = {"a": "1", "b": "1"}
    assert place.ok("apply", "-f", "-", stdin=many(first)) == "Successfully applied 1 'IPPool' resource(s)\n"
    record = place.store.get(keys.ippool("p"))
    later = {**record.value, "spec": {**record.value["spec"], "news": [1]}, "status": {"more": {"x": 1}}}
    place.store.update(record.key, {**later, "extra": 2}, record.revision)
    second = pool("p", "10.1.0.0/16", disabled=True)
    second["metadata"]["labels"] = {"b": "2"}
    place.ok("apply", "-f", "-", stdin=many(second))
    value = place.store.get(keys.ippool("p")).value
    assert value["metadata"] == {**record.value["metadata"], "labels": {"a": "1", "b": "2"}}
    assert value["spec"] == {**record.value["spec"], "natOutgoing": False, "disabled": True, "news": [1]}
    assert (value["status"], value["extra"]) == ({"more": {"x": 1}}, 2)
    assert pool_of(place.store.get(keys.ippool("p"))).disabled


def test_what_get_shows_can_be_handed_back(place: Place) -> None:
    """YAML and JSON, one resource and lists of one kind and of names: unknown fields are not shown, and not lost."""
    place.create(pool("p", "10.1.0.0/16"), pool("q", "10.2.0.0/16"))
    record = place.store.get(keys.ippool("p"))
    place.store.update(record.key, {**record.value, "extra": 2}, record.revision)
    for arguments, count in ((("ippool", "p"), 1), (("ippools",), 2), (("pool", "p", "q"), 2)):
        for form in ("yaml", "json"):
            shown = place.ok("get", *arguments, "-o", form)
            said = place.ok("replace", "-f", "-", stdin=shown)
            assert said == f"Successfully replaced {count} 'IPPool' resource(s)\n"
    assert place.store.get(keys.ippool("p")).value == {**record.value, "extra": 2}


def test_replace_needs_a_resource(place: Place) -> None:
    said = place.fails("replace", "-f", "-", stdin=many(pool("p", "10.1.0.0/16")))
    assert said.startswith("failed to replace 'IPPool' resource: [resource does not exist: IPPool(p) with error: ")
    assert not place.directory.exists()


@pytest.mark.parametrize("command", ["replace", "apply", "delete"])
def test_a_resource_version_is_a_precondition(place: Place, command: str) -> None:
    place.create(pool("p", "10.1.0.0/16"))
    shown = place.ok("get", "ippool", "p", "-o", "yaml")
    assert yaml.safe_load(shown)["metadata"]["resourceVersion"] == str(place.store.get(keys.ippool("p")).revision)
    place.ok("patch", "ippool", "p", "-p", '{"spec": {"natOutgoing": true}}')
    before = place.store.get(keys.ippool("p"))
    assert "update conflict: IPPool(p)" in place.fails(command, "-f", "-", stdin=shown)
    assert place.store.get(keys.ippool("p")).value == before.value
    place.ok(command, "-f", "-", stdin=place.ok("get", "ippool", "p", "-o", "yaml"))


def test_create_takes_no_resource_version_and_keeps_no_foreign_identity(place: Place) -> None:
    given = pool("p", "10.1.0.0/16")
    given["metadata"] |= {"uid": "theirs", "creationTimestamp": "2001-01-01T00:00:00Z"}
    given["status"] = {"conditions": [{"type": "Allocatable", "status": "False"}]}
    told = {**given, "metadata": {**given["metadata"], "resourceVersion": "5"}}
    assert "metadata.resourceVersion" in place.fails("create", "-f", "-", stdin=many(told))
    place.create(given)
    value = place.store.get(keys.ippool("p")).value
    assert value["metadata"]["uid"] != "theirs"
    assert not value["metadata"]["creationTimestamp"].startswith("2001")
    assert give(place, "a")


def test_tables(place: Place) -> None:
    """Calico's columns; each is as wide as its longest cell and three spaces."""
    place.create(pool("default", "10.1.0.0/16", natOutgoing=True, vxlanMode="CrossSubnet"),
                 pool("v6", "fd00::/48", disabled=True, assignmentMode="Manual"),
                 node("n1", {"bgp": {"ipv4Address": "10.0.0.1/24"}}), node("n2"),
                 node("n3", {"bgp": {"asNumber": 65001, "ipv6Address": "fd00::1/64"}}),
                 resource("IPReservation", "r", {"reservedCIDRs": ["10.1.0.0/30", "10.1.0.9"]}))
    assert place.ok("get", "pools") == (
        "NAME      CIDR          SELECTOR   \n"
        "default   10.1.0.0/16   all()      \n"
        "v6        fd00::/48     all()      \n\n")
    wide = [line.split() for line in place.ok("get", "ippool", "-o", "wide").splitlines()]
    assert wide == [
        ["NAME", "CIDR", "NAT", "IPIPMODE", "VXLANMODE", "DISABLED", "DISABLEBGPEXPORT", "SELECTOR", "ASSIGNMENTMODE"],
        ["default", "10.1.0.0/16", "true", "Never", "CrossSubnet", "false", "false", "all()", "Automatic"],
        ["v6", "fd00::/48", "false", "Never", "Never", "true", "false", "all()", "Manual"], []]
    assert place.ok("get", "node", "n1") == "NAME   \nn1     \n\n"
    assert place.ok("get", "nodes", "-o", "wide") == (
        "NAME   ASN       IPV4          IPV6         \n"
        "n1     (64512)   10.0.0.1/24                \n"
        "n2                                          \n"
        "n3     65001                   fd00::1/64   \n\n")
    assert place.ok("get", "reservation") == "NAME   \nr      \n\n"
    assert place.ok("get", "ipreservations", "-o", "wide").split() == ["NAME", "CIDRS", "r", "10.1.0.0/30,10.1.0.9"]
    assert place.ok("get", "nodes", "-o", "custom-columns=IPV6,NAME").split() == \
        ["IPV6", "NAME", "n1", "n2", "fd00::1/64", "n3"]


def test_endpoints_and_namespaces(place: Place) -> None:
    place.create(endpoint(), endpoint("blue", pod="db", ipNetworks=["10.1.0.2/32", "fd00::2/128"]))
    assert place.ok("get", "wep") == (
        "WORKLOAD   NODE   NETWORKS      INTERFACE   \n"
        "web-1      n1     10.1.0.1/32   cali0       \n\n")
    assert [line.split() for line in place.ok("get", "weps", "-A").splitlines()][:3] == [
        ["NAMESPACE", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE"],
        ["blue", "db", "n1", "10.1.0.2/32,fd00::2/128", "cali0"],
        ["default", "web-1", "n1", "10.1.0.1/32", "cali0"]]
    (found,) = place.get("wep", "-n", "blue")["items"]
    assert found["metadata"]["name"] == "n1-k8s-db-eth0"
    assert found["metadata"]["labels"] == {"projectcalico.org/namespace": "blue",
                                           "projectcalico.org/orchestrator": "k8s"}
    assert "resource does not exist: WorkloadEndpoint(default/n1-k8s-db-eth0)" in \
        place.fails("delete", "wep", "n1-k8s-db-eth0")
    assert "blue != default" in place.fails("delete", "-n", "default", "-f", "-", stdin=many(found))
    assert place.ok("delete", "wep", "n1-k8s-db-eth0", "-n", "blue").startswith("Successfully deleted 1 ")
    assert place.fails("get", "ippools", "-n", "blue") == "IPPool is not namespaced"


def test_get_tells_what_is_missing_after_what_is_there(place: Place) -> None:
    place.create(node("n1"))
    said = place.fails("get", "node", "gone", "n1", stdout="NAME   \nn1     \n\n")
    assert said.startswith("resource does not exist: Node(gone) with error: ")
    assert place.get("nodes")["kind"] == "NodeList"
    assert place.get("ipreservations")["items"] == []


def test_export_leaves_out_what_belongs_to_one_datastore(place: Place) -> None:
    place.create(pool("p", "10.1.0.0/16"))
    assert place.get("ippool", "p", "--export")["metadata"] == {"name": "p"}
    assert "uid" in place.get("ippools", "--export")["items"][0]["metadata"]
    shown = place.ok("get", "ippool", "p", "--export", "-o", "yaml")
    place.ok("delete", "ippool", "p")
    assert place.ok("create", "-f", "-", stdin=shown) == "Successfully created 1 'IPPool' resource(s)\n"


def test_deleting_a_pool_frees_its_blocks_and_keeps_addresses_in_use(place: Place) -> None:
    place.create(pool("p", "10.1.0.0/24"), pool("q", "10.2.0.0/24", disabled=True))
    give(place, "a")
    (block,) = place.store.keys(keys.blocks(4))
    assert place.ok("delete", "pool", "p") == "Successfully deleted 1 'IPPool' resource(s)\n"
    assert place.store.keys(keys.IPPOOLS) == [keys.ippool("q")]
    assert place.store.get(block).value["affinity"] is None
    assert place.store.keys(keys.affinities("n1", 4)) == []


def test_deleting_a_node_frees_its_blocks_with_or_without_a_resource(place: Place) -> None:
    place.create(pool("p", "10.1.0.0/24"), node("n1"))
    for name in ("n1", "n2"):
        give(place, f"on-{name}", name)
        assert place.store.keys(keys.affinities(name, 4))
        assert place.ok("delete", "node", name) == "Successfully deleted 1 'Node' resource(s)\n"
        assert place.store.keys(keys.affinities(name, 4)) == []
    assert place.store.keys(keys.NODES) == []
    assert "resource does not exist: Node(n1)" in place.fails("delete", "node", "n1")


def test_deleting_what_is_not_there(place: Place) -> None:
    assert place.fails("delete", "ippool", "p").startswith("failed to delete 'IPPool' resource: [resource does not ")
    assert place.ok("delete", "-s", "ippool", "p") == "Successfully deleted 0 'IPPool' resource(s)\n"
    assert not place.directory.exists()
    place.create(node("n1"))
    place.fails("delete", "node", "n0", "n1", stdout="Partial success: deleted 1 out of 2 'Node' resources:\n")
    assert place.get("nodes")["items"] == []


def test_labels(place: Place) -> None:
    place.create(node("n1", labels={"zone": "z"}))
    assert place.ok("label", "node", "n1", "rack=r1") == "Successfully set label rack on node n1\n"
    assert "--overwrite" in place.fails("label", "node", "n1", "rack=r2")
    assert place.ok("label", "nodes", "n1", "rack=r2", "--overwrite") == "Successfully updated label rack on nodes n1\n"
    assert place.get("node", "n1")["metadata"]["labels"] == {"zone": "z", "rack": "r2"}
    assert place.ok("label", "node", "n1", "rack", "--remove") == "Successfully removed label rack from node n1\n"
    assert "does not exist" in place.fails("label", "node", "n1", "rack", "--remove")
    assert "metadata.labels.rack" in place.fails("label", "node", "n1", "rack=bad value")
    assert place.get("node", "n1")["metadata"]["labels"] == {"zone": "z"}
    for wrong in (["rack"], ["rack=1", "--remove"], ["a=b=c"]):
        assert "LABEL=VALUE" in place.misused("label", "node", "n1", *wrong)


def test_validate_writes_nothing(place: Place) -> None:
    assert place.ok("validate", "-f", "-", stdin=many(pool("p", "10.1.0.0/16"))) == \
        "Successfully validated 1 'IPPool' resource(s)\n"
    assert "did you mean 10.1.0.0/16" in place.fails("validate", "-f", "-", stdin=many(pool("p", "10.1.0.1/16")))
    assert not place.directory.exists()


def test_the_endpoint_that_the_plugin_wrote_can_be_labelled(place: Place) -> None:
    """Its name has the container in place of the pod (docs/design.md), which Calico's rule does not know."""
    spec = endpoint()["spec"]
    key = keys.workload_endpoint("default", "n1-cni-c0ffee-eth0")
    place.store.create(key, {"kind": "WorkloadEndpoint", "metadata": {"name": "n1-cni-c0ffee-eth0"}, "spec": spec})
    place.ok("label", "wep", "n1-cni-c0ffee-eth0", "app=web")
    assert place.store.get(key).value["metadata"]["labels"] == {"app": "web"}


def test_a_damaged_record_is_shown_and_not_written_over(place: Place) -> None:
    value = {"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": 5, "blockSize": "x"}}
    place.store.create(keys.ippool("p"), value)
    assert place.get("ippool", "p")["spec"] == value["spec"]
    assert place.ok("get", "pools").split()[3:5] == ["p", "5"]
    said = place.fails("apply", "-f", "-", stdin=many(pool("p", "10.1.0.0/16")))
    assert "/ippools/p is no sound IPPool" in said
    assert "/ippools/p is no sound IPPool" in place.fails("delete", "pool", "p")
    assert place.store.get(keys.ippool("p")).value == value


def test_control_characters_in_a_record_do_not_reach_the_terminal(place: Place) -> None:
    place.store.create(keys.node("n1"), {"metadata": {"name": "n1"}, "spec": {"bgp": {"ipv4Address": "a\rb\x07"}}})
    for form in ("wide", "yaml", "json"):
        assert not {"\r", "\x07"} & set(place.ok("get", "nodes", "-o", form))


@pytest.mark.parametrize(("arguments", "told"), [
    (["get"], "either KIND"),
    (["get", "pools", "-f", "-"], "either KIND"),
    (["get", "pools", "-o", "go-template={{.}}"], "unrecognized output format"),
    (["get", "pools", "-o", "custom-columns="], "unrecognized output format"),
    (["get", "wep", "x", "-A"], "--all-namespaces"),
    (["create"], "-f FILE"),
    (["delete", "ippool"], "NAME"),
    (["patch", "ippool", "p"], "'-p'"),
    (["patch", "ippool", "p", "-p", "{}", "-t", "other"], "strategic"),
])
def test_wrong_command_lines(place: Place, arguments: list[str], told: str) -> None:
    assert told in place.misused(*arguments)


def test_wrong_words(place: Place) -> None:
    assert place.fails("get", "ipool").startswith("resource type 'ipool' is not supported; types are: ippool, ")
    assert "Unknown heading NAT" in place.run("get", "nodes", "-o", "custom-columns=NAT").output
    for name in ("", "a//b"):
        assert "is no name" in place.fails("get", "ippool", name)


def test_pools_made_at_once_never_overlap(place: Place) -> None:
    """The look at the other pools and the write are one step, so of equal pools one is made, whoever comes first."""
    class Slow(FileStore):
        def records(self, prefix: str) -> Iterator[Record]:
            found = list(super().records(prefix))
            time.sleep(0.02)
            return iter(found)

    def make(name: str) -> str:
        try:
            create(Slow(str(place.directory)), pool(name, "10.1.0.0/16"))
        except BadRequest as error:
            return str(error)
        return "made"

    with ThreadPoolExecutor(8) as pool_of_threads:
        said = sorted(pool_of_threads.map(make, [f"p{number}" for number in range(8)]))
    assert said.count("made") == len(place.store.keys(keys.IPPOOLS)) == 1
    assert all("overlaps pool p" in text for text in said[:-1])


def test_json_output_is_one_document(place: Place) -> None:
    place.create(node("n1"), node("n2"))
    found = json.loads(place.ok("get", "node", "n2", "n1", "-o", "json"))
    assert [item["metadata"]["name"] for item in found] == ["n2", "n1"]


def test_the_example_of_apply(place: Place) -> None:
    """`get -o yaml`, an edited line, `apply`: the line is there though nobody ever set the field."""
    place.store.create(keys.ippool("p"), {**pool("p", "10.1.0.0/16")})
    text = place.ok("get", "ippool", "p", "-o", "yaml")
    assert "  disableBGPExport: false\n" in text
    place.ok("apply", "-f", "-", stdin=text.replace("  disabled: false\n", "  disabled: true\n"))
    assert place.store.get(keys.ippool("p")).value["spec"]["disabled"] is True


def test_text_that_looks_like_a_number_comes_back_as_text(place: Place) -> None:
    given = node("n", annotations={"a": "1.5e3", "b": "1e5", "c": "012"})
    place.ok("create", "-f", "-", stdin=json.dumps(given))
    before = place.store.get(keys.node("n"))
    place.ok("apply", "-f", "-", stdin=place.ok("get", "node", "n", "-o", "yaml"))
    assert place.store.get(keys.node("n")).value == before.value


def test_what_is_skipped_is_not_counted(place: Place) -> None:
    place.create(node("a"))
    text = many(node("a"), node("b"))
    assert place.ok("create", "--skip-exists", "-f", "-", stdin=text) == "Successfully created 1 'Node' resource(s)\n"
    assert place.ok("delete", "-s", "node", "a", "c") == "Successfully deleted 1 'Node' resource(s)\n"


def test_validate_holds_pools_against_each_other(place: Place) -> None:
    """As apply would when it comes to the second one; the same pool twice is none the worse."""
    text = many(pool("a", "10.1.0.0/16"), node("n"), pool("b", "10.1.128.0/17"), pool("a", "10.1.0.0/16"))
    told = "Partial success: validated 3 out of 4 resources:\n"
    assert "overlaps pool a, 10.1.0.0/16" in place.fails("validate", "-f", "-", stdin=text, stdout=told)
    assert "overlaps pool a, 10.1.0.0/16" in place.fails(
        "apply", "-f", "-", stdin=text, stdout=told.replace("validated", "applied"))
