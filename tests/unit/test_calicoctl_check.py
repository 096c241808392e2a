"""`calicoctl ipam check` as people run it: its words, its report, its repair, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from calicoctl.ipam.check import SECTIONS
from cni_calico.version import VERSION
from datastore import keys
from datastore.api import Torn
from ipam.audit.finding import ADVICE

from .audit_kit import BLOCK, NODE, House
from .calicoctl_kit import Place


class Checked(House):
    """A node with a configuration for calicoctl, for which what was made in the test's boot is of a former one."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder)
        super().__init__(self.place.directory)
        self.place.directory.mkdir()

    def check(self, *options: str) -> Result:
        result = self.place.run("ipam", "check", f"--node={NODE}", *options)
        assert result.stderr == ""
        return result

    def report(self) -> dict[str, Any]:
        path = self.place.folder / "report.json"
        self.check("-o", str(path))
        found: dict[str, Any] = json.loads(path.read_text())
        return found


@pytest.fixture
def house(tmp_path: Path) -> Checked:
    return Checked(tmp_path)


def test_no_problems(house: Checked) -> None:
    """A sound datastore: Calico's sections with zeros, and exit code 0."""
    house.bare("a", boot="", pod="web", namespace="shop")
    house.bare("b", boot="", node="n2")
    result = house.check()
    assert result.exit_code == 0
    assert "Found 2 IPAM blocks, which record 2 allocations.\n" in result.stdout
    assert "  n2 has 1 allocations\n" in result.stdout
    assert "Node with most allocations has 1; median is 1\n" in result.stdout
    assert result.stdout.count("Scanning for ") == result.stdout.count("\nFound 0 ") - 2 == len(SECTIONS)
    assert result.stdout.endswith("\nCheck complete; found 0 problems.\n")
    assert house.store.keys(keys.CLUSTER_INFORMATION + "/") == []


def test_every_kind_has_a_section_and_advice() -> None:
    """No finding can be counted without being shown."""
    shown = [kind for _, kinds in SECTIONS for kind in kinds]
    assert sorted(shown) == sorted(ADVICE)


def test_problems(house: Checked) -> None:
    """Each problem is a line in its section, with what to do about it; the exit code is 3."""
    house.bare("old\n")
    house.store.create(keys.handle("net.x"), {"block": {}})
    result = house.check()
    assert result.exit_code == 3
    assert "  handle-empty: net.x: it says nothing, but no block holds anything for it\n" in result.stdout
    assert "Found 1 IPAM handles with no matching IPs.\nWhat to do: `calicoctl ipam check --repair`" in result.stdout
    assert r"  leaked: 10.0.0.0: it is allocated to container old\n interface eth0, but its node has" in result.stdout
    assert result.stdout.endswith("\nCheck complete; found 2 problems.\n")


def test_many_problems(house: Checked) -> None:
    """A section shows its first problems, and all of them when asked."""
    for number in range(12):
        house.store.create(keys.handle(f"net.{number:02}"), {"block": {}})
    short, full = house.check().stdout, house.check("--show-problem-ips").stdout
    assert "net.09" in short
    assert "net.10" not in short
    assert "  … and 2 more: --show-problem-ips\n" in short
    assert "net.11" in full
    assert "more:" not in full


def test_all_addresses(house: Checked) -> None:
    """--show-all-ips names every address in use, who has it, and what is odd about it."""
    house.bare("a", boot="", pod="web", namespace="shop")
    house.bare("b")
    out = house.check("--show-all-ips").stdout
    assert f"IPs in use:\n  10.0.0.0 shop/web (node {NODE})\n  10.0.0.1 net.b (node {NODE}, not in use)\n" in out


def test_the_report(house: Checked) -> None:
    """The report has Calico's keys, what is leaked by its sequence number, and our findings."""
    house.bare("a", boot="", pod="web", namespace="shop", timestamp="2026-08-01 10:00:00 +0000 UTC")
    house.bare("old")
    house.store.create(keys.handle("net.x"), {"block": {}})
    report = house.report()
    block = house.store.get(keys.block(4, BLOCK)).value
    revision = str(house.store.get(keys.CLUSTER_INFORMATION).revision)
    assert {name: value for name, value in report.items() if name not in ("allocations", "findings")} == {
        "version": VERSION, "clusterGUID": house.store.get(keys.CLUSTER_INFORMATION).value["spec"]["clusterGUID"],
        "datastoreLocked": False, "clusterInformationRevision": revision, "clusterType": "",
        "leakedHandles": [{"ID": "net.x", "UID": None,
                           "Revision": str(house.store.get(keys.handle("net.x")).revision)}],
    }
    assert report["allocations"]["10.0.0.0"] == [{
        "ip": "10.0.0.0", "handle": "net.a", "sequenceNumber": block["sequenceNumberForAllocation"]["0"], "pod": "web",
        "namespace": "shop", "node": NODE, "type": "pod", "creationTimestamp": "2026-08-01 10:00:00 +0000 UTC",
        "inUse": True, "borrowed": False, "coolingDown": False, "owners": ["shop/web"],
    }]
    leaked = report["allocations"]["10.0.0.1"][0]
    assert (leaked["inUse"], leaked["attributes"]["container"]) == (False, "old")
    assert {item["kind"] for item in report["findings"]} == {"leaked", "handle-empty"}
    assert all(set(item) == {"kind", "subject", "what", "advice"} for item in report["findings"])


