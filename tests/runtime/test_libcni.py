"""Debian's libcni under a small driver of ours, which needs no Go module proxy."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import needs, without
from .host import Host, UnavailableError, busybox
from .installed import Before, Installed
from .libcni import SHAPED, WEB, Libcni, address_of


@pytest.fixture
def driver(libcni_driver: Path, host: Host, net: Installed) -> Libcni:
    """Our driver on the configuration as it was installed."""
    return Libcni(libcni_driver, host, net, net.conf_dir, identity=("driven-1",))


def test_one_of_both_clients_is_here(clients: dict[str, Path | UnavailableError]) -> None:
    """At least one client of the real libcni can run: without, the suite says so by name, and fails in CI."""
    if all(isinstance(each, UnavailableError) for each in clients.values()):
        without("libcni", "; ".join(f"{name}: {reason}" for name, reason in clients.items()), needed=True)


def test_add_check_del(libcni_driver: Path, any_host: Host, net: Installed) -> None:
    """An older libcni adds, checks and deletes through the shipped conflist."""
    before = Before.of(any_host, net)
    driver = Libcni(libcni_driver, any_host, net, net.conf_dir, identity=("driven-1",))
    pod = any_host.pod("pod")
    result = driver.add(pod, caps=SHAPED)
    assert any_host.ping(address_of(result))
    driver.ok("check", pod, caps=SHAPED)
    driver.ok("del", pod, caps=SHAPED)
    assert driver.run("check", pod, caps=SHAPED).returncode != 0
    assert before.left() == []


def test_result_of_1_0_0(driver: Libcni) -> None:
    """A libcni that does not know 1.1.0 gets a 1.0.0 result: the host's veth first, the pod's interface after it."""
    pod = driver.host.pod("pod")
    result = driver.add(pod)
    assert result["cniVersion"] == "1.0.0"
    assert [each.get("sandbox", "") for each in result["interfaces"]] == ["", pod]
    assert result["interfaces"][result["ips"][0]["interface"]]["name"] == "eth0"


def test_check_sees_a_lost_address(driver: Libcni) -> None:
    """CHECK fails when the pod has lost its address."""
    pod = driver.host.pod("pod")
    driver.add(pod, caps=SHAPED)
    driver.host.run("ip", "-n", "pod", "address", "flush", "dev", "eth0", "scope", "global")
    assert driver.run("check", pod, caps=SHAPED).returncode != 0


def test_del_twice(driver: Libcni, before: Before) -> None:
    """The second DEL, which has no prevResult, succeeds as the first did."""
    pod = driver.host.pod("pod")
    driver.add(pod)
    driver.ok("del", pod)
    driver.ok("del", pod)
    assert before.left() == []


def test_port_mapping(driver: Libcni, before: Before, scratch: Path) -> None:
    """A host port is mapped for the pod through runtimeConfig in camel case."""
    needs("portmap", "iptables")
    host = driver.host
    (scratch / "index.html").write_text("page of the pod")
    pod = host.pod("pod")
    driver.add(pod, caps=WEB)
    with host.daemon(*host.inside(pod, busybox(), "httpd", "-f", "-p", "80", "-h", str(scratch))):
        assert host.fetch("127.0.0.1", 8080) == "page of the pod"
    driver.ok("del", pod, caps=WEB)
    assert before.left() == []
