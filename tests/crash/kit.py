"""calico-ipam on a datastore of its own: called in this process, or run as one that can be traced and killed."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from cni_calico import skel
from cni_calico.node import BOOT_ID, boot_id
from datastore.file import FileStore
from ipam.__main__ import CALICO_IPAM
from ipam.audit.audit import audit
from ipam.audit.living import Living

from .reader import TOO_MANY, UNFINISHED, findings, held

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
POOL = {"CALICO_IPV4POOL_CIDR": "10.7.0.0/24", "CALICO_IPV4POOL_BLOCK_SIZE": "30",
        "CALICO_IPV6POOL_CIDR": "fd00:7::/120", "CALICO_IPV6POOL_BLOCK_SIZE": "126"}

ONE_BLOCK = {**POOL, "CALICO_IPV4POOL_CIDR": "10.7.0.0/30", "CALICO_IPV6POOL_CIDR": "fd00:7::/126"}


@dataclass
class Answer:
    """What calico-ipam said and how it ended."""

    code: int
    body: Json

    @property
    def addresses(self) -> list[str]:
        assert self.code == 0, self.body
        return [ip["address"].partition("/")[0] for ip in self.body["ips"]]


@dataclass
class Host:
    """A node whose datastore is this directory. `command` is what runs calico-ipam as a process."""

    datastore: Path
    node: str = "n1"
    pool: Mapping[str, str] = field(default_factory=lambda: POOL)
    command: tuple[str, ...] = (sys.executable, "-m", "ipam")
    prefix: tuple[str, ...] = ()
    ipam: Json = field(default_factory=lambda: {"assign_ipv6": "true"})
    boot: str = BOOT_ID  # the file that tells which boot it is in, for verbs in this process

    def rebooted(self, number: int = 1) -> Host:
        """Return the same host in another boot."""
        told = self.datastore.parent / f"boot-{number}"
        told.write_text(f"00000000-0000-0000-0000-{number:012}\n")
        return replace(self, boot=str(told))

    def conf(self) -> bytes:
        ipam = {"type": "calico-ipam", **self.ipam}
        return json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "ptp", "nodename": self.node, "ipam": ipam,
                           "datastore_dir": str(self.datastore)}).encode()

    def environment(self, verb: str, container: str) -> dict[str, str]:
        return {**self.pool, "CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0",
                "CNI_NETNS": "/none", "CNI_PATH": "/none", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}

    def under_clock(self, seconds: float = 0, speed: float = 1) -> Host:
        """Return the same host with another time of day, or one whose waits are over sooner (tests/crash/clock.py)."""
        return replace(self, command=(sys.executable, "-m", "tests.crash.clock", str(seconds), str(speed)))

    def cool_down(self, seconds: int) -> None:
        """Let released addresses rest."""
        value = {"strictAffinity": False, "autoAllocateBlocks": True, "ipCooldownSeconds": seconds}
        FileStore(str(self.datastore)).create("/calico/ipam/v2/config", value)

    def call(self, verb: str, container: str) -> Answer:
        """Carry out one verb in this process."""
        out = io.BytesIO()
        with mock.patch("cni_calico.node.BOOT_ID", self.boot):
            code = skel.run(CALICO_IPAM, self.environment(verb, container), io.BytesIO(self.conf()), out)
        return Answer(code, json.loads(out.getvalue() or "{}"))

    def start(self, verb: str, container: str, *prefix: str) -> subprocess.Popen[bytes]:
        """Start one verb as a process, and a group of them where there is a prefix; its stdin has been written."""
        process = subprocess.Popen([*prefix, *self.prefix, *self.command], cwd=ROOT, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=self.environment(verb, container), start_new_session=True)
        assert process.stdin
        process.stdin.write(self.conf())
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, verb: str, container: str, *prefix: str) -> Answer:
        """Run one verb as a process to its end, whatever that is."""
        return finish(self.start(verb, container, *prefix))


def finish(process: subprocess.Popen[bytes]) -> Answer:
    out, _ = process.communicate(timeout=120)
    return Answer(process.returncode, json.loads(out or "{}"))


def addresses_of(datastore: Path, container: str) -> list[str]:
    return sorted(address for address, holder in held(datastore).items() if holder == container)


def expected(found: list[str], in_flight: str) -> bool:
    """Tell whether all that is wrong is what a verb for this container may leave when it is cut off."""
    mine = re.compile(f"handle net[.]{in_flight} counts [0-9]+ {TOO_MANY} of block ")
    return all(UNFINISHED in text or mine.match(text) for text in found)


def subjects_of_audit(host: Host) -> set[str]:
    """Return what the product's own audit finds something wrong with; every pod is said to be there."""
    living = Living(host.node, boot_id(), "", lambda _: True)
    return {finding.subject for finding in audit(FileStore(str(host.datastore)), lambda: living).findings}


def recovers(host: Host, live: dict[str, str], in_flight: str) -> None:
    """Go on after a crash that cut off a verb for one container, and hold everybody to what must be true.

    `live` is what was acknowledged before: address -> container, without those of the one in flight. It stays as it is
    through the next ADD, the repeated DEL of what was cut off, and another ADD; nothing of it is given again.
    """
    datastore, found = host.datastore, findings(host.datastore)
    assert expected(found, in_flight), found
    assert subjects_of_audit(host) == {text.split()[1] for text in found}, (found, subjects_of_audit(host))
    kept = {address: holder for address, holder in held(datastore).items() if holder != in_flight}
    assert kept == live
    before = held(datastore)
    given = host.call("ADD", "next").addresses
    assert len(given) == 2
    assert not before.keys() & set(given)
    assert host.call("DEL", in_flight).code == 0
    assert held(datastore) == live | dict.fromkeys(given, "next")
    again = host.call("ADD", in_flight).addresses
    assert not (live.keys() | set(given)) & set(again)
    for container in ("next", in_flight):
        assert host.call("DEL", container).code == 0
    assert held(datastore) == live
    found = findings(datastore)
    assert [text for text in found if UNFINISHED not in text] == []
    assert subjects_of_audit(host) == {text.split()[1] for text in found}, (found, subjects_of_audit(host))


def starts_anew(host: Host, first: str, kept: dict[str, str], in_flight: str = "") -> None:
    """Reboot after a power cut, and hold everybody to what must be true: every pod is gone, and nobody else.

    `first` is the verb that comes first. `kept` are the addresses of who is no pod, with the holders; `in_flight` is
    one who may have his by now, or still.
    """
    host = host.rebooted()
    if first != "ADD":
        assert host.call(first, "b" if first in ("DEL", "CHECK") else "").code == 0
    given: list[str] = []
    for container in ("next", "after", "a"):
        given += host.call("ADD", container).addresses
    assert len(set(given)) == 6
    now = {address: holder for address, holder in held(host.datastore).items() if address not in given}
    staying = {address: holder for address, holder in now.items() if holder != in_flight or address in kept}
    assert staying == kept, (staying, kept)
    assert_clean(host)
    for container in ("next", "b", "after", "a"):
        assert host.call("DEL", container).code == 0
    assert held(host.datastore) == now
    assert_clean(host)
    assert host.call("STATUS", "").code == 0


def assert_clean(host: Host) -> None:
    """Require that neither reader finds anything wrong."""
    wrong = findings(host.datastore), subjects_of_audit(host)
    assert wrong == ([], set()), wrong
