"""The native launcher on a host: before the plugin or not, and never without it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

import launcher as native
from install import apply, files, launcher, settings, trampoline
from install.errors import InstallError
from install.report import Report

from .install_kit import Machine, fake_launcher, install_cni, snapshot

BOTH = ("calico", "calico-ipam")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An empty prefix, and a launcher that runs here."""
    return Machine(tmp_path, launcher=fake_launcher(tmp_path / "bin/calico-here"))


def ours(machine: Machine) -> dict[str, str]:
    """What kind of file each executable is."""
    paths = [path for path in launcher.places([machine.bin_dir]) if path.exists()]
    kinds = {path.name: "launcher" if launcher.is_launcher(path) else "plugin" for path in paths}
    return {path.name: kinds[path.name] for path in paths if launcher.is_ours(path)}


BEFORE = {"calico": "launcher", "calico.py": "plugin", "calico-ipam": "launcher", "calico-ipam.py": "plugin"}
ALONE = {"calico": "plugin", "calico-ipam": "plugin"}


def test_before_the_plugin(machine: Machine) -> None:
    """Both names are the launcher, and the plugin is behind each."""
    report = machine.install()
    assert ours(machine) == BEFORE
    assert report.warnings == report.notes == []
    for name in BOTH:
        assert f'"{name}"'.encode() in subprocess.run([machine.bin_dir / name], capture_output=True, check=True).stdout
        for path in (machine.bin_dir / name, machine.bin_dir / f"{name}.py"):
            assert path.stat().st_mode & 0o7777 == 0o755
    installed = [Path(action.subject).name for action in report.actions if action.verb == "install"]
    assert installed[1:5] == ["calico.py", "calico", "calico-ipam.py", "calico-ipam"]
    assert {action.verb for action in machine.install().actions} == {"unchanged"}


@pytest.mark.parametrize("lack", ["switched off", "not built", "does not run", "not executable"])
def test_alone(lack: str, machine: Machine) -> None:
    """Without a launcher all is as it was before there was one; a broken one is a warning, none that was built a note.
    """
    assert machine.launcher
    if lack == "switched off":
        machine.environment["CALICO_LAUNCHER"] = "no"
    elif lack == "not built":
        machine.launcher.unlink()
    elif lack == "does not run":
        machine.launcher.write_bytes(b"\x7fELF of another machine")
    else:
        machine.launcher.chmod(0o644)
    report = machine.install()
    assert ours(machine) == ALONE
    warned = [str(machine.launcher) in warning for warning in report.warnings]
    assert warned == ([True] if lack in ("does not run", "not executable") else [])
    told = [line for line in report.lines() if line.startswith("note: no native launcher was built for here, so")]
    assert len(told) == len(report.notes) == (lack == "not built")
    assert json.loads(report.json())["notes"] == apply.preview(machine.plan()).notes == report.notes


def test_switching(machine: Machine) -> None:
    """On and off and on again, whatever release: nothing stale stays, and no library that is in use goes."""
    def told(report: Report) -> set[tuple[str, str]]:
        done = {(do.verb, do.subject) for do in report.actions if do.verb != "create"}
        return {(verb, subject) for verb, subject in done if "calico-cni" not in subject}

    for release, choice in enumerate(("no", "auto", "auto", "no")):
        machine.environment["CALICO_LAUNCHER"] = choice
        machine.upgrade(str(release))
        fake_launcher(machine.root / "bin/calico-here", str(release))
        before = snapshot(machine.prefix)
        preview = apply.preview(machine.plan())
        assert snapshot(machine.prefix) == before
        assert told(machine.install()) == told(preview)
        assert ours(machine) == (BEFORE if choice == "auto" else ALONE)
        loaded = {trampoline.tree_of(path) for path in launcher.places([machine.bin_dir])} - {None}
        assert len(loaded) == 1 and loaded <= set(machine.trees)
        machine.install()
        assert loaded <= set(machine.trees)
    assert sorted(path.name for path in machine.bin_dir.iterdir()) == ["bandwidth", "calico", "calico-ipam", "portmap"]


@pytest.mark.parametrize("choices", [("no", "auto"), ("auto", "auto"), ("auto", "no")])
def test_never_without_its_plugin(choices: tuple[str, str], machine: Machine) -> None:
    """Wherever an installation is killed, each launcher has its plugin and each plugin its library."""
    real_commit, real_remove, seen = files.commit, files.remove, 0

    def look() -> None:
        nonlocal seen
        seen += 1
        for path in launcher.places([machine.bin_dir]):
            if launcher.is_launcher(path):
                assert trampoline.tree_of(launcher.fall_back(path)) in machine.trees
            elif trampoline.tree_of(path):
                assert trampoline.tree_of(path) in machine.trees

    def commit(file: files.NewFile) -> None:
        real_commit(file)
        look()

    def remove(path: Path) -> bool:
        is_there = real_remove(path)
        look()
        return is_there

    with mock.patch.object(files, "commit", commit), mock.patch.object(files, "remove", remove):
        for choice in choices:
            machine.environment["CALICO_LAUNCHER"] = choice
            machine.upgrade(f"{choice}-{seen}")
            machine.install()
        machine.uninstall()
    assert seen > 8 and ours(machine) == {}


