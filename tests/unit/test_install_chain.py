"""The executables that the configuration chains to ours."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from install.errors import InstallError

from .install_kit import Machine, fake_plugin


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine where portmap, bandwidth and host-local can be copied from."""
    return Machine(tmp_path)


def network(*plugins: dict[str, Any], **keys: Any) -> str:
    """A configuration of a user's own."""
    return json.dumps({"name": "net", "cniVersion": "1.0.0", "plugins": plugins} | keys)


def types(machine: Machine) -> list[str]:
    """The plugins of the installed configuration."""
    return [plugin["type"] for plugin in machine.network()["plugins"]]


def test_lacking_executables_are_copied(machine: Machine) -> None:
    """What is chained is put beside ours, executable for everybody."""
    assert machine.install().warnings == []
    for name in ("portmap", "bandwidth"):
        assert (machine.bin_dir / name).read_bytes() == (machine.debian / name).read_bytes()
        assert (machine.bin_dir / name).stat().st_mode & 0o7777 == 0o755
    assert not (machine.bin_dir / "host-local").exists()
    assert types(machine) == ["calico", "portmap", "bandwidth"]


def test_present_executables_are_left_alone(machine: Machine) -> None:
    """A portmap that somebody put there is theirs."""
    own = fake_plugin(machine.bin_dir / "portmap")
    own.write_text(own.read_text() + "# mine\n")
    before = own.stat()
    machine.install()
    assert (own.stat().st_ino, own.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_missing_executable_is_left_out_with_a_warning(machine: Machine) -> None:
    """A configuration that names what is not there would make the node NotReady."""
    (machine.debian / "bandwidth").unlink()
    warnings = machine.install().warnings
    assert len(warnings) == 1
    assert "'bandwidth' is left out" in warnings[0]
    assert types(machine) == ["calico", "portmap"]
    fake_plugin(machine.debian / "bandwidth")
    assert machine.install().warnings == []
    assert types(machine) == ["calico", "portmap", "bandwidth"]


def test_a_file_that_is_not_executable_is_missing(machine: Machine) -> None:
    """A runtime could not run it either."""
    (machine.debian / "bandwidth").chmod(0o644)
    machine.install()
    assert types(machine) == ["calico", "portmap"]


def test_skip_cni_binaries(machine: Machine) -> None:
    """A skipped one is not copied, and so only named when it is there already; ours cannot be skipped."""
    machine.environment["SKIP_CNI_BINARIES"] = "bandwidth, portmap,calico"
    fake_plugin(machine.bin_dir / "portmap")
    machine.install()
    assert not (machine.bin_dir / "bandwidth").exists()
    assert types(machine) == ["calico", "portmap"]
    assert (machine.bin_dir / "calico").is_file()


def test_users_own_configuration(machine: Machine) -> None:
    """The same rule holds for it, IPAM executables included."""
    first = {"type": "calico", "ipam": {"type": "host-local"}}
    machine.environment["CNI_NETWORK_CONFIG"] = network(first, {"type": "nowhere"}, {"type": "portmap"})
    warnings = machine.install().warnings
    assert types(machine) == ["calico", "portmap"]
    assert (machine.bin_dir / "host-local").is_file()
    assert len(warnings) == 1
    assert "nowhere" in warnings[0]


@pytest.mark.parametrize("first", [{"type": "nowhere"}, {"type": "calico", "ipam": {"type": "nowhere"}}])
def test_first_plugin_cannot_be_left_out(first: dict[str, Any], machine: Machine) -> None:
    """Without it there is no network, so that is an error, and nothing is installed."""
    machine.environment["CNI_NETWORK_CONFIG"] = network(first, {"type": "portmap"})
    with pytest.raises(InstallError, match="'nowhere'"):
        machine.install()
    assert not machine.prefix.exists()


def test_only_versions_that_all_speak_are_offered(machine: Machine) -> None:
    """libcni takes the highest version offered for every plugin of the list, and Debian 12's portmap ends at 1.0.0."""
    fake_plugin(machine.debian / "portmap", ("0.4.0", "1.0.0"))
    warnings = machine.install().warnings
    assert machine.network()["cniVersions"] == ["1.0.0"]
    assert len(warnings) == 1
    assert "1.1.0" in warnings[0]
    assert "portmap" in warnings[0]


def test_version_that_a_plugin_refuses(machine: Machine) -> None:
    """If not even cniVersion itself is spoken the operator is told."""
    fake_plugin(machine.bin_dir / "portmap", ("0.4.0",))
    machine.environment["CNI_NETWORK_CONFIG"] = network({"type": "calico"}, {"type": "portmap"})
    assert "pods will fail" in machine.install().warnings[0]
    assert "cniVersions" not in machine.network()


@pytest.mark.parametrize(
    "text", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho nonsense\n", "#!/bin/sh\necho '[]'\n", "garbage"]
)
def test_plugin_that_does_not_tell_its_versions(text: str, machine: Machine) -> None:
    """It has no say, and the installation goes on."""
    (machine.debian / "portmap").write_text(text)
    assert machine.install().warnings == []
    assert machine.network()["cniVersions"] == ["1.0.0", "1.1.0"]


def test_asking_for_versions_passes_nothing_on(machine: Machine) -> None:
    """A plugin sees CNI_COMMAND=VERSION and none of our environment."""
    seen = machine.root / "seen"
    (machine.debian / "portmap").write_text(f"#!/bin/sh\n/usr/bin/env > {seen}\n")
    os.environ["INSTALL_TEST_SECRET"] = "1"
    try:
        machine.install()
    finally:
        del os.environ["INSTALL_TEST_SECRET"]
    assert "CNI_COMMAND=VERSION" in seen.read_text()
    assert "INSTALL_TEST_SECRET" not in seen.read_text()
