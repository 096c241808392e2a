"""Two hosts on one etcd, as install-cni sets them up: certificates copied, pools seeded, verbs by what it rendered."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cni_calico.errors import NOT_AVAILABLE, TRY_AGAIN_LATER
from datastore import open_store
from datastore.api import Store
from datastore.cluster import set_ready
from datastore.settings import ETCD, Etcd, Settings
from datastore.tls import context_of
from datastore.undo import fail
from ipam.find import allocations
from tests.cluster.site import PEER_PORT, PORT, Place, Site, site
from tests.etcd import Cluster, Member
from tests.netns.machine import Answer, Machine, Pod
from tests.unit.pem_kit import SERVER, Authority
from tests.ways import KILLED, Way

from .installed import REPO

POOL = "10.98.0.0/16"
NODES = ("node-1", "node-2")
PODS = 5
T = TypeVar("T")


@dataclass
class Scene:
    """A server that wants certificates, and hosts around it with the plugin installed."""

    site: Site
    cluster: Cluster
    places: list[Place]
    prefixes: list[Path]
    folder: Path

    def store(self, step: Callable[[Store], T]) -> T:
        """Return what a step gives on the datastore itself."""
        settings = Settings(kind=ETCD, etcd=self.cluster.etcd, lock_file=str(self.folder / "ipam.lock"))
        return self.site.inside(lambda: step(open_store(settings)))

    def held(self) -> dict[str, str]:
        """Return container by address, of all nodes."""
        found = self.store(lambda store: list(allocations(store, fail)))
        assert len({str(item.address) for item in found}) == len(found)
        return {str(item.address): item.attribute.owner["container"] for item in found}


@pytest.fixture(scope="module")
def scene(shelf: Path) -> Iterator[Scene]:
    """The server, and both installations, each done on its host."""
    folder = shelf / "etcd"
    folder.mkdir()
    with site() as found, ExitStack() as ended:
        where = found.place()
        member = Member("m0", folder, host=where.address, scheme="https", ports=(PORT, PEER_PORT),
                        prefix=("nsenter", f"--net={where.netns.path}"))
        cluster = Cluster([member])
        _secure(cluster, Authority(folder))
        ended.callback(cluster.stop)
        member.start()
        found.inside(cluster.wait)
        places, prefixes = [found.place() for _ in NODES], [shelf / name for name in NODES]
        for name, place, prefix in zip(NODES, places, prefixes, strict=True):
            assets = _assets(cluster.etcd, folder / "assets")
            _install(place, prefix, assets, name, member.url, is_first=name == NODES[0])
        yield Scene(found, cluster, places, prefixes, folder)


def _secure(cluster: Cluster, ca: Authority) -> None:
    """Have the server, once it starts, and all who ask it, show certificates of an authority."""
    member = cluster.members[0]
    server = ca.issue(f"{ca.name}-server", SERVER, f"IP:{member.host}")
    member.extra = ca.member(member.name, member.folder, server).extra
    cluster.etcd = ca.etcd(member, shows=ca.issue(f"{ca.name}-client"))
    cluster.tls = context_of(cluster.etcd)


def _assets(etcd: Etcd, folder: Path) -> Path:
    """Return a folder of TLS files as Calico's manifests mount it."""
    folder.mkdir()
    for name, source in (("etcd-ca", etcd.ca_cert_file), ("etcd-cert", etcd.cert_file), ("etcd-key", etcd.key_file)):
        shutil.copy(source, folder / name)
    return folder


