"""What an audit finds, kind by kind, and what it must not take for a problem."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from datastore import keys
from datastore.api import Unwritable
from datastore.frozen import replace
from datastore.model import Attribute, block_of
from ipam.audit.audit import audit
from ipam.audit.blocks import faults
from ipam.audit.living import Living, Wire, why_gone
from ipam.audit.tally import Tally
from ipam.cidr import parse_address
from ipam.release import Wanted, release_addresses

from .audit_kit import BLOCK, BOOT, NETNS, NODE, House


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "store")


def test_a_sound_node(house: House) -> None:
    """Pods of all kinds, of both families and several nodes, leave nothing to find."""
    house.pod("a", (4, 6), pod="web", namespace="shop")
    house.pod("b", node="n2")
    house.bare("ptp", (4, 6))
    found = house.audit()
    assert found.findings == ()
    assert (found.survey.allocations, found.handles, found.endpoints, found.affinities) == (5, 3, 2, 3)
    assert found.survey.nodes == {NODE: 4, "n2": 1}


def test_an_empty_datastore(house: House) -> None:
    """Nothing is there, nothing is found, and nothing is written."""
    assert house.found() == []
    assert not Path(house.store.root).exists()


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"attributes": ()}, "points to attribute 0, of 0"),
    ({"attributes": (Attribute("h", {}), Attribute("i", {}))}, "no ordinal points to attribute 1"),
    ({"attributes": (Attribute(None, {}, released_at="2999-01-01T00:00:00Z"),)}, "lies in the future"),
    ({"attributes": (Attribute(None, {}, released_at="soon"),)}, "is no time"),
    ({"unallocated": (1, 2, 3, 3, 4, 5, 6, 7)}, "ordinal 3 is free twice"),
    ({"unallocated": (0, 1, 2, 3, 4, 5, 6, 7)}, "ordinal 0 is both allocated and free"),
    ({"unallocated": (1, 2, 3, 4, 5, 6)}, "ordinal 7 is neither allocated nor free"),
    ({"unallocated": (1, 2, 3, 4, 5, 6, 8)}, "ordinal 8 is free, but the block ends at 7"),
    ({"unallocated": (1, 2, 3)}, "its counts do not add up: 1 allocated and 3 free are not 8"),
    ({"allocations": (0, None), "unallocated": (1,)}, "it has 2 ordinals, a block of its CIDR has 8"),
    ({"cidr": "10.0.0.1/29"}, "bits set behind its prefix"),
]


@pytest.mark.parametrize(("change", "fault"), FAULTS)
def test_faults_of_a_block(house: House, change: dict[str, Any], fault: str) -> None:
    """Each way in which a block can be unsound is named."""
    house.pod("a")
    block = block_of(house.store.get(keys.block(4, BLOCK)))
    assert faults(block, 0) == []
    assert any(fault in told for told in faults(replace(block, **change), 0))


def test_records_that_cannot_be_read(house: House) -> None:
    """Torn and misshapen records of every kind are told by their key; nothing else is concluded from them."""
    house.pod("a", (4, 6))
    handle, affinity = keys.handle("net.a"), keys.affinity(NODE, 4, BLOCK)
    for key in (keys.block(4, BLOCK), handle):
        house.file(key).write_text("{")
    house.change(keys.block(6, "fd00::/125"), allocations="x")
    house.change(affinity, state=7)
    house.change(keys.host(NODE), boot=7)
    house.change(keys.ippool("default-ipv4-ippool"), spec=None)
    assert house.found() == [
        ("record-unreadable", keys.block(4, BLOCK)),
        ("record-unreadable", keys.block(6, "fd00::/125")),
        ("record-unreadable", handle),
        ("record-unreadable", keys.host(NODE)),
        ("record-unreadable", affinity),
        ("setting-unreadable", keys.ippool("default-ipv4-ippool")),
    ]


def test_a_damaged_record_whose_name_is_lost(house: House) -> None:
    """A handle too long for a file's name is found by its file when its content is torn, and by its block."""
    name = "c" * 220
    house.bare(name)
    file = house.file(keys.handle(f"net.{name}"))
    file.write_text("")
    assert house.found() == [("record-unreadable", str(file))]
    assert house.audit().survey.unread == {f"net.{name}": {BLOCK}}


