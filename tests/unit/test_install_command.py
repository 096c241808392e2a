"""The command as people run it: words, exit codes, dry run, removal, signals."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from install import interpreter
from install.settings import ENVIRONMENT

from .install_kit import CLEAN, COMMAND, Machine, install_cni, snapshot


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An empty prefix."""
    return Machine(tmp_path)


def slow_python(path: Path) -> Path:
    """Make an interpreter that never comes back from compiling."""
    real = interpreter.default_path()
    path.write_text(f'#!/bin/sh\ncase "$*" in *compileall*) exec sleep 60;; *) exec {real} "$@";; esac\n')
    path.chmod(0o755)
    return path


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the command, to be waited for."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *arguments], env=CLEAN | environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def until(path: Path, pattern: str) -> None:
    """Wait until a file of this kind is there."""
    deadline = time.monotonic() + 30
    while not list(path.rglob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} below {path}"
        time.sleep(0.01)


def test_help_has_every_variable_and_examples() -> None:
    """The table of the environment is there with names and defaults."""
    text = install_cni("--help").stdout
    assert "Examples:" in text
    for name, default, meaning in ENVIRONMENT:
        assert any(name in line and default in line and meaning in line for line in text.splitlines()), name


def test_installation_from_end_to_end(tmp_path: Path) -> None:
    """Install, install again, remove, remove again; address pools stay."""
    first = install_cni("--prefix", str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert f"installed {tmp_path}/opt/cni/bin/calico" in first.stdout.splitlines()
    again = install_cni("--prefix", str(tmp_path))
    assert "installed" not in again.stdout
    assert f"unchanged {tmp_path}/etc/cni/net.d/10-calico.conflist" in again.stdout.splitlines()
    removed = install_cni("--prefix", str(tmp_path), "--uninstall")
    assert removed.stdout.splitlines()[0] == f"removed {tmp_path}/etc/cni/net.d/10-calico.conflist"
    assert f"kept {tmp_path}/var/lib/calico/datastore (" in removed.stdout
    assert not (tmp_path / "opt/cni/lib").exists()
    assert not (tmp_path / "opt/cni/bin/calico").exists()
    assert list((tmp_path / "var").rglob("default-ipv4-ippool.json"))
    nothing = install_cni("--prefix", str(tmp_path), "--uninstall")
    assert (nothing.returncode, "removed" in nothing.stdout) == (0, False)


def test_json_summary(tmp_path: Path) -> None:
    """The summary is one JSON object, warnings included; they are on stderr all the same."""
    done = install_cni("--prefix", str(tmp_path), "-o", "json")
    summary = json.loads(done.stdout)
    assert summary["dryRun"] is False
    written = {"action": "installed", "subject": f"{tmp_path}/etc/cni/net.d/10-calico.conflist", "note": ""}
    assert written in summary["actions"]
    assert [f"warning: {text}" for text in summary["warnings"]] == done.stderr.splitlines()


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    """Each thing to be done is told, for removal too."""
    done = install_cni("--prefix", str(tmp_path / "new"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"would install {tmp_path}/new/opt/cni/bin/calico-ipam" in done.stdout.splitlines()
    assert "would create the default pools" in done.stdout
    assert not (tmp_path / "new").exists()
    assert install_cni("--prefix", str(tmp_path / "new")).returncode == 0
    before = snapshot(tmp_path)
    done = install_cni("--prefix", str(tmp_path / "new"), "--dry-run", "--uninstall")
    assert done.stdout.startswith(f"would remove {tmp_path}/new/etc/cni/net.d/10-calico.conflist\n")
    assert snapshot(tmp_path) == before


def test_exit_codes(tmp_path: Path) -> None:
    """1 with one line for what does not work, 2 for a wrong command line."""
    done = install_cni("--prefix", str(tmp_path), env={"CNI_MTU": "big"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: CNI_MTU='big' is not a whole number from 0 to 65535\n"
    assert install_cni("--prefix", str(tmp_path), "--no-such-option").returncode == 2
    assert install_cni("--output", "yaml").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_foreign_executables_and_their_configuration_stay(machine: Machine) -> None:
    """Removing ours from a host with the original Calico on it removes nothing of that."""
    machine.install()
    (machine.bin_dir / "calico").write_bytes(b"\x7fELF" + bytes(100_000))
    report = machine.uninstall()
    assert machine.conflist.is_file()
    assert [path.name for path in sorted(machine.bin_dir.iterdir())] == ["bandwidth", "calico", "portmap"]
    assert str(machine.bin_dir / "calico") in [action.subject for action in report.actions if action.verb == "keep"]


def test_chained_plugins_stay(machine: Machine) -> None:
    """Somebody else may use them by now."""
    machine.install()
    machine.uninstall()
    assert [path.name for path in sorted(machine.bin_dir.iterdir())] == ["bandwidth", "portmap"]


def test_sleep_lasts_until_a_signal(tmp_path: Path) -> None:
    """As a container it stays alive after its work, and ends well when told to."""
    process = start("--prefix", str(tmp_path), SLEEP="true")
    until(tmp_path / "etc", "10-calico.conflist")
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    assert "installed" in output


def test_terminated_in_the_middle(tmp_path: Path) -> None:
    """SIGTERM undoes what was begun."""
    slow = slow_python(tmp_path / "slow")
    process = start("--prefix", str(tmp_path / "prefix"), "--python", str(slow))
    until(tmp_path / "prefix", "*.tmp")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "prefix").exists()


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """After SIGKILL at any moment the next run succeeds, and leaves nothing of the killed ones."""
    prefix = tmp_path / "prefix"
    for milliseconds in (200, 300, 400, 500, 600, 700, 800):
        process = start("--prefix", str(prefix))
        time.sleep(milliseconds / 1000)
        process.kill()
        process.communicate(timeout=10)
        conflist = prefix / "etc/cni/net.d/10-calico.conflist"
        if conflist.exists():
            assert (prefix / "opt/cni/bin/calico-ipam").is_file()
            conflist.unlink()
            (prefix / "opt/cni/bin/calico").unlink()
    assert install_cni("--prefix", str(prefix)).returncode == 0
    assert not list(prefix.rglob("*.tmp"))
    assert len(list((prefix / "opt/cni/lib/calico-cni").iterdir())) == 1
