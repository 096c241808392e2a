"""The unit of systemd: what in it the agent depends on, and that what it starts exists."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner

from calico_node.__main__ import main
from calico_node.client import SOCKET

TEXT = resources.files("conf").joinpath("calico-node.service").read_text()


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says
    parser.read_string(TEXT)
    return parser


def test_what_it_starts_takes_these_options(unit: configparser.ConfigParser) -> None:
    program, *options = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "calico-node"
    text = CliRunner().invoke(main, ["--help"]).stdout
    for option in options:
        assert re.search(rf"^  {option.partition('=')[0]}\b", text, re.MULTILINE), option


def test_it_watches_and_restarts(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert (service["Type"], service["Restart"]) == ("notify", "always")
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert int(service["WatchdogSec"]) > 0
    assert int(service["TimeoutStopSec"]) > 60


def test_the_sockets_directory(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert str(Path(SOCKET).parent) == f"/run/{service['RuntimeDirectory']}"
    assert service["RuntimeDirectoryMode"] == "0700"


def test_nothing_hides_what_the_plugin_sees(unit: configparser.ConfigParser) -> None:
    """Agent and plugin stand in for each other, so they must find the same datastore, host and namespaces."""
    assert not unit["Service"].keys() & {
        "PrivateTmp", "ProtectHome", "PrivateNetwork", "PrivateUsers", "PrivateMounts", "MountFlags", "ProtectHostname",
        "ProtectKernelTunables", "RootDirectory", "TemporaryFileSystem", "DynamicUser", "User", "InaccessiblePaths",
        "NetworkNamespacePath", "ProtectProc", "StateDirectory", "ReadOnlyPaths",
    }


def test_what_wiring_needs_is_allowed(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert {"CAP_NET_ADMIN", "CAP_SYS_ADMIN"} <= set(service["CapabilityBoundingSet"].split())
    assert "net" in service["RestrictNamespaces"].split()
    assert {"AF_UNIX", "AF_NETLINK", "AF_INET"} <= set(service["RestrictAddressFamilies"].split())


def test_systemd_takes_it(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None or os.geteuid() != 0:
        pytest.skip("needs systemd-analyze, and root for it")
    program = tmp_path / "calico-node"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    written = tmp_path / "calico-node.service"
    written.write_text(TEXT.replace("/opt/cni-calico/bin/calico-node", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", str(written)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