def test_settings_that_cannot_be_read(house: House) -> None:
    """Configuration and reservations are people's: they are named, too."""
    house.store.create(keys.IPAM_CONFIG, {"strict_affinity": 1})
    house.store.create(keys.ipreservation("r"), {})
    assert house.found() == [("setting-unreadable", keys.IPAM_CONFIG),
                             ("setting-unreadable", keys.ipreservation("r"))]


def test_overlapping_blocks(house: House) -> None:
    """A block within another is told, once for each."""
    house.pod("a")
    inner = house.store.get(keys.block(4, BLOCK)).value
    for cidr in ("10.0.0.2/31", "10.0.0.4/31"):
        small = {**inner, "cidr": cidr, "allocations": [None] * 2, "unallocated": [0, 1], "attributes": [],
                 "affinity": None}
        house.store.create(keys.block(4, cidr), small)
    assert house.found() == [("block-overlap", "10.0.0.2/31"), ("block-overlap", "10.0.0.4/31")]


def test_handles_that_disagree(house: House) -> None:
    """A handle too many, one too few, and one that counts wrong: each by itself among others that are right."""
    for name in "abcd":
        house.pod(name)
    house.remove(keys.handle("net.a"))
    house.change(keys.handle("net.b"), block={BLOCK: 2})
    house.change(keys.handle("net.c"), block={BLOCK: 1, "10.0.0.8/29": 1})
    house.store.create(keys.handle("net.x"), {"block": {BLOCK: 1}})
    house.store.create(keys.handle("net.y"), {"block": {}})
    assert house.found() == [("handle-count", "net.b"), ("handle-count", "net.c"), ("handle-empty", "net.x"),
                             ("handle-empty", "net.y"), ("handle-missing", "net.a")]


def test_affinities_that_disagree(house: House) -> None:
    """Every way in which a block and the affinities for it can differ."""
    house.pod("a")
    other, third = "10.0.0.8/29", "10.0.0.16/29"
    house.store.create(keys.affinity("n2", 4, BLOCK), {"state": "confirmed"})
    house.store.create(keys.affinity(NODE, 4, other), {"state": "confirmed"})
    house.store.create(keys.affinity(NODE, 4, third), {"state": "pending"})
    assert house.found() == [
        ("affinity-stale", keys.affinity(NODE, 4, third)),
        ("affinity-stale", keys.affinity("n2", 4, BLOCK)),
        ("block-missing", other),
    ]


@pytest.mark.parametrize("state", ["pending", "pendingDeletion"])
def test_an_affinity_left_half_done(house: House, state: str) -> None:
    """A claim or a release that died is told."""
    house.pod("a")
    house.change(keys.affinity(NODE, 4, BLOCK), state=state)
    assert house.found() == [("affinity-unfinished", keys.affinity(NODE, 4, BLOCK))]


def test_a_block_without_its_affinity(house: House) -> None:
    """A block that says whose it is while that node does not is told; one that is nobody's has none."""
    house.pod("a")
    house.remove(keys.affinity(NODE, 4, BLOCK))
    assert house.found() == [("affinity-missing", BLOCK)]
    house.change(keys.block(4, BLOCK), affinity=None)
    assert house.found() == []


def test_addresses_in_no_pool(house: House) -> None:
    """A pool that was removed leaves its addresses in no pool; a pool around part of a block covers that part."""
    house.pod("a")
    house.pod("b")
    house.remove(keys.ippool("default-ipv4-ippool"))
    assert house.found() == [("pool-missing", BLOCK)]
    spec = {"metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/32", "blockSize": 32}}
    house.store.create(keys.ippool("p"), spec)
    assert [item.what for item in house.audit().findings] == ["1 addresses in use lie in no pool, 10.0.0.1 the first"]


def test_endpoints_and_wires_without_allocation(house: House) -> None:
    """An address that a record or a wire has and no allocation; a record without either is stale."""
    for name in "abcd":
        house.pod(name)
    held = {name: house.wires[name].addresses[0] for name in "bcd"}
    release_addresses(house.store, [Wanted(address) for address in held.values()])
    house.unplug("b")
    assert ("endpoint-stale", str(held["b"])) in house.found()
    assert [subject for kind, subject in house.found() if kind == "unallocated"] == [str(held["c"])] * 2 + [
        str(held["d"])] * 2


