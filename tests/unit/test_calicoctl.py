"""calicoctl as people run it, on a real datastore directory: answers, JSON, errors, exit codes, help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from calicoctl.__main__ import main
from calicoctl.config import DEFAULT_FILE
from cni_calico.version import VERSION
from datastore import keys
from datastore.file import FileStore
from datastore.model import Attribute, block_json, block_of
from ipam.assign import Request, assign
from ipam.block import give
from ipam.cidr import parse_address
from ipam.handle import Owner

ENV = {"CALICO_IPV4POOL_CIDR": "10.244.0.0/16", "CALICO_IPV6POOL_CIDR": "fd00:10::/48"}
EMPTY = """\
+----------+------+-----------+------------+--------------+----------+
| GROUPING | CIDR | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE |
+----------+------+-----------+------------+--------------+----------+
+----------+------+-----------+------------+--------------+----------+
"""
no_default_file = pytest.mark.skipif(os.path.exists(DEFAULT_FILE), reason=f"{DEFAULT_FILE} is there and would count")


class Place:
    """A datastore in a directory, and a configuration file that leads to it."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "datastore"
        self.store = FileStore(str(self.directory))
        self.config = folder / "calicoctl.cfg"
        self.config.write_text(f"apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\n"
                               f"spec:\n  datastoreType: file\n  datastoreDir: {self.directory}\n")

    def give(self, name: str, **request: Any) -> list[str]:
        """Assign addresses to a pod; return them."""
        owner = Owner(f"net.{name}", {"pod": name, "namespace": "default", "node": "n1", "container": name,
                                      "interface": "eth0"})
        return [str(item.address) for item in assign(self.store, Request("n1", owner, env=ENV, **request))]

    def run(self, *arguments: str) -> Result:
        """Run the command in this process."""
        return CliRunner().invoke(main, ["-c", str(self.config), *arguments], prog_name="calicoctl")

    def ok(self, *arguments: str) -> str:
        """Run it, expect success and silence on stderr; return stdout."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout

    def fails(self, *arguments: str) -> str:
        """Run it, expect exit code 1, no stdout and one line on stderr; return the message."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert result.stderr.startswith("calicoctl: error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr.removeprefix("calicoctl: error: ")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def process(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    command = [sys.executable, "-m", "calicoctl", *arguments]
    return subprocess.run(command, env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True, check=False)


def test_pools_of_both_families(place: Place) -> None:
    for name in "abc":
        place.give(name, families=(4, 6))
    assert place.ok("ipam", "show") == """\
+----------+---------------+------------+------------+--------------+-------------------+
| GROUPING |     CIDR      | IPS TOTAL  | IPS IN USE | IPS RESERVED |     IPS FREE      |
+----------+---------------+------------+------------+--------------+-------------------+
| IP Pool  | 10.244.0.0/16 |      65536 |     3 (0%) |       0 (0%) |      65533 (100%) |
| IP Pool  | fd00:10::/48  | 1.2089e+24 |     3 (0%) |       0 (0%) | 1.2089e+24 (100%) |
+----------+---------------+------------+------------+--------------+-------------------+
"""


def test_blocks_follow_their_pool(place: Place) -> None:
    place.give("a", families=(4, 6))
    place.give("b", addresses=(parse_address("10.244.64.7"),))
    rows = [line.split(" | ")[:4] for line in place.ok("ipam", "show", "--show-blocks").splitlines()[3:-1]]
    assert [[cell.strip("| ") for cell in row] for row in rows] == [
        ["IP Pool", "10.244.0.0/16", "65536", "2 (0%)"],
        ["Block", "10.244.0.0/26", "64", "1 (2%)"],
        ["Block", "10.244.64.0/26", "64", "1 (2%)"],
        ["IP Pool", "fd00:10::/48", "1.2089e+24", "1 (0%)"],
        ["Block", "fd00:10::/122", "64", "1 (2%)"],
    ]


def test_blocks_without_a_pool_are_listed_with_blocks_only(place: Place) -> None:
    """A pool was deleted while its addresses are in use: no row for it, but its blocks show."""
    place.give("a", families=(4, 6))
    record = place.store.get(keys.ippool("default-ipv4-ippool"))
    place.store.delete(record.key, record.revision)
    assert "10.244" not in place.ok("ipam", "show")
    blocks = place.ok("ipam", "show", "--show-blocks").splitlines()[3:-1]
    assert [line[2:9].strip() for line in blocks] == ["IP Pool", "Block", "Block"]
    assert "10.244.0.0/26" in blocks[-1]
    found = json.loads(place.ok("ipam", "show", "-o", "json"))
    assert [pool["name"] for pool in found["pools"]] == ["default-ipv6-ippool"]
    assert [block["cidr"] for block in found["blocksWithoutPool"]] == ["10.244.0.0/26"]


def test_pools_are_in_name_order_whatever_their_family(place: Place) -> None:
    for name, cidr in (("c", "10.1.0.0/16"), ("a", "10.9.0.0/16"), ("b", "fd00::/64")):
        place.store.create(keys.ippool(name), {"metadata": {"name": name}, "spec": {"cidr": cidr}})
    found = json.loads(place.ok("ipam", "show", "-o", "json"))
    assert [pool["name"] for pool in found["pools"]] == ["a", "b", "c"]


def test_usage_as_json(place: Place) -> None:
    """The documented shape, whatever --show-blocks says; numbers are exact."""
    place.give("a", families=(4, 6))
    block = {"total": 64, "inUse": 1, "reserved": 0, "free": 63, "affinity": "host:n1"}
    found = json.loads(place.ok("ipam", "show", "-o", "json"))
    assert found == {
        "pools": [
            {"name": "default-ipv4-ippool", "cidr": "10.244.0.0/16", "total": 65536, "inUse": 1, "reserved": 0,
             "free": 65535, "blocks": [{"cidr": "10.244.0.0/26", **block}]},
            {"name": "default-ipv6-ippool", "cidr": "fd00:10::/48", "total": 2**80, "inUse": 1, "reserved": 0,
             "free": 2**80 - 1, "blocks": [{"cidr": "fd00:10::/122", **block}]},
        ],
        "blocksWithoutPool": [],
    }
    assert json.loads(place.ok("ipam", "show", "--show-blocks", "-o", "json")) == found


@pytest.mark.parametrize("family", [4, 6])
def test_who_has_an_address(place: Place, family: int) -> None:
    [address] = place.give("a", families=(family,))
    assert place.ok("ipam", "show", f"--ip={address}") == f"""\
IP {address} is in use
Handle ID: net.a
Active Owner Attributes:
  container: a
  interface: eth0
  namespace: default
  node: n1
  pod: a
"""
    assert json.loads(place.ok("ipam", "show", "--ip", address, "-o", "json")) == {
        "ip": address, "assigned": True, "handle": "net.a",
        "attributes": {"container": "a", "interface": "eth0", "namespace": "default", "node": "n1", "pod": "a"},
    }


@pytest.mark.parametrize("address", ["10.244.0.9", "10.9.9.9", "fd00:10::99", "::1"])
def test_an_address_that_nobody_has(place: Place, address: str) -> None:
    place.give("a")
    assert place.ok("ipam", "show", "--ip", address) == f"{address} is not assigned\n"
    assert json.loads(place.ok("ipam", "show", "--ip", address, "-o", "json")) == {
        "ip": address, "assigned": False, "handle": None, "attributes": {},
    }


def test_an_address_in_its_usual_notation(place: Place) -> None:
    assert place.give("a", families=(6,), addresses=(parse_address("fd00:10::a"),)) == ["fd00:10::a"]
    assert place.ok("ipam", "show", "--ip=FD00:0010:0:0::000A").startswith("IP fd00:10::a is in use\n")


def test_an_owner_that_says_nothing_and_one_that_says_too_much(place: Place) -> None:
    """Records that others wrote: no handle, no attributes; control characters never reach the terminal."""
    place.give("a")
    record = place.store.get(keys.block(4, "10.244.0.0/26"))
    block = give(block_of(record), 1, Attribute(None, {}))
    block = give(block, 2, Attribute("h\x1b[2J", {"pod": "x\nIP 1.2.3.4"}))
    place.store.update(record.key, block_json(block), record.revision)
    assert place.ok("ipam", "show", "--ip=10.244.0.1") == (
        "IP 10.244.0.1 is in use\nHandle ID: <none>\nNo Active Owner attributes defined\n"
    )
    assert place.ok("ipam", "show", "--ip=10.244.0.2") == (
        "IP 10.244.0.2 is in use\nHandle ID: h\\x1b[2J\nActive Owner Attributes:\n  pod: x\\nIP 1.2.3.4\n"
    )
    assert json.loads(place.ok("ipam", "show", "--ip=10.244.0.2", "-o", "json"))["handle"] == "h\x1b[2J"


@pytest.mark.parametrize("address", ["", "10.244.0", "10.244.0.1/32", "10.244.0.256", "fd00::g", "pod-1", "1"])
def test_a_bad_address_is_a_usage_error(place: Place, address: str) -> None:
    result = place.run("ipam", "show", "--ip", address)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"\"{address}\" is not an IP address" in result.stderr


@pytest.mark.parametrize("arguments", [
    ("ipam", "show", "--ip=10.0.0.1", "--show-blocks"), ("ipam", "show", "-o", "yaml"), ("ipam", "show", "more"),
    ("nosuch",), ("ipam", "nosuch"), ("--nosuch",),
])
def test_a_wrong_command_line(place: Place, arguments: tuple[str, ...]) -> None:
    result = place.run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_a_datastore_that_does_not_exist_yet_is_empty(place: Place) -> None:
    result = place.run("ipam", "show")
    assert (result.exit_code, result.stdout) == (0, EMPTY)
    assert result.stderr.startswith(f"calicoctl: hint: datastore directory {place.directory} does not exist yet")
    assert result.stderr.count("\n") == 1
    assert json.loads(place.run("ipam", "show", "-o", "json").stdout) == {"pools": [], "blocksWithoutPool": []}
    assert place.run("ipam", "show", "--ip=10.0.0.1").stdout == "10.0.0.1 is not assigned\n"
    assert not place.directory.exists()


def test_looking_changes_nothing(place: Place) -> None:
    place.give("a")

    def state() -> dict[str, tuple[int, bytes]]:
        files = [path for path in place.directory.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    place.ok("ipam", "show", "--show-blocks")
    place.ok("ipam", "show", "--ip=10.244.0.0")
    assert state() == before


@pytest.mark.parametrize("arguments", [("ipam", "show"), ("ipam", "show", "--ip=10.244.0.0")])
def test_a_block_file_that_cannot_be_read_is_named(place: Place, arguments: tuple[str, ...]) -> None:
    place.give("a")
    path = place.store.path(keys.block(4, "10.244.0.0/26"))
    Path(path).write_text('{"key": "/cal')
    assert path in place.fails(*arguments)
    Path(path).write_text("[" * 100_000)
    assert path in place.fails(*arguments)


def test_a_pool_file_that_cannot_be_read_is_named(place: Place) -> None:
    place.give("a")
    path = place.store.path(keys.ippool("default-ipv4-ippool"))
    Path(path).write_bytes(b"\xff")
    assert path in place.fails("ipam", "show")


def test_a_record_of_another_shape_is_named(place: Place) -> None:
    place.give("a")
    record = place.store.get(keys.block(4, "10.244.0.0/26"))
    place.store.update(record.key, {**record.value, "allocations": [0, 0]}, record.revision)
    assert "10.244.0.0/26" in place.fails("ipam", "show")
    pool = place.store.get(keys.ippool("default-ipv4-ippool"))
    place.store.update(pool.key, {**pool.value, "spec": {"cidr": 7}}, pool.revision)
    assert pool.key in place.fails("ipam", "show")


@pytest.mark.parametrize("cidr", ["ten", "10.0.0.0/40", "fd00::/x"])
def test_a_pool_without_a_cidr_is_named(place: Place, cidr: str) -> None:
    place.store.create(keys.ippool("odd"), {"metadata": {"name": "odd"}, "spec": {"cidr": cidr}})
    message = place.fails("ipam", "show")
    assert "pool odd" in message
    assert cidr in message


def test_a_datastore_that_is_a_file(place: Place) -> None:
    place.directory.write_text("")
    assert str(place.directory) in place.fails("ipam", "show")
    place.config.write_text(place.config.read_text().replace(str(place.directory), f"{place.directory}/below"))
    assert f"{place.directory}/below" in place.fails("ipam", "show")


def test_a_datastore_that_is_not_supported(place: Place) -> None:
    place.config.write_text(place.config.read_text().replace(": file", ": etcdv3"))
    message = place.fails("ipam", "show")
    assert f'{place.config}: key "spec.datastoreType" is "etcdv3"' in message


def test_a_named_file_that_is_missing(place: Place) -> None:
    place.config.unlink()
    assert f"configuration file {place.config} does not exist" in place.fails("ipam", "show")


def test_config_is_taken_at_every_place(place: Place, tmp_path: Path) -> None:
    """Calico takes --config after the command; the one nearest the end counts."""
    place.give("a")
    other = str(tmp_path / "none.cfg")
    mine = str(place.config)
    for arguments in (["ipam", "-c", mine, "show"], ["-c", other, "ipam", "show", f"--config={mine}"]):
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "10.244.0.0/16" in result.stdout


def test_the_version() -> None:
    assert CliRunner().invoke(main, ["version"]).stdout == f"Client Version:    {VERSION}\n"
    assert json.loads(CliRunner().invoke(main, ["version", "-o", "json"]).stdout) == {"clientVersion": VERSION}


def commands(command: click.Command, *path: str) -> list[tuple[str, ...]]:
    """Return the path of a command and of all below it."""
    below = command.commands if isinstance(command, click.Group) else {}
    return [path, *(found for name, sub in below.items() for found in commands(sub, *path, name))]


@pytest.mark.parametrize("path", commands(main))
def test_help_has_examples_and_exit_codes(path: tuple[str, ...]) -> None:
    for flag in ("-h", "--help"):
        result = CliRunner().invoke(main, [*path, flag], prog_name="calicoctl", terminal_width=120)
        assert result.exit_code == 0
        assert f"Usage: {' '.join(['calicoctl', *path])} " in result.stdout
        lines = [line.strip() for line in result.stdout.splitlines()]
        assert "Examples:" in lines
        assert any(line.startswith("calicoctl ") for line in lines)
        assert {"Exit codes:", "2  wrong command line"} <= set(lines)


def test_as_a_process(place: Place) -> None:
    place.give("a")
    found = process("--config", str(place.config), "ipam", "show", "--ip", "10.244.0.0")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("IP 10.244.0.0 is in use\nHandle ID: net.a\n")
    bad = process("-c", str(place.config), "ipam", "show", "--ip", "x")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert 'Usage: calicoctl ipam show' in bad.stderr
    missing = process("-c", str(place.config) + "x", "ipam", "show")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == f"calicoctl: error: configuration file {place.config}x does not exist\n"


@no_default_file
def test_the_environment_of_a_process(place: Place) -> None:
    place.give("a")
    found = process("ipam", "show", CALICO_DATASTORE_DIR=str(place.directory))
    assert (found.returncode, found.stderr) == (0, "")
    assert "10.244.0.0/16" in found.stdout
    other = process("ipam", "show", DATASTORE_TYPE="kubernetes")
    assert (other.returncode, other.stdout) == (1, "")
    assert 'variable DATASTORE_TYPE is "kubernetes"' in other.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_answer_that_cannot_be_written(place: Place) -> None:
    place.give("a")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "calicoctl", "-c", str(place.config), "ipam", "show"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("calicoctl: error: output: No space left on device\n")


def test_a_reader_that_goes_away(place: Place) -> None:
    place.give("a")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "calicoctl", "-c", str(place.config), "ipam", "show"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
