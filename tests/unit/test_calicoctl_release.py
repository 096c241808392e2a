"""`calicoctl ipam release`: one address, and what reports agree on, never what has been given anew since."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datastore import keys
from ipam.audit.living import Wire
from ipam.cidr import parse_address
from ipam.release import Wanted, release_addresses

from .test_calicoctl_check import Checked


@pytest.fixture
def house(tmp_path: Path) -> Checked:
    return Checked(tmp_path)


def report(house: Checked, name: str = "one", **change: Any) -> str:
    """Write a report with some keys changed; return the option that names it."""
    path = house.place.folder / name
    path.write_text(json.dumps({**house.report(), **change}))
    return f"--from-report={path}"


def free(house: Checked, address: str) -> None:
    release_addresses(house.store, [Wanted(parse_address(address))])


def test_one_address(house: Checked) -> None:
    """It is released with its handle and its endpoint record; one that nobody has is an answer, too."""
    address = str(house.pod("a")[0])
    assert house.place.ok("ipam", "release", f"--ip={address}") == f"Successfully released IP address {address}\n"
    assert house.place.ok("ipam", "release", f"--ip={address}") == f"{address} is not assigned\n"
    assert (house.holders(), house.store.keys(keys.HANDLES), house.store.keys(keys.WORKLOAD_ENDPOINTS)) == ({}, [], [])


def test_what_a_report_says(house: Checked) -> None:
    """Exactly the leaked addresses and handles are released, and their endpoint records removed."""
    leaked = [str(address) for name in "ab" for address in house.pod(name, (4, 6))]
    alive = [str(address) for address in house.bare("alive", boot="")]
    house.store.create(keys.handle("net.x"), {"block": {}})
    out = house.place.ok("ipam", "release", report(house))
    assert sorted(out.splitlines()) == sorted([
        *(f"Successfully released IP address {address}" for address in leaked), "Successfully released handle net.x",
        "Released 4 of 4 IP addresses."])
    assert list(house.holders()) == alive
    assert house.store.keys(keys.WORKLOAD_ENDPOINTS) == []
    assert house.check().exit_code == 0


def test_given_anew_since(house: Checked) -> None:
    """An address given anew, even to the same handle, is left; others of its block are released all the same."""
    house.bare("a")
    house.bare("b")
    option = report(house)
    free(house, "10.0.0.0")
    while "10.0.0.0" not in house.holders():
        house.bare("a")
    out = house.place.ok("ipam", "release", option)
    assert "10.0.0.1\n" in out
    assert "IP address 10.0.0.0\n" not in out
    assert out.endswith("Released 1 of 2 IP addresses; 1 were released or given anew since.\n")
    assert "10.0.0.0" in house.holders()


def test_several_reports_are_intersected(house: Checked) -> None:
    """Only what is leaked in all of them, by the same giving, is released."""
    house.bare("a")
    house.bare("b")
    first = report(house, "first")
    free(house, "10.0.0.1")
    house.bare("c")
    second = report(house, "second")
    house.place.ok("ipam", "release", first, second)
    assert "10.0.0.0" not in house.holders()
    assert len(house.holders()) == 1


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_report_of_another_datastore(house: Checked, force: tuple[str, ...]) -> None:
    """It is refused, forced or not, alone or beside a right one."""
    house.bare("a")
    right, wrong = report(house, "right"), report(house, "wrong", clusterGUID="other")
    assert "another datastore" in house.place.fails("ipam", "release", wrong, *force)
    assert "several datastores" in house.place.fails("ipam", "release", right, wrong, *force)
    house.remove(keys.CLUSTER_INFORMATION)
    assert "another datastore" in house.place.fails("ipam", "release", right, *force)
    assert len(house.holders()) == 1


@pytest.mark.parametrize(("change", "why"), [({"version": "0.0.1"}, "0.0.1"),
                                             ({"clusterInformationRevision": "1"}, "ClusterInformation")])
def test_an_old_report(house: Checked, change: dict[str, str], why: str) -> None:
    """A report of another version, or older than the last change of ClusterInformation, needs --force."""
    house.bare("a")
    old = report(house, **change)
    assert why in house.place.fails("ipam", "release", old)
    assert len(house.holders()) == 1
    assert "Successfully" in house.place.ok("ipam", "release", old, "--force")


def test_one_new_report_among_old_ones(house: Checked) -> None:
    """One of several need carry the present revision."""
    house.bare("a")
    old, new = report(house, "old", clusterInformationRevision="1"), report(house, "new")
    assert "Successfully" in house.place.ok("ipam", "release", old, new)


def test_a_handle_that_came_to_life(house: Checked) -> None:
    """A handle that has changed since the report, or holds something by now, stays."""
    house.store.create(keys.handle("net.a"), {"block": {}})
    house.store.create(keys.handle("net.b"), {"block": {}})
    option = report(house)
    house.bare("a", boot="")
    house.change(keys.handle("net.b"), note="new")
    assert house.place.ok("ipam", "release", option) == "Released 0 of 0 IP addresses.\n"
    assert house.store.keys(keys.HANDLES) == [keys.handle("net.a"), keys.handle("net.b")]


def test_cooling_addresses_are_left(house: Checked) -> None:
    """An address at rest is in no report's leaks."""
    house.store.create(keys.IPAM_CONFIG, {"ipCooldownSeconds": 600})
    house.bare("a")
    free(house, "10.0.0.0")
    assert house.place.ok("ipam", "release", report(house)) == "Released 0 of 0 IP addresses.\n"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"allocations": 7}', '{"allocations": {"x": [{"ip": "x"}]}}'])
