"""Repair: what each kind of damage becomes, and that no repair ever frees the address of a pod that lives."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastore import keys
from datastore.file import FileStore
from datastore.model import block_of, handle_of
from datastore.resources import endpoint_of
from ipam import configuration
from ipam.audit.repair import repair
from ipam.audit.survey import UNKNOWN
from ipam.cidr import block_at
from ipam.find import allocations
from ipam.release import Wanted, release_addresses

from .audit_kit import BLOCK, BOOT, CRAFT, NETNS, NODE, House

KEY = keys.block(4, BLOCK)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "store")


def kept(house: House) -> list[str]:
    return sorted(file.name.partition("-")[2] for file in (Path(house.store.root) / ".damaged").iterdir())


@pytest.mark.parametrize("damage", ["", "{", "null", '{"key":"/x","revision":1,"value":{}}'])
def test_a_torn_block_of_known_pods(house: House, damage: str) -> None:
    """Where wires and handles account for everybody, a block is as it was: its pods have their addresses, the rest is
    free, and each pod can be deleted as before."""
    for name in "ab":
        house.pod(name, pod=f"pod-{name}", namespace="shop")
    before = block_of(house.store.get(KEY))
    house.block().write_text(damage)
    assert house.repair() == [f"block {BLOCK} was made anew: 2 addresses in use"]
    after = block_of(house.store.get(KEY))
    assert (after.affinity, after.allocations, after.unallocated) == (before.affinity, before.allocations,
                                                                      before.unallocated)
    assert [dict(item.owner) for item in after.attributes] == [dict(item.owner) for item in before.attributes]
    assert after.sequence > before.sequence
    assert kept(house) == ["10.0.0.0-29.json"]


def test_a_torn_block_with_somebody_unknown(house: House) -> None:
    """A handle that is not accounted for keeps every address that nobody is known to have: it has one of them."""
    house.pod("a")
    house.bare("ptp")
    house.block().write_text("")
    house.repair()
    holders = house.holders()
    assert holders["10.0.0.0"] == "net.a"
    assert [holders[f"10.0.0.{last}"] for last in range(1, 8)] == [UNKNOWN] * 7
    assert house.audit().survey.kept == 7
    release_addresses(house.store, [Wanted(item) for item in house.wires["a"].addresses])


def test_a_torn_block_and_a_torn_handle(house: House) -> None:
    """A damaged handle may be of anybody: nothing is free then, though the one pod known is wired."""
    house.pod("a")
    for key in (KEY, keys.handle("net.a")):
        house.file(key).write_text("x")
    house.repair()
    assert house.holders() == {"10.0.0.0": "net.a"} | {f"10.0.0.{last}": UNKNOWN for last in range(1, 8)}
    assert handle_of(house.store.get(keys.handle("net.a"))).blocks == {BLOCK: 1}


def test_a_block_that_is_gone(house: House) -> None:
    """A confirmed affinity and its pods bring their block back; without anybody the affinity goes, too."""
    house.pod("a")
    house.store.create(keys.affinity(NODE, 4, "10.0.0.8/29"), {"state": "confirmed"})
    house.remove(KEY)
    house.repair()
    assert house.holders() == {"10.0.0.0": "net.a"}
    assert house.store.keys(keys.affinities(NODE, 4)) == [keys.affinity(NODE, 4, BLOCK)]


def test_a_block_and_its_affinity_that_are_gone(house: House) -> None:
    """A wired address in no block brings a block of this node's, where all that is not known is kept."""
    house.pod("a")
    house.remove(KEY)
    house.remove(keys.affinity(NODE, 4, BLOCK))
    house.repair()
    assert house.holders() == {"10.0.0.0": "net.a"} | {f"10.0.0.{last}": UNKNOWN for last in range(1, 8)}
    assert block_of(house.store.get(KEY)).affinity == f"host:{NODE}"