def test_reports_of_one_datastore_have_one_guid(house: Checked) -> None:
    """The GUID is made once and kept; what is there is not changed."""
    assert house.report()["clusterGUID"] == house.report()["clusterGUID"]
    house.remove(keys.CLUSTER_INFORMATION)
    house.store.create(keys.CLUSTER_INFORMATION, {"spec": {"clusterGUID": "abc", "clusterType": "k8s",
                                                           "datastoreReady": False}})
    report = house.report()
    assert (report["clusterGUID"], report["clusterType"], report["datastoreLocked"]) == ("abc", "k8s", True)


def test_a_datastore_without_a_guid(house: Checked) -> None:
    """A ClusterInformation that does not say which datastore this is makes no report, and is named."""
    house.store.create(keys.CLUSTER_INFORMATION, {"spec": {}})
    result = house.place.run("ipam", "check", "-o", str(house.place.folder / "r"))
    assert result.exit_code == 1
    assert keys.CLUSTER_INFORMATION in result.stderr
    assert not (house.place.folder / "r").exists()


def test_borrowed_and_cooling_addresses(house: Checked) -> None:
    """An address of another node's block is borrowed; one at rest is in nobody's use and no leak."""
    house.bare("a", boot="")
    block = house.store.get(keys.block(4, BLOCK)).value
    resting: dict[str, Any] = {"handle_id": None, "secondary": {}, "releasedAt": "2026-08-01T10:00:00Z"}
    borrower = {"handle_id": "net.b", "secondary": {"node": "n2"}}
    house.change(keys.block(4, BLOCK), attributes=[*block["attributes"], borrower, resting],
                 allocations=[0, 1, 2, *[None] * 5], unallocated=[3, 4, 5, 6, 7])
    house.store.create(keys.handle("net.b"), {"block": {BLOCK: 1}})
    result, report = house.check(), house.report()["allocations"]
    assert result.exit_code == 0
    assert "Found 1 IPs that cool down.\n" in result.stdout
    assert [(report[f"10.0.0.{at}"][0]["borrowed"], report[f"10.0.0.{at}"][0]["coolingDown"],
             report[f"10.0.0.{at}"][0]["inUse"]) for at in range(3)] == [
        (False, False, True), (True, False, True), (False, True, False)]


def test_repair(house: Checked) -> None:
    """--repair says what it did, and the check that follows it finds nothing."""
    house.bare("a", boot="")
    house.remove(keys.handle("net.a"))
    result = house.check("--repair")
    assert result.exit_code == 0
    assert "Repaired: handle net.a was made\n" in result.stdout
    assert result.stdout.endswith("found 0 problems.\n")


def test_addresses_kept_by_a_repair(house: Checked) -> None:
    """What nothing proves free is told, and is no problem."""
    house.bare("a", boot="")
    house.block().write_text("")
    result = house.check("--repair")
    assert (result.exit_code, "Found 8 IPs that a repair left allocated" in result.stdout) == (0, True)


def test_nothing_is_judged_by_the_wrong_links(house: Checked) -> None:
    """When no allocation was made in this namespace since the boot, check says so."""
    assert "No allocation says" not in house.check().stdout
    house.bare("a", boot="")
    assert "No allocation says that it was made in this network namespace" in house.check().stdout


def test_an_output_that_cannot_be_written(house: Checked) -> None:
    """It is named on one line."""
    result = house.place.run("ipam", "check", "-o", "/nonexistent/report.json")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "/nonexistent/" in result.stderr


def test_the_bar(house: Checked, tmp_path: Path) -> None:
    """On a terminal there is a progress bar, on stderr only."""
    house.bare("a", boot="")
    command = [sys.executable, "-m", "calicoctl", "-c", str(house.place.config), "ipam", "check", f"--node={NODE}"]
    master, slave = os.openpty()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, check=True, env={"PATH": os.environ["PATH"]})
    os.close(slave)
    bar = os.read(master, 65536)
    os.close(master)
    assert b"Reading IPv4 blocks" in bar
    assert b"100%" in bar
    assert b"%" not in done.stdout


def test_a_damaged_record_is_no_failure(house: Checked) -> None:
    """What cannot be read is a finding, not an error."""
    house.bare("a", boot="")
    house.store.mend(Torn(keys.ippool("default-ipv4-ippool"), "", ""), {})
    assert "setting-unreadable" in house.check().stdout
