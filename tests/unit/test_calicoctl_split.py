"""`calicoctl ipam split`: the parts, what goes on working, what is refused, and carrying on after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datastore import keys
from datastore.api import Change, Conflict, Record
from datastore.file import FileStore
from datastore.resources import Pool
from ipam.assign import Request, assign
from ipam.errors import BadRequest
from ipam.handle import Owner
from ipam.release import release
from ipam.split import LONGEST_NAME, MOST_PARTS, cut, split

from .calicoctl_kit import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A datastore with a pool of settings that are not the default."""
    found = Place(tmp_path)
    found.store.create(keys.ippool("web"), {
        "kind": "IPPool", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "web", "labels": {"team": "a"}, "uid": "old", "resourceVersion": "7",
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"cidr": "10.0.0.0/24", "blockSize": 28, "natOutgoing": True, "vxlanMode": "Always"},
        "status": {"conditions": [{"type": "Allocatable", "status": "False"}]},
    })
    return found


def pools(place: Place) -> dict[str, str]:
    return {pool["name"]: pool["cidr"] for pool in place.answer("ipam", "show")["pools"]}


QUARTERS = {"split-web-0": "10.0.0.0/26", "split-web-1": "10.0.0.64/26", "split-web-2": "10.0.0.128/26",
            "split-web-3": "10.0.0.192/26"}


@pytest.mark.parametrize("which", ["--name=web", "--cidr=10.0.0.0/24"])
def test_four_parts(place: Place, which: str) -> None:
    assert place.ok("ipam", "split", which, "4") == """\
IP Pool web was successfully split into 4 smaller pools.
Created split-web-0 with CIDR 10.0.0.0/26.
Created split-web-1 with CIDR 10.0.0.64/26.
Created split-web-2 with CIDR 10.0.0.128/26.
Created split-web-3 with CIDR 10.0.0.192/26.
"""
    assert pools(place) == QUARTERS


def test_parts_have_the_pool_s_settings_and_an_identity_of_their_own(place: Place) -> None:
    place.ok("ipam", "split", "2", "--name", "web")
    values = [place.store.get(keys.ippool(f"split-web-{at}")).value for at in range(2)]
    metadata = [value.pop("metadata") for value in values]
    assert len({*(item["uid"] for item in metadata), "old"}) == 3
    assert metadata[1].keys() == {"name", "labels", "uid", "creationTimestamp"}
    assert metadata[1]["creationTimestamp"] > "2026-01-01T00:00:00Z"
    value = values[1]
    assert value == {
        "kind": "IPPool", "apiVersion": "projectcalico.org/v3",
        "spec": {"cidr": "10.0.0.128/25", "blockSize": 28, "natOutgoing": True, "vxlanMode": "Always",
                 "disabled": False},
    }


def test_addresses_stay_with_their_owners_and_blocks_with_their_nodes(place: Place) -> None:
    """What was given before is found and released after, and the node goes on with the block it has."""
    owner = Owner("net.a", {"pod": "a", "node": "n1", "container": "a", "interface": "eth0"})
    later = Owner("net.b", {"pod": "b", "node": "n1", "container": "b", "interface": "eth0"})
    place.pool("only", "10.9.0.0/24", blockSize=28)
    [before] = assign(place.store, Request("n1", owner, pools={4: ["only"]}))
    blocks = [(record.key, record.value) for record in place.store.records(keys.IPAM + "/")]
    place.ok("ipam", "split", "--name=only", "8")
    assert [(record.key, record.value) for record in place.store.records(keys.IPAM + "/")] == blocks
    assert place.ok("ipam", "show", f"--ip={before.address}").startswith(f"IP {before.address} is in use\n")
    named = [name for name in pools(place) if name.startswith("split-only-")]
    [after] = assign(place.store, Request("n1", later, pools={4: named}))
    assert after.address in before.block
    release(place.store, owner)
    assert place.ok("ipam", "show", f"--ip={before.address}") == f"{before.address} is not assigned\n"


def test_an_ipv6_pool(place: Place) -> None:
    place.pool("six", "fd00::/48")
    place.ok("ipam", "split", "--cidr=fd00::/48", "2")
    assert {name: cidr for name, cidr in pools(place).items() if "six" in name} == {
        "split-six-0": "fd00::/49", "split-six-1": "fd00:0:0:8000::/49"}


@pytest.mark.parametrize("number", ["0", "1", "-2", "x", "2048"])
def test_numbers_that_are_none(place: Place, number: str) -> None:
    assert "Error: " in place.misused("ipam", "split", "--name=web", "--", number)


@pytest.mark.parametrize("arguments", [("2",), ("--name=web",), ("2", "--name=web", "--cidr=10.0.0.0/24")])
def test_a_wrong_command_line(place: Place, arguments: tuple[str, ...]) -> None:
    assert "Error: " in place.misused("ipam", "split", *arguments)