def test_another_node_s_torn_block_is_left(house: House) -> None:
    """The node whose wires are known there will do better; nothing of its records is removed meanwhile."""
    address = house.pod("b", node="n2")[0]
    torn = house.block(str(block_at(address, 29)))
    torn.write_text("{")
    done: list[str] = []
    last = repair(house.store, house.look, CRAFT, done.append)
    assert (done, [item.kind for item in last.findings]) == ([], ["record-unreadable"])
    assert torn.read_text() == "{"
    house.node = "n2"
    house.repair()
    assert house.holders() == {str(address): "net.b"}


@pytest.mark.parametrize(
    ("change", "holders"),
    [
        ({"unallocated": [1, 2, 3, 3, 4, 5, 6, 7]}, {}),
        ({"unallocated": [0, 1, 2, 3, 4, 5, 6, 7]}, {}),
        ({"unallocated": [1, 2, 3]}, {}),
        ({"unallocated": [1, 2, 3, 4, 5, 6, 7, 8]}, {}),
        ({"attributes": []}, {}),
        ({"allocations": [None] * 8}, {}),
        ({"allocations": [0]}, {}),
        ({"allocations": [None] * 8, "unallocated": [*range(8)], "attributes": []}, {}),
    ],
)
def test_an_unsound_block(house: House, change: dict[str, Any], holders: dict[str, str]) -> None:
    """A block that contradicts itself, or forgot somebody, is as it should be again."""
    house.pod("a")
    house.change(KEY, **change)
    house.repair()
    assert house.holders() == {"10.0.0.0": "net.a"} | holders
    assert sorted(block_of(house.store.get(KEY)).unallocated) == [1, 2, 3, 4, 5, 6, 7]


def test_an_unsound_block_that_is_usable(house: House) -> None:
    """An owner of nothing is left out, and a rest from the future begins now; everything else stays."""
    house.pod("a")
    configuration.save(house.store, cooldown_seconds=600)
    value = house.store.get(KEY).value
    resting: dict[str, Any] = {"handle_id": None, "secondary": {}, "releasedAt": "2999-01-01T00:00:00Z"}
    house.change(KEY, attributes=[*value["attributes"], {"handle_id": "x", "secondary": {}}, resting],
                 allocations=[0, 2, *value["allocations"][2:]], unallocated=[2, 3, 4, 5, 6, 7])
    house.repair()
    block = block_of(house.store.get(KEY))
    assert [item.handle for item in block.attributes] == ["net.a", None]
    assert block.attributes[1].released_at[:2] == "20"
    assert block.allocations[1] == 1


def test_handles(house: House) -> None:
    """Handles are made to say what the blocks hold: added, corrected, removed, and made anew from a torn one."""
    for name in ("a", "b", "c", "t" * 220):
        house.pod(name)
    house.remove(keys.handle("net.a"))
    house.change(keys.handle("net.b"), block={BLOCK: 3}, note="kept")
    house.store.create(keys.handle("net.x"), {"block": {BLOCK: 1}})
    for name in ("c", "t" * 220):
        house.file(keys.handle(f"net.{name}")).write_text("")
    house.store.create(keys.handle("net.torn"), {})
    house.repair()
    names = ["a", "b", "c", "t" * 220]
    assert house.store.keys(keys.HANDLES) == [keys.handle(f"net.{name}") for name in names]
    assert [handle_of(house.store.get(keys.handle(f"net.{name}"))).blocks for name in names] == [{BLOCK: 1}] * 4
    assert house.store.get(keys.handle("net.b")).value["note"] == "kept"


def test_affinities(house: House) -> None:
    """What is missing is made, what is stale removed, what was begun finished, and what is torn told by its block."""
    house.pod("a", (4, 6))
    house.remove(keys.affinity(NODE, 4, BLOCK))
    house.store.create(keys.affinity("n2", 4, BLOCK), {"state": "confirmed"})
    house.store.create(keys.affinity(NODE, 4, "10.0.0.16/29"), {"state": "pending"})
    house.file(keys.affinity(NODE, 6, "fd00::/125")).write_text("[]")
    house.file(keys.host(NODE)).write_text("[]")
    house.repair()
    assert [(record.key, record.value["state"]) for record in house.store.records(keys.HOSTS)] == [
        (keys.affinity(NODE, 4, BLOCK), "confirmed"), (keys.affinity(NODE, 6, "fd00::/125"), "confirmed")]


