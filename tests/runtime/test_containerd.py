"""containerd from Debian, with pods made through CRI as a kubelet makes them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.ways import Way

from . import containerd
from .conftest import needs, without
from .containerd import Containerd, Pod
from .host import OUTSIDE, PTP_UPLINK, Host
from .installed import Before, Installed, install, kept

CROWD = 20
TINY_POOL = "10.96.7.0/30"
TINY_POOL_SIZE = 4


@pytest.fixture(scope="session")
def cri(shelf: Path) -> tuple[Any, Any]:
    """Our part of CRI, compiled once."""
    lacking = containerd.missing()
    if lacking:
        without("containerd", f"{lacking} is not installed", needed=True)
    folder = shelf / "cri"
    folder.mkdir()
    return containerd.stubs(folder)


@pytest.fixture
def runtime(cri: tuple[Any, Any], host: Host, net: Installed, scratch: Path) -> Iterator[Containerd]:
    """A running containerd with the shipped configuration."""
    with containerd.running(host, net, scratch / "ctd", *cri) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def tiny(shelf: Path) -> Installed:
    """The plugin installed once more, with a pool of four addresses."""
    return install(shelf / "tiny", CALICO_IPV4POOL_CIDR=TINY_POOL, CALICO_IPV4POOL_BLOCK_SIZE="30")


@pytest.fixture
def tiny_net(tiny: Installed, scratch: Path, way: Way) -> Iterator[Installed]:
    """The small pool, lent to one test."""
    yield from kept(tiny, scratch / "store-before", way)


def test_a_pod_has_an_address_and_reaches_the_others(
    cri: tuple[Any, Any], any_host: Host, net: Installed, scratch: Path
) -> None:
    """CRI reports a pod's address, host and pods reach each other, and nothing is left after them."""
    before = Before.of(any_host, net)
    with containerd.running(any_host, net, scratch / "ctd", *cri) as runtime:
        pods = [runtime.run_pod("one"), runtime.run_pod("two")]
        here, there = (runtime.address(pod) for pod in pods)
        assert net.owns(here)
        assert any_host.ping(here)
        assert any_host.ping(there)
        container = runtime.start_container(pods[0], "/bin/sleep", "1000")
        assert runtime.run_in(container, "/bin/ping", "-c", "1", "-W", "3", there) == 0
        for pod in pods:
            runtime.stop(pod)
            runtime.remove(pod)
        assert before.left() == []


def test_a_pod_reaches_the_outside(runtime: Containerd) -> None:
    """A container reaches the router behind the host's default route."""
    container = runtime.start_container(runtime.run_pod("one"), "/bin/sleep", "1000")
    assert runtime.run_in(container, "/bin/ping", "-c", "1", "-W", "3", PTP_UPLINK[1]) == 0


@pytest.mark.parametrize("client", [None, f"/run/netns/{OUTSIDE}"], ids=["host", "outside"])
def test_port_mapping(runtime: Containerd, before: Before, client: str | None) -> None:
    """A host port serves the pod's page through containerd's capitalised runtimeConfig, and is closed after Stop."""
    needs("portmap", "iptables")
    pod = runtime.run_pod("web", port_mappings=[runtime.port_mapping(80, 8080)])
    runtime.start_container(pod, "/bin/httpd", "-f", "-p", "80", "-h", "/www")
    assert runtime.host.fetch(PTP_UPLINK[0], 8080, netns=client) == "page of the pod"
    runtime.stop(pod)
    runtime.remove(pod)
    assert before.left() == []
    assert "8080" not in runtime.host.out("iptables-save")


def test_many_pods_at_once(runtime: Containerd, before: Before) -> None:
    """Twenty pods run at the same time get twenty addresses, and stopped at the same time leave nothing."""
    with ThreadPoolExecutor(CROWD) as threads:
        pods = list(threads.map(runtime.run_pod, [f"pod-{number}" for number in range(CROWD)]))
        addresses = [runtime.address(pod) for pod in pods]
        assert len(set(addresses)) == CROWD
        assert all(threads.map(runtime.host.ping, addresses))
        list(threads.map(runtime.stop, pods))
        assert before.left() == []
        list(threads.map(runtime.remove, pods))
    assert before.left() == []
    assert runtime.sandboxes() == []


def test_restart_between_add_and_del(runtime: Containerd, before: Before) -> None:
    """A pod keeps its network over a crash of containerd, a later one gets another address, and both can be removed."""
    old = runtime.run_pod("old")
    address = runtime.address(old)
    runtime.kill()
    assert runtime.host.ping(address)
    runtime.start()
    new = runtime.run_pod("new")
    assert runtime.address(old) == address
    assert runtime.address(new) != address
    assert runtime.host.ping(address)
    for pod in (old, new):
        runtime.stop(pod)
        runtime.remove(pod)
    assert before.left() == []


def test_stop_again_and_remove(runtime: Containerd, before: Before) -> None:
    """The DELs of a second Stop and of Remove, which name no namespace, succeed."""
    pod = runtime.run_pod("one")
    for _ in range(2):
        runtime.stop(pod)
        assert before.left() == []
    runtime.remove(pod)
    assert runtime.sandboxes() == []
    assert before.left() == []


def test_remove_a_running_pod(runtime: Containerd, before: Before) -> None:
    """Remove without Stop takes the network down as well."""
    runtime.remove(runtime.run_pod("one"))
    assert before.left() == []


def test_a_pod_whose_namespace_lost_its_interface(runtime: Containerd, before: Before) -> None:
    """Stop succeeds and frees the address although somebody deleted the pod's interface."""
    pod = runtime.run_pod("one")
    runtime.host.run(*runtime.host.inside(runtime.netns(pod), "ip", "link", "delete", "eth0"))
    runtime.stop(pod)
    runtime.remove(pod)
    assert before.left() == []


def _fill(runtime: Containerd) -> list[Pod]:
    """Run pods until the small pool has no address left."""
    return [runtime.run_pod(f"pod-{number}") for number in range(TINY_POOL_SIZE)]


def test_exhausted_pool(cri: tuple[Any, Any], host: Host, tiny_net: Installed, scratch: Path) -> None:
    """A pod that finds the pool empty fails with the pool's name in the user's error, and leaves nothing."""
    before = Before.of(host, tiny_net)
    with containerd.running(host, tiny_net, scratch / "ctd", *cri) as runtime:
        pods = _fill(runtime)
        full = before.left()
        with pytest.raises(grpc.RpcError) as refused:
            runtime.run_pod("one-too-many")
        said = refused.value.details()
        assert "default-ipv4-ippool" in said
        assert "Traceback" not in said
        assert before.left() == full
        runtime.stop(pods[0])
        pods.append(runtime.run_pod("in-time"))
        for pod in pods:
            runtime.stop(pod)
            runtime.remove(pod)
        assert before.left() == []


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"kubernetes.io/ingress-bandwidth": "10M"},
        {"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1G"},
    ],
    ids=["none", "one-way", "both-ways"],
)
def test_name_service_and_bandwidth(runtime: Containerd, before: Before, annotations: dict[str, str]) -> None:
    """A name service and rates, which containerd sends with odd names and numbers, do not stop a pod."""
    pod = runtime.run_pod("one", dns_config=runtime.dns("10.96.0.10"), annotations=annotations)
    assert runtime.host.ping(runtime.address(pod))
    runtime.stop(pod)
    runtime.remove(pod)
    assert before.left() == []
