"""cnitool, the CNI project's own client, on the conflist that install-cni ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from .conftest import needs
from .host import OUTSIDE, PTP_UPLINK, Host, busybox
from .installed import Before, Installed
from .libcni import SHAPED, WEB, Libcni, address_of

ALL_VERSIONS = ("1.0.0", "1.1.0")


@pytest.fixture
def shipped(cnitool: Path, host: Host, net: Installed) -> Libcni:
    """cnitool on the configuration as it was installed."""
    return Libcni(cnitool, host, net, net.conf_dir)


@pytest.fixture
def newest(cnitool: Path, host: Host, net: Installed, scratch: Path) -> Libcni:
    """cnitool on our part of the configuration alone, where no older plugin holds the version down."""
    return Libcni(cnitool, host, net, net.variant(scratch / "net.d", [net.main], ALL_VERSIONS))


def test_add_check_del(cnitool: Path, any_host: Host, net: Installed) -> None:
    """A pod added through the shipped conflist is reachable and passes CHECK, and DEL leaves nothing."""
    before, tool = Before.of(any_host, net), Libcni(cnitool, any_host, net, net.conf_dir)
    pod = any_host.pod("pod")
    address = address_of(tool.add(pod, caps=SHAPED))
    assert net.owns(address)
    assert any_host.ping(address)
    tool.ok("check", pod, caps=SHAPED)
    tool.ok("del", pod, caps=SHAPED)
    assert before.left() == []


def test_two_pods_reach_each_other(cnitool: Path, any_host: Host, net: Installed) -> None:
    """Pods of one host ping each other, with and without a default route on the host."""
    tool = Libcni(cnitool, any_host, net, net.conf_dir)
    pods = [any_host.pod("pod-a"), any_host.pod("pod-b")]
    here, there = (address_of(tool.add(pod)) for pod in pods)
    assert here != there
    assert any_host.ping(there, netns=pods[0])
    assert any_host.ping(here, netns=pods[1])


def test_a_pod_reaches_the_outside(shipped: Libcni) -> None:
    """A pod reaches what lies behind the host's default route, and is reached from there."""
    pod = shipped.host.pod("pod")
    address = address_of(shipped.add(pod))
    assert shipped.host.ping(PTP_UPLINK[1], netns=pod)
    assert shipped.host.ping(address, netns=f"/run/netns/{OUTSIDE}")


def test_check_fails_after_del(newest: Libcni) -> None:
    """A CHECK of what is no longer attached is an error."""
    pod = newest.host.pod("pod")
    newest.add(pod)
    newest.ok("check", pod)
    newest.ok("del", pod)
    assert newest.run("check", pod).returncode != 0


def test_del_twice_and_never_added(shipped: Libcni, before: Before) -> None:
    """DEL succeeds again, and for a namespace that never had an ADD or does not exist."""
    pod = shipped.host.pod("pod")
    shipped.add(pod)
    for netns in (pod, pod, shipped.host.pod("stranger"), "/run/netns/missing"):
        shipped.ok("del", netns)
    assert before.left() == []


def test_del_after_the_namespace_is_gone(shipped: Libcni, before: Before) -> None:
    """DEL frees the address and the host's side although the pod's namespace was removed first."""
    pod = shipped.host.pod("pod")
    shipped.add(pod)
    shipped.host.run("ip", "netns", "delete", "pod")
    shipped.ok("del", pod)
    assert before.left() == []


def test_add_twice_keeps_the_first(shipped: Libcni) -> None:
    """A second ADD of a live attachment is refused, and the first one keeps its address and its connection."""
    pod = shipped.host.pod("pod")
    address = address_of(shipped.add(pod))
    records = shipped.installed.records()
    assert shipped.run("add", pod).returncode != 0
    assert shipped.installed.records() == records
    assert shipped.host.ping(address)


def test_a_new_libcni_picks_1_1_0(newest: Libcni) -> None:
    """The result is of version 1.1.0 when the client's libcni picks it from cniVersions."""
    assert newest.add(newest.host.pod("pod"))["cniVersion"] == "1.1.0"


def test_status(newest: Libcni) -> None:
    """STATUS of a node with free addresses is success."""
    newest.ok("status", "/run/netns/none")