def test_an_address_of_somebody_else(house: House) -> None:
    """A record or a wire with an address that another pod has been given is told."""
    house.pod("a")
    address = house.pod("b")[0]
    release_addresses(house.store, [Wanted(address)])
    house.bare("c", families=(4,))
    while str(address) not in house.holders():
        house.bare(f"c{len(house.holders())}")
    assert {kind for kind, subject in house.found() if subject == str(address)} == {"conflict"}


def test_other_ipam_plugins_addresses(house: House) -> None:
    """A pod wired by `calico` with addresses of another IPAM plugin is none of ours."""
    house.pod("a")
    wire = house.wires["a"]
    house.wires["b"] = Wire("calib", replace(wire.owner, handle_id="net.b",
                                             attributes={**wire.owner.attributes, "container": "b"}),
                            (parse_address("10.99.0.1"),))
    endpoint = next(house.store.records(keys.WORKLOAD_ENDPOINTS)).value
    endpoint["spec"] |= {"containerID": "b", "ipNetworks": ["10.99.0.1/32"]}
    house.store.create(keys.workload_endpoint("default", f"{NODE}-cni-b-eth0"), endpoint)
    assert house.found() == []


def test_a_wired_pod_without_a_record(house: House) -> None:
    """A pod whose endpoint record was lost is told by its link."""
    house.pod("a")
    house.remove(keys.workload_endpoint("default", f"{NODE}-cni-a-eth0"))
    assert house.found() == [("endpoint-missing", house.wires["a"].link)]


def test_links_that_are_another_s_double(house: House) -> None:
    """Two links with one alias, and two with one address, are told."""
    house.pod("a")
    house.pod("b")
    house.wires["copy"] = replace(house.wires["a"], link="calicopy")
    assert set(house.found()) == {("wire-twice", "calicopy")}
    house.wires["copy"] = replace(house.wires["a"], link="calicopy", owner=house.wires["b"].owner, addresses=())
    assert set(house.found()) == {("wire-twice", "calicopy")}


def test_leaks(house: House) -> None:
    """Pods whose veth is gone and pods of former boots are leaked; living, foreign and unknowable ones are not."""
    for name in ("alive", "dead"):
        house.pod(name)
    house.unplug("dead")
    house.pod("elsewhere", node="n2")
    house.bare("ptp")
    house.bare("old", boot="boot-before")
    house.bare("old-elsewhere", node="n2", boot="boot-before")
    house.bare("no-boot", boot="")
    house.bare("other-namespace", veth="calix", netns="4:1")
    leaks = {leak.attribute.owner["container"]: leak.why for leak in house.audit().leaks}
    assert set(leaks) == {"dead", "old"}
    assert "veth" in leaks["dead"]
    assert "boot-before" in leaks["old"]
    assert house.kinds() == {"leaked"}


def test_an_add_in_progress_is_no_leak(house: House) -> None:
    """What a verb is at work on is left out: its address is allocated, and not wired yet."""
    house.pod("a")
    link = house.wires["a"].link
    house.unplug("a")
    with house.store.hold(link, 0):
        assert house.found() == []
    assert house.kinds() == {"leaked"}


def test_an_audit_leaves_the_mark_of_a_killed_verb(house: House) -> None:
    """The next verb of that attachment still learns that the one before was killed."""
    house.pod("a")
    link = house.wires["a"].link
    house.unplug("a")
    folder = Path(house.store.root) / ".held"
    folder.mkdir()
    (folder / link).write_text("held\n")
    assert house.kinds() == {"leaked"}
    with house.store.hold(link, 0) as held:
        assert held.interrupted


def test_a_pod_that_comes_between_two_looks(house: House) -> None:
    """A leak that is wired by the time of the second look, or is given anew, is none."""
    house.pod("a")
    wire = house.wires.pop("a")
    looks = iter((house.look(), Living(NODE, BOOT, NETNS, lambda _: True, (wire,))))
    assert [item.kind for item in audit(house.store, lambda: next(looks)).findings] == []


