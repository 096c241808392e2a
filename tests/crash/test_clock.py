"""A clock that is set back, by a year, between ADDs and DELs: nothing goes backwards, nothing is given twice.

A revision and a block's sequence number start from the clock, so the records of before are all from the future.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cni_calico.errors import NO_ADDRESS

from .kit import ONE_BLOCK, Host, addresses_of, recovers
from .reader import findings, held

YEAR = 365 * 86400
REST = 600


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A node where four attachments, which fill its blocks, were made a year ahead."""
    found = Host(tmp_path / "datastore")
    for container in ("a", "b", "c", "d"):
        assert found.under_clock(YEAR).run("ADD", container).code == 0
    return found


def records(host: Host) -> dict[str, dict[str, Any]]:
    bodies = (json.loads(path.read_bytes()) for path in host.datastore.rglob("*.json"))
    return {body["key"]: body for body in bodies}


def grew(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Tell whether a record was written anew; then its revision must have grown, and a block's sequence number."""
    if old == new:
        return False
    assert new["revision"] > old["revision"], new["key"]
    if "sequenceNumber" in old["value"]:
        assert new["value"]["sequenceNumber"] > old["value"]["sequenceNumber"], new["key"]
    return True


def test_the_clock_of_these_tests(host: Host) -> None:
    """The records that are there are from the future."""
    now = (host.datastore / ".lock").stat().st_mtime_ns
    assert min(body["revision"] for body in records(host).values()) > now + (YEAR - 86400) * 10**9


def test_a_clock_set_back(host: Host) -> None:
    """Releasing and assigning go on, in the old blocks and in new ones; what is written anew counts on from before."""
    live, rewritten = held(host.datastore), 0
    for verb, container in (("DEL", "b"), ("ADD", "e"), ("ADD", "f"), ("DEL", "a"), ("DEL", "f"), ("ADD", "g")):
        before, old = held(host.datastore), records(host)
        answer = host.run(verb, container)
        assert answer.code == 0
        if verb == "ADD":
            assert not before.keys() & set(answer.addresses)
        new = records(host)
        rewritten += sum(grew(old[key], new[key]) for key in old.keys() & new.keys())
        assert findings(host.datastore) == []
    assert rewritten >= 8
    still = {address: holder for address, holder in held(host.datastore).items() if holder in ("c", "d")}
    assert still == {address: holder for address, holder in live.items() if holder in ("c", "d")}
    recovers(host, held(host.datastore), "nobody")


def givings(host: Host) -> dict[tuple[str, str], int]:
    """Return the sequence number of each address given: (key of the block, ordinal) -> number."""
    values = {key: body["value"] for key, body in records(host).items()}
    return {(key, ordinal): number for key, value in values.items()
            for ordinal, number in value.get("sequenceNumberForAllocation", {}).items()}


def test_a_giving_is_told_from_an_older_one(host: Host) -> None:
    """The sequence number of an address given anew is higher than all that its block had before the clock was set."""
    old = givings(host)
    assert host.run("DEL", "b").code == 0
    assert host.run("ADD", "e").code == 0
    again = {of: number for of, number in givings(host).items() if number != old.get(of)}
    assert len(again) == 2
    for (key, _), number in again.items():
        assert number > max(before for (block, _), before in old.items() if block == key)


@pytest.fixture
def resting(tmp_path: Path) -> Host:
    """A node whose two pools have one block each, four attachments that fill them, and a rest of ten minutes."""
    found = Host(tmp_path / "datastore", pool=ONE_BLOCK)
    for container in ("a", "b", "c", "d"):
        assert found.call("ADD", container).code == 0
    found.cool_down(REST)
    return found


def test_a_rest_that_began_in_the_future_is_over(resting: Host) -> None:
    """An address released before the clock was set back far is not locked away until that time comes again."""
    free = addresses_of(resting.datastore, "b")
    assert resting.under_clock(YEAR).run("DEL", "b").code == 0
    assert sorted(resting.run("ADD", "e").addresses) == free
    assert findings(resting.datastore) == []


def test_a_rest_is_kept_when_the_clock_is_set_back_a_little(resting: Host) -> None:
    """It ends once the clock is a rest's time away from its beginning, and not before."""
    free = addresses_of(resting.datastore, "b")
    assert resting.under_clock(100).run("DEL", "b").code == 0
    assert resting.run("ADD", "e").body["code"] == NO_ADDRESS
    assert sorted(resting.under_clock(100 + REST + 5).run("ADD", "e").addresses) == free
    assert findings(resting.datastore) == []
