"""The disk is full under the agent: what it cannot write it takes back, and goes on when there is room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cni_calico.errors import DATASTORE, NOT_AVAILABLE
from tests.netns.machine import Machine

from .kit import DUAL, NOWHERE, Agent, Site

ONLY_AGENT = {"CALICO_PYTHON_PLUGIN": NOWHERE}
MOUNT = 'mount -t tmpfs -o "$1" tmpfs /mnt && echo mounted && exec cat'
SIZE = 192 << 10


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small file system in a mount namespace of one process, with which it goes."""
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNT,
               "sh", f"size={SIZE},mode=700"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"mounted\n"
        yield Path(f"/proc/{holder.pid}/root/mnt")
        holder.kill()


@pytest.fixture
def site(bin_dir: Path, tmp_path: Path, disk: Path) -> Iterator[Site]:
    found = Site(Machine(bin_dir, disk / "datastore"), tmp_path)
    yield found
    found.close()


def fill(disk: Path, left: int) -> Path:
    """Fill it up but for so many pages; return what has to be removed to make room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, os.fstat(file.fileno()).st_size - left * 4096))
    return ballast


@pytest.mark.parametrize("left", [0, 1, 2, 5, 9])
def test_full(site: Site, agent: Agent, disk: Path, left: int) -> None:
    """Of twenty ADDs at once those that find no room fail and leave nothing; DELs go on; then there is room again."""
    first = [site.machine.pod() for _ in range(4)]
    for pod in first:
        site.machine.add(pod, ipam=DUAL)
    ballast = fill(disk, left)
    pods = [site.machine.pod() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda pod: site.machine.call("ADD", pod, env=ONLY_AGENT, ipam=DUAL), pods))
    failed = [answer for answer in answers if answer.code]
    print(f"{left} pages: {len(failed)} of 20 failed")
    assert failed
    assert {answer.error["code"] for answer in failed} == {DATASTORE}
    assert site.machine.call("STATUS", None, env=ONLY_AGENT).error["code"] == NOT_AVAILABLE
    for pod, answer in zip(pods, answers, strict=True):
        if answer.code == 0:
            pod.results["eth0"] = answer.ok
            site.whole(pod, ipam=DUAL)
    for pod in first:
        site.whole(pod, ipam=DUAL)
    assert len(site.machine.veths()) == 24 - len(failed)
    answers = [site.machine.call("DEL", pod, env=ONLY_AGENT, ipam=DUAL) for pod in first[:2]]
    ballast.unlink()
    for pod in (*first[:2], *pods[:10]):
        site.machine.delete(pod, env=ONLY_AGENT)
    for pod in pods[:5]:
        site.machine.add(pod, env=ONLY_AGENT, ipam=DUAL)
        site.whole(pod, ipam=DUAL)
    for pod in (*first, *pods):
        site.machine.delete(pod, env=ONLY_AGENT)
    site.empty()
