"""Putting files on a host: what is there afterwards, and what is still there when a step fails."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from install import files, settings, trampoline
from install.errors import InstallError

from .install_kit import Machine, fake_plugin, snapshot


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An empty prefix."""
    return Machine(tmp_path)


def done(machine: Machine, verb: str) -> list[str]:
    """What an installation did with this verb."""
    return [action.subject for action in machine.install().actions if action.verb == verb]


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_first_installation(machine: Machine) -> None:
    """Library, executables, pools and, last, the configuration."""
    actions = machine.install().actions
    tree = machine.trees[0]
    subjects = [action.subject.removeprefix(f"{machine.prefix}/") for action in actions if action.verb == "install"]
    executables = [f"opt/cni/bin/{name}" for name in ("calico", "calico-ipam", "portmap", "bandwidth")]
    assert subjects == [f"opt/cni/lib/calico-cni/{tree}", *executables, "etc/cni/net.d/10-calico.conflist"]
    assert [action.subject for action in actions if action.verb == "create"] == ["pool default-ipv4-ippool"]
    assert not list(machine.prefix.rglob("*.tmp"))


def test_executable_is_a_few_lines(machine: Machine) -> None:
    """It names its interpreter and its library by absolute path, and its library first."""
    machine.install()
    tree = machine.settings.layout.library / machine.trees[0]
    lines = (machine.bin_dir / "calico").read_text().splitlines()
    assert lines[0] == f"#!{machine.settings.python} -ISXutf8"
    assert f"sys.path.insert(0, {str(tree)!r})" in lines[2]
    assert lines[3] == "from cni_calico.__main__ import main"
    assert lines[4].startswith("os._exit(main())")
    assert len(lines) == 5
    assert trampoline.tree_of(machine.bin_dir / "calico-ipam") == tree.name


def test_modes_whatever_the_umask(machine: Machine) -> None:
    """Executables for everybody; the configuration, which may hold credentials, for root."""
    before = os.umask(0o077)
    try:
        machine.install()
    finally:
        os.umask(before)
    assert mode(machine.conflist) == 0o600
    for name in ("calico", "calico-ipam", "portmap"):
        assert mode(machine.bin_dir / name) == 0o755
    for folder in (machine.bin_dir, machine.bin_dir.parent, machine.conflist.parent, machine.settings.layout.library):
        assert mode(folder) == 0o755


def test_second_installation_changes_nothing(machine: Machine) -> None:
    """Not one file is written anew."""
    machine.install()
    before = snapshot(machine.prefix)
    report = machine.install()
    assert {action.verb for action in report.actions} == {"unchanged"}
    assert snapshot(machine.prefix) == before


def test_what_differs_is_put_right(machine: Machine) -> None:
    """Content and mode are both looked at; an executable that is a symbolic link is replaced, not followed."""
    machine.install()
    elsewhere = machine.root / "elsewhere"
    elsewhere.write_text("not ours")
    (machine.bin_dir / "calico").chmod(0o700)
    (machine.bin_dir / "calico-ipam").unlink()
    (machine.bin_dir / "calico-ipam").symlink_to(elsewhere)
    machine.conflist.write_text("{}")
    assert done(machine, "install") == [
        str(machine.bin_dir / "calico"),
        str(machine.bin_dir / "calico-ipam"),
        str(machine.conflist),
    ]
    assert elsewhere.read_text() == "not ours"


def test_upgrade_keeps_the_previous_library_only(machine: Machine) -> None:
    """A plugin that is running goes on loading from its own tree."""
    seen = []
    for release in ("1", "2", "3"):
        machine.upgrade(release)
        machine.install()
        seen.append(trampoline.tree_of(machine.bin_dir / "calico"))
    assert len(set(seen)) == 3
    assert machine.trees == sorted(filter(None, seen[1:]))