def test_files_that_are_no_report(house: Checked, text: str) -> None:
    """They are named, on one line."""
    path = house.place.folder / "odd"
    path.write_text(text)
    assert f"{path} is no report" in house.place.fails("ipam", "release", f"--from-report={path}")


@pytest.mark.parametrize("options", [(), ("--ip=10.0.0.1", "--from-report=/etc/hostname"), ("--ip=x",),
                                     ("--from-report=/nonexistent",)])
def test_wrong_command_lines(house: Checked, options: tuple[str, ...]) -> None:
    """Neither, both, no address, no file."""
    assert house.place.misused("ipam", "release", *options)


def test_many_addresses(house: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are released batch by batch."""
    monkeypatch.setattr("calicoctl.ipam.release.BATCH", 3)
    for number in range(10):
        house.bare(f"c{number}")
    assert house.place.ok("ipam", "release", report(house)).endswith("Released 10 of 10 IP addresses.\n")
    assert house.holders() == {}


def rewritten(house: Checked, change: Callable[[dict[str, Any]], object]) -> str:
    """Write a report, changed in its only allocation; return the option that names it."""
    whole = house.report()
    (items,) = whole["allocations"].values()
    change(items[0])
    return report(house, "rewritten", allocations=whole["allocations"])


def test_attributes_of_a_report_are_not_believed(house: Checked) -> None:
    """Whose endpoint record goes says the datastore: that of another pod stays, whatever is in the file."""
    house.pod("gone")
    option = rewritten(house, lambda item: item["attributes"].update(container="alive"))
    house.pod("alive")
    house.place.ok("ipam", "release", option)
    (left,) = house.store.keys(keys.WORKLOAD_ENDPOINTS)
    assert "alive" in left


def test_a_reported_address_that_a_link_has(house: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is passed over, and that is said, unless --force."""
    addresses = [*house.bare("a"), *house.bare("b")]
    option = report(house)
    house.wires["a"] = Wire("cali1", {}, (addresses[0],))  # type: ignore[arg-type]
    monkeypatch.setattr("cni_calico.facts.everything", lambda node: house.look())
    out = house.place.ok("ipam", "release", option)
    assert out.splitlines() == [
        f"Skipped: address {addresses[0]} is in use: link cali1 of this node has it; delete its pod, or use --force",
        f"Successfully released IP address {addresses[1]}",
        "Released 1 of 2 IP addresses; 1 are in use."]
    assert list(house.holders()) == [str(addresses[0])]
    assert f"released IP address {addresses[0]}" in house.place.ok("ipam", "release", option, "--force")


@pytest.mark.parametrize(("change", "told"), [
    ({"version": 1}, "version is 1: expected a string"),
    ({"version": ["1"]}, "version is ['1']: expected a string"),
    ({"clusterGUID": {}}, "clusterGUID is {}: expected a string"),
    ({"clusterInformationRevision": 7}, "clusterInformationRevision is 7: expected a string"),
    ({"leakedHandles": {}}, "leakedHandles is {}: expected a list"),
    ({"leakedHandles": [{"ID": 1, "Revision": "1"}]}, "ID is 1: expected a string"),
    ({"leakedHandles": [{"ID": "x", "Revision": 1}]}, "Revision is 1: expected a string"),
    ({"leakedHandles": [{"ID": "\ud800", "Revision": "1"}]}, "surrogates"),
    ({"leakedHandles": [None]}, "what should have ID is None"),
    ({"allocations": []}, "allocations is []: expected a mapping"),
    ({"allocations": {"x": {}}}, "allocations[0] is {}: expected a list"),
])
def test_damaged_reports(house: Checked, change: dict[str, Any], told: str) -> None:
    """They are named with the key that is wrong, and nothing is released."""
    house.bare("a")
    said = house.place.fails("ipam", "release", report(house, "damaged", **change))
    assert f"{house.place.folder}/damaged is no report of" in said
    assert told in said
    assert len(house.holders()) == 1


@pytest.mark.parametrize(("key", "value"), [
    ("sequenceNumber", True), ("sequenceNumber", 1.0), ("sequenceNumber", "1"), ("sequenceNumber", float("nan")),
    ("handle", 7), ("handle", []), ("ip", 7), ("ip", "x"), ("attributes", []), ("attributes", {"pod": 1}),
])
def test_damaged_allocations(house: Checked, key: str, value: object) -> None:
    house.bare("a")
    said = house.place.fails("ipam", "release", rewritten(house, lambda item: item.update({key: value})))
    assert "is no report of" in said
    assert len(house.holders()) == 1


@pytest.mark.parametrize("key", ["sequenceNumber", "handle", "ip", "attributes"])
def test_allocations_that_lack_something(house: Checked, key: str) -> None:
    house.bare("a")
    said = house.place.fails("ipam", "release", rewritten(house, lambda item: item.pop(key)))
    assert f"{key} is missing" in said
    assert len(house.holders()) == 1
