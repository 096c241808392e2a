"""podman with its CNI backend: a second real runtime, with another contract."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from . import image
from .conftest import without
from .containerd import remove_groups
from .host import PTP_UPLINK, Host, busybox
from .installed import Before, Installed

IMAGE = "test.invalid/busybox:1"
_CONFIG = """
[network]
network_backend = "cni"
network_config_dir = "{conf_dir}"
cni_plugin_dirs = ["{bin_dir}"]
default_network = "{network}"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
tmp_dir = "{home}/tmp"
[containers]
apparmor_profile = "unconfined"
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
"""


@dataclass(frozen=True)
class Podman:
    """podman on a host of the test, with all its state in one folder."""

    host: Host
    installed: Installed
    home: Path
    cgroup: str

    def run(self, *arguments: str) -> str:
        """Run a podman command that must succeed, and return what it printed."""
        folders = ("--root", f"{self.home}/root", "--runroot", f"{self.home}/runroot", "--storage-driver", "vfs")
        env = {"CONTAINERS_CONF": f"{self.home}/containers.conf"}
        return self.host.run("podman", *folders, *arguments, env=env).stdout.strip()

    def start(self, name: str, *options: str) -> None:
        """Start a container that serves a page."""
        where = ("--network", self.installed.network, "--cgroup-parent", f"/{self.cgroup}", "--pull", "never")
        self.run("run", "-d", "--name", name, *where, *options, IMAGE)

    def address(self, name: str) -> str:
        """The address that podman reports for a container."""
        return self.run("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)


@pytest.fixture
def podman(host: Host, net: Installed, scratch: Path) -> Iterator[Podman]:
    """podman, ready to start containers on our network."""
    if shutil.which("podman") is None:
        without("podman", "not installed")
    home = scratch / "podman"
    home.mkdir()
    values = {"conf_dir": net.conf_dir, "bin_dir": net.bin_dir, "network": net.network, "home": home}
    (home / "containers.conf").write_text(_CONFIG.format(**values))
    archive = image.write(home / "image.tar", IMAGE, Path(busybox()), "/bin/httpd", "-f", "-p", "80", "-h", "/www")
    ready = Podman(host, net, home, f"cni-rt-{uuid.uuid4().hex[:12]}")
    with contextlib.ExitStack() as after:
        after.callback(remove_groups, ready.cgroup)
        after.callback(host.close)
        ready.run("load", "-i", str(archive))
        yield ready


def test_run_and_rm(podman: Podman, before: Before) -> None:
    """A container gets an address of the pool that podman reports and that answers, and rm leaves nothing."""
    podman.start("one")
    assert before.installed.owns(podman.address("one"))
    assert before.host.ping(podman.address("one"))
    podman.run("rm", "-f", "-t", "0", "one")
    assert before.left() == []


def test_port_and_static_address(podman: Podman, before: Before) -> None:
    """A published port and a static address, which podman sends as CNI_ARGS IP=, work together."""
    wanted = ".".join([*before.installed.pool.split(".")[:2], "3.77"])
    podman.start("one", "-p", "8080:80", "--ip", wanted)
    assert podman.address("one") == wanted
    assert before.host.fetch(PTP_UPLINK[0], 8080) == "page of the pod"
    podman.run("rm", "-f", "-t", "0", "one")
    assert before.left() == []
