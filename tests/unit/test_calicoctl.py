"""`calicoctl ipam show` on a real datastore directory: pools, blocks, who has an address, and damaged records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from datastore import keys
from ipam.assign import Request, assign
from ipam.handle import Owner

from .calicoctl_kit import POD, Place, cooling, pod


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A datastore with nothing in it."""
    return Place(tmp_path)


@pytest.fixture
def used(place: Place) -> Place:
    """A datastore with a pool and a block of each family, in each of which three addresses are in use."""
    place.pool("default-ipv4-ippool", "10.244.0.0/16")
    place.pool("default-ipv6-ippool", "fd00:10::/48")
    place.block("10.244.0.0/26", held=range(3))
    place.block("fd00:10::/122", held=range(3))
    return place


def test_pools_of_both_families(used: Place) -> None:
    assert used.ok("ipam", "show") == """\
+----------+---------------+------------+------------+--------------+-------------------+
| GROUPING |     CIDR      | IPS TOTAL  | IPS IN USE | IPS RESERVED |     IPS FREE      |
+----------+---------------+------------+------------+--------------+-------------------+
| IP Pool  | 10.244.0.0/16 |      65536 |     3 (0%) |       0 (0%) |      65533 (100%) |
| IP Pool  | fd00:10::/48  | 1.2089e+24 |     3 (0%) |       0 (0%) | 1.2089e+24 (100%) |
+----------+---------------+------------+------------+--------------+-------------------+
"""


def test_blocks_follow_their_pool_in_the_order_of_addresses(used: Place) -> None:
    """Also where the order of the keys is another: 10.244.128.0-26 is before 10.244.64.0-26 there."""
    used.block("10.244.128.0/26", "n2", [1])
    used.block("10.244.64.0/26", None, [1, 2])
    rows = [line.split(" | ")[:4] for line in used.ok("ipam", "show", "--show-blocks").splitlines()[3:-1]]
    assert [[cell.strip("| ") for cell in row] for row in rows] == [
        ["IP Pool", "10.244.0.0/16", "65536", "6 (0%)"],
        ["Block", "10.244.0.0/26", "64", "3 (5%)"],
        ["Block", "10.244.64.0/26", "64", "2 (3%)"],
        ["Block", "10.244.128.0/26", "64", "1 (2%)"],
        ["IP Pool", "fd00:10::/48", "1.2089e+24", "3 (0%)"],
        ["Block", "fd00:10::/122", "64", "3 (5%)"],
    ]


def test_what_the_allocator_gave_is_counted(place: Place) -> None:
    """No records made for the test: the ones that an assignment writes."""
    owner = Owner("net.a", {"pod": "a", "namespace": "default", "node": "n1", "container": "a", "interface": "eth0"})
    env = {"CALICO_IPV4POOL_CIDR": "10.244.0.0/16", "CALICO_IPV6POOL_CIDR": "fd00:10::/48"}
    given = assign(place.store, Request("n1", owner, families=(4, 6), env=env))
    found = place.answer("ipam", "show")
    assert [(pool["name"], pool["inUse"], len(pool["blocks"])) for pool in found["pools"]] == [
        ("default-ipv4-ippool", 1, 1), ("default-ipv6-ippool", 1, 1)]
    for item in given:
        assert place.answer("ipam", "show", f"--ip={item.address}")["attributes"]["pod"] == "a"


def test_blocks_without_a_pool_are_listed_with_blocks_only(used: Place) -> None:
    """A pool was deleted while its addresses are in use: no row for it, but its blocks show."""
    record = used.store.get(keys.ippool("default-ipv4-ippool"))
    used.store.delete(record.key, record.revision)
    assert "10.244" not in used.ok("ipam", "show")
    blocks = used.ok("ipam", "show", "--show-blocks").splitlines()[3:-1]
    assert [line[2:9].strip() for line in blocks] == ["IP Pool", "Block", "Block"]
    assert "10.244.0.0/26" in blocks[-1]
    found = used.answer("ipam", "show")
    assert [pool["name"] for pool in found["pools"]] == ["default-ipv6-ippool"]
    assert [block["cidr"] for block in found["blocksWithoutPool"]] == ["10.244.0.0/26"]


def test_pools_are_in_name_order_whatever_their_family(place: Place) -> None:
    for name, cidr in (("c", "10.1.0.0/16"), ("a", "10.9.0.0/16"), ("b", "fd00::/64")):
        place.pool(name, cidr)
    assert [pool["name"] for pool in place.answer("ipam", "show")["pools"]] == ["a", "b", "c"]


def test_usage_as_json_and_yaml(used: Place) -> None:
    """The documented shape, whatever --show-blocks says; numbers are exact."""
    used.reserve("r", "10.244.0.2", "10.244.0.8/31")
    used.block("10.244.0.64/30", None, {0: POD, 1: cooling()})
    block = {"coolingDown": 0, "borrowed": 0, "affinity": "host:n1"}
    found = {
        "pools": [
            {"name": "default-ipv4-ippool", "cidr": "10.244.0.0/16", "total": 65536, "inUse": 5, "reserved": 3,
             "free": 65529, "blocks": [
                 {"cidr": "10.244.0.0/26", "total": 64, "inUse": 3, "reserved": 3, "free": 59, **block},
                 {"cidr": "10.244.0.64/30", "total": 4, "inUse": 2, "reserved": 0, "free": 2, "coolingDown": 1,
                  "borrowed": 1, "affinity": None}]},
            {"name": "default-ipv6-ippool", "cidr": "fd00:10::/48", "total": 2**80, "inUse": 3, "reserved": 0,
             "free": 2**80 - 3, "blocks": [
                 {"cidr": "fd00:10::/122", "total": 64, "inUse": 3, "reserved": 0, "free": 61, **block}]},
        ],
        "blocksWithoutPool": [],
    }
    assert json.loads(used.ok("ipam", "show", "-o", "json")) == found
    assert json.loads(used.ok("ipam", "show", "--show-blocks", "-o", "json")) == found
    assert yaml.safe_load(used.ok("ipam", "show", "-o", "yaml")) == found


@pytest.mark.parametrize("address", ["10.244.0.1", "fd00:10::1"])
def test_who_has_an_address(used: Place, address: str) -> None:
    assert used.ok("ipam", "show", f"--ip={address}") == f"""\
IP {address} is in use
Handle ID: net.web
Active Owner Attributes:
  namespace: default
  node: n1
  pod: web
"""
    assert used.answer("ipam", "show", "--ip", address) == {
        "ip": address, "assigned": True, "handle": "net.web",
        "attributes": {"namespace": "default", "node": "n1", "pod": "web"}, "alternateAttributes": {},
        "releasedAt": None,
    }


@pytest.mark.parametrize("address", ["10.244.0.9", "10.9.9.9", "fd00:10::99", "::1"])
def test_an_address_that_nobody_has(used: Place, address: str) -> None:
    assert used.ok("ipam", "show", "--ip", address) == f"{address} is not assigned\n"
    assert used.answer("ipam", "show", "--ip", address) == {
        "ip": address, "assigned": False, "handle": None, "attributes": {}, "alternateAttributes": {},
        "releasedAt": None,
    }


def test_an_address_that_cools_down(place: Place) -> None:
    place.block("10.0.0.0/30", held={1: cooling("2026-08-01T10:00:00Z")})
    assert place.ok("ipam", "show", "--ip=10.0.0.1") == (
        "10.0.0.1 is not assigned; released at 2026-08-01T10:00:00Z, it cools down\n")
    found = place.answer("ipam", "show", "--ip=10.0.0.1")
    assert (found["assigned"], found["releasedAt"]) == (False, "2026-08-01T10:00:00Z")


def test_a_machine_that_migrates_has_two_owners(place: Place) -> None:
    """Calico: alternateOwnerAttrs, shown below the active ones."""
    place.block("10.0.0.0/30", held={1: {**pod("vm-b", "n2"), "alternateOwnerAttrs": {"pod": "vm-a", "node": "n1"}}})
    assert place.ok("ipam", "show", "--ip=10.0.0.1").endswith(
        "  pod: vm-b\nAlternate Owner Attributes:\n  node: n1\n  pod: vm-a\n")
    assert place.answer("ipam", "show", "--ip=10.0.0.1")["alternateAttributes"] == {"node": "n1", "pod": "vm-a"}


def test_an_address_in_its_usual_notation(used: Place) -> None:
    assert used.ok("ipam", "show", "--ip=FD00:0010:0:0::0001").startswith("IP fd00:10::1 is in use\n")


