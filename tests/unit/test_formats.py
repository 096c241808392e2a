"""Calico's record formats: fixtures of every kind (fixtures/*.json, from Calico's own keys and fields), both ways.

What we read and write again is equal; what we do not know survives; and what we write is found by etcd's own tool at
exactly Calico's keys, as the JSON that we mean.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from calicoctl.resources import kinds, resources
from cni_calico import endpoint
from cni_calico.args import Args, Attachment
from datastore import keys, model, open_store
from datastore.api import Record, Store
from datastore.cluster import cluster_of, initialised, set_ready
from datastore.file import FileStore
from datastore.frozen import replace
from datastore.model import Affinity, Attribute, Block, Handle, Host, IpamConfig
from datastore.resources import endpoint_json, endpoint_of, node_labels_of, pool_of, reservation_of
from ipam import configuration
from ipam.affinity import claim_range, give_up
from ipam.assign import Request, assign
from ipam.cidr import parse_address, parse_cidr
from ipam.handle import Owner
from ipam.release import Wanted, release, release_addresses
from tests.etcd import Cluster, serving

Json = dict[str, Any]
Fixture = dict[str, Any]

FIXTURES = Path(__file__).parent / "fixtures"
IPAM: list[Fixture] = json.loads((FIXTURES / "ipam.json").read_text())
RESOURCES: list[Fixture] = json.loads((FIXTURES / "resources.json").read_text())
BLOCK, POD = "10.244.64.0/30", Owner("k8s-pod-network.new", {"node": "node-a", "pod": "new-1"})
UNKNOWN: Json = {"futureField": {"list": [1, None, {"deep": "ünïcode"}], "big": 2**64 - 1}}

# Every key that Calico has for what we write (libcalico-go lib/backend/model).
NAME, CIDR = r"[^/]+", r"(ipv4/block/[0-9.]+-[0-9]+|ipv6/block/[0-9a-f:]+-[0-9]+)"
CALICOS_KEYS = re.compile("|".join((
    rf"/calico/ipam/v2/assignment/{CIDR}",
    rf"/calico/ipam/v2/host/{NAME}/{CIDR}",
    rf"/calico/ipam/v2/virtual/{NAME}/{CIDR}",
    rf"/calico/ipam/v2/host/{NAME}",
    rf"/calico/ipam/v2/handle/{NAME}",
    r"/calico/ipam/v2/config",
    rf"/calico/resources/v3/projectcalico.org/workloadendpoints/{NAME}/{NAME}",
    rf"/calico/resources/v3/projectcalico.org/(ippools|ipreservations|nodes|bgppeers|profiles)/{NAME}",
    r"/calico/resources/v3/projectcalico.org/(clusterinformations|felixconfigurations|bgpconfigurations)/default",
)))
TYPED: tuple[tuple[str, Callable[[Record], Any], Callable[[Any], Json]], ...] = (
    ("/assignment/", model.block_of, model.block_json),
    ("/handle/", model.handle_of, model.handle_json),
    ("/block/", model.affinity_of, model.affinity_json),
    ("/config", model.config_of, model.config_json),
    ("/host/", model.host_of, model.host_json),
)


def typed(key: str, value: Json) -> tuple[Any, Callable[[Any], Json]]:
    """Return a record as its typed value, and what makes a record of that again."""
    decode, encode = next((decode, encode) for part, decode, encode in TYPED if part in key)
    return decode(Record(key, value, 1)), encode


def named(fixtures: list[Fixture], *words: str) -> list[Any]:
    """Return parameters of a test for the fixtures that are about one of the words, or for all."""
    return [pytest.param(item["key"], item["value"], id=item["what"].replace(" ", "-")) for item in fixtures
            if not words or any(word in item["key"] for word in words)]


@pytest.fixture(name="cluster", scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(params=["file", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A datastore with nothing in it, of either kind that people have."""
    if request.param == "file":
        return FileStore(str(tmp_path / "datastore"))
    cluster: Cluster = request.getfixturevalue("cluster")
    cluster.wipe()
    return open_store(cluster.settings(tmp_path))


@pytest.fixture(name="etcdctl")
def etcds_own_tool(cluster: Cluster) -> Callable[..., str]:
    """`etcdctl` on an etcd with nothing in it; it returns what the tool prints."""
    cluster.wipe()

    def run(*arguments: str, stdin: str = "") -> str:
        env = {"PATH": os.environ["PATH"], "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": cluster.members[0].url}
        return subprocess.run(["etcdctl", *arguments], env=env, input=stdin, capture_output=True, text=True, check=True,
                              timeout=30).stdout

    return run


