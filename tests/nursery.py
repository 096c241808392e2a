"""Begins and ends agents for tests: a process that has imported all that `calico-node` imports, and forks.

So an agent begins in milliseconds, which matters where it is killed many times a second. What it then runs is the
command itself. Each line on stdin is a request, a JSON object, each line on stdout its answer:

    {"netns": path, "env": {name: value}, "arguments": [...], "log": path}   a new agent: {"pid": number}
    {"pid": number, "signal": number}                                        its end: {"code": number}

Agents die with this process, and it with the process that started it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

from calico_node.__main__ import main
from calico_node.agent import _warm_up

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
END_SECONDS = 60.0
UMASK = 0o077  # an agent must not depend on it
LIBC = ctypes.CDLL(None, use_errno=True)


def serve() -> None:
    die_with_parent()
    _warm_up()
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {"code": end(asked["pid"], asked["signal"])} if "pid" in asked else {"pid": begin(asked)}
        print(json.dumps(answer), flush=True)


def die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def begin(asked: dict[str, Any]) -> int:
    """Fork an agent; return its process id."""
    pid = os.fork()
    if not pid:
        try:
            become_agent(asked)
        finally:
            os._exit(70)
    return pid


def become_agent(asked: dict[str, Any]) -> None:
    die_with_parent()
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd, to in ((nowhere, 0), (log, 1), (log, 2)):
        os.dup2(fd, to)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    netns = os.open(asked["netns"], os.O_RDONLY)
    if LIBC.setns(netns, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(netns)
    os.umask(UMASK)
    os.chdir("/")
    os.environ.clear()
    os.environ.update(asked["env"])
    try:
        main(asked["arguments"])
    except SystemExit as end:
        os._exit(int(end.code or 0))


def end(pid: int, number: int) -> int:
    """Send an agent a signal and wait for its end; return its exit code, below 0 the signal's number."""
    os.kill(pid, number)
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGALRM  # it did not end in time


if __name__ == "__main__":
    serve()