def test_upgrade_while_the_old_executable_is_open(machine: Machine) -> None:
    """The reader of the old file sees the old file to its end."""
    machine.install()
    with (machine.bin_dir / "calico").open() as old:
        first = old.readline()
        machine.upgrade("2")
        machine.install()
        assert trampoline.tree_of(machine.bin_dir / "calico") in machine.trees
        assert machine.trees[0] in (rest := old.read()) or machine.trees[1] in rest
    assert first.startswith("#!")


def test_old_configuration_is_removed(machine: Machine) -> None:
    """CNI_CONF_NAME differs from CNI_OLD_CONF_NAME: two networks of ours would be one too many."""
    machine.install()
    old = machine.conflist
    machine.environment["CNI_CONF_NAME"] = "05-calico.conflist"
    assert done(machine, "remove") == [str(old)]
    assert [path.name for path in old.parent.iterdir()] == ["05-calico.conflist"]


def test_update_cni_binaries_false_keeps_executables(machine: Machine) -> None:
    """What is there stays, and the library it loads stays too; what is missing is installed."""
    machine.environment["UPDATE_CNI_BINARIES"] = "false"
    machine.install()
    first = trampoline.tree_of(machine.bin_dir / "calico")
    (machine.bin_dir / "calico-ipam").unlink()
    for release in ("2", "3"):
        machine.upgrade(release)
        machine.install()
    assert trampoline.tree_of(machine.bin_dir / "calico") == first
    assert trampoline.tree_of(machine.bin_dir / "calico-ipam") != first
    assert first in machine.trees


def container(machine: Machine, secondary: bool = True) -> Path:
    """Make the mounts of Calico's container layout; return their root."""
    host = machine.root / "host"
    machine.flags = settings.Flags()
    machine.environment["CALICO_DATASTORE_DIR"] = str(machine.root / "store")
    for name in ("opt/cni/bin", *(["secondary-bin-dir"] if secondary else [])):
        (host / name).mkdir(parents=True)
    return host


def test_container_fills_both_directories(machine: Machine) -> None:
    """Both get the same executables, which name the library where the host has it."""
    host = container(machine)
    machine.install()
    first, second = (host / name / "calico" for name in ("opt/cni/bin", "secondary-bin-dir"))
    assert first.read_bytes() == second.read_bytes()
    assert f"'/opt/cni/lib/calico-cni/{machine.trees[0]}'" in first.read_text()
    assert (host / "secondary-bin-dir/portmap").is_file()
    assert (host / "etc/cni/net.d/10-calico.conflist").is_file()


def file_at(machine: Machine, name: str) -> None:
    """Put a file where a directory belongs."""
    (machine.prefix / name).parent.mkdir(parents=True)
    (machine.prefix / name).write_text("")


def variable(**environment: str) -> Callable[[Machine], None]:
    """Set variables."""
    return lambda machine: machine.environment.update(environment)