def put(store: Store, fixtures: list[Fixture]) -> None:
    for item in fixtures:
        store.create(item["key"], item["value"])


@pytest.mark.parametrize(("key", "value"), named(IPAM))
def test_a_record_is_read_and_written_as_calico_writes_it(key: str, value: Json) -> None:
    """Decoded and encoded, it is equal JSON, numbers beyond 2**53 included."""
    found, encode = typed(key, value)
    assert json.loads(json.dumps(encode(found))) == value


def test_what_a_block_says() -> None:
    """Each field is where the allocator looks for it."""
    blocks: dict[str, Block] = {item["what"]: typed(item["key"], item["value"])[0] for item in IPAM
                                if "/assignment/" in item["key"]}
    pod, tunnel = blocks["a block with a pod and a tunnel"].attributes
    assert (pod.handle, pod.owner["pod"], tunnel.owner["type"]) == (
        "k8s-pod-network.4f0c9d", "nginx-1", "ipipTunnelAddress")
    assert blocks["a block with a pod and a tunnel"].allocation_sequence == {
        0: 1785578400000000003, 2: 1785578400000000001}
    resting = blocks["a block with an address that cools down"].attributes[0]
    assert (resting.handle, resting.owner, resting.released_at) == (None, {}, "2026-08-01T10:05:00Z")
    assert blocks["a block that has lost its owner"].affinity is None
    assert blocks["a block with the deprecated hostAffinity, and a virtual owner"].sequence == 2**64 - 1
    assert blocks["a block with the deprecated hostAffinity, and a virtual owner"].extra["hostAffinity"] == "node-a"
    machine = blocks["a block with a virtual machine that migrates"].attributes[0]
    assert machine.extra["alternateOwnerAttrs"]["vmim-uid"] == "5-6"
    assert blocks["a block of IPv6"].cidr == "fd00:10:244::40/126"


@pytest.mark.parametrize("old", [{}, {"state": ""}, {"state": None}, {"deleted": False}])
def test_an_affinity_without_a_state_is_confirmed(old: Json) -> None:
    """Old data; it is written back with the state said."""
    found, encode = typed(keys.affinity("node-a", 4, BLOCK), old)
    assert encode(found) == {"state": "confirmed", "deleted": False}


def test_empty_values_that_old_releases_wrote(cluster: Cluster, etcdctl: Callable[..., str], tmp_path: Path) -> None:
    """An affinity and a host may have no value at all in etcd: the one is confirmed, the other remembers nothing."""
    affinity, host = keys.affinity("node-a", 4, BLOCK), keys.host("node-a")
    for key in (affinity, host):
        etcdctl("put", "--", key, "")
    store = open_store(cluster.settings(tmp_path))
    assert model.affinity_of(store.get(affinity)) == Affinity("confirmed")
    assert model.host_of(store.get(host)) == Host()
    store.update(affinity, model.affinity_json(Affinity("confirmed")), store.get(affinity).revision)
    assert json.loads(etcdctl("get", "--print-value-only", affinity)) == {"state": "confirmed", "deleted": False}


@pytest.mark.parametrize("value", [{"handleID": "h"}, {}], ids=["with-its-id", "without"])
def test_a_handle_has_its_name_from_its_key(value: Json) -> None:
    """Calico's etcd backend does not need handleID in the value."""
    found, encode = typed(keys.handle("h"), {"block": {BLOCK: 1}, "deleted": False, **value})
    assert encode(found) == {"block": {BLOCK: 1}, "deleted": False, "handleID": "h"}


def test_what_nothing_says_is_calicos_default() -> None:
    """A configuration of an early release has two fields; they decide, and the others have their defaults."""
    found, encode = typed(keys.IPAM_CONFIG, {"strict_affinity": True, "auto_allocate_blocks": True})
    assert found == IpamConfig(strict_affinity=True)
    assert encode(found) == {"strict_affinity": True, "auto_allocate_blocks": True, "maxBlocksPerHost": 0,
                             "kubeVirtVMAddressPersistence": "Enabled", "ipCooldownSeconds": 0}


CHANGES: list[Any] = [
    pytest.param(keys.block(4, BLOCK), IPAM[0]["value"], {"sequence": 2**63}, id="block"),
    pytest.param(keys.handle("h"), {"block": {BLOCK: 1}, "deleted": False}, {"blocks": {}}, id="handle"),
    pytest.param(keys.affinity("node-a", 4, BLOCK), IPAM[8]["value"], {"state": "confirmed"}, id="affinity"),
    pytest.param(keys.IPAM_CONFIG, IPAM[-1]["value"], {"strict_affinity": False}, id="config"),
    pytest.param(keys.host("node-a"), {}, {"boot": "b"}, id="host"),
]


