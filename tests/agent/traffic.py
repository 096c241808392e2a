"""The verbs of a soak: what is shared, how a verb is called, and a worker that draws one after the other."""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cni_calico.errors import ALREADY_ATTACHED, DRIFT, TRY_AGAIN_LATER
from tests.agent.kit import DUAL, NOWHERE, Site
from tests.netns.machine import CLONE_NEWNET, Json, Netns

SLOTS = 4  # pods of one worker
FUTURE = 6  # generations of a pod that a GC, which takes its time, must not touch
WAYS = (("agent", 88), ("no Python", 8), ("plugin", 4))
NEW, HAVING = (("add", 78), ("abandoned", 6), ("delete", 6), ("status", 7), ("gc", 3)), (
    ("check", 30), ("delete", 50), ("add again", 6), ("status", 10), ("gc", 3), ("netns gone", 1))
NO_RESULT = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/none"}],
             "ips": [{"address": "192.0.2.1/32", "interface": 0}]}


class Wrong(Exception):
    """A verb did what it must not."""


@dataclass
class Slot:
    """A pod's place: its namespace, its present identity, and its result while it is attached."""

    name: str
    netns: Netns
    generation: int = 0
    result: Json | None = None
    is_doubtful: bool = False  # an agent was ended during its ADD

    @property
    def container(self) -> str:
        return f"{self.name}-{self.generation}"


@dataclass
class Soak:
    """Everything that workers, killer and judge share."""

    site: Site
    options: argparse.Namespace
    lock: threading.Lock = field(default_factory=threading.Lock)
    slots: list[Slot] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    ghosts: list[str] = field(default_factory=list)
    graves: list[Netns] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)
    done: int = 0
    disturbances: int = 0  # odd while an agent is being ended
    begun: float = field(default_factory=time.monotonic)
    is_over: threading.Event = field(default_factory=threading.Event)

    def claim(self) -> int:
        """Return the number of the next operation, 0 when there are no more."""
        with self.lock:
            if self.done >= self.options.operations or self.is_over.is_set():
                return 0
            self.done += 1
            return self.done

    def fail(self, text: str) -> None:
        with self.lock:
            self.failures.append(text)
        print(f"WRONG after {time.monotonic() - self.begun:.1f} s: {text}", flush=True)
        if len(self.failures) >= self.options.failures:
            self.is_over.set()

    def valid(self) -> list[Json]:
        """Return every attachment that may exist, now or while a GC runs; none of the ghosts."""
        with self.lock:
            names = set(self.used)
            names |= {f"{slot.name}-{slot.generation + more}" for slot in self.slots for more in range(FUTURE)}
        return [{"containerID": name, "ifname": "eth0"} for name in sorted(names)]

    def take(self, container: str, result: Json) -> None:
        """Note whose addresses these are; raises Wrong when they are somebody's."""
        with self.lock:
            for ip in result["ips"]:
                address = ip["address"].partition("/")[0]
                if address in self.owners:
                    raise Wrong(f"{address} was given to {container} while {self.owners[address]} has it")
                self.owners[address] = container

    def drop(self, container: str) -> None:
        with self.lock:
            self.owners = {address: who for address, who in self.owners.items() if who != container}


class Caller:
    """Runs verbs as a runtime does."""

    def __init__(self, soak: Soak, dice: random.Random) -> None:
        self.soak, self.dice = soak, dice

    def require(self, verb: str, code: int, body: Json) -> None:
        if code:
            raise Wrong(f"{verb}: exit code {code}, {body}")

    def call(self, verb: str, container: str, netns: str, way: str = "", **conf: Any) -> tuple[int, Json]:
        """Run one verb; where there was neither agent nor Python, again with Python."""
        way = way or pick(self.dice, WAYS)
        process = self.start(verb, container, netns, way, **conf)
        began = time.monotonic()
        out, err = process.communicate(timeout=180)
        with self.soak.lock:
            self.soak.times[verb].append(time.monotonic() - began)
        try:
            body: Json = json.loads(out) if out else {}
        except ValueError:
            raise Wrong(f"{verb} printed {out!r}, {err!r}") from None
        if process.returncode not in (0, 1) or (process.returncode and not body):
            raise Wrong(f"{verb} ended with {process.returncode}, {err[-1000:]!r}")
        if way == "no Python" and body.get("code") == TRY_AGAIN_LATER:
            with self.soak.lock:
                self.soak.counts["answered try again, as there was neither agent nor Python"] += 1
            return self.call(verb, container, netns, "agent", **conf)
        return process.returncode, body

    def start(self, verb: str, container: str, netns: str, way: str, **conf: Any) -> subprocess.Popen[bytes]:
        machine = self.soak.site.machine
        env = machine.environment(verb, container, netns)
        if way == "no Python":
            env["CALICO_PYTHON_PLUGIN"] = NOWHERE
        name = "calico.py" if way == "plugin" else "calico"
        process = subprocess.Popen([str(machine.bin_dir / name)], env=env, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(machine.conf(**conf)).encode())
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdin = None
        return process


