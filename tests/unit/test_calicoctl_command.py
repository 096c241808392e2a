"""calicoctl as a command: where its datastore is, errors and exit codes, help, and as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from calicoctl.__main__ import main
from calicoctl.config import DEFAULT_FILE
from cni_calico.version import VERSION
from datastore import keys

from .calicoctl_kit import Place

EMPTY = """\
+----------+------+-----------+------------+--------------+----------+
| GROUPING | CIDR | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE |
+----------+------+-----------+------------+--------------+----------+
+----------+------+-----------+------------+--------------+----------+
"""
no_default_file = pytest.mark.skipif(os.path.exists(DEFAULT_FILE), reason=f"{DEFAULT_FILE} is there and would count")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A datastore with nothing in it."""
    return Place(tmp_path)


@pytest.fixture
def used(place: Place) -> Place:
    """A datastore with a pool and a block in which three addresses are in use."""
    place.pool("default-ipv4-ippool", "10.244.0.0/16")
    place.block("10.244.0.0/26", held=range(3))
    return place


def process(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    command = [sys.executable, "-m", "calicoctl", *arguments]
    return subprocess.run(command, env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True, check=False)


def test_a_datastore_that_does_not_exist_yet_is_empty(place: Place) -> None:
    result = place.run("ipam", "show")
    assert (result.exit_code, result.stdout) == (0, EMPTY)
    assert result.stderr.startswith(f"calicoctl: hint: datastore directory {place.directory} does not exist yet")
    assert result.stderr.count("\n") == 1
    assert json.loads(place.run("ipam", "show", "-o", "json").stdout) == {"pools": [], "blocksWithoutPool": []}
    assert place.run("ipam", "show", "--ip=10.0.0.1").stdout == "10.0.0.1 is not assigned\n"
    assert not place.directory.exists()


def test_a_datastore_that_is_a_file(place: Place) -> None:
    place.directory.write_text("")
    assert str(place.directory) in place.fails("ipam", "show")
    place.config.write_text(place.config.read_text().replace(str(place.directory), f"{place.directory}/below"))
    assert f"{place.directory}/below" in place.fails("ipam", "show")


def test_a_datastore_that_is_not_supported(place: Place) -> None:
    place.config.write_text(place.config.read_text().replace(": file", ": kubernetes"))
    message = place.fails("ipam", "show")
    assert f'{place.config}: key "spec.datastoreType" is "kubernetes"' in message
    assert "those that are: file, etcdv3" in message


def test_a_named_file_that_is_missing(place: Place) -> None:
    place.config.unlink()
    assert f"configuration file {place.config} does not exist" in place.fails("ipam", "show")


def test_config_is_taken_at_every_place(used: Place, tmp_path: Path) -> None:
    """Calico takes --config after the command; the one nearest the end counts."""
    other = str(tmp_path / "none.cfg")
    mine = str(used.config)
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


def test_as_a_process(used: Place) -> None:
    found = process("--config", str(used.config), "ipam", "show", "--ip", "10.244.0.0")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("IP 10.244.0.0 is in use\nHandle ID: net.web\n")
    bad = process("-c", str(used.config), "ipam", "show", "--ip", "x")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert 'Usage: calicoctl ipam show' in bad.stderr
    missing = process("-c", str(used.config) + "x", "ipam", "show")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == f"calicoctl: error: configuration file {used.config}x does not exist\n"


@no_default_file
def test_the_environment_of_a_process(used: Place) -> None:
    found = process("ipam", "show", CALICO_DATASTORE_DIR=str(used.directory))
    assert (found.returncode, found.stderr) == (0, "")
    assert "10.244.0.0/16" in found.stdout
    other = process("ipam", "show", DATASTORE_TYPE="kubernetes")
    assert (other.returncode, other.stdout) == (1, "")
    assert 'variable DATASTORE_TYPE is "kubernetes"' in other.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_answer_that_cannot_be_written(used: Place) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "calicoctl", "-c", str(used.config), "ipam", "show"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("calicoctl: error: output: No space left on device\n")


def test_a_reader_that_goes_away(used: Place) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "calicoctl", "-c", str(used.config), "ipam", "show"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [["--help"], ["ipam", "show", "--help"], ["version"]])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_help_that_cannot_be_written(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "calicoctl", *arguments], stdout=full, stderr=subprocess.PIPE,
                              text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "calicoctl: error: output: No space left on device\n")


@pytest.mark.parametrize("arguments", [
    ["get", "ippool", b"a\xff"], ["get", "wep", "-n", b"\xff"], ["delete", "node", b"\xff"],
    ["patch", "node", b"\xff", "-p", "{}"], ["ipam", "split", "--name", b"\xff", "2"],
    ["apply", "-f", b"/none/\xff"], ["ipam", "show", "--html", b"/none/\xff"],
])
def test_names_that_are_not_utf8(used: Place, arguments: list[str | bytes]) -> None:
    command = [sys.executable, "-m", "calicoctl", "-c", str(used.config), *arguments]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert rb"\udcff" in done.stderr


def test_a_stdout_that_is_not_utf8(used: Place) -> None:
    """What it cannot show is a question mark; a page keeps the encoding that it says it has."""
    used.block("10.244.0.64/26", "knöten\u20ac", [0])
    used.block("10.9.0.0/26", "node", {0: {"handle_id": "h\u20ac", "secondary": {}}})
    found = process("-c", str(used.config), "ipam", "show", "--ip=10.9.0.0", PYTHONIOENCODING="latin-1")
    assert (found.returncode, found.stderr) == (0, "")
    assert "Handle ID: h?\n" in found.stdout
    page = process("-c", str(used.config), "ipam", "show", "--html=-", PYTHONIOENCODING="latin-1")
    assert "knöten€" in page.stdout


def test_numbers_that_json_does_not_have(place: Place) -> None:
    """A damaged record is told of; its number is not handed on to programs that could not read it."""
    place.store.create(keys.node("n"), {"metadata": {"name": "n"}, "spec": {"bgp": {"asNumber": float("nan")}}})
    assert "cannot be written as JSON" in place.fails("get", "node", "n", "-o", "json")


@pytest.mark.parametrize("options", [["-l", "info"], ["--log-level=DEBUG"], ["--allow-version-mismatch"]])
def test_calicos_global_options_are_taken_everywhere(used: Place, options: list[str]) -> None:
    shown = used.ok("ipam", "show")
    assert used.ok(*options, "ipam", "show") == used.ok("ipam", *options, "show") == shown
    assert used.ok("ipam", "show", *options) == shown
    assert used.misused("ipam", "show", "--log-level=loud")


@pytest.mark.parametrize("command", ["cluster", "convert"])
def test_calicos_commands_that_are_not_here(place: Place, command: str) -> None:
    for rest in (["status"], [], ["--help"]):
        assert place.fails(command, *rest) == f"`calicoctl {command}` is not in this release\n"
    completed = process(_CALICOCTL_COMPLETE="bash_complete", COMP_WORDS=f"calicoctl {command} ", COMP_CWORD="2")
    assert (completed.returncode, completed.stderr) == (0, "")
