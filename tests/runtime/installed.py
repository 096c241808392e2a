"""The plugin as a user has it: put under a prefix by the real install-cni, and the state that it keeps there."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.ways import Way

from .host import Host, Kernel

REPO = Path(__file__).resolve().parents[2]
DEBIAN_PLUGINS = Path("/usr/lib/cni")
POOL = "10.97.0.0/16"
HANDLES = "calico/ipam/v2/handle"
ENDPOINTS = "calico/resources/v3/projectcalico.org/workloadendpoints"


@dataclass(frozen=True)
class Installed:
    """One prefix that install-cni has filled, and where its executables are."""

    prefix: Path
    pool: str
    bin_dir: Path

    @property
    def conf_dir(self) -> Path:
        """Where a runtime reads the configuration."""
        return self.prefix / "etc/cni/net.d"

    @property
    def conflist(self) -> dict[str, Any]:
        """The shipped configuration, parsed."""
        parsed: dict[str, Any] = json.loads((self.conf_dir / "10-calico.conflist").read_text())
        return parsed

    @property
    def network(self) -> str:
        """The network's name."""
        return str(self.conflist["name"])

    @property
    def main(self) -> dict[str, Any]:
        """The part of the configuration that is ours."""
        part: dict[str, Any] = self.conflist["plugins"][0]
        return part

    @property
    def store(self) -> Path:
        """The folder of the datastore, as the configuration says."""
        return Path(self.main["datastore_dir"])

    @property
    def path(self) -> str:
        """CNI_PATH: our executables, then the reference plugins."""
        return f"{self.bin_dir}:{DEBIAN_PLUGINS}"

    def owns(self, address: str) -> bool:
        """Whether an address, with or without a prefix length, is one of the pool."""
        return ipaddress.ip_interface(address).ip in ipaddress.ip_network(self.pool)

    def records(self) -> list[str]:
        """The records in the store that say somebody has an address or an interface."""
        folders = [self.store / HANDLES, self.store / ENDPOINTS]
        return [str(found.relative_to(self.store)) for each in folders for found in each.rglob("*") if found.is_file()]

    def variant(self, folder: Path, plugins: Sequence[dict[str, Any]], versions: Sequence[str]) -> Path:
        """Write the same network with other plugins and versions into a folder, for a runtime to read."""
        folder.mkdir(parents=True, exist_ok=True)
        conf = {**self.conflist, "cniVersion": versions[0], "cniVersions": list(versions), "plugins": list(plugins)}
        (folder / "10-calico.conflist").write_text(json.dumps(conf))
        return folder


def install(prefix: Path, **environment: str) -> Installed:
    """Run install-cni as its own process, for a host under a prefix; a test's way may put the launcher in front."""
    pool = environment.setdefault("CALICO_IPV4POOL_CIDR", POOL)
    done = subprocess.run(
        [sys.executable, "-m", "install", "--prefix", str(prefix)],
        cwd=REPO,
        env={**os.environ, "CALICO_LAUNCHER": "no", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"install-cni: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return Installed(prefix, pool, prefix / "opt/cni/bin")


def kept(installed: Installed, spare: Path, way: Way) -> Iterator[Installed]:
    """Lend an installation to one test, in its way, and put the store back as it was, whatever the test left there."""
    shutil.copytree(installed.store, spare)
    yield replace(installed, bin_dir=way.bin_dir(installed.bin_dir))
    if installed.records():
        shutil.rmtree(installed.store)
        shutil.copytree(spare, installed.store)


@dataclass(frozen=True)
class Before:
    """A host and an installation before the first pod: what both must be again after the last one."""

    host: Host
    installed: Installed
    kernel: Kernel

    @classmethod
    def of(cls, host: Host, installed: Installed) -> Before:
        """Remember how it is now."""
        return cls(host, installed, host.kernel())

    def left(self) -> list[str]:
        """Links, routes and records that are there now and were not before."""
        now = self.host.kernel()
        return sorted([*(now.links - self.kernel.links), *(now.routes - self.kernel.routes), *self.installed.records()])