def _install(place: Place, prefix: Path, assets: Path, name: str, url: str, *, is_first: bool) -> None:
    """Run install-cni on a host; what it was given is gone afterwards."""
    command = [sys.executable, "-m", "install", "--prefix", str(prefix)]
    env = {"PATH": "/usr/bin:/usr/sbin", "DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": url, "CALICO_LAUNCHER": "no",
           "TLS_ASSETS_DIR": str(assets), "KUBERNETES_NODE_NAME": name, "CALICO_IPV4POOL_CIDR": POOL}
    done = subprocess.run(["nsenter", f"--net={place.netns.path}", *command], cwd=REPO, env=env, capture_output=True,
                          text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "seeded" not in done.stderr
    assert ("created pool" in done.stdout) is is_first
    shutil.rmtree(assets)


class Node(Machine):
    """A host that is reached by others, with the configuration that install-cni has rendered, and nothing else."""

    def __init__(self, place: Place, prefix: Path, way: Way) -> None:
        super().__init__(way.bin_dir(prefix / "opt/cni/bin"), prefix / "none", verbs_are_killed=way.name == KILLED)
        self.host.close()
        self.host = place.netns
        self.env = {"PATH": "/usr/bin:/usr/sbin"}
        conflist = json.loads((prefix / "etc/cni/net.d/10-calico.conflist").read_text())
        self.plugin: dict[str, Any] = {**conflist["plugins"][0], "name": conflist["name"], "cniVersion": "1.1.0"}

    def close(self) -> None:
        for pod in self.pods:
            pod.netns.close()

    def conf(self, **more: Any) -> dict[str, Any]:
        return self.plugin | more


@pytest.fixture
def nodes(scene: Scene, way: Way, scratch: Path) -> Iterator[list[Node]]:
    """Both hosts, with whatever verbs need in this way; no pod is left on them, nor in etcd."""
    found = [Node(*parts, way) for parts in zip(scene.places, scene.prefixes, strict=True)]
    with ExitStack() as served:
        for name, node in zip(NODES, found, strict=True):
            served.callback(node.close)
            (scratch / name).mkdir()
            node.env |= served.enter_context(way.serving(node.host.path, scratch / name))
        yield found
        assert [node.left() for node in found] == [[], []]
        assert scene.held() == {}


def test_no_address_twice(scene: Scene, nodes: list[Node]) -> None:
    """Pods come up on both hosts at once: each gets its own address, and neither host's GC touches the other's."""
    pods = [(node, node.pod()) for _ in range(PODS) for node in nodes]
    with ThreadPoolExecutor(4) as at_once:
        list(at_once.map(lambda one: one[0].add(one[1]), pods))
    given = {address: pod.container_id for _, pod in pods for address in pod.addresses()}
    assert len(given) == len(pods)
    assert scene.held() == given
    for node, pod in pods:
        assert node.check(pod).ok == {}
    assert all(node.call("STATUS", None).ok == {} for node in nodes)
    here, there = nodes
    nothing: dict[str, Any] = {"cni.dev/valid-attachments": []}
    assert here.call("GC", None, **nothing).ok == {}
    assert scene.held() == {address: pod.container_id for pod in there.pods for address in pod.addresses()}
    for node, pod in pods:
        node.delete(pod)


def test_what_the_installation_made(scene: Scene, nodes: list[Node]) -> None:
    """The pool is that of install-cni's environment, and blocks bear the names of the nodes."""
    for node in nodes:
        node.add(node.pod())
    pods = [node.pods[0] for node in nodes]
    assert all(pod.addresses()[0].startswith("10.98.") for pod in pods)
    owners = scene.store(lambda store: {key.split("/")[5] for key in store.keys("/calico/ipam/v2/host/")})
    assert owners == set(NODES)
    for node, pod in zip(nodes, pods, strict=True):
        node.delete(pod)


@pytest.mark.python_only("the agent's way is tests/netns/test_etcd.py")
def test_etcd_goes_and_comes_back(scene: Scene, nodes: list[Node]) -> None:
    """STATUS says so soon, ADD and DEL name the endpoint once their patience is at its end; then all goes on."""
    node, url = nodes[0], scene.cluster.members[0].url
    pod, late = node.pod(), node.pod()
    node.add(pod)
    scene.cluster.members[0].kill()
    status, seconds = _timed(node, "STATUS", None)
    assert (status.error["code"], url in status.error["msg"]) == (NOT_AVAILABLE, True)
    assert seconds < 5
    with ThreadPoolExecutor(2) as at_once:
        verbs = list(at_once.map(lambda verb: _timed(node, *verb), (("ADD", late), ("DEL", pod))))
    for answer, seconds in verbs:
        assert (answer.error["code"], url in answer.error["msg"]) == (TRY_AGAIN_LATER, True)
        assert seconds < 30
    scene.cluster.members[0].start()
    scene.site.inside(scene.cluster.wait)
    assert node.call("STATUS", None).ok == {}
    node.add(late)
    assert scene.held() == {address: one.container_id for one in (pod, late) for address in one.addresses()}
    for one in (pod, late):
        node.delete(one)


def _timed(node: Node, verb: str, pod: Pod | None) -> tuple[Answer, float]:
    began = time.monotonic()
    return node.call(verb, pod), time.monotonic() - began


def test_closed_for_changes(scene: Scene, nodes: list[Node]) -> None:
    """While somebody has closed the datastore, ADD and DEL are to be tried again, on every host."""
    here, there = nodes
    pod = here.pod()
    here.add(pod)
    scene.store(lambda store: set_ready(store, False, "test"))
    try:
        for node, verb, who in ((here, "DEL", pod), (there, "ADD", there.pod())):
            assert node.call(verb, who).error["code"] == TRY_AGAIN_LATER
        assert [node.call("STATUS", None).error["code"] for node in nodes] == [NOT_AVAILABLE] * 2
    finally:
        scene.store(lambda store: set_ready(store, True, "test"))
    here.delete(pod)
    there.add(there.pods[0])
    there.delete(there.pods[0])


def test_renewed_certificates(scene: Scene, nodes: list[Node]) -> None:
    """etcd trusts another authority from now on: once install-cni has copied new files, verbs show those."""
    member = scene.cluster.members[0]
    pods = [(node, node.pod()) for node in nodes]
    for node, pod in pods:
        node.add(pod)
    member.stop()
    _secure(scene.cluster, Authority(scene.folder, f"ca-{time.monotonic_ns()}"))
    member.start()
    scene.site.inside(scene.cluster.wait)
    for name, place, prefix in zip(NODES, scene.places, scene.prefixes, strict=True):
        _install(place, prefix, _assets(scene.cluster.etcd, scene.folder / "assets"), name, member.url, is_first=False)
    for node, pod in pods:
        assert node.check(pod).ok == {}
        node.delete(pod)
