"""The power goes at any moment of a node's first ADDs and DELs: what was acknowledged is there, the rest can be undone.

Real processes are traced, and every disk that the model of tests/crash/disk.py can be left with is made and used. That
the tests would notice is shown by leaving out of the traces what makes the datastore durable.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .disk import Disk, Tree, materialise
from .kit import Host, recovers
from .reader import held
from .trace import Event, read, strace

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")

# Two pools and their first blocks; the blocks filled; new ones claimed; addresses given back and given again.
VERBS = (("ADD", "a"), ("ADD", "b"), ("ADD", "c"), ("ADD", "d"), ("ADD", "e"), ("DEL", "e"), ("DEL", "b"), ("ADD", "f"))
SAMPLES = 8
NOBODY = "nobody"
Live = dict[str, str]


@dataclass(frozen=True)
class Verb:
    """A verb that was carried out: for whom, all it did, and who had which address before and after."""

    container: str
    events: list[Event]
    before: Live
    after: Live


@dataclass(frozen=True)
class Cut:
    """A disk after a power cut, who must have which address on it, and whose verb had not been acknowledged."""

    tree: Tree
    live: Live
    in_flight: str
    when: str


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The durable directory that the datastore is made in."""
    return tmp_path_factory.mktemp("traced")


@pytest.fixture(scope="module")
def traces(base: Path) -> list[Verb]:
    host, log, found = Host(base / "datastore"), base.parent / f"{base.name}.log", []
    for verb, container in VERBS:
        before = held(host.datastore)
        assert host.run(verb, container, *strace(log)).code == 0
        found.append(Verb(container, read(log, base), before, held(host.datastore)))
    return found


def cuts(base: Path, traces: list[Verb]) -> Iterator[Cut]:
    """Yield the disks after each event of all verbs, none twice for the same duty."""
    disk, seen = Disk(base), set[tuple[object, ...]]()
    for verb in traces:
        live = {address: holder for address, holder in verb.before.items() if holder != verb.container}
        for event in [*verb.events, None]:
            if event:
                disk.apply(event)
            duty = (live, verb.container) if event else (verb.after, NOBODY)
            for tree in disk.cuts(SAMPLES, len(seen)) if event is None or event.changes else ():
                key = (*sorted(tree.items()), str(duty))
                if key not in seen:
                    seen.add(key)
                    yield Cut(tree, *duty, f"after {event or 'the end'} of the verb for {verb.container}")


def survives(cut: Cut, at: Path) -> None:
    """Make the disk and hold everybody to what must be true on it."""
    materialise(cut.tree, at)
    try:
        recovers(Host(at / "datastore"), cut.live, cut.in_flight)
    except Exception as error:
        error.add_note(f"power cut {cut.when}")
        raise
    finally:
        shutil.rmtree(at)


def test_every_cut(base: Path, traces: list[Verb], memory: Path) -> None:
    count = 0
    for cut in cuts(base, traces):
        survives(cut, memory / "cut")
        count += 1
    assert count > 300


def file_syncs(event: Event) -> bool:
    return event.call == "fsync" and event.path.endswith(".write")


def directory_syncs(event: Event) -> bool:
    return event.call == "fsync" and not event.path.endswith(".write")


def syncs_of_new_directories(event: Event) -> bool:
    return directory_syncs(event) and event.path.endswith(("/datastore", "/calico", "/v2"))


@pytest.mark.parametrize("left_out", [file_syncs, directory_syncs, syncs_of_new_directories])
def test_a_store_that_does_not_sync_is_caught(
    base: Path, traces: list[Verb], memory: Path, left_out: Callable[[Event], bool]
) -> None:
    """Without the sync of a record, of its directory, or of a new directory's name, what was acknowledged is lost."""
    careless = [Verb(verb.container, [event for event in verb.events if not left_out(event)], verb.before, verb.after)
                for verb in traces]
    with pytest.raises(AssertionError):
        for cut in cuts(base, careless):
            if cut.in_flight == NOBODY:
                survives(cut, memory / "careless")
