"""An agent that is frozen at any point: the launcher goes on without it, and what thaws does nothing a second time."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from .kit import DUAL, Agent, Site, Threads, descriptors, state, tracing, untraced, wait_until

GIVEN_UP = 2.5  # seconds, after which a launcher has


def greeted(site: Site, agent: Agent, verb: str, pod: object, **more: object) -> subprocess.Popen[bytes]:
    """Start a launcher that is connected, and waits for its stdin."""
    settled(site, agent)
    before = set(descriptors(agent.pid))
    process = site.start(verb, pod, stdin=False, **more)  # type: ignore[arg-type]
    wait_until(lambda: any(name.startswith("socket:") for name in set(descriptors(agent.pid)) - before))
    return process


def settled(site: Site, agent: Agent) -> None:
    """Wait until a thawed agent has done whatever it does."""
    wait_until(lambda: agent.status()["connections"] == 1 and agent.status()["inFlight"] == 1)


def test_before_the_request(site: Site, agent: Agent) -> None:
    """Launchers find a frozen agent silent, use the plugin, and are not in its way when it thaws."""
    pod, later = site.machine.pod(), site.machine.pod()
    agent.freeze()
    site.machine.add(pod, ipam=DUAL)
    agent.thaw()
    settled(site, agent)
    assert agent.served("ADD") == 0
    site.whole(pod, ipam=DUAL)
    site.machine.add(later)
    assert agent.served("ADD") == 1
    site.machine.delete(pod)
    site.machine.delete(later)
    site.empty()


def test_after_the_greeting(site: Site, agent: Agent) -> None:
    """An ADD that the agent has not read is done by the plugin, and not again by the agent."""
    pod = site.machine.pod()
    process = greeted(site, agent, "ADD", pod)
    agent.freeze()
    site.give(process)
    pod.results["eth0"] = site.finish(process).ok
    agent.thaw()
    settled(site, agent)
    site.whole(pod)
    assert len(site.machine.veths()) == 1
    site.machine.delete(pod)
    site.empty()


def test_a_delete_is_not_carried_out_late(site: Site, agent: Agent) -> None:
    """A DEL that was given up does not end the pod's next life."""
    pod = site.machine.pod()
    site.machine.add(pod)
    process = greeted(site, agent, "DEL", pod)
    agent.freeze()
    site.give(process)
    assert site.finish(process).ok == {}
    site.machine.add(pod)
    agent.thaw()
    settled(site, agent)
    site.whole(pod)
    site.machine.delete(pod)
    site.empty()


@pytest.mark.parametrize("plugin", ["calico", "calico-ipam"])
def test_a_collection_is_not_carried_out_late(site: Site, agent: Agent, plugin: str) -> None:
    """A GC that was given up does not remove who came later, and is not in its list."""
    old, new = site.machine.pod(), site.machine.pod()
    assert site.machine.call("ADD", old, plugin=plugin).code == 0
    valid = {"cni.dev/valid-attachments": [{"containerID": old.container_id, "ifname": "eth0"}]}
    process = greeted(site, agent, "GC", old, plugin=plugin)
    agent.freeze()
    site.give(process, **valid)
    assert site.finish(process).ok == {}
    assert site.machine.call("ADD", new, plugin=plugin).code == 0
    agent.thaw()
    settled(site, agent)
    assert set(site.machine.allocated().values()) == {old.container_id, new.container_id}
    assert len(site.machine.veths()) == (2 if plugin == "calico" else 0)
    for pod in (old, new):
        site.machine.delete(pod, plugin=plugin)
    site.empty()


# Which call of a worker's: while it holds the attachment (before and after the pair is made), while it holds the
# datastore's lock, with the answer under way.
POINTS = [("ADD", "setns", 1), ("ADD", "sendto", 2), ("ADD", "rename", 1), ("ADD", "rename", 3), ("ADD", "sendto", -1),
          ("DEL", "sendto", 2), ("DEL", "rename", 1), ("DEL", "unlink", 1)]


@pytest.mark.parametrize(("verb", "call", "when", "thaws"), [
    *((*point, True) for point in POINTS), ("ADD", "rename", 1, False), ("DEL", "sendto", 2, False),
])
def test_in_the_middle(site: Site, tmp_path: Path, verb: str, call: str, when: int, thaws: bool) -> None:
    """The plugin waits for what the frozen agent holds, then does the verb; the agent, thawed, takes its own back."""
    agent, pod, neighbour = site.agent().start(), site.machine.pod(), site.machine.pod()
    site.machine.add(neighbour)
    site.machine.add(pod)
    if verb == "ADD":
        site.machine.delete(pod)
    number = when if when > 0 else calls(site, agent, tmp_path, verb, call)
    strace = stopping(agent, tmp_path, call, number)
    process = site.start(verb, pod)
    wait_until(lambda: state(agent.pid) in ("T", "t"), why=f"no {call} number {number}")
    time.sleep(GIVEN_UP)
    if thaws:
        untraced(strace)
        agent.thaw()
    else:
        agent.kill()
        untraced(strace)
    answer = site.finish(process)
    assert answer.code == 0, answer.body
    if thaws:
        settled(site, agent)
    if verb == "ADD":
        pod.results["eth0"] = answer.ok
        site.whole(pod)
    assert len(site.machine.veths()) == (2 if verb == "ADD" else 1)
    site.whole(neighbour)
    site.machine.delete(pod)
    site.machine.delete(neighbour)
    site.empty()


def calls(site: Site, agent: Agent, tmp_path: Path, verb: str, call: str) -> int:
    """Return how many of a call the verb makes."""
    log, pod = tmp_path / "strace-count", site.machine.pod()
    if verb != "ADD":
        site.machine.add(pod)
    strace = tracing(agent, log, "-e", f"trace={call}")
    assert site.machine.call(verb, pod).code == 0
    untraced(strace)
    lines = [line for line in log.read_text().splitlines() if not line.startswith(f"{agent.pid} ")]
    site.machine.delete(pod)
    return sum(f" {call}(" in line for line in lines)


def stopping(agent: Agent, tmp_path: Path, call: str, number: int) -> subprocess.Popen[bytes]:
    """Have the agent stop when a thread, other than that which serves the socket, makes a call."""
    threads = sorted(Threads(agent.pid).ids() - {agent.pid})
    more = [option for thread in threads[1:] for option in ("-p", str(thread))]
    return tracing(agent, tmp_path / "strace", *more, "-e", f"trace={call}", "-e",
                   f"inject={call}:signal=STOP:when={number}", thread=threads[0])
