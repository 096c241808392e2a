"""A containerd of the test's own, and the few CRI calls that a kubelet would make to it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_tools import protoc

from . import image
from .host import Host, UnavailableError, busybox, end, eventually
from .installed import DEBIAN_PLUGINS, Installed

IMAGE = "test.invalid/busybox:1"
PROTO = Path(__file__).parent / "cri.proto"
PROGRAMS = ("containerd", "ctr", "runc", "containerd-shim-runc-v2", "loopback")
CGROUPS = Path("/sys/fs/cgroup")

# The first try to connect comes before the socket is there; gRPC would wait a second before the next one.
_EAGER = [(f"grpc.{which}_reconnect_backoff_ms", 50) for which in ("initial", "min", "max")]

_CONFIG = """
version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{home}/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_tcp_service = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin_dir}"
    conf_dir = "{conf_dir}"
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def stubs(folder: Path) -> tuple[Any, Any]:
    """The messages and the client of our part of CRI, compiled into a folder and imported from there."""
    arguments = [f"-I{PROTO.parent}", f"--python_out={folder}", f"--grpc_python_out={folder}", str(PROTO)]
    if protoc.main(["protoc", *arguments]):
        raise AssertionError(f"protoc cannot compile {PROTO}")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("cri_pb2"), importlib.import_module("cri_pb2_grpc")
    finally:
        sys.path.remove(str(folder))


def missing() -> str | None:
    """Which program this machine lacks for a containerd."""
    places = f"{os.environ['PATH']}:{DEBIAN_PLUGINS}"
    return next((each for each in PROGRAMS if not shutil.which(each, path=places)), None)


@dataclass(frozen=True)
class Pod:
    """A running pod: its sandbox, and the configuration that containers in it must repeat."""

    sandbox: str
    config: Any


class Containerd:
    """The daemon, started and killed by the test, and its CRI."""

    def __init__(self, host: Host, installed: Installed, home: Path, messages: Any, services: Any) -> None:
        """Lay out the folders; nothing runs yet."""
        self.host, self.installed, self.home = host, installed, home
        self._messages, self._services = messages, services
        self._cgroup = f"cni-rt-{uuid.uuid4().hex[:12]}"
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir()
        self._configure()

    def _configure(self) -> None:
        """Write the configuration; the folder of executables is a copy, because it must also hold `loopback`."""
        bin_dir = self.home / "bin"
        shutil.copytree(self.installed.bin_dir, bin_dir, symlinks=True)
        shutil.copy2(DEBIAN_PLUGINS / "loopback", bin_dir)
        values = {"home": self.home, "bin_dir": bin_dir, "conf_dir": self.installed.conf_dir, "image": IMAGE}
        (self.home / "config.toml").write_text(_CONFIG.format(**values))

    def start(self) -> None:
        """Start the daemon, and wait until it says that it and the network are ready."""
        with (self.home / "log").open("ab") as log:
            command = self.host.argv("containerd", "-c", str(self.home / "config.toml"))
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             env={**os.environ, **self.host.env})
        self._channel = grpc.insecure_channel(f"unix:{self.home}/c.sock", options=_EAGER)
        self.cri = self._services.RuntimeServiceStub(self._channel)
        eventually(self._ready, f"containerd to be ready; it logs to {self.home}/log", seconds=30)

    def _ready(self) -> bool:
        """Whether the runtime and its network are ready."""
        try:
            conditions = self.cri.Status(self._messages.StatusRequest(), timeout=5).status.conditions
        except grpc.RpcError:
            return False
        return bool(conditions) and all(each.status for each in conditions)

    def kill(self) -> None:
        """End the daemon as a crash does: its shims and pods live on."""
        if self._process is not None:
            self._channel.close()
            end(self._process)
            self._process = None

    def load_image(self) -> None:
        """Make the only image that pods need, and import it for CRI."""
        archive = image.write(self.home / "image.tar", IMAGE, Path(busybox()), "/bin/sleep", "2147483647")
        self.host.run("ctr", "-a", f"{self.home}/c.sock", "-n", "k8s.io", "images", "import", str(archive))

    def config(self, name: str, **more: Any) -> Any:
        """What a kubelet says of a pod; all its processes are put in a control group of this test."""
        messages = self._messages
        metadata = messages.PodSandboxMetadata(name=name, uid=str(uuid.uuid4()), namespace="default", attempt=0)
        linux = messages.LinuxPodSandboxConfig(cgroup_parent=f"/{self._cgroup}")
        (self.home / "pods").mkdir(exist_ok=True)
        return messages.PodSandboxConfig(
            metadata=metadata, hostname=name, linux=linux, log_directory=str(self.home / "pods"), **more
        )

    def port_mapping(self, container: int, host: int) -> Any:
        """A TCP port of the host that leads to the pod."""
        return self._messages.PortMapping(protocol=0, container_port=container, host_port=host)

    def dns(self, *servers: str) -> Any:
        """A name service configuration."""
        return self._messages.DNSConfig(servers=servers, searches=["svc.cluster.local"], options=["ndots:5"])

    def run_pod(self, name: str, **more: Any) -> Pod:
        """Run a pod sandbox, as a kubelet would."""
        config = self.config(name, **more)
        request = self._messages.RunPodSandboxRequest(config=config)
        return Pod(self.cri.RunPodSandbox(request, timeout=120).pod_sandbox_id, config)

    def stop(self, pod: Pod) -> None:
        """Stop a pod: the runtime takes its network away."""
        self.cri.StopPodSandbox(self._messages.StopPodSandboxRequest(pod_sandbox_id=pod.sandbox), timeout=120)

    def remove(self, pod: Pod) -> None:
        """Remove a pod, stopped or not."""
        self.cri.RemovePodSandbox(self._messages.RemovePodSandboxRequest(pod_sandbox_id=pod.sandbox), timeout=120)

    def sandboxes(self) -> list[str]:
        """The sandboxes that the runtime knows."""
        answer = self.cri.ListPodSandbox(self._messages.ListPodSandboxRequest(), timeout=30)
        return [each.id for each in answer.items]

    def address(self, pod: Pod) -> str:
        """The address that the runtime reports for a pod."""
        request = self._messages.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox)
        return str(self.cri.PodSandboxStatus(request, timeout=30).status.network.ip)

    def netns(self, pod: Pod) -> str:
        """The path of a pod's network namespace."""
        request = self._messages.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox, verbose=True)
        info = json.loads(self.cri.PodSandboxStatus(request, timeout=30).info["info"])
        spaces = info["runtimeSpec"]["linux"]["namespaces"]
        return str(next(each["path"] for each in spaces if each["type"] == "network"))

    def start_container(self, pod: Pod, *command: str) -> str:
        """Start a container in a pod."""
        messages = self._messages
        config = messages.ContainerConfig(
            metadata=messages.ContainerMetadata(name="main"), image=messages.ImageSpec(image=IMAGE), command=command
        )
        request = messages.CreateContainerRequest(pod_sandbox_id=pod.sandbox, config=config, sandbox_config=pod.config)
        container = str(self.cri.CreateContainer(request, timeout=60).container_id)
        self.cri.StartContainer(messages.StartContainerRequest(container_id=container), timeout=60)
        return container

    def run_in(self, container: str, *command: str) -> int:
        """Run a command in a container, and return its exit code."""
        request = self._messages.ExecSyncRequest(container_id=container, cmd=command, timeout=20)
        return int(self.cri.ExecSync(request, timeout=30).exit_code)

    def clean(self) -> None:
        """Remove the test's control groups, once the host that held their processes is gone."""
        self.kill()
        self.host.close()
        remove_groups(self._cgroup)


def remove_groups(name: str) -> None:
    """Remove the control groups of a test, in every hierarchy, innermost first."""
    for hierarchy in (CGROUPS, *CGROUPS.iterdir()):
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            _remove_group(Path(folder))


def _remove_group(group: Path) -> None:
    """Remove one control group; the kernel may need a moment to let go of its last process."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            group.rmdir()
        if not group.exists():
            return
        time.sleep(0.02)


@contextlib.contextmanager
def running(host: Host, installed: Installed, home: Path, messages: Any, services: Any) -> Iterator[Containerd]:
    """A containerd that is ready for pods, and gone with all of them at the end of the block."""
    lacking = missing()
    if lacking is not None:
        raise UnavailableError(f"{lacking} is not installed")
    daemon = Containerd(host, installed, home, messages, services)
    try:
        daemon.start()
        daemon.load_image()
        yield daemon
    finally:
        daemon.clean()
