"""A host and its pods as nameless network namespaces, and the installed plugin run among them.

A namespace is held by a descriptor of the test's process and reached as /proc/<pid>/fd/<n>: nothing has a name on the
real machine, and nothing is left when the test ends, however it ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
HOST_ADDRESSES = ("10.254.0.1/32", "fd00:fe::1/128")
NODE = "jh3014c"  # its walk begins at the first block of any pool: the FNV-1 hash of this name is 0
POOL = {"CALICO_IPV4POOL_CIDR": "10.7.0.0/16", "CALICO_IPV6POOL_CIDR": "fd00:7::/64"}
Json = dict[str, Any]
# An ADD that was cut off and is done again gets what comes next; a test that needs a certain address asks for it.
ASKED: Json = {"env": {"CNI_ARGS": "IP=10.7.0.0"}}
ASKED_DUAL: Json = {"ipam": {"assign_ipv6": "true"}, "args": {"cni": {"ips": ["10.7.0.0", "fd00:7::"]}}}


class Netns:
    """A network namespace with loopback up."""

    def __init__(self) -> None:
        thread = threading.Thread(target=self._make)
        thread.start()
        thread.join()
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self.ip("link", "set", "lo", "up")

    def _make(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def run(self, *command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        full = ["nsenter", f"--net={self.path}", *command]
        done = subprocess.run(full, capture_output=True, text=True, check=False, timeout=60, **options)
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def ip(self, *arguments: str, check: bool = True) -> str:
        return self.run("ip", *arguments, check=check).stdout

    def ip_json(self, *arguments: str) -> list[Json]:
        found: list[Json] = json.loads(self.ip("-j", *arguments) or "[]")
        return [item for item in found if item]

    def link(self, name: str) -> Json:
        return self.ip_json("-d", "link", "show", "dev", name)[0]

    def sysctl(self, name: str) -> str:
        return self.run("cat", f"/proc/sys/{name}").stdout.strip()

    def set_sysctl(self, name: str, value: int) -> None:
        self.run("sh", "-c", 'echo "$1" > "/proc/sys/$2"', "sh", str(value), name)

    def pings(self, address: str, source: str = "") -> bool:
        command = ["ping", "-n", "-c", "1", "-W", "2", *(["-I", source] if source else []), address]
        return self.run(*command, check=False).returncode == 0


@dataclass
class Answer:
    """What the plugin said."""

    code: int
    body: Json | None
    stderr: str

    @property
    def ok(self) -> Json:
        assert self.code == 0, (self.body, self.stderr)
        return self.body or {}

    @property
    def error(self) -> Json:
        assert self.code == 1, self.body
        assert self.body, self.stderr
        assert set(self.body) <= {"cniVersion", "code", "msg", "details"}, (self.body, self.stderr)
        return self.body


@dataclass
class Pod:
    """A namespace with a container id, and the result of its last ADD for each interface."""

    netns: Netns
    container_id: str
    results: dict[str, Json] = field(default_factory=dict)

    def addresses(self, ifname: str = "eth0") -> list[str]:
        return [ip["address"].partition("/")[0] for ip in self.results[ifname]["ips"]]


class Machine:
    """A host with the installed plugin and a datastore of its own."""

    def __init__(self, bin_dir: Path, datastore: Path, *, verbs_are_killed: bool = False) -> None:
        self.bin_dir, self.datastore, self.verbs_are_killed = bin_dir, datastore, verbs_are_killed
        self.host = Netns()
        for address in HOST_ADDRESSES:
            self.host.ip("address", "add", address, "dev", "lo")
        self.pods: list[Pod] = []
        self.env: dict[str, str] = {**POOL, "PATH": "/usr/bin:/usr/sbin"}

    def close(self) -> None:
        for netns in (self.host, *(pod.netns for pod in self.pods)):
            netns.close()

    def pod(self, container_id: str = "") -> Pod:
        self.pods.append(Pod(Netns(), container_id or f"pod{len(self.pods)}-{os.urandom(4).hex()}"))
        return self.pods[-1]

    def conf(self, **more: Any) -> Json:
        ipam = {"type": "calico-ipam", **more.pop("ipam", {})}
        return {"cniVersion": "1.1.0", "name": "net", "type": "calico", "nodename": NODE, "ipam": ipam,
                "datastore_dir": str(self.datastore), "log_level": "debug", **more}

    def command(self, plugin: str = "calico") -> list[str]:
        return ["nsenter", f"--net={self.host.path}", str(self.bin_dir / plugin)]

    def environment(self, verb: str, container_id: str, netns: str, ifname: str = "eth0", **env: str) -> dict[str, str]:
        return {**self.env, "CNI_COMMAND": verb, "CNI_CONTAINERID": container_id, "CNI_NETNS": netns,
                "CNI_IFNAME": ifname, "CNI_PATH": f"{self.bin_dir}:/usr/lib/cni", **env}

    def call(self, verb: str, pod: Pod | None, ifname: str = "eth0", *, netns: str | None = None,
             plugin: str = "calico", env: Mapping[str, str] | None = None, prefix: tuple[str, ...] = (),
             **conf: Any) -> Answer:
        """Run one verb of the installed plugin."""
        path = netns if netns is not None else pod.netns.path if pod else ""
        environment = self.environment(verb, pod.container_id if pod else "", path, ifname, **(env or {}))
        done = subprocess.run([*prefix, *self.command(plugin)], input=json.dumps(self.conf(**conf)), env=environment,
                              capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in done.stdout
        return Answer(done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr)

    def add(self, pod: Pod, ifname: str = "eth0", **more: Any) -> Json:
        """ADD, which must succeed."""
        pod.results[ifname] = self.call("ADD", pod, ifname, **more).ok
        return pod.results[ifname]

    def check(self, pod: Pod, ifname: str = "eth0", **more: Any) -> Answer:
        return self.call("CHECK", pod, ifname, prevResult=pod.results[ifname], **more)

    def delete(self, pod: Pod, ifname: str = "eth0", **more: Any) -> None:
        """DEL, which must succeed and print nothing."""
        assert self.call("DEL", pod, ifname, **more).ok == {}

    def records(self) -> list[Path]:
        """The records that say that somebody holds an address or an interface, and locks left behind.

        Where verbs are killed, locks left behind tell of it.
        """
        kinds = ("calico/ipam/v2/handle", "calico/resources/v3/projectcalico.org/workloadendpoints",
                 *(() if self.verbs_are_killed else (".held",)))
        return [file for kind in kinds for file in (self.datastore / kind).rglob("*") if file.is_file()]

    def allocated(self) -> dict[str, str]:
        """Address -> container, from the block records themselves, which must be sound."""
        from datastore.file import FileStore
        from datastore.undo import fail
        from ipam.find import allocations

        found: dict[str, str] = {}
        for allocation in allocations(FileStore(str(self.datastore)), fail):
            assert str(allocation.address) not in found
            found[str(allocation.address)] = allocation.attribute.owner["container"]
        return found

    def veths(self) -> list[str]:
        return [link["ifname"] for link in self.host.ip_json("link", "show") if link["ifname"].startswith("cali")]

    def left(self) -> list[str]:
        """Everything of pods that is there: links, routes, neighbours, addresses in use, records."""
        routes = [route["dst"] for family in ("-4", "-6") for route in self.host.ip_json(family, "route", "show")
                  if route.get("dev", "").startswith("cali") and not route["dst"].startswith("fe80:")]
        neighbours = [entry["dst"] for entry in self.host.ip_json("neigh", "show", "nud", "permanent")]
        return [*self.veths(), *routes, *neighbours, *self.allocated(), *map(str, self.records())]


def eventually(what: Any, seconds: float = 5) -> Any:
    """Return the first true answer within the time, else the last."""
    deadline = time.monotonic() + seconds
    while not (answer := what()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer
