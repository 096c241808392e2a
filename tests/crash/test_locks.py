"""The datastore's lock: a holder that hangs, and a lock file that somebody removes under its holder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cni_calico.errors import TRY_AGAIN_LATER

from .kit import ROOT, Answer, Host, finish, recovers
from .reader import findings, held
from .trace import Event, read, stop_at, strace

HOLDER = """
import sys
from datastore.file import FileStore
with FileStore(sys.argv[1]).exclusive():
    print(flush=True)
    input()
"""
IMPATIENT = 1000  # times as fast: a minute's wait is over in 60 ms

needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    found = Host(tmp_path / "datastore")
    found.call("ADD", "a")
    return found


def is_held_by(answer: Answer, pid: int) -> bool:
    assert answer.code == 1
    assert answer.body["code"] == TRY_AGAIN_LATER, answer.body
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    return f"was not free within 60 s; held by process {pid} ({name})" in answer.body["msg"]


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_holder_that_hangs_is_named(host: Host, verb: str) -> None:
    """Whoever waits in vain is told by whom, by number and name, and nothing has changed; then all goes on."""
    live = held(host.datastore)
    command = [sys.executable, "-c", HOLDER, str(host.datastore)]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)
        answer = host.under_clock(speed=IMPATIENT).run(verb, "a" if verb == "DEL" else "b")
        assert is_held_by(answer, holder.pid)
        assert held(host.datastore) == live
    finally:
        holder.kill()
        holder.communicate()
    recovers(host, live, "nobody")


def before_the_block(host: Host) -> Event:
    """Return the call by which an ADD begins to write a block, which it has read: the first address is chosen."""
    copy = Host(host.datastore.parent / "copy/datastore")
    shutil.copytree(host.datastore, copy.datastore)
    log = copy.datastore.parent / "log"
    assert copy.run("ADD", "first", *strace(log)).code == 0
    events = read(log, copy.datastore)
    at = next(number for number, event in enumerate(events) if event.call == "rename" and b"/assignment/" in event.text)
    event = next(event for event in reversed(events[:at]) if event.call == "openat" and "O_CREAT" in event.flags)
    return replace(event, path=str(host.datastore / ".write"))


def wait_for_stop(log: Path) -> int:
    """Wait until the traced process has been stopped; return its number."""
    for _ in range(1000):
        lines = log.read_text().splitlines() if log.exists() else []
        if lines and "stopped by SIGSTOP" in lines[-1]:
            return int(lines[-1].split()[0])
        time.sleep(0.01)
    raise AssertionError(f"it was not stopped: {log.read_text()}")


@needs_strace
@pytest.mark.parametrize("kill", [False, True])
def test_a_lock_file_removed_under_its_holder(host: Host, tmp_path: Path, kill: bool) -> None:
    """Another writer still waits for the one that is at work, and names it; no address is given twice."""
    log = tmp_path / "log"
    process = host.start("ADD", "first", *stop_at(before_the_block(host), log))
    try:
        pid = wait_for_stop(log)
        (host.datastore / ".lock").unlink()
        assert is_held_by(host.under_clock(speed=IMPATIENT).run("ADD", "second"), pid)
        if kill:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.killpg(process.pid, signal.SIGCONT)
        first = finish(process)
    live = held(host.datastore)
    second = host.call("ADD", "second").addresses
    assert not live.keys() & set(second)
    if not kill:
        assert {*first.addresses, *second} <= held(host.datastore).keys()
        assert findings(host.datastore) == []
    live = {address: holder for address, holder in held(host.datastore).items() if holder != "first"}
    recovers(host, live, "first")


def test_a_lock_file_removed_while_nobody_holds_it(host: Host) -> None:
    live = held(host.datastore)
    (host.datastore / ".lock").unlink()
    recovers(host, live, "nobody")
