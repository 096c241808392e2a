"""The power goes at any moment of a node's ADDs and DELs: the next boot has what must last, and no pod that is gone.

Real processes are traced, and disks that the model of tests/crash/disk.py can be left with are made and used. Pods' own
records are not synced (datastore/keys.py, outlives_boot), so that they may be in any mixture of states. That the tests
would notice is shown by leaving out what makes the datastore durable, and what sets it right.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from unittest import mock

import pytest

from .disk import Disk, Tree, materialise
from .kit import ROOT, Host, starts_anew
from .reader import held
from .trace import Event, read, strace

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")

# Two pools and their first blocks; a block of pods and of who is none, and others of pods only; new blocks claimed;
# addresses given back and given again. Who is known by a container id alone is given back by the plugin's own DEL.
VERBS = (("ADD", "a"), ("tunnel", "t"), ("ADD", "b"), ("wired", "b"), ("ADD", "c"), ("ADD", "d"), ("wired", "d"),
         ("tunnel", "gone"), ("upgraded", "u"), ("ADD", "e"), ("no-tunnel", "gone"), ("DEL", "u"), ("DEL", "e"),
         ("DEL", "b"), ("unwired", "b"), ("ADD", "f"), ("DEL", "d"))
NO_PODS = {"t", "gone", "u"}
SAMPLES, SAMPLES_AT_END = 3, 12
FIRST = ("ADD", "DEL", "STATUS", "GC")  # what the runtime may come with first after the reboot
Kept = dict[str, str]


@dataclass(frozen=True)
class Verb:
    """A verb that was carried out: for whom, all it did, and who that is no pod had which address before and after."""

    container: str
    events: list[Event]
    before: Kept
    after: Kept


@dataclass(frozen=True)
class Cut:
    """A disk after a power cut: who that is no pod must have which address on it, and how many pools there must be."""

    tree: Tree
    kept: Kept
    in_flight: str
    pools: int
    when: str


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The durable directory that the datastore is made in."""
    return tmp_path_factory.mktemp("traced")


@pytest.fixture(scope="module")
def traces(base: Path) -> list[Verb]:
    host, log, found = Host(base / "datastore"), base.parent / f"{base.name}.log", []
    for verb, container in VERBS:
        before = no_pods(host.datastore)
        if verb in ("ADD", "DEL"):
            assert host.run(verb, container, *strace(log)).code == 0
        else:
            command = [*strace(log), sys.executable, "-m", "tests.crash.deeds", verb, str(host.datastore), container]
            subprocess.run(command, cwd=ROOT, env=host.environment("", ""), check=True)
        found.append(Verb(container, read(log, base), before, no_pods(host.datastore)))
    return found


def no_pods(datastore: Path) -> Kept:
    return {address: holder for address, holder in held(datastore).items() if holder in NO_PODS}


def cuts(base: Path, traces: list[Verb]) -> Iterator[Cut]:
    """Yield disks after each event of all verbs, none twice for the same duty; more after each verb."""
    disk, seen = Disk(base), set[tuple[object, ...]]()
    for verb in traces:
        lost = {address: holder for address, holder in verb.before.items() if holder != verb.container}
        for event in [*verb.events, None]:
            if event:
                disk.apply(event)
            duty = (lost, verb.container) if event else (verb.after, "")
            samples = SAMPLES if event else SAMPLES_AT_END
            for tree in disk.cuts(samples, len(seen)) if event is None or event.changes else ():
                key = (*sorted(tree.items()), str(duty))
                if key not in seen:
                    seen.add(key)
                    made = event is None or verb is not traces[0]
                    yield Cut(tree, *duty, 2 * made, f"after {event or 'the end'} of the verb for {verb.container}")


def single_states(base: Path, traces: list[Verb]) -> Iterator[Cut]:
    """Yield disks at the end where all is as it was last but one file, or one name."""
    disk = Disk(base)
    for verb in traces:
        for event in verb.events:
            disk.apply(event)
    for number, tree in enumerate(disk.singles()):
        yield Cut(tree, traces[-1].after, "", 2, f"at the end, single state {number}")


def pools(at: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (at / "datastore/calico/resources").rglob("ippools/*.json")}


def survive(found: Iterable[Cut], at: Path) -> int:
    """Make each disk and hold everybody to what must be true on it; return how many there were."""
    count = 0
    for cut, first in zip(found, cycle(FIRST), strict=False):
        materialise(cut.tree, at)
        try:
            configured = pools(at)
            assert len(configured) >= cut.pools
            starts_anew(Host(at / "datastore"), first, cut.kept, cut.in_flight)
            assert configured.items() <= pools(at).items()
        except Exception as error:
            error.add_note(f"power cut {cut.when}; then {first}")
            raise
        finally:
            shutil.rmtree(at)
        count += 1
    return count


def test_every_cut(base: Path, traces: list[Verb], memory: Path) -> None:
    assert survive(cuts(base, traces), memory / "cut") > 300


def test_every_single_state(base: Path, traces: list[Verb], memory: Path) -> None:
    """Each record by itself is old, absent, there again, empty, cut short or zeros, and all others are as they were."""
    assert survive(single_states(base, traces), memory / "single") > 50


def file_syncs(event: Event) -> bool:
    return event.call == "fsync" and event.path.endswith((".write", ".json"))


def directory_syncs(event: Event) -> bool:
    return event.call == "fsync" and not file_syncs(event)


def syncs_of_new_directories(event: Event) -> bool:
    return directory_syncs(event) and event.path.endswith(("/datastore", "/calico", "/v2", "/v3"))


@pytest.mark.parametrize("left_out", [file_syncs, directory_syncs, syncs_of_new_directories])
def test_a_store_that_does_not_sync_is_caught(
    base: Path, traces: list[Verb], memory: Path, left_out: Callable[[Event], bool]
) -> None:
    """Without the sync of what must last, of its directory, or of a new directory's name, it is lost."""
    careless = [replace(verb, events=[event for event in verb.events if not left_out(event)]) for verb in traces]
    with pytest.raises(AssertionError):
        survive((cut for cut in cuts(base, careless) if not cut.in_flight), memory / "careless")


@pytest.mark.parametrize("of", [cuts, single_states])
def test_a_boot_that_sets_nothing_right_is_caught(
    base: Path, traces: list[Verb], memory: Path, of: Callable[[Path, list[Verb]], Iterator[Cut]]
) -> None:
    with mock.patch("ipam.audit.repair.repair"), pytest.raises(AssertionError):
        survive(of(base, traces), memory / "left")