def test_an_owner_that_says_nothing_and_one_that_says_too_much(place: Place) -> None:
    """Records that others wrote: no handle, no attributes; control characters never reach the terminal."""
    place.block("10.244.0.0/26", held={
        1: {"handle_id": None, "secondary": {}},
        2: {"handle_id": "h\x1b[2J", "secondary": {"pod": "x\nIP 1.2.3.4"}},
    })
    assert place.ok("ipam", "show", "--ip=10.244.0.1") == (
        "IP 10.244.0.1 is in use\nHandle ID: <none>\nNo Active Owner attributes defined\n"
    )
    assert place.ok("ipam", "show", "--ip=10.244.0.2") == (
        "IP 10.244.0.2 is in use\nHandle ID: h\\x1b[2J\nActive Owner Attributes:\n  pod: x\\nIP 1.2.3.4\n"
    )
    assert place.answer("ipam", "show", "--ip=10.244.0.2")["handle"] == "h\x1b[2J"


@pytest.mark.parametrize("address", ["", "10.244.0", "10.244.0.1/32", "10.244.0.256", "fd00::g", "pod-1", "1"])
def test_a_bad_address_is_a_usage_error(place: Place, address: str) -> None:
    assert f"\"{address}\" is not an IP address" in place.misused("ipam", "show", "--ip", address)


@pytest.mark.parametrize("arguments", [
    ("ipam", "show", "-o", "xml"), ("ipam", "show", "more"), ("nosuch",), ("ipam", "nosuch"), ("--nosuch",),
])
def test_a_wrong_command_line(place: Place, arguments: tuple[str, ...]) -> None:
    assert "Error: " in place.misused(*arguments)


@pytest.mark.parametrize(("arguments", "says"), [
    (("--ip=10.0.0.1", "--show-blocks"), "--show-blocks and --ip exclude each other"),
    (("--show-borrowed", "--show-configuration"), "--show-borrowed and --show-configuration exclude each other"),
    (("--map", "--html=x"), "--map and --html exclude each other"),
    (("--map", "-o", "json"), "--map has no form json"),
    (("--html=x", "-o", "yaml"), "--html has no form yaml"),
    (("--node=n1",), "--node goes with --map or --html"),
])
def test_options_that_do_not_go_together(place: Place, arguments: tuple[str, ...], says: str) -> None:
    assert says in place.misused("ipam", "show", *arguments)


@pytest.mark.parametrize("option", ["--show-blocks", "--ip=10.244.0.0", "--show-borrowed", "--show-configuration",
                                    "--map", "--html=-"])
def test_looking_changes_nothing(used: Place, option: str) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        files = [path for path in used.directory.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    used.ok("ipam", "show", option)
    assert state() == before


@pytest.mark.parametrize("option", ["--show-blocks", "--ip=10.244.0.0", "--show-borrowed", "--map", "--html=-"])
def test_a_block_file_that_cannot_be_read_is_named(used: Place, option: str) -> None:
    path = used.store.path(keys.block(4, "10.244.0.0/26"))
    Path(path).write_text('{"key": "/cal')
    assert path in used.fails("ipam", "show", option)
    Path(path).write_text("[" * 100_000)
    assert path in used.fails("ipam", "show", option)


def test_a_pool_file_that_cannot_be_read_is_named(used: Place) -> None:
    path = used.store.path(keys.ippool("default-ipv4-ippool"))
    Path(path).write_bytes(b"\xff")
    assert path in used.fails("ipam", "show")


def test_a_record_of_another_shape_is_named(used: Place) -> None:
    record = used.store.get(keys.block(4, "10.244.0.0/26"))
    used.store.update(record.key, {**record.value, "allocations": [0, 0]}, record.revision)
    assert "10.244.0.0/26" in used.fails("ipam", "show")
    pool = used.store.get(keys.ippool("default-ipv4-ippool"))
    used.store.update(pool.key, {**pool.value, "spec": {"cidr": 7}}, pool.revision)
    assert pool.key in used.fails("ipam", "show")


@pytest.mark.parametrize("cidr", ["ten", "10.0.0.0/40", "fd00::/x"])
def test_a_pool_without_a_cidr_is_named(place: Place, cidr: str) -> None:
    place.pool("odd", cidr)
    message = place.fails("ipam", "show")
    assert "pool odd" in message
    assert cidr in message


def test_a_reservation_of_nonsense_is_named(used: Place) -> None:
    used.reserve("odd", "10.0.0.0/8", "ten")
    assert "reservation odd" in used.fails("ipam", "show")