@pytest.mark.parametrize(("key", "value", "change"), CHANGES)
def test_fields_we_do_not_know_survive_a_change(key: str, value: Json, change: Json) -> None:
    """Every typed value carries them."""
    found, encode = typed(key, value | UNKNOWN)
    outcome = encode(replace(found, **change))
    assert {name: outcome[name] for name in UNKNOWN} == UNKNOWN
    assert typed(key, outcome)[0] == replace(found, **change)


def test_fields_of_an_owner_that_we_do_not_know_survive() -> None:
    """Those of an owner in a block, at rest or not."""
    holder: Json = {"handle_id": "h", "secondary": {}}
    attribute: Json
    for attribute in (holder, {"handle_id": None, "secondary": {}, "releasedAt": "2026-08-01T10:05:00Z"}):
        value = {**IPAM[0]["value"], "attributes": [attribute | UNKNOWN, IPAM[0]["value"]["attributes"][1]]}
        found, encode = typed(keys.block(4, BLOCK), value)
        assert isinstance(found.attributes[0], Attribute)
        assert encode(replace(found, sequence=1))["attributes"] == value["attributes"]


def test_the_allocator_keeps_what_it_does_not_know(store: Store) -> None:
    """An address is assigned and released: block, its other owners, handle, affinity, settings and host keep theirs."""
    block = {**IPAM[0]["value"] | UNKNOWN, "attributes": [item | UNKNOWN for item in IPAM[0]["value"]["attributes"]]}
    affinity, pool = {"state": "pending", "deleted": False} | UNKNOWN, RESOURCES[0]["value"] | UNKNOWN
    pool["spec"] = pool["spec"] | {"cidr": BLOCK, "blockSize": 30} | UNKNOWN
    host, config = {"boot": "", "room": {}} | UNKNOWN, IPAM[-1]["value"] | UNKNOWN | {"ipCooldownSeconds": 0}
    handle = {"handleID": POD.handle_id, "block": {"10.9.9.0/30": 1}, "deleted": False} | UNKNOWN
    before = {keys.block(4, BLOCK): block, keys.affinity("node-a", 4, BLOCK): affinity, keys.ippool("p"): pool,
              keys.host("node-a"): host, keys.IPAM_CONFIG: config, keys.handle(POD.handle_id): handle}
    for key, value in before.items():
        store.create(key, value)
    given = assign(store, Request(node="node-a", owner=POD))
    assert [str(item.address) for item in given] == ["10.244.64.3"]
    assert store.get(keys.handle(POD.handle_id)).value == {**handle, "block": {"10.9.9.0/30": 1, BLOCK: 1}}
    assert store.get(keys.block(4, BLOCK)).value["attributes"] == [
        *block["attributes"], {"handle_id": POD.handle_id, "secondary": dict(POD.attributes)}]
    release_addresses(store, [Wanted(given[0].address)])
    after = {key: store.get(key).value for key in before}
    expected = before | {
        keys.block(4, BLOCK): {**block, "unallocated": [1, 3], "sequenceNumber": block["sequenceNumber"] + 2},
        keys.affinity("node-a", 4, BLOCK): {**affinity, "state": "confirmed"},
        keys.host("node-a"): {**host, "room": {"4": BLOCK}},
    }
    assert after == expected


def test_the_configuration_keeps_what_it_does_not_know(store: Store) -> None:
    """`calicoctl ipam configure` and the resource change fields of it."""
    store.create(keys.IPAM_CONFIG, IPAM[-1]["value"] | UNKNOWN)
    configuration.save(store, strict_affinity=False, max_blocks_per_host=0)
    resource = resources.get(store, kinds.IPAMCONFIGURATION, {"name": "default"})
    resources.replace(store, {**resource, "spec": {**resource["spec"], "ipCooldownSeconds": 60}})
    assert store.get(keys.IPAM_CONFIG).value == {
        **IPAM[-1]["value"], **UNKNOWN, "strict_affinity": False, "maxBlocksPerHost": 0, "ipCooldownSeconds": 60}


@pytest.mark.parametrize(("key", "value"), named(IPAM + RESOURCES))
def test_a_record_goes_through_a_store_unchanged(store: Store, key: str, value: Json) -> None:
    """Both kinds of store give back what they were given, and hold it at that key only."""
    assert CALICOS_KEYS.fullmatch(key)
    store.create(key, value)
    assert store.get(key).value == value
    assert store.keys("/calico/") == [key]