@pytest.mark.parametrize(("arguments", "says"), [
    (("3", "--name=web"), "power of two"),
    (("32", "--name=web"), "blocks of /28"),
    (("2", "--name=nosuch"), 'IP pool "nosuch" does not exist; the pools are: web 10.0.0.0/24'),
    (("2", "--cidr=10.0.0.0/25"), 'IP pool "10.0.0.0/25" does not exist'),
])
def test_what_is_refused_changes_nothing(place: Place, arguments: tuple[str, ...], says: str) -> None:
    before = place.store.get(keys.ippool("web"))
    assert says in place.fails("ipam", "split", *arguments)
    assert pools(place) == {"web": "10.0.0.0/24"}
    assert place.store.get(keys.ippool("web")) == before


def test_parts_as_small_as_a_block(place: Place) -> None:
    place.ok("ipam", "split", "16", "--name=web")
    assert len(pools(place)) == 16
    assert "blocks of /28" in place.fails("ipam", "split", "2", "--name=split-web-15")


def test_a_block_larger_than_a_part(place: Place) -> None:
    """The pool was remade with smaller blocks; an old, large one would lie in two parts."""
    place.block("10.0.0.0/26", held=[1])
    assert "block 10.0.0.0/26" in place.fails("ipam", "split", "8", "--name=web")
    place.ok("ipam", "split", "4", "--name=web")


def test_a_name_that_is_taken(place: Place) -> None:
    place.pool("split-web-1", "172.16.0.0/16")
    assert "split-web-1 172.16.0.0/16" in place.fails("ipam", "split", "4", "--name=web")
    assert pools(place) == {"split-web-1": "172.16.0.0/16", "web": "10.0.0.0/24"}


def test_names_are_no_longer_than_a_resource_s_may_be() -> None:
    parts = cut(Pool("x" * LONGEST_NAME, "10.0.0.0/16", 26), MOST_PARTS)
    assert {len(part.name) for part in parts} <= set(range(LONGEST_NAME - 3, LONGEST_NAME + 1))
    assert len({part.name for part in parts}) == MOST_PARTS


class Killed(Exception):
    """The process ends here."""


class Dying(FileStore):
    """A store whose process is killed after so many records were written."""

    writes = 0

    def update(self, key: str, value: dict[str, Any], revision: int) -> Record:
        """Be killed before it, or write."""
        self._write_one()
        return super().update(key, value, revision)

    def commit(self, *changes: Change) -> None:
        """Write them one by one, as a commit that is killed does."""
        for change in changes:
            self._write_one()
            super().commit(change)

    def delete(self, key: str, revision: int) -> None:
        """Be killed before it."""
        raise Killed

    def _write_one(self) -> None:
        if not self.writes:
            raise Killed
        self.writes -= 1


@pytest.mark.parametrize("writes", range(7))
def test_a_run_that_was_killed_is_finished_by_another(place: Place, writes: int) -> None:
    """After each of its writes: the pool's disabling, four parts, and before the pool's removal."""
    dying = Dying(str(place.directory))
    dying.writes = writes
    with pytest.raises(Killed):
        split(dying, "web", 4)
    assert "web" in pools(place)
    assert place.store.get(keys.ippool("web")).value["spec"].get("disabled", False) == (writes > 0)
    assert len(pools(place)) == 1 + max(min(writes, 5) - 1, 0)
    assert place.ok("ipam", "split", "--name=web", "4").count("\n") == 5
    assert pools(place) == QUARTERS


class Rivalled(FileStore):
    """A store where another node's writer changes the pool while parts are being made (etcd has no lock for all)."""

    def commit(self, *changes: Change) -> None:
        """Write, and be overtaken."""
        super().commit(*changes)
        record = self.get(keys.ippool("web"))
        self.update(record.key, {**record.value, "metadata": {**record.value["metadata"], "uid": "new"}},
                    record.revision)


def test_a_change_in_between_is_not_lost_unseen(place: Place) -> None:
    with pytest.raises(Conflict, match="web has changed since it was read"):
        split(Rivalled(str(place.directory)), "web", 2)
    assert place.store.get(keys.ippool("web")).value["metadata"]["uid"] == "new"
    place.ok("ipam", "split", "--name=web", "2")
    assert list(pools(place)) == ["split-web-0", "split-web-1"]


def test_a_killed_run_is_not_finished_with_another_number(place: Place) -> None:
    dying = Dying(str(place.directory))
    dying.writes = 3
    with pytest.raises(Killed):
        split(dying, "web", 4)
    with pytest.raises(BadRequest, match="ask for that number"):
        split(place.store, "web", 2)


def test_the_datastore_is_held_from_beginning_to_end(tmp_path: Path) -> None:
    """Nothing can change between two of the writes: the lock is taken once."""
    taken = []

    @contextmanager
    def lock(path: str, _: float) -> Iterator[None]:
        taken.append("taken")
        yield
        taken.append("left")

    place = Place(tmp_path)
    place.pool("web", "10.0.0.0/24", blockSize=28)
    split(FileStore(str(place.directory), lock), "web", 8)
    assert taken == ["taken", "left"]