def test_status_of_the_shipped_conflist(shipped: Libcni) -> None:
    """STATUS through the whole shipped chain is success."""
    shipped.ok("status", "/run/netns/none")


def test_status_names_a_broken_store(newest: Libcni) -> None:
    """STATUS fails, with the reason in its text, when the datastore cannot be used."""
    broken = newest.installed.main | {"datastore_dir": "/proc/nowhere"}
    newest.installed.variant(newest.conf_dir, [broken], ALL_VERSIONS)
    done = newest.run("status", "/run/netns/none")
    assert done.returncode != 0
    assert "/proc/nowhere" in done.stdout + done.stderr


def test_gc_without_a_list_of_valid_attachments(newest: Libcni, before: Before) -> None:
    """cnitool's gc DELs what its cache knows; our GC, which gets no list then, leaves other live attachments alone."""
    known, unknown = newest.host.pod("known"), newest.host.pod("unknown")
    newest.add(unknown)
    kept = set(newest.installed.records())
    newest.host.run("rm", "-r", "/var/lib/cni/results")
    newest.add(known)
    assert set(newest.installed.records()) > kept
    newest.ok("gc", "/run/netns/none")
    assert set(newest.installed.records()) == kept
    newest.ok("del", unknown)
    assert before.left() == []


def test_gc_of_the_shipped_conflist(shipped: Libcni, before: Before) -> None:
    """gc through the whole shipped chain DELs every attachment of the cache."""
    for name in ("one", "two"):
        shipped.add(shipped.host.pod(name))
    shipped.ok("gc", "/run/netns/none")
    assert before.left() == []


def test_del_without_the_cache(shipped: Libcni, before: Before) -> None:
    """DEL needs no prevResult: it works when libcni's cache is lost."""
    pod = shipped.host.pod("pod")
    shipped.add(pod)
    shipped.host.run("rm", "-r", "/var/lib/cni/results")
    shipped.ok("del", pod)
    assert before.left() == []


@pytest.mark.parametrize("client", [None, f"/run/netns/{OUTSIDE}"], ids=["host", "outside"])
def test_port_mapping(shipped: Libcni, before: Before, scratch: Path, client: str | None) -> None:
    """A mapped host port serves the pod's page, to the host itself and to the outside, and is closed after DEL."""
    needs("portmap", "iptables")
    host = shipped.host
    (scratch / "index.html").write_text("page of the pod")
    pod = host.pod("pod")
    shipped.add(pod, caps=WEB)
    with host.daemon(*host.inside(pod, busybox(), "httpd", "-f", "-p", "80", "-h", str(scratch))):
        assert host.fetch(PTP_UPLINK[0], 8080, netns=client) == "page of the pod"
    shipped.ok("del", pod, caps=WEB)
    assert before.left() == []
    assert "8080" not in host.out("iptables-save")


def test_requested_address(shipped: Libcni, before: Before) -> None:
    """CNI_ARGS IP= gives exactly that address, a second pod asking for it is refused by name, and DEL frees it."""
    wanted = ".".join([*shipped.installed.pool.split(".")[:2], "3.77"])
    pod, rival = shipped.host.pod("pod"), shipped.host.pod("rival")
    assert address_of(shipped.add(pod, args=f"IgnoreUnknown=1;IP={wanted}")) == wanted
    refused = shipped.run("add", rival, args=f"IgnoreUnknown=1;IP={wanted}")
    assert refused.returncode != 0
    assert wanted in refused.stdout + refused.stderr
    shipped.ok("del", rival)
    assert shipped.host.ping(wanted)
    shipped.ok("del", pod)
    assert before.left() == []


def test_second_interface(shipped: Libcni, before: Before) -> None:
    """A second interface of the same pod has an address of its own, and outlives the first."""
    pod = shipped.host.pod("pod")
    other = replace(shipped, ifname="net1")
    first, second = address_of(shipped.add(pod)), address_of(other.add(pod))
    assert first != second
    assert shipped.host.ping(first)
    shipped.ok("del", pod)
    assert not shipped.host.ping(first)
    assert shipped.host.ping(second)
    other.ok("del", pod)
    assert before.left() == []