@pytest.mark.parametrize(("key", "value"), named(RESOURCES, "/ippools/", "/ipreservations/", "/nodes/",
                                                 "/workloadendpoints/"))
def test_a_resource_is_shown_and_replaced_by_itself(store: Store, key: str, value: Json) -> None:
    """What `calicoctl get -o json` shows can be handed to `replace`: nothing in the record changes by that."""
    kind = kinds.of(value)
    stored = {**value | UNKNOWN, "metadata": value["metadata"] | UNKNOWN, "spec": value["spec"] | UNKNOWN}
    store.create(key, stored)
    metadata = {"name": value["metadata"]["name"], "namespace": value["metadata"].get("namespace")}
    assert kind.key(metadata) == key
    shown = resources.get(store, kind, metadata)
    assert shown["spec"] == value["spec"]
    resources.replace(store, shown)
    assert store.get(key).value == stored
    assert [item["metadata"]["name"] for item in resources.listed(store, kind)] == [metadata["name"]]


def test_what_resources_say(store: Store) -> None:
    """The allocator and the plugin read pools, reservations, nodes and endpoints of Calico's."""
    put(store, RESOURCES)
    pool = pool_of(store.get(keys.ippool("default-ipv4-ippool")))
    assert (pool.cidr, pool.block_size, pool.allowed_uses, pool.refusal) == (
        "10.244.0.0/16", 26, ("Workload", "Tunnel"), "")
    assert reservation_of(store.get(keys.ipreservation("legacy-hosts"))).cidrs == ("10.244.64.0/30", "10.244.70.9")
    assert node_labels_of(store.get(keys.node("node-a"))) == {"zone": "a"}
    assert endpoint_of(store.get(keys.workload_endpoint("default", "node--a-k8s-nginx--1-eth0"))) is None, "not ours"
    cluster = cluster_of(store)
    assert cluster
    assert (cluster.guid, cluster.type, cluster.locked) == (
        "7c1e2a1c11114d559e33000000000001", "k8s,bgp,kubeadm", False)


def test_the_cluster_information_keeps_what_it_does_not_know(store: Store) -> None:
    """Closing the datastore and opening it changes one field; what others have made is not made anew."""
    found = next(item for item in RESOURCES if item["what"] == "clusterinformation")
    stored = {**found["value"] | UNKNOWN, "spec": found["value"]["spec"] | UNKNOWN}
    store.create(found["key"], stored)
    initialised(store, "v0")
    set_ready(store, False, "v0")
    assert store.get(found["key"]).value == {**stored, "spec": {**stored["spec"], "datastoreReady": False}}
    set_ready(store, True, "v0")
    assert store.get(found["key"]).value == stored


def test_our_endpoint_is_one_that_we_read() -> None:
    """It comes back as it was, by the fields that Calico's tools read."""
    attachment = Attachment("k8s-pod-network", "4f0c9d", "eth0")
    ours = endpoint.endpoint_for("node-a", "nginx-1", "default", attachment, ("10.244.64.0", "fd00:10:244::41"))
    value = endpoint_json(ours)
    assert endpoint_of(Record("k", json.loads(json.dumps(value)), 1)) == ours
    assert value["spec"]["ipNetworks"] == ["10.244.64.0/32", "fd00:10:244::41/128"]


KEYS = [
    (keys.block(4, "10.244.64.0/26"), "/calico/ipam/v2/assignment/ipv4/block/10.244.64.0-26"),
    (keys.block(6, "fd00:10:244::40/122"), "/calico/ipam/v2/assignment/ipv6/block/fd00:10:244::40-122"),
    (keys.affinity("node-a", 4, "10.244.64.0/26"), "/calico/ipam/v2/host/node-a/ipv4/block/10.244.64.0-26"),
    (keys.affinity("node-a", 6, "fd00::/122"), "/calico/ipam/v2/host/node-a/ipv6/block/fd00::-122"),
    (keys.handle("k8s-pod-network.4f0c9d"), "/calico/ipam/v2/handle/k8s-pod-network.4f0c9d"),
    (keys.IPAM_CONFIG, "/calico/ipam/v2/config"),
    (keys.host("node-a"), "/calico/ipam/v2/host/node-a"),
    (keys.ippool("p"), "/calico/resources/v3/projectcalico.org/ippools/p"),
    (keys.ipreservation("r"), "/calico/resources/v3/projectcalico.org/ipreservations/r"),
    (keys.workload_endpoint("ns", "w"), "/calico/resources/v3/projectcalico.org/workloadendpoints/ns/w"),
    (keys.node("node-a"), "/calico/resources/v3/projectcalico.org/nodes/node-a"),
    (keys.CLUSTER_INFORMATION, "/calico/resources/v3/projectcalico.org/clusterinformations/default"),
    (keys.FELIX_CONFIGURATION, "/calico/resources/v3/projectcalico.org/felixconfigurations/default"),
]


