"""What the tests of install-cni share: stub packages that install in no time, and a machine of files to install on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from install import apply, plan, settings, tree, uninstall
from install.report import Report

COMMAND = [sys.executable, "-m", "install"]
# Without the launcher, which may be built or not: test_install_launcher.py is about it.
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CALICO_LAUNCHER": "no"}
UNSHARE = shutil.which("unshare") or "unshare"

STUB_MAIN = """\
import json, os, sys

def main():
    facts = {"name": "%s", "path": sys.path, "utf8": sys.flags.utf8_mode, "isolated": sys.flags.isolated}
    facts |= {"no_site": sys.flags.no_site, "argv0": sys.argv[0], "json": json.__file__, "os": os.__file__}
    print(json.dumps(facts), flush=True)
    return 0
"""


def stub_packages(root: Path, marker: str = "1") -> dict[str, Path]:
    """Make packages by the names of the real ones below `root`; another marker makes another library tree."""
    for name in tree.PACKAGES:
        folder = root / name
        (folder / "tests").mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(f"MARKER = {marker!r}\n")
        (folder / "data.txt").write_text("read when imported\n")
        (folder / "tests/test_it.py").write_text("")
    for name, package in (("calico", "cni_calico"), ("calico-ipam", "ipam")):
        (root / package / "__main__.py").write_text(STUB_MAIN % name)
    return {name: root / name for name in tree.PACKAGES}


def fake_plugin(path: Path, versions: tuple[str, ...] = ("1.0.0", "1.1.0")) -> Path:
    """Make an executable that answers VERSION as a CNI plugin does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    answer = json.dumps({"cniVersion": versions[-1], "supportedVersions": versions})
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


def fake_launcher(path: Path, release: str = "1") -> Path:
    """Make what passes for a launcher: it names the queue, answers VERSION, and else becomes the plugin behind it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n# {release} /var/lib/calico/cni/queue\n"
                    '[ "$CNI_COMMAND" = VERSION ] && echo \'{"supportedVersions":[]}\' && exit\nexec "$0.py"\n')
    path.chmod(0o755)
    return path


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Return mode, inode and content of everything below a directory, to see that nothing changed."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.lstat().st_ino,
            None if path.is_dir() else path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
    }


@dataclass
class Machine:
    """A prefix to install beneath, in this process, with stub packages and two plugins that can be chained."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"KUBERNETES_NODE_NAME": "node-1"})
    flags: settings.Flags | None = None
    launcher: Path | None = None

    def __post_init__(self) -> None:
        """Make what is there before an installation."""
        self.prefix = self.root / "prefix"
        self.packages = stub_packages(self.root / "packages")
        self.debian = self.root / "usr/lib/cni"
        for name in ("portmap", "bandwidth", "host-local"):
            fake_plugin(self.debian / name)

    @property
    def settings(self) -> settings.Settings:
        """What install-cni makes of flags and environment here."""
        flags = self.flags or settings.Flags(prefix=str(self.prefix))
        found = settings.resolve(flags, self.environment, host_root=self.root / "host")
        launcher = self.launcher if found.launcher else None
        return replace(found, plugin_sources=(self.debian,), launcher=launcher, seed_seconds=0.5)

    @property
    def bin_dir(self) -> Path:
        """Where the executables go."""
        return self.settings.layout.bin_dirs[0]

    @property
    def conflist(self) -> Path:
        """Where the configuration goes."""
        return self.settings.conflist

    @property
    def trees(self) -> list[str]:
        """The names below the library folder, hidden ones included."""
        library = self.settings.layout.library
        return sorted(path.name for path in library.iterdir()) if library.is_dir() else []

    def network(self) -> dict[str, Any]:
        """The installed configuration, parsed."""
        parsed: dict[str, Any] = json.loads(self.conflist.read_text())
        return parsed

    def plan(self) -> plan.Plan:
        """Decide what to install."""
        return plan.make(self.settings, self.packages)

    def install(self) -> Report:
        """Install."""
        return apply.apply(self.plan())

    def uninstall(self, *, dry_run: bool = False) -> Report:
        """Uninstall."""
        return uninstall.uninstall(self.settings, dry_run=dry_run)

    def upgrade(self, marker: str) -> None:
        """Make another release the one that is installed next."""
        self.packages = stub_packages(self.root / f"packages-{marker}", marker)


def install_cni(
    *arguments: str, env: Mapping[str, str] | None = None, umask: int = -1, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own, with a clean environment and `env`."""
    command = [*COMMAND, *arguments]
    return subprocess.run(
        command, env=CLEAN | dict(env or {}), umask=umask, timeout=timeout, capture_output=True, text=True, check=False
    )


def in_mount_namespace(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root in a mount namespace of its own, whose mounts go away with it."""
    command = [UNSHARE, "--mount", "--propagation", "private", "sh", "-euc", script, "sh", *arguments]
    return subprocess.run(command, env=CLEAN, capture_output=True, text=True, check=False, timeout=120)


def can_mount() -> bool:
    """Whether tests may mount file systems here."""
    return os.geteuid() == 0 and in_mount_namespace("mount -t tmpfs none /mnt").returncode == 0
