"""Directories that cannot be written and disks that are full, with real mounts in a namespace of their own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from .install_kit import CLEAN, COMMAND, can_mount, in_mount_namespace, install_cni, snapshot

needs_mounts = pytest.mark.skipif(not can_mount(), reason="mounting needs root and CAP_SYS_ADMIN")
INSTALL = f'{" ".join(COMMAND)} --prefix "$1"'
READ_ONLY_BIN = """
mount --bind "$1/opt/cni/bin" "$1/opt/cni/bin"
mount -o remount,bind,ro "$1/opt/cni/bin"
"""
FULL = """
mkdir -p "$1/{where}"
mount -t tmpfs -o size={size} none "$1/{where}"
"""
CONTAINER = f"""
{sys.executable} - "$1" <<'END'
import sys
from pathlib import Path
from install import apply, errors, plan, settings, tree
root = Path(sys.argv[1])
found = settings.resolve(settings.Flags(), {{"CALICO_DATASTORE_DIR": str(root / "store")}}, host_root=root)
try:
    print(apply.apply(plan.make(found, tree.locate_packages())).warnings)
except errors.InstallError as error:
    sys.exit(str(error))
END
"""
AFTER = """
set +e
{install}
code=$?
find "$1" -type f 2>/dev/null | grep -v '/var/' >&3
exit $code
"""


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A prefix with a bin directory."""
    (tmp_path / "opt/cni/bin").mkdir(parents=True)
    return tmp_path


def run(script: str, prefix: Path) -> subprocess.CompletedProcess[str]:
    """Run a script whose first argument is the prefix."""
    return in_mount_namespace(script, str(prefix))


def failed(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The command failed with one line that has these words."""
    errors = [line for line in done.stderr.splitlines() if not line.startswith("warning:")]
    assert (done.returncode, len(errors)) == (1, 1), done
    for word in words:
        assert word in errors[0]


@needs_mounts
def test_read_only_bin_directory(prefix: Path) -> None:
    """The error names the directory, and nothing else was written."""
    done = run(READ_ONLY_BIN + INSTALL, prefix)
    failed(done, f"{prefix}/opt/cni/bin/calico", "read-only")
    assert not (prefix / "etc").exists()
    assert not (prefix / "opt/cni/lib").exists()


@needs_mounts
def test_read_only_bin_directory_with_both_executables(prefix: Path) -> None:
    """With UPDATE_CNI_BINARIES=false that is enough; chained plugins that cannot be copied are left out."""
    for name in ("calico", "calico-ipam"):
        (prefix / "opt/cni/bin" / name).write_text("#!/bin/sh\n")
    done = run(f"{READ_ONLY_BIN}\nUPDATE_CNI_BINARIES=false {INSTALL}", prefix)
    assert done.returncode == 0, done.stderr
    assert f"kept {prefix}/opt/cni/bin/calico " in done.stdout
    assert "portmap" not in (prefix / "etc/cni/net.d/10-calico.conflist").read_text()


@needs_mounts
def test_read_only_bin_directory_without_calico_ipam(prefix: Path) -> None:
    """One of the two is not enough."""
    (prefix / "opt/cni/bin/calico").write_text("#!/bin/sh\n")
    done = run(f"{READ_ONLY_BIN}\nUPDATE_CNI_BINARIES=false {INSTALL}", prefix)
    failed(done, f"{prefix}/opt/cni/bin/calico-ipam", "read-only")
    assert not (prefix / "etc").exists()


@needs_mounts
def test_unchanged_installation_on_a_read_only_system(prefix: Path) -> None:
    """Where everything is as it shall be nothing needs writing."""
    assert install_cni("--prefix", str(prefix)).returncode == 0
    read_only = 'mount --bind "$1/opt" "$1/opt"; mount -o remount,bind,ro "$1/opt"\n'
    done = run(read_only + INSTALL, prefix)
    assert done.returncode == 0, done.stderr
    assert "installed" not in done.stdout


@needs_mounts
def test_read_only_configuration_directory(prefix: Path) -> None:
    """The executables that were there are not touched when the configuration cannot be written."""
    assert install_cni("--prefix", str(prefix)).returncode == 0
    before = snapshot(prefix)
    read_only = 'mount --bind "$1/etc" "$1/etc"; mount -o remount,bind,ro "$1/etc"\n'
    (prefix / "opt/cni/bin/calico-ipam").unlink()
    done = run(f"{read_only} CNI_MTU=1400 {INSTALL}", prefix)
    failed(done, f"{prefix}/etc/cni/net.d/10-calico.conflist", "read-only")
    before.pop("opt/cni/bin/calico-ipam")
    assert snapshot(prefix) == before


@needs_mounts
@pytest.mark.parametrize(("where", "size"), [("opt/cni/lib", "2m"), ("opt/cni/bin", "4k"), ("etc/cni/net.d", "4k")])
def test_full_disk(where: str, size: str, prefix: Path) -> None:
    """The error says so; no file, half or whole, is left, whichever directory is the full one."""
    listing = prefix / "listing"
    fill = f'echo full >"$1/{where}/fill"; ' if size == "4k" else ""
    script = f'exec 3>"{listing}"\n' + FULL.format(where=where, size=size) + fill + AFTER.format(install=INSTALL)
    failed(run(script, prefix), where, "full")
    assert [line for line in listing.read_text().splitlines() if not line.endswith(("/fill", "/listing"))] == []


def test_file_size_limit(prefix: Path) -> None:
    """A limit is an error like any other, not a signal's death."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    command = [*COMMAND, "--prefix", str(prefix)]
    done = subprocess.run(command, env=CLEAN, preexec_fn=limit, capture_output=True, text=True, check=False)
    failed(done, "too large", "ulimit")
    assert sorted(os.listdir(prefix / "opt/cni")) == ["bin"]
    assert os.listdir(prefix / "opt/cni/bin") == []


@needs_mounts
def test_container_with_one_read_only_directory(tmp_path: Path) -> None:
    """The other one is filled, and the operator told; with both read-only it is an error."""
    for name in ("opt/cni/bin", "secondary-bin-dir"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "store").mkdir()
    first = 'mount --bind "$1/opt/cni" "$1/opt/cni"\n' + READ_ONLY_BIN
    second = (
        'mount --bind "$1/secondary-bin-dir" "$1/secondary-bin-dir"; mount -o remount,bind,ro "$1/secondary-bin-dir"\n'
    )
    failed(run(first + second + CONTAINER, tmp_path), "opt/cni/bin/calico", "read-only")
    done = run(first + CONTAINER, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/opt/cni/bin is not writable" in done.stdout
    assert (tmp_path / "secondary-bin-dir/calico-ipam").is_file()
    assert not (tmp_path / "opt/cni/bin/calico").exists()


@needs_mounts
def test_container_whose_library_the_host_would_not_see(tmp_path: Path) -> None:
    """Calico's manifests mount the bin directory only; ours needs the one above it, and says so."""
    (tmp_path / "opt/cni/bin").mkdir(parents=True)
    done = run('mount -t tmpfs none "$1/opt/cni/bin"\n' + CONTAINER, tmp_path)
    failed(done, "mount the host's /opt/cni ", f"{tmp_path}/opt/cni")
    assert snapshot(tmp_path).keys() == {"opt", "opt/cni", "opt/cni/bin"}