class Worker(Caller):
    """Does one operation after the other, in the host's namespace."""

    def __init__(self, soak: Soak, number: int) -> None:
        super().__init__(soak, random.Random(f"{soak.options.seed} {number}"))
        self.number = number
        self.mine = [Slot(f"w{number}s{at}", Netns()) for at in range(SLOTS)]
        soak.slots += self.mine
        self.spare = Netns()
        self.ghosts = 0

    def run(self) -> None:
        enter(self.soak.site.machine.host)
        while number := self.soak.claim():
            slot = self.dice.choice(self.mine)
            what = pick(self.dice, HAVING if slot.result else NEW)
            try:
                self.do(what, slot)
            except Wrong as error:
                self.soak.fail(f"operation {number}, {what} of {slot.container}: {error}")
            except Exception as error:
                self.soak.fail(f"operation {number}, {what} of {slot.container}: {type(error).__name__} {error}")
            with self.soak.lock:
                self.soak.counts[what] += 1

    def do(self, what: str, slot: Slot) -> None:
        getattr(self, f"do_{what.replace(' ', '_')}")(slot)

    def do_add(self, slot: Slot) -> None:
        with self.soak.lock:
            self.soak.used.add(slot.container)
        conf: Json = {"ipam": DUAL} if self.dice.random() < 0.5 else {}
        before = self.soak.disturbances
        code, body = self.call("ADD", slot.container, slot.netns.path, **conf)
        self.require("ADD", code, body)
        slot.is_doubtful = bool(before % 2) or self.soak.disturbances != before
        self.soak.take(slot.container, body)
        slot.result = body

    def do_check(self, slot: Slot) -> None:
        self.require("CHECK", *self.call("CHECK", slot.container, slot.netns.path, prevResult=slot.result))

    def do_delete(self, slot: Slot) -> None:
        self.soak.drop(slot.container)
        way = pick(self.dice, WAYS)
        previous = {"prevResult": slot.result} if slot.result and self.dice.random() < 0.5 else {}
        slot.result = None
        code, body = self.call("DEL", slot.container, slot.netns.path, way=way, **previous)
        self.require("DEL", code, body)
        if way == "no Python":  # it may be done later, so that pod never comes back, nor its namespace
            with self.soak.lock:
                self.soak.used.add(slot.container)
                self.soak.graves.append(slot.netns)
            slot.netns = Netns()
            slot.generation += 1

    def do_add_again(self, slot: Slot) -> None:
        """An ADD of what is there is refused.

        Where an agent was ended during the first one, it may not have heard that its answer was taken: cut off, then.
        """
        before = self.soak.disturbances
        self.soak.drop(slot.container)
        code, body = self.call("ADD", slot.container, slot.netns.path)
        disturbed = before % 2 or self.soak.disturbances != before
        if code == 0 and (disturbed or slot.is_doubtful):
            slot.result, slot.is_doubtful = body, bool(disturbed)
        elif code != 1 or body.get("code") != ALREADY_ATTACHED:
            raise Wrong(f"an ADD of what is there: {code} {body}")
        assert slot.result
        self.soak.take(slot.container, slot.result)

    def do_netns_gone(self, slot: Slot) -> None:
        """The sandbox ends before its DEL."""
        slot.netns.close()
        self.soak.drop(slot.container)
        slot.result = None
        code, body = self.call("DEL", slot.container, "", way="agent")
        slot.netns = Netns()
        self.require("DEL", code, body)

    def do_abandoned(self, slot: Slot) -> None:
        """The runtime is killed, and its launcher with it; a DEL follows."""
        with self.soak.lock:
            self.soak.used.add(slot.container)
        process = self.start("ADD", slot.container, slot.netns.path, "agent")
        time.sleep(self.dice.uniform(0, 0.02))
        process.kill()
        process.communicate()
        code, body = self.call("CHECK", slot.container, slot.netns.path, prevResult=NO_RESULT)
        if code != 1 or body.get("code") not in (DRIFT, TRY_AGAIN_LATER):
            raise Wrong(f"a CHECK of what was never there: {code} {body}")
        self.require("DEL", *self.call("DEL", slot.container, slot.netns.path, way="agent"))

    def do_status(self, _: Slot) -> None:
        self.require("STATUS", *self.call("STATUS", "", "", way="agent"))

    def do_gc(self, _: Slot) -> None:
        """Collect; every other time there is something that belongs to nobody."""
        if self.dice.random() < 0.5:
            self.spare.close()
            self.spare = Netns()
            self.ghosts += 1
            ghost = f"ghost{self.number}-{self.ghosts}"
            with self.soak.lock:
                self.soak.ghosts.append(ghost)
            self.require("ADD", *self.call("ADD", ghost, self.spare.path, way="agent"))
        valid: Mapping[str, Any] = {"cni.dev/valid-attachments": self.soak.valid()}
        self.require("GC", *self.call("GC", "", "", way="agent", **valid))


def enter(netns: Netns) -> None:
    """Move the calling thread, and what it starts, into a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(netns.fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def pick(dice: random.Random, what: Sequence[tuple[str, int]]) -> str:
    return dice.choices([name for name, _ in what], [weight for _, weight in what])[0]
