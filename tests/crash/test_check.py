"""What `calicoctl ipam check` says after a kill: exactly what is wrong, which its repair then sets right."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from .kit import ROOT, Host
from .reader import findings, held
from .trace import kill_before, read, strace

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")

FOUND = re.compile(r"^  ((?:handle|affinity|block|record)-\w+: .*)$", re.MULTILINE)
AFFINITY, CIDR = r"/calico/ipam/v2/host/n1/ipv4/block/\S+", r"[0-9a-f.:]+/\d+"
# Which verb is killed as it puts which record in place (a DEL begins with its IPv4 block), and what is wrong then.
CASES = {
    "the handle is there, the block is not written":
        ("ADD", "new", "/assignment/ipv4/", rf"handle-empty: net\.new: it says 1 in {CIDR}, but no block holds"),
    "the block is claimed, but not there":
        ("ADD", "fifth", "/assignment/ipv4/", rf"affinity-stale: {AFFINITY}: its block {CIDR} is not there"),
    "the block is there, its claim not confirmed":
        ("ADD", "fifth", "/host/n1/ipv4/", rf"affinity-unfinished: {AFFINITY}: it was left in state pending"),
    "the block is free, the handle still counts it":
        ("DEL", "b", "/handle/", rf"handle-count: net\.b: it says 1 in {CIDR}, 1 in {CIDR}, blocks hold 1 in {CIDR}$"),
}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A node with three attachments in blocks of four."""
    found = Host(tmp_path / "datastore")
    for container in ("a", "b", "c"):
        found.call("ADD", container)
    return found


def check(host: Host, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "calicoctl", "ipam", "check", "--node", host.node, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                          env={"CALICO_DATASTORE_DIR": str(host.datastore), "PATH": os.environ["PATH"]})
    return done.returncode, done.stdout


def kill(host: Host, verb: str, container: str, record: str, log: Path) -> None:
    """Kill a verb as it puts a record in place: the last such record where a claim writes its own twice."""
    copy = replace(host, datastore=host.datastore.parent / "copy")
    shutil.copytree(host.datastore, copy.datastore)
    assert copy.run(verb, container, *strace(log)).code == 0
    renames = [event for event in read(log, copy.datastore) if event.call == "rename" and record in event.text.decode()]
    assert renames
    at = renames[-1] if "/host/" in record else renames[0]
    here = replace(at, path=at.path.replace(str(copy.datastore), str(host.datastore)))
    assert host.run(verb, container, *kill_before(here, log)).code == -signal.SIGKILL


def test_nothing_is_wrong(host: Host) -> None:
    code, said = check(host)
    assert code == 0, said
    assert "Check complete; found 0 problems." in said
    assert FOUND.findall(said) == []


@pytest.mark.parametrize("case", CASES)
def test_what_a_kill_left_is_told_and_repaired(host: Host, tmp_path: Path, case: str) -> None:
    verb, container, record, words = CASES[case]
    if container == "fifth":
        host.call("ADD", "d")
    kill(host, verb, container, record, tmp_path / "log")
    live = held(host.datastore)
    code, said = check(host)
    assert code == 3, said
    found = FOUND.findall(said)
    assert len(found) == 1 == len(findings(host.datastore)), said
    assert re.match(words, found[0]), said
    assert "Check complete; found 1 problem." in said
    code, said = check(host, "--repair")
    assert code == 0, said
    assert "Repaired: " in said
    assert findings(host.datastore) == []
    assert held(host.datastore) == live
