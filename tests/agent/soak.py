"""Verbs in mixed order from many workers while the agent is killed and started again; then a judge counts what is left.

Each worker has some pods of its own, and draws what to do with one of them: ADD, CHECK, DEL, what must fail, an ADD
whose launcher is killed; by the launcher, by one that finds no Python, by the plugin itself. Run it with tests/soak.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from calico_node.client import AgentError
from calico_node.workers import SPARE_THREADS
from tests.agent.kit import DUAL, Agent, Site, Threads, descriptors, install, queued, wait_until
from tests.agent.traffic import Caller, Soak, Worker, Wrong, enter, pick
from tests.crash.reader import findings, held
from tests.netns.machine import Machine

REST_SECONDS = 60.0
KILLS = (("KILL", 60), ("TERM", 20), ("STOP, then KILL", 10), ("STOP, CONT, then KILL", 10))


class Killer:
    """Ends the agent so many times, evenly over the operations, and starts another."""

    def __init__(self, soak: Soak) -> None:
        self.soak, self.dice = soak, random.Random(f"{soak.options.seed} killer")
        self.agent: Agent = soak.site.agent().start()
        self.kills = 0

    def run(self) -> None:
        """Return when the workers are done."""
        soak, total, kills = self.soak, self.soak.options.operations, self.soak.options.kills
        told = 0
        while soak.done < total and not soak.is_over.is_set():
            if self.kills < kills and soak.done >= (self.kills + 1) * total * 0.95 / (kills + 1):
                self.kill()
            if soak.done >= told + total / 20:
                told = soak.done
                self.tell()
            time.sleep(0.01)

    def tell(self) -> None:
        seconds = time.monotonic() - self.soak.begun
        print(f"{self.soak.done:6} operations, {seconds:6.1f} s, {self.soak.done / seconds:5.0f}/s, "
              f"{self.kills:3} kills, {len(self.soak.owners):4} addresses held, "
              f"{len(queued(self.soak.site.queue)):3} queued, {len(self.soak.failures)} wrong", flush=True)

    def kill(self) -> None:
        """End the agent in some way, and start another, at once or a little later."""
        self.soak.disturbances += 1
        self.end()
        if self.dice.random() < 0.4:
            time.sleep(self.dice.uniform(0, 1.5))
        self.soak.site.agents.clear()
        self.agent = self.soak.site.agent().start()
        self.soak.disturbances += 1

    def end(self) -> None:
        how = pick(self.dice, KILLS)
        self.note_served()
        self.agent_may_have_died()
        if how == "TERM":
            code = self.agent.stop()
            if code:
                self.soak.fail(f"an agent told to stop ended with {code}")
        else:
            if "STOP" in how:
                self.agent.freeze()
                time.sleep(self.dice.uniform(0, 3.5))
            if "CONT" in how:
                self.agent.thaw()
                time.sleep(self.dice.uniform(0, 0.5))
            self.agent.kill()
        self.kills += 1
        with self.soak.lock:
            self.soak.counts[f"kills: {how}"] += 1

    def agent_may_have_died(self) -> None:
        assert self.agent.process
        if self.agent.process.poll() is not None:
            self.soak.fail(f"the agent ended by itself with {self.agent.process.returncode}")

    def note_served(self) -> None:
        """Add up what this agent has answered."""
        with suppress(AgentError, OSError):
            for verb, codes in self.agent.status()["requests"].items():
                self.soak.served[verb] += sum(codes.values())


def counted(site: Site, agent: Agent) -> dict[str, int]:
    """Return how many there are of everything that must be as before: an independent look at kernel, files, /proc."""
    host, store = site.machine.host, site.machine.datastore
    routes = [route for family in ("-4", "-6") for route in host.ip_json(family, "route", "show", "table", "all")
              if route.get("dev", "").startswith("cali")]

    def files(below: str) -> int:
        return sum(path.is_file() for path in (store / below).rglob("*"))

    return {
        "links": len(host.ip_json("link", "show")),
        "routes of pods": len(routes),
        "neighbours": len([entry for entry in host.ip_json("neigh", "show", "nud", "all")
                           if entry.get("dev", "").startswith("cali")]),
        "addresses in use": len(held(store)),
        "handles": files("calico/ipam/v2/handle"),
        "endpoint records": files("calico/resources/v3/projectcalico.org/workloadendpoints"),
        "attachments held": files(".held"),
        "unfinished writes": (store / ".write").exists(),
        "queue files": len(queued(site.queue)),
        "agent: descriptors": len(descriptors(agent.pid)),
        "agent: pods' namespaces": sum(name.startswith("net:") for name in descriptors(agent.pid)),
        "agent: threads": len(Threads(agent.pid).ids()),
        "agent: requests, connections": agent.status()["inFlight"] + agent.status()["connections"] - 2,
    }


def judge(soak: Soak, killer: Killer, before: Mapping[str, int]) -> None:
    """Take everything away, and count."""
    site, machine = soak.site, soak.site.machine
    last = Caller(soak, random.Random(0))
    every: Mapping[str, Any] = {"cni.dev/valid-attachments": soak.valid()}
    for path in (machine.datastore / ".held").glob("*"):  # of verbs that were cut off and never repeated
        os.utime(path, (0, 0))
    last.require("GC", *last.call("GC", "", "", way="agent", **every))
    left = sorted(set(held(machine.datastore).values()) & set(soak.ghosts))
    if left:
        soak.fail(f"GC left {left}")
    holders = Counter(held(machine.datastore).values())
    told = Counter(soak.owners.values())
    if holders != told:
        soak.fail(f"store and answers differ: store {dict(holders - told)}, answers {dict(told - holders)}")
    for slot in soak.slots:
        if slot.result:
            try:
                last.require("CHECK", *last.call("CHECK", slot.container, slot.netns.path, prevResult=slot.result))
                last.require("DEL", *last.call("DEL", slot.container, slot.netns.path, way="agent"))
            except Wrong as error:
                soak.fail(f"at the end, {slot.container}: {error}")
    with suppress(AssertionError):
        wait_until(lambda: not queued(site.queue), REST_SECONDS)
    killer.note_served()
    killer.agent.at_rest()
    after = counted(site, killer.agent)
    print(f"\n{'':30} {'before':>8} {'after':>8}")
    for name, count in before.items():
        allowed = count + (SPARE_THREADS if name == "agent: threads" else 0)
        verdict = "" if after[name] <= allowed else "  WRONG"
        print(f"{name:30} {count:8} {after[name]:8}{verdict}")
        if verdict:
            soak.failures.append(f"{name}: {after[name]}")
    found = findings(machine.datastore)
    print(f"{'findings in the datastore':30} {0:8} {len(found):8}{'  WRONG' if found else ''}")
    soak.failures += found
    if soak.failures:
        print("\nleft:", *machine.left(), *queued(site.queue), sep="\n  ")


def report(soak: Soak) -> None:
    print("\noperations:", ", ".join(f"{count} {what}" for what, count in sorted(soak.counts.items())))
    print("answered by agents that were asked before they ended:",
          ", ".join(f"{count} {verb}" for verb, count in sorted(soak.served.items())))
    print(f"{'whole launcher, ms':30} {'count':>8} {'median':>8} {'p99':>8} {'most':>8}")
    for verb, seconds in sorted(soak.times.items()):
        seconds.sort()
        middle, most = seconds[len(seconds) // 2], seconds[-1]
        print(f"{verb:30} {len(seconds):8} {middle * 1000:8.1f} {seconds[int(len(seconds) * .99)] * 1000:8.1f} "
              f"{most * 1000:8.1f}")


@contextmanager
def place(folder: Path) -> Iterator[Site]:
    site = Site(Machine(install(folder), folder / "datastore"), folder)
    try:
        yield site
    finally:
        site.close()


def warmed(site: Site, agent: Agent, workers: int) -> dict[str, int]:
    """Return what there is after a first burst of pods has come and gone."""
    pods = [site.machine.pod() for _ in range(min(workers, 16))]
    for verb in ("ADD", "DEL"):
        started = [site.start(verb, pod, ipam=DUAL) for pod in pods]
        for process in started:
            assert site.finish(process).code == 0, f"the first {verb} failed; see {site.said}"
    for pod in pods:
        pod.netns.close()
    agent.at_rest()
    found = counted(site, agent)
    return {**found, "agent: threads": min(found["agent: threads"], 4)}


def number(least: int) -> Any:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
        return int(text)

    return parse


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit codes: 0 nothing is wrong; 1 something is; 2 wrong command line.\n"
               "Example: tests/soak --operations 2000 --workers 8 --kills 5 --seed 7")
    parser.add_argument("--operations", type=number(1), default=20_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--workers", type=number(1), default=32, metavar="N", help="at a time; default: %(default)s")
    parser.add_argument("--kills", type=number(0), default=50, metavar="N", help="of the agent; default: %(default)s")
    parser.add_argument("--seed", default="1", metavar="TEXT", help="of all that is drawn; default: %(default)s")
    parser.add_argument("--failures", type=number(1), default=20, metavar="N",
                        help="end after so many; default: %(default)s")
    parser.add_argument("--keep", action="store_true", help="leave the datastore and the agents' log where they are")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if os.geteuid():
        print("tests/soak: network namespaces need root", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{options.operations} operations, {options.workers} workers, {options.kills} kills, seed {options.seed}",
          flush=True)
    folder = Path(tempfile.mkdtemp(prefix="calico-soak-"))
    try:
        with place(folder) as site:
            return soaked(site, options)
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            subprocess.run(["rm", "-rf", str(folder)], check=False)


def soaked(site: Site, options: argparse.Namespace) -> int:
    enter(site.machine.host)  # this thread's children, too, and nothing else of this process
    soak = Soak(site, options)
    killer = Killer(soak)
    before = warmed(site, killer.agent, options.workers)
    soak.begun = time.monotonic()
    workers = [Worker(soak, number) for number in range(options.workers)]
    try:
        threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        killer.run()
        for thread in threads:
            thread.join()
        killer.tell()
        judge(soak, killer, before)
    finally:
        soak.is_over.set()
    report(soak)
    print(f"\n{len(soak.failures)} wrong" if soak.failures else "\nnothing is wrong")
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