@pytest.mark.parametrize(("state", "used", "left"), [
    ("pending", True, ["confirmed"]), ("pending", False, ["confirmed"]),
    ("pendingDeletion", True, ["confirmed"]), ("pendingDeletion", False, []),
])
def test_what_was_begun_is_finished(house: House, state: str, used: bool, left: list[str]) -> None:
    """A claim is confirmed; a block is given up if nobody has an address of it, and stays the node's otherwise."""
    address = house.bare("a")[0]
    if not used:
        release_addresses(house.store, [Wanted(address)])
    house.change(keys.affinity(NODE, 4, BLOCK), state=state)
    house.repair()
    assert [record.value["state"] for record in house.store.records(keys.affinities(NODE, 4))] == left
    assert house.holders() == ({"10.0.0.0": "net.a"} if used else {})
    assert house.store.keys(keys.blocks(4)) == ([KEY] if left else [])
    assert all(block_of(record).affinity == f"host:{NODE}" for record in house.store.records(keys.blocks(4)))


def repair_some(house: House, node: str = NODE) -> list[str]:
    """Repair on a node, and return the kinds of what is left."""
    house.node = node
    return [item.kind for item in repair(house.store, house.look, CRAFT, lambda _: None).findings]


def test_a_torn_handle_waits_for_a_torn_block_of_another_node(house: House) -> None:
    """A pod that borrowed keeps its address: without the block, its handle cannot be known to be whole."""
    mine, borrowed = house.bare("a")[0], house.bare("b", node="n2")[0]
    theirs = str(block_at(borrowed, 29))
    house.change(keys.block(4, theirs), attributes=[{"handle_id": "net.a", "secondary": {"node": NODE}}])
    house.remove(keys.handle("net.b"))
    house.file(keys.handle("net.a")).write_text("{")
    house.block(theirs).write_text("{")
    assert repair_some(house) == ["record-unreadable"] * 2
    assert repair_some(house, "n2") == []
    assert house.holders()[str(mine)] == "net.a"
    assert str(borrowed) in house.holders()
    assert str(borrowed) not in house.free_all()


def test_a_torn_block_that_two_nodes_claim(house: House) -> None:
    """It is the one's whose affinity is confirmed, not the one's who repairs and died while it claimed it."""
    address = house.pod("b", node="n2")[0]
    cidr = str(block_at(address, 29))
    house.store.create(keys.affinity(NODE, 4, cidr), {"state": "pending"})
    house.block(cidr).write_text("{")
    repair_some(house)
    assert house.block(cidr).read_text() == "{"
    assert repair_some(house, "n2") == []
    assert house.holders() == {str(address): "net.b"}
    assert block_of(house.store.get(keys.block(4, cidr))).affinity == "host:n2"
    assert [key for key in house.store.keys(keys.HOSTS) if "/block/" in key] == [keys.affinity("n2", 4, cidr)]


def test_a_handle_of_a_block_with_unknown_addresses_stays(house: House) -> None:
    """One of those may be the handle's; once they are freed it goes."""
    house.bare("ptp")
    house.block().write_text("{")
    house.repair()
    assert house.holders() == {f"10.0.0.{last}": UNKNOWN for last in range(8)}
    assert handle_of(house.store.get(keys.handle("net.ptp"))).blocks == {BLOCK: 1}
    release_addresses(house.store, [Wanted(item.address) for item in allocations(house.store, lambda _: None)])
    house.repair()
    assert house.store.keys(keys.HANDLES) == []