NO_FIRST = '{"name": "net", "cniVersion": "1.0.0", "plugins": [{"type": "gone"}]}'
FAILURES: dict[str, tuple[Callable[[Machine], None], str]] = {
    "configuration directory is a file": (lambda machine: file_at(machine, "etc/cni"), "etc/cni"),
    "bin directory is a file": (lambda machine: file_at(machine, "opt/cni"), "opt/cni"),
    "executable is a directory": (lambda machine: (machine.bin_dir / "calico-ipam").mkdir(parents=True), "calico-ipam"),
    "configuration is a directory": (lambda machine: machine.conflist.mkdir(parents=True), "10-calico.conflist"),
    "bad pool": (variable(CALICO_IPV4POOL_CIDR="10.0.0.0/40"), "10.0.0.0/40"),
    "bad block size": (variable(CALICO_IPV4POOL_BLOCK_SIZE="9"), "CALICO_IPV4POOL_BLOCK_SIZE"),
    "bad template": (variable(CNI_NETWORK_CONFIG="{"), "CNI_NETWORK_CONFIG"),
    "no such interpreter": (variable(CALICO_PYTHON="/nonexistent"), "/nonexistent"),
    "no first plugin": (variable(CNI_NETWORK_CONFIG=NO_FIRST), "gone"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failed_first_installation_leaves_nothing(name: str, machine: Machine) -> None:
    """One line says what and where; no file, directory or library of ours stays."""
    spoil, word = FAILURES[name]
    spoil(machine)
    before = snapshot(machine.prefix)
    with pytest.raises(InstallError, match=word) as caught:
        machine.install()
    assert "\n" not in str(caught.value)
    assert not list(machine.prefix.rglob("*ippool*"))
    shutil.rmtree(machine.prefix / "var", ignore_errors=True)  # an empty datastore, made when its lock was taken
    assert snapshot(machine.prefix) == before


@pytest.mark.parametrize("name", [name for name in FAILURES if "director" not in name])
def test_failed_upgrade_leaves_what_was_there(name: str, machine: Machine) -> None:
    """The former release stays whole, and goes on working."""
    machine.install()
    for pool in machine.settings.datastore_dir.rglob("*ippool.json"):
        pool.unlink()
    before = snapshot(machine.prefix)
    machine.upgrade("2")
    FAILURES[name][0](machine)
    with pytest.raises(InstallError):
        machine.install()
    assert snapshot(machine.prefix) == before


def test_what_a_killed_run_left_is_cleared(machine: Machine) -> None:
    """Temporary names are always the same, so the next run takes them over."""
    machine.install()
    machine.upgrade("2")
    leftovers = [
        machine.conflist.with_name(".10-calico.conflist.tmp"),
        machine.bin_dir / ".calico.tmp",
        machine.settings.layout.library / ".0123456789abcdef.tmp/ipam",
    ]
    leftovers[0].write_text("half")
    leftovers[1].write_text("half")
    leftovers[2].mkdir(parents=True)
    machine.conflist.unlink()
    machine.install()
    assert not [path for path in leftovers if path.exists()]


def test_two_at_once(machine: Machine) -> None:
    """Installations at the same time wait for each other and agree."""
    failures: list[BaseException] = []

    def install() -> None:
        try:
            machine.install()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=install) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(machine.trees) == 1
    assert {action.verb for action in machine.install().actions} == {"unchanged"}


def test_a_pool_that_is_there_stays_the_only_one(machine: Machine) -> None:
    """Another CALICO_IPV4POOL_CIDR later changes nothing."""
    machine.install()
    machine.environment["CALICO_IPV4POOL_CIDR"] = "10.9.0.0/16"
    assert done(machine, "create") == []


def test_another_datastore_is_not_seeded(machine: Machine) -> None:
    """There is nothing to write on this machine."""
    machine.environment["DATASTORE_TYPE"] = "kubernetes"
    assert done(machine, "create") == []
    assert not (machine.prefix / "var").exists()
    assert machine.network()["plugins"][0]["datastore_type"] == "kubernetes"


def test_path_with_quotes_and_spaces(tmp_path: Path) -> None:
    """The library's path is data in the executable, whatever it holds."""
    odd = Machine(tmp_path / 'it\'s a "place" \u00fc')
    odd.install()
    ran = subprocess.run([odd.bin_dir / "calico"], capture_output=True, check=True)
    assert b'"calico"' in ran.stdout


def test_removing_what_cannot_be_removed(tmp_path: Path) -> None:
    """The error names the path."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(InstallError, match=r"cannot remove .*folder"):
        files.remove(tmp_path / "folder")


def test_plugin_present_in_one_of_two_directories(machine: Machine) -> None:
    """What one bin directory has is copied into the other."""
    host = container(machine)
    fake_plugin(host / "opt/cni/bin/portmap")
    (machine.debian / "portmap").unlink()
    assert machine.install().warnings == []
    assert (host / "secondary-bin-dir/portmap").is_file()
