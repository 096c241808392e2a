"""An agent killed at each of its changing system calls: whoever asked gets an answer, one address and one wire."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datastore.file import FileStore
from tests.netns.machine import Json

from .kit import DUAL, Agent, Site, Threads, ended, seeded, tracing, untraced, wait_until

QUIET: Json = {"ipam": DUAL, "log_level": "error"}  # each line of the log is a write
CALLS = ("sendto", "setns", "rename", "unlink", "write")  # netlink and the answer, namespaces, records, locks
ROUNDS = 4
LOT = 20


def workers(agent: Agent) -> tuple[int, list[str]]:
    """Return the threads that serve, as strace takes them: one, and options for the others."""
    first, *others = sorted(Threads(agent.pid).ids() - {agent.pid})
    return first, [option for thread in others for option in ("-p", str(thread))]


def calls_of(site: Site, tmp_path: Path, verb: str) -> dict[str, int]:
    """Return how often a verb makes each of the calls."""
    agent, pod, log = site.agent().start(), site.machine.pod(), tmp_path / "strace-count"
    if verb != "ADD":
        site.machine.add(pod, **QUIET)
    first, others = workers(agent)
    strace = tracing(agent, log, *others, "-e", f"trace={','.join(CALLS)}", thread=first)
    assert site.machine.call(verb, pod, **QUIET).code == 0
    assert agent.served(verb) == 1
    untraced(strace)
    site.machine.delete(pod, **QUIET)
    assert agent.stop() == 0
    names = re.findall(r"^(?:\d+ +)?(\w+)\(", log.read_text(), re.M)
    return {name: names.count(name) for name in CALLS}


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize("call", CALLS)
def test_at_each_call(site: Site, tmp_path: Path, verb: str, call: str) -> None:
    """The plugin does, or does again, what the agent died of; it takes back what the agent had made."""
    neighbour, killed = site.machine.pod(), 0
    site.machine.add(neighbour, **QUIET)
    for number in range(1, calls_of(site, tmp_path, verb)[call] + 1):
        agent, pod = site.agent().start(), site.machine.pod()
        if verb == "DEL":
            site.machine.add(pod, **QUIET)
        first, others = workers(agent)
        inject = f"inject={call}:signal=KILL:when={number}"
        strace = tracing(agent, tmp_path / "strace", *others, "-e", f"trace={call}", "-e", inject, thread=first)
        answer = site.machine.call(verb, pod, **QUIET)
        assert answer.code == 0, (number, answer.body, answer.stderr)
        if verb == "ADD":
            pod.results["eth0"] = answer.ok
            site.whole(pod, **QUIET)
            assert len(site.machine.veths()) == 2
            site.machine.delete(pod, **QUIET)
        else:
            untraced(strace)
        killed += ended(agent)
        agent.close()
        untraced(strace)
        site.machine.delete(pod, **QUIET)
        assert set(site.machine.allocated().values()) == {neighbour.container_id}, number
        pod.netns.close()
    assert killed or (verb, call) in (("DEL", "setns"), ("DEL", "write")), f"no {call} of a {verb} killed the agent"
    site.whole(neighbour, **QUIET)
    site.machine.delete(neighbour, **QUIET)
    site.empty()


def test_within_a_lot(site: Site, tmp_path: Path) -> None:
    """Killed anywhere while many pods' changes are written together: each gets its own, and gives it back."""
    dice = seeded("killed within a lot")
    pods = [site.machine.pod() for _ in range(LOT)]
    FileStore(str(site.machine.datastore)).create("/calico/any", {})
    for number in range(ROUNDS):
        for verb in ("ADD", "DEL"):
            agent, when = site.agent().start(), dice.randrange(1, 12)
            call = dice.choice(["rename", "unlink", "sendto", "rename"])
            with FileStore(str(site.machine.datastore)).exclusive():
                started = [site.start(verb, pod, ipam=DUAL) for pod in pods]
                wait_until(lambda one=agent: one.status()["inFlight"] == LOT + 1)  # type: ignore[misc]
                first, others = workers(agent)
                strace = tracing(agent, tmp_path / "strace", *others, "-e", f"trace={call}", "-e",
                                 f"inject={call}:signal=KILL:when={when}", thread=first)
            answers = [site.finish(process) for process in started]
            print(number, verb, call, when, "killed" if ended(agent) else "not killed")
            agent.close()
            untraced(strace)
            assert [answer.code for answer in answers] == [0] * LOT, [answer.body for answer in answers if answer.code]
            site.sound()
            if verb == "ADD":
                for pod, answer in zip(pods, answers, strict=True):
                    pod.results["eth0"] = answer.ok
                given = {address: pod.container_id for pod in pods for address in pod.addresses()}
                assert len(given) == 2 * LOT
                assert site.machine.allocated() == given
                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(lambda pod: site.whole(pod, ipam=DUAL), pods))
                assert len(site.machine.veths()) == LOT
        site.empty()


@pytest.mark.parametrize("call", ["sendto", "rename", "unlink"])
def test_a_collection_at_each_call(site: Site, tmp_path: Path, call: str) -> None:
    """The plugin finishes what the agent had begun to collect, and nothing is left: no lock file either."""
    number, was_killed = 0, True
    nobody: Json = {"cni.dev/valid-attachments": []}
    while was_killed:
        number += 1
        agent, pod = site.agent().start(), site.machine.pod()
        site.machine.add(pod, **QUIET)
        first, others = workers(agent)
        strace = tracing(agent, tmp_path / "strace", *others, "-e", f"trace={call}", "-e",
                         f"inject={call}:signal=KILL:when={number}", thread=first)
        answer = site.machine.call("GC", None, **QUIET, **nobody)
        assert answer.code == 0, (number, answer.body)
        if was_killed := ended(agent):
            strace.wait()
        untraced(strace)
        agent.close()
        site.empty()
    assert number > 1, f"no {call} of a GC killed the agent"