def test_uninstalled(machine: Machine) -> None:
    """All four go, the launcher before its plugin, and only ours."""
    machine.install()
    preview = machine.uninstall(dry_run=True).actions
    assert ours(machine) == BEFORE
    actions = machine.uninstall().actions
    assert actions == preview
    removed = [Path(do.subject).name for do in actions if do.verb == "remove"]
    assert removed[:5] == ["10-calico.conflist", "calico", "calico.py", "calico-ipam", "calico-ipam.py"]
    assert sorted(path.name for path in machine.bin_dir.iterdir()) == ["bandwidth", "portmap"]


@pytest.mark.parametrize("name", BEFORE)
def test_foreign_files_stay(name: str, machine: Machine) -> None:
    """Uninstalling removes no executable that is not ours, nor the configuration with it."""
    machine.install()
    (machine.bin_dir / name).write_bytes(b"\x7fELF" + bytes(100_000))
    machine.uninstall()
    assert machine.conflist.is_file()
    assert sorted(path.name for path in machine.bin_dir.iterdir()) == sorted(["bandwidth", name, "portmap"])


def test_foreign_file_behind_stays(machine: Machine) -> None:
    """A `calico.py` that install-cni did not write is not taken for a former fall-back."""
    machine.environment["CALICO_LAUNCHER"] = "no"
    machine.install()
    (machine.bin_dir / "calico.py").write_text("print('mine')\n")
    machine.install()
    assert (machine.bin_dir / "calico.py").read_text() == "print('mine')\n"


def test_kept_executables(machine: Machine) -> None:
    """UPDATE_CNI_BINARIES=false: what is there stays, with what belongs to it; what it lacks is installed."""
    machine.install()
    before = {name: (machine.bin_dir / name).read_bytes() for name in BEFORE}
    machine.environment["UPDATE_CNI_BINARIES"] = "false"
    (machine.bin_dir / "calico-ipam.py").unlink()
    machine.upgrade("2")
    machine.environment["CALICO_LAUNCHER"] = "no"
    machine.install()
    assert ours(machine) == BEFORE
    changed = [name for name, content in before.items() if (machine.bin_dir / name).read_bytes() != content]
    assert changed == ["calico-ipam.py"]
    assert len(machine.trees) == 2


def test_kept_plugins_get_no_launcher(machine: Machine) -> None:
    """Nor the other way round."""
    machine.environment |= {"CALICO_LAUNCHER": "no", "UPDATE_CNI_BINARIES": "false"}
    machine.install()
    before = snapshot(machine.bin_dir)
    machine.environment["CALICO_LAUNCHER"] = "auto"
    machine.install()
    assert snapshot(machine.bin_dir) == before
    assert machine.launcher
    machine.launcher.unlink()
    assert machine.install().notes == []


def test_choice() -> None:
    """Flag beats variable; another word is an error."""
    def chosen(flag: str | None = None, **environment: str) -> Path | None:
        return settings.resolve(settings.Flags(launcher=flag), environment).launcher

    assert chosen() == chosen(CALICO_LAUNCHER="auto") == chosen("auto", CALICO_LAUNCHER="no") == native.binary()
    assert chosen("no", CALICO_LAUNCHER="auto") is chosen(CALICO_LAUNCHER="no") is None
    with pytest.raises(InstallError, match="CALICO_LAUNCHER='yes'"):
        chosen(CALICO_LAUNCHER="yes")


@pytest.mark.skipif(not native.binary().is_file(), reason="no launcher has been built (launcher/build)")
def test_the_real_one(tmp_path: Path) -> None:
    """Installed by the command, it answers VERSION, falls back, and is told from other executables."""
    done = install_cni("--prefix", str(tmp_path), "--launcher", "auto")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "opt/cni/bin"
    assert f"installed {folder}/calico.py" in done.stdout
    for name in BOTH:
        assert launcher.is_launcher(folder / name) and trampoline.tree_of(folder / f"{name}.py")
        told = [
            subprocess.run([path], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True).stdout
            for path in (folder / name, folder / f"{name}.py")
        ]
        assert told[0] == told[1]
        version = subprocess.run([folder / name, "-v"], capture_output=True, check=True)
        assert version.stdout == subprocess.run([folder / f"{name}.py", "-v"], capture_output=True, check=True).stdout
    removed = install_cni("--prefix", str(tmp_path), "--uninstall")
    assert removed.returncode == 0 and sorted(os.listdir(folder)) == ["bandwidth", "portmap"]


def test_architecture_without_launcher(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    """The plugin is installed alone."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "x", "1", "1", "riscv64")))
    assert not native.binary().exists()
    found = replace(machine.settings, launcher=native.binary())
    assert launcher.load(found.launcher) == (None, [])
    assert "built for riscv64" in launcher.lack(found.launcher)[0]
