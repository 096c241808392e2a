"""What the agent leaves to the plugin, which then does it."""

from __future__ import annotations

from tests.netns.machine import Json, Netns

from .kit import Agent, Site


def test_a_foreign_ipam_plugin(site: Site, agent: Agent) -> None:
    """The plugin runs it; the agent has had no part in it."""
    pod = site.machine.pod()
    foreign = {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]], "dataDir": str(site.folder / "leases")}
    conf: Json = {"ipam": foreign, "cniVersion": "1.0.0"}
    site.machine.add(pod, **conf)
    assert pod.addresses()[0].startswith("10.88.0.")
    assert site.machine.check(pod, **conf).ok == {}
    site.machine.delete(pod, **conf)
    assert agent.status()["requests"] == {}
    assert agent.stop() == 0
    assert not list((site.folder / "leases/net").glob("10.*"))
    site.empty()


def test_another_network_namespace(site: Site) -> None:
    """An agent of another namespace wires nobody there: the wire is where the launcher is."""
    elsewhere = Netns()
    try:
        agent, pod = site.agent(netns=elsewhere.path).start(), site.machine.pod()
        site.machine.add(pod)
        site.whole(pod)
        assert len(site.machine.veths()) == 1
        assert [link["ifname"] for link in elsewhere.ip_json("link", "show")] == ["lo"]
        site.machine.delete(pod)
        assert agent.status()["requests"] == {}
    finally:
        elsewhere.close()
    site.empty()


def test_a_plugin_that_it_does_not_know(site: Site, agent: Agent) -> None:
    """A launcher by another name is `calico`; a request for something else is declined."""
    from calico_node.client import Declined

    pod = site.machine.pod()
    with agent.client() as client:
        try:
            client.ask(site.request("ADD", pod, plugin="flannel"), pod.netns.fd)
        except Declined as error:
            assert "flannel" in error.reason
        else:
            raise AssertionError("it was not declined")
    site.empty()
