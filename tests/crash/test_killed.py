"""SIGKILL as an ADD or a DEL enters each of the system calls by which it changes its datastore, and after the last.

A call that is entered when the signal comes is not carried out: this is the state after each call before it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from .kit import ONE_BLOCK, Host, recovers
from .reader import TOO_MANY, UNFINISHED, findings, held
from .trace import Event, kill_before, read, strace

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")

WORKERS = os.cpu_count() or 1


@pytest.fixture
def prepared(memory: Path) -> Iterator[Host]:
    """A node with three attachments, whose next ADD fits its blocks, and the one after that takes new ones."""
    host = Host(memory / "prepared/datastore")
    for container in ("a", "b", "c"):
        host.call("ADD", container)
    yield host
    shutil.rmtree(host.datastore.parent)


@pytest.fixture
def small(memory: Path) -> Iterator[Host]:
    """A node with one attachment, whose blocks are all that the pools have."""
    host = Host(memory / "small/datastore", pool=ONE_BLOCK)
    host.call("ADD", "a")
    yield host
    shutil.rmtree(host.datastore.parent)


def copy_of(host: Host, name: str) -> Host:
    there = host.datastore.parent / name / "datastore"
    shutil.copytree(host.datastore, there)
    return replace(host, datastore=there)


@dataclass(frozen=True)
class Killed:
    """The calls at which a verb was killed, and all that was found wrong after one or another."""

    events: list[Event]
    found: str

    def calls(self, name: str, where: str = "") -> int:
        return sum(event.call == name and where in event.path for event in self.events)


def killed_everywhere(host: Host, verb: str, container: str) -> Killed:
    """Kill the verb at each of its calls, each time on a copy of the datastore."""
    log, traced = host.datastore.parent / "log", copy_of(host, "traced")
    assert traced.run(verb, container, *strace(log)).code == 0
    events = [event for event in read(log, traced.datastore) if event.changes]
    live = {address: holder for address, holder in held(host.datastore).items() if holder != container}
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(partial(killed_at, host, traced, verb, container, live), range(len(events)), events))
    recovers(traced, live, container)
    return Killed(events, "\n".join(found))


def killed_at(host: Host, traced: Host, verb: str, container: str, live: dict[str, str], at: int, event: Event) -> str:
    mine = copy_of(host, str(at))
    here = replace(event, path=event.path.replace(str(traced.datastore), str(mine.datastore)))
    log = mine.datastore.parent / "log"
    answer = mine.run(verb, container, *kill_before(here, log))
    assert answer.code == -signal.SIGKILL, (at, event)
    *_, last, end = log.read_text().splitlines()
    assert f" {event.call}(" in last, (event, last)
    assert here.path in last, (event, last)
    assert "killed by SIGKILL" in end
    assert not answer.body or "/.held/" in event.path  # that is let go behind the answer
    found = findings(mine.datastore)
    recovers(mine, live, container)
    shutil.rmtree(mine.datastore.parent)
    return "\n".join(found)


def test_an_add_from_an_own_block(prepared: Host) -> None:
    killed = killed_everywhere(prepared, "ADD", "killed")
    assert killed.calls("rename") >= 3
    assert {event.call for event in killed.events} >= {"openat", "flock", "write", "close"}
    assert not killed.calls("fsync")
    assert TOO_MANY in killed.found


def test_an_add_that_claims_blocks(prepared: Host) -> None:
    prepared.call("ADD", "d")
    killed = killed_everywhere(prepared, "ADD", "killed")
    assert killed.calls("rename") >= 9
    assert UNFINISHED in killed.found
    assert TOO_MANY in killed.found


def test_a_del_from_shared_blocks(prepared: Host) -> None:
    killed = killed_everywhere(prepared, "DEL", "b")
    assert killed.calls("rename") >= 2
    assert killed.calls("unlink") >= 1
    assert TOO_MANY in killed.found


def test_a_del_of_a_blocks_last_address(prepared: Host) -> None:
    for container in ("d", "e"):
        prepared.call("ADD", container)
    assert killed_everywhere(prepared, "DEL", "e").calls("rename") >= 2


def test_a_del_whose_addresses_rest(prepared: Host) -> None:
    prepared.cool_down(600)
    assert killed_everywhere(prepared, "DEL", "b").calls("rename") >= 2


def test_an_add_that_takes_another_nodes_empty_block(small: Host) -> None:
    """The block leaves its node and becomes this one's in steps; it is always somebody's, or to be had."""
    small.call("DEL", "a")
    late = replace(small, node="n2").under_clock(seconds=120)
    killed = killed_everywhere(late, "ADD", "killed")
    assert killed.calls("unlink", "/n1/") >= 1
    assert "/n1/" in killed.found
    assert "/n2/" in killed.found


def test_an_add_from_another_nodes_block(small: Host) -> None:
    killed = killed_everywhere(replace(small, node="n2"), "ADD", "killed")
    assert killed.calls("rename") >= 3
    assert TOO_MANY in killed.found