@pytest.mark.parametrize(("ours", "calicos"), KEYS)
def test_keys(ours: str, calicos: str) -> None:
    """They are Calico's, letter for letter."""
    assert ours == calicos
    assert CALICOS_KEYS.fullmatch(ours)


def everything(store: Store) -> None:
    """Write a record of every kind that we write, as the commands and verbs do."""
    initialised(store, "v1")
    for item in RESOURCES:
        if item["what"] in ("ippool", "ipreservation", "node"):
            resources.create(store, {**item["value"], "metadata": {"name": item["value"]["metadata"]["name"]}})
    resources.create(store, {**RESOURCES[0]["value"], "metadata": {"name": "v6"},
                             "spec": {"cidr": "fd00:10:244::/64"}})
    configuration.save(store, cooldown_seconds=60)
    attachment = Attachment("k8s-pod-network", "4f0c9d", "eth0")
    given = assign(store, Request(node="node-a", owner=attachment.owner({"node": "node-a"}), families=(4, 6)))
    assign(store, Request(node="node-a", owner=POD, addresses=(parse_address("10.244.64.9"),)))
    release(store, POD)  # the address rests
    claim_range(store, "node-b", parse_cidr("10.244.1.0/25"), 26)
    give_up(store, "node-b", parse_cidr("10.244.1.0/26"))
    record = endpoint.endpoint_for("node-a", "nginx-1", "default", attachment, tuple(str(i.address) for i in given))
    store.create(endpoint.usual_key("node-a", Args("nginx-1", "default"), attachment), endpoint_json(record))


def test_etcds_own_tool_reads_what_we_write(cluster: Cluster, etcdctl: Callable[..., str], tmp_path: Path) -> None:
    """Every key is one of Calico's, and every value the JSON that the store means; there is nothing else in etcd."""
    store = open_store(cluster.settings(tmp_path))
    everything(store)
    names = etcdctl("get", "--prefix", "--keys-only", "").split()
    assert [name for name in names if not CALICOS_KEYS.fullmatch(name)] == []
    assert names == sorted(store.keys("/calico/"))
    for name in names:
        assert json.loads(etcdctl("get", "--print-value-only", name)) == store.get(name).value
    parts = ("/assignment/ipv4/", "/assignment/ipv6/", "/host/node-a/ipv4/block/", "/handle/", "/config",
             "/host/node-a", "/ippools/", "/ipreservations/", "/nodes/", "/clusterinformations/",
             "/felixconfigurations/", "/workloadendpoints/default/")
    assert all(any(part in name for name in names) for part in parts)


def test_records_have_calicos_fields(cluster: Cluster, etcdctl: Callable[..., str], tmp_path: Path) -> None:
    """What we make has the fields that Calico's records have, by name and type; more of our own is said here."""
    everything(open_store(cluster.settings(tmp_path)))
    ours = {Handle: {"boot"}, Host: {"boot", "room"}}
    kinds_of = {"/assignment/": (IPAM[0]["value"], set[str]()), "/config": (IPAM[-1]["value"], set[str]()),
                "/handle/": (IPAM[-3]["value"], ours[Handle]), "node-b/ipv4": (IPAM[7]["value"], set[str]())}
    for part, (calicos, also) in kinds_of.items():
        for name in filter(lambda name: part in name, etcdctl("get", "--prefix", "--keys-only", "").split()):
            value = json.loads(etcdctl("get", "--print-value-only", name))
            assert value.keys() - also == calicos.keys(), name
            assert [type(value[field]) for field in calicos] == [type(calicos[field]) for field in calicos]


def test_we_read_what_etcds_own_tool_writes(cluster: Cluster, etcdctl: Callable[..., str], tmp_path: Path) -> None:
    """Calico's records, put there by somebody else in a form of his own (indented), are read as what they are."""
    for item in IPAM + RESOURCES:
        etcdctl("put", "--", item["key"], json.dumps(item["value"], indent=1, ensure_ascii=False))
    store = open_store(cluster.settings(tmp_path))
    assert {record.key: record.value for record in store.records("/calico/")} == {
        item["key"]: item["value"] for item in IPAM + RESOURCES}
