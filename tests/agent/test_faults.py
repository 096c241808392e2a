"""A system call of the agent's fails: the verb may fail, the agent is as it was: threads, descriptors, places."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest

from .kit import DUAL, NOWHERE, Agent, Site, Threads, tracing, untraced, wait_until
from .test_killed import workers

ONLY_AGENT = {"CALICO_PYTHON_PLUGIN": NOWHERE}


def count(site: Site, agent: Agent, log: Path, call: str) -> int:
    """Return how often an ADD makes a call."""
    pod = site.machine.pod()
    first, others = workers(agent)
    strace = tracing(agent, log, *others, "-e", f"trace={call}", thread=first)
    site.machine.add(pod, env=ONLY_AGENT, ipam=DUAL)
    assert agent.served("ADD") == 2
    untraced(strace)
    site.machine.delete(pod, env=ONLY_AGENT)
    return len(re.findall(rf"^(?:\d+ +)?{call}\(", log.read_text(), re.M))


@pytest.mark.parametrize("call", ["setns", "sendto", "rename", "unlink", "flock", "socket"])
def test_each_call_fails_once(site: Site, agent: Agent, tmp_path: Path, call: str) -> None:
    """An ADD one of whose calls fails leaves nothing, and the same threads wire the next pods where they belong."""
    pod = site.machine.pod()
    site.machine.add(pod, env=ONLY_AGENT, ipam=DUAL)
    site.machine.delete(pod, env=ONLY_AGENT)
    calls = count(site, agent, tmp_path / "strace-count", call)
    before, namespaces = agent.at_rest()[0], homes(agent)
    assert len(namespaces) == 1
    for number in range(1, calls + 1):
        first, others = workers(agent)
        inject = f"inject={call}:error=ENOMEM:when={number}"
        strace = tracing(agent, tmp_path / "strace", *others, "-e", f"trace={call}", "-e", inject, thread=first)
        hit = site.machine.call("ADD", pod, ipam=DUAL)
        untraced(strace)
        print(call, number, hit.code, hit.body)
        if hit.code:
            assert hit.error["msg"]
        wait_until(lambda: homes(agent) == namespaces, why=f"a thread stays in a pod's namespace after {call} {number}")
        site.machine.delete(pod, env=ONLY_AGENT, ipam=DUAL)
        site.machine.add(pod, env=ONLY_AGENT, ipam=DUAL)
        site.whole(pod, ipam=DUAL)
        site.machine.delete(pod, env=ONLY_AGENT, ipam=DUAL)
        site.empty()
    assert len(agent.at_rest()[0]) <= len(before)
    assert agent.stop() == 0


def homes(agent: Agent) -> set[int]:
    """Return the network namespaces that the agent's threads are in."""
    found = set()
    for thread in Threads(agent.pid).ids():
        with suppress(FileNotFoundError):  # it has ended
            found.add(Path(f"/proc/{agent.pid}/task/{thread}/ns/net").stat().st_ino)
    return found