def test_a_read_only_datastore(house: House) -> None:
    """Where nothing can be written an audit needs no lock."""
    house.pod("a")
    house.change(keys.handle("net.a"), block={BLOCK: 2})
    house.unplug("a")

    class ReadOnly(type(house.store)):  # type: ignore[misc]
        def exclusive(self) -> Any:
            raise Unwritable("read-only")

        def hold(self, name: str, seconds: float, keep_mark: bool = False) -> Any:
            raise Unwritable("read-only")

    house.store = ReadOnly(house.store.root)
    assert house.kinds() == {"handle-count", "leaked"}


OWNER = {"node": NODE, "boot": BOOT, "netns": NETNS, "veth": "cali0", "network": "net", "container": "a",
         "interface": "eth0"}


@pytest.mark.parametrize(
    ("change", "listed", "gone"),
    [
        ({}, None, True),
        ({}, True, False),
        ({}, False, True),
        ({"netns": "4:2"}, None, False),
        ({"netns": ""}, None, False),
        ({"veth": ""}, None, False),
        ({"veth": "", "netns": ""}, False, True),
        ({"boot": "before"}, None, True),
        ({"boot": "before", "veth": "", "netns": ""}, None, True),
        ({"boot": ""}, None, False),
        ({"boot": "before", "node": "n2"}, None, False),
        ({"boot": "before", "node": "n2"}, False, False),
        ({"node": "former-name"}, None, True),
        ({"node": "former-name"}, False, True),
        ({"node": "n2", "netns": "4:2"}, None, False),
        ({"node": "n2", "netns": "4:2"}, False, False),
        ({"node": "n2", "veth": "", "netns": ""}, False, False),
        ({"boot": "before", "container": ""}, None, False),
        ({"boot": "before", "interface": ""}, None, False),
    ],
)
def test_what_proves_that_a_pod_is_gone(change: dict[str, str], listed: bool | None, gone: bool) -> None:
    """The rule, row by row; a link that is there proves life whatever else is said, unless the runtime knows better."""
    owner = {**OWNER, **change}
    dead = Living(NODE, BOOT, NETNS, lambda _: False)
    alive = replace(dead, linked=lambda _: True)
    assert bool(why_gone(owner, dead, listed)) == gone
    assert bool(why_gone(owner, alive, listed)) == (gone and listed is False)


@pytest.mark.parametrize("unknown", ["boot", "netns"])
def test_nothing_is_proven_by_a_kernel_that_does_not_tell(unknown: str) -> None:
    """Without boot id, or without the namespace's number, an absent link proves nothing."""
    living = replace(Living(NODE, BOOT, NETNS, lambda _: False), **{unknown: ""})
    assert why_gone({**OWNER, "netns": living.netns}, living) == ""


def test_a_tally_in_little_memory() -> None:
    """Half a million facts take some ten megabytes, and the one that differs is told."""
    tracemalloc.start()
    one, other = Tally(), Tally()
    for number in range(100_000):
        one.add(f"net.{number}", BLOCK, 1)
        other.add(f"net.{number}", BLOCK, 2 if number == 7 else 1)
    missed = one.without(other)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ("net.7", BLOCK, 1) in missed
    assert ("net.8", BLOCK, 1) not in missed
    assert not one.without(one)
    assert size < 5_000_000


def test_an_endpoint_without_addresses(house: House) -> None:
    """A record of another plugin, or of no address, is read and passed over."""
    house.store.create(keys.workload_endpoint("default", "x"), {"spec": {}})
    house.pod("a")
    assert house.found() == []


@pytest.mark.parametrize(("kind", "spec"), [
    ("ippools", {"cidr": "10.9.0.0/27", "blockSize": 26}), ("ippools", {"cidr": "10.9.0.0/24", "blockSize": 40}),
    ("ippools", {"cidr": "10.9.0.0/24", "nodeSelector": "a ="}),
    ("ippools", {"cidr": "10.9.0.0/24", "namespaceSelector": "((("}),
    ("ipreservations", {"reservedCIDRs": ["10.0.0.1/24"]}),
])
def test_settings_that_stop_the_allocator(house: House, kind: str, spec: dict[str, object]) -> None:
    """A setting that an assignment would fail on is found, whoever wrote it."""
    house.store.create(f"{keys.RESOURCES}/{kind}/wrong", {"metadata": {"name": "wrong"}, "spec": spec})
    assert [(item.kind, item.subject.rpartition("/")[2]) for item in house.audit().findings] == [
        ("setting-unreadable", "wrong")]
