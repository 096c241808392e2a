"""Under load: the agent's memory over thousands of pods, and an ADD on a host that has as many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing

from bench import ground
from bench.fast_sides import OURS, Host, Installed, Pod, Side, one_at_a_time
from bench.fixture import Bar
from bench.rows import Json, row
from bench.starter import Job, Starter

MEMORY_MB = 60.0
FLAT = 1.02  # of resident memory that the C library may keep or give back
SAMPLES = 10
PODS_BAR = 1.2
AT_A_TIME = 20
MAKERS = 4  # how many namespaces are made at a time
CHUNK = 200


def memory(host: Host, pods: Sequence[str], cycles: int) -> list[Json]:
    """Add and delete so many pods, many at once; return the agent's memory after each tenth of them."""
    side, bar = host.side("memory"), Bar(f"{cycles:,} ADDs and DELs")
    samples = {0: host.agent.memory_mb()}
    for sample in range(1, SAMPLES + 1):
        for first in range((sample - 1) * cycles // SAMPLES, sample * cycles // SAMPLES, len(pods)):
            side.at_once([(pod, f"load-{first + index}") for index, pod in enumerate(pods)])
        samples[sample * cycles // SAMPLES] = host.agent.memory_mb()
        bar(sample, SAMPLES)
    first_sample, last = cycles // SAMPLES, SAMPLES * cycles // SAMPLES
    found = [_megabytes(f"RSS after {count:,}", mb["rss"]) for count, mb in samples.items()]
    found += [_megabytes(f"{name} after {last:,}", samples[last][name]) for name in ("pss", "private")]
    found.append(_megabytes(f"RSS after {last:,}, to that after {first_sample:,}", samples[last]["rss"],
                            samples[first_sample]["rss"], FLAT))  # fmt: skip
    found.append(_megabytes(f"RSS after {last:,}, to a limit of {MEMORY_MB:.0f}", samples[last]["rss"], MEMORY_MB, 1.0))
    return found


def _megabytes(what: str, value: float, base: float = 0.0, bar: float | None = None) -> Json:
    return row(what, [value], [base] if base else [], bar, unit="MB")


def crowded(installed: Installed, empty: Host, count: int, runs: int) -> list[Json]:
    """Return an ADD and a DEL on a host with so many pods, beside those on an empty one; the reference's, too.

    Every pod is a real one: a namespace, a veth, a route, a neighbour entry, an allocation and a record.
    """
    folder = installed.scratch / "netns"
    netns = ground.new_netns(folder / "crowded")
    pods = _new_pods(installed.starter, [str(folder / f"many-{number}") for number in range(count)])
    with closing(Host(installed, "crowded", ["nsenter", f"--net={netns}"])) as host:
        _attach(host.side("crowded host"), pods)
        ours, theirs = (empty.side(OURS), host.side(OURS)), (empty.reference(), host.reference())
        one_at_a_time((*ours, *theirs), ground.new_netns(folder / "one-more"), runs)
    found = []
    for verb, (none, full), bar in (("ADD", ours, PODS_BAR), ("DEL", ours, None), ("ADD", theirs, None),
                                    ("DEL", theirs, None)):  # fmt: skip
        found.append(row(f"{verb}, {none.what}, empty host", none.walls[verb]))
        found.append(row(f"{verb}, {full.what}, {count:,} pods", full.walls[verb], none.walls[verb], bar))
    return found


def _new_pods(starter: Starter, paths: Sequence[str]) -> list[Pod]:
    """Make namespaces at these paths."""
    bar = Bar(f"{len(paths):,} namespaces")
    for first in range(0, len(paths), CHUNK):
        chunk = paths[first : first + CHUNK]
        for path in chunk:
            with open(path, "wb"):
                pass
        command = [["unshare", f"--net={path}", "true"] for path in chunk]
        starter.run([Job(words, {"PATH": ground.SEARCH}) for words in command], MAKERS)
        bar(first + len(chunk), len(paths))
    return [(path, f"pod-{number}") for number, path in enumerate(paths)]


def _attach(side: Side, pods: Sequence[Pod]) -> None:
    """Attach all of them, for good."""
    results: list[Json] = []
    bar = Bar(f"{len(pods):,} pods")
    for first in range(0, len(pods), CHUNK):
        chunk = pods[first : first + CHUNK]
        results += map(json.loads, side.run("ADD", chunk, at_a_time=AT_A_TIME).answers)
        bar(first + len(chunk), len(pods))
    ground.require_distinct(side.what, results)