@pytest.mark.parametrize("name", ["a", "t" * 220])
@pytest.mark.parametrize("gone", [True, False])
def test_a_damaged_record_that_is_none_any_more(house: House, name: str, gone: bool) -> None:
    """What was removed, or made anew, since it was looked at is left as it is by then."""
    house.pod(name, node="n2")
    file = house.file(keys.workload_endpoint("default", f"n2-cni-{name}-eth0"))
    whole = file.read_text()
    file.write_text("{")

    class Late(FileStore):
        @contextmanager
        def exclusive(self) -> Iterator[None]:
            file.unlink(missing_ok=True)
            if not gone:
                file.write_text(whole)
            with super().exclusive():
                yield

    repair(Late(house.store.root), house.look, CRAFT, pytest.fail)
    assert (house.found(), file.exists()) == ([], not gone)
    assert list(Path(house.store.root).glob(".damaged/*")) == []


def test_endpoint_records(house: House) -> None:
    """A torn or lost record of a wired pod is made from its wire and allocation; a stale one is removed."""
    for name in "abc":
        house.pod(name, pod=f"pod-{name}", namespace="shop")
    key = {name: keys.workload_endpoint("shop", f"{NODE}-cni-{name}-eth0") for name in "abc"}
    before = {name: endpoint_of(house.store.get(key[name])) for name in "ab"}
    house.remove(key["a"])
    house.file(key["b"]).write_text("")
    release_addresses(house.store, [Wanted(item) for item in house.wires["c"].addresses])
    house.unplug("c")
    house.repair()
    assert {name: endpoint_of(house.store.get(key[name])) for name in "ab"} == before
    assert key["c"] not in house.store.keys(keys.WORKLOAD_ENDPOINTS)


def test_an_endpoint_record_of_a_pod_with_one_block_gone(house: House) -> None:
    """The block that is left tells whose wire it is."""
    house.pod("a", (4, 6))
    house.remove(keys.workload_endpoint("default", f"{NODE}-cni-a-eth0"))
    house.remove(KEY)
    house.remove(keys.affinity(NODE, 4, BLOCK))
    house.repair()
    assert {house.holders()[str(address)] for address in house.wires["a"].addresses} == {"net.a"}


def test_a_wired_address_without_allocation(house: House) -> None:
    """It becomes its pod's, with all that is needed to prove its end later, also while it rests or others have some."""
    house.pod("a")
    address = house.pod("b", pod="web", namespace="shop")[0]
    house.store.create(keys.IPAM_CONFIG, {"ipCooldownSeconds": 600})
    release_addresses(house.store, [Wanted(address)])
    house.repair()
    assert house.holders() == {"10.0.0.0": "net.a", str(address): "net.b"}
    block = block_of(house.store.get(KEY))
    owner = block.attributes[-1].owner
    assert (owner["boot"], owner["netns"], owner["pod"]) == (BOOT, NETNS, "web")
    house.unplug("b")
    assert house.kinds() == {"leaked"}


def test_leaks_are_not_released(house: House) -> None:
    """Releasing is another command's."""
    house.pod("a")
    house.unplug("a")
    last = repair(house.store, house.look, CRAFT, pytest.fail)
    assert [item.kind for item in last.findings] == ["leaked"]


def test_a_conflict_is_left(house: House) -> None:
    """A sound block that gives a wired address to somebody else is told: which is right is not ours to say."""
    for name in "ab":
        house.pod(name)
    value = house.store.get(KEY).value
    house.change(KEY, attributes=value["attributes"][::-1])
    last = repair(house.store, house.look, CRAFT, pytest.fail)
    assert {item.kind for item in last.findings} == {"conflict"}
    assert set(house.holders()) == {"10.0.0.0", "10.0.0.1"}


def test_what_only_people_know_is_left(house: House) -> None:
    """Pools are named and left."""
    house.pod("a")
    pool = house.file(keys.ippool("default-ipv6-ippool"))
    house.file(keys.ippool("default-ipv4-ippool")).rename(pool)
    last = repair(house.store, house.look, CRAFT, lambda _: None)
    assert {item.kind for item in last.findings} == {"pool-missing", "setting-unreadable"}
    assert pool.exists()


SMALL = {"CALICO_IPV4POOL_CIDR": "10.0.0.0/28", "CALICO_IPV4POOL_BLOCK_SIZE": "30",
         "CALICO_IPV6POOL_CIDR": "fd00::/125", "CALICO_IPV6POOL_BLOCK_SIZE": "126"}
HOW = ["empty", "cut", "garbage", "shape", "gone", "mix"]
DAMAGES = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(HOW)), min_size=1, max_size=6)


def damage(file: Path, how: str, choose: random.Random) -> None:
    """Damage a record: as a power cut, a bad disk, a careless hand would."""
    text = file.read_text()
    if how == "gone":
        file.unlink()
    elif how in ("shape", "mix"):
        body = json.loads(text)
        body["value"] = mixed(body["value"], choose) if how == "mix" else {"odd": True}
        file.write_text(json.dumps(body))
    else:
        file.write_text({"empty": "", "cut": text[: choose.randrange(len(text))], "garbage": "\0" * 9}[how])


def mixed(value: dict[str, Any], choose: random.Random) -> dict[str, Any]:
    """Return the record with some of its lists in disorder, so that it contradicts itself or forgets somebody.

    One that tells a lie consistently, such as owners in another order, is a conflict that people must decide.
    """
    for name in ("allocations", "unallocated", "attributes"):
        if name in value and choose.random() < 0.6:
            items = [*value[name]]
            more = [items[:1] + items] if name != "attributes" else []
            value[name] = choose.choice([items[1:], items[:-1], [], *more])
    if "block" in value:
        value["block"] = {cidr: count + 1 for cidr, count in value["block"].items()}
    return value


def damaged_files(house: House) -> list[Path]:
    """The records that can be damaged: all but the pools, which nothing can bring back."""
    root = Path(house.store.root) / "calico"
    return sorted(file for file in root.rglob("*.json") if "ippools" not in str(file))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(damages=DAMAGES, seed=st.integers(0, 2**32), pods=st.integers(1, 6))
def test_no_repair_frees_what_lives(
    tmp_path_factory: pytest.TempPathFactory, damages: list[tuple[int, str]], seed: int, pods: int
) -> None:
    """Whatever is damaged, after the repair nothing is found any more, and nobody is given a living pod's address."""
    house, choose = House(tmp_path_factory.mktemp("house"), **SMALL), random.Random(seed)
    living: set[str] = set()
    for number in range(pods):
        families = choose.choice([(4,), (6,), (4, 6)])
        living |= set(map(str, house.pod(f"p{number}", families)))
    for at, how in damages:
        files = damaged_files(house)
        if not files:
            break  # all are gone
        target = files[at % len(files)]
        if target.read_text().startswith("{") and target.read_text().endswith("}"):
            damage(target, how, choose)
    house.repair()
    holders = house.holders()
    assert living <= holders.keys()
    assert all(holders[str(address)] == wire.owner.handle_id
               for wire in house.wires.values() for address in wire.addresses)
    assert not living & set(house.free_all())
    assert house.found() == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 2**32), how=st.sampled_from(["empty", "cut", "garbage", "shape"]), count=st.integers(1, 3))
def test_no_repair_frees_what_has_no_wire(tmp_path_factory: pytest.TempPathFactory, seed: int, how: str,
                                          count: int) -> None:
    """Nor the address of a pod that another main plugin wires: of it only its block and its handle tell."""
    house, choose = House(tmp_path_factory.mktemp("house"), **SMALL), random.Random(seed)
    living: set[str] = set()
    for number in range(choose.randrange(1, 7)):
        add = choose.choice([house.pod, house.bare])
        living |= set(map(str, add(f"p{number}", choose.choice([(4,), (4, 6)]))))
    for file in choose.sample(damaged_files(house), count):
        damage(file, how, choose)
    house.repair()
    assert living <= house.holders().keys()
    assert not living & set(house.free_all())
