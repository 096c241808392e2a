"""The reader of these tests finds each thing that it says it looks for, and nothing in a sound datastore."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .kit import Host, Json
from .reader import findings, held

BLOCK = "calico/ipam/v2/assignment/ipv4/block/10.7.0.0-30"
HANDLE = "calico/ipam/v2/handle/net.a"
AFFINITY = "calico/ipam/v2/host/n1/ipv4/block/10.7.0.0-30"

CIDR = "10.7.0.0/30"
POOL = {"CALICO_IPV4POOL_CIDR": CIDR, "CALICO_IPV4POOL_BLOCK_SIZE": "30"}


@pytest.fixture
def datastore(tmp_path: Path) -> Path:
    host = Host(tmp_path / "datastore", pool=POOL, ipam={})
    for container in ("a", "b"):
        assert host.call("ADD", container).code == 0
    return host.datastore


def test_a_sound_datastore(datastore: Path, tmp_path: Path) -> None:
    assert findings(datastore) == []
    assert sorted(held(datastore).values()) == ["a", "b"]
    assert findings(tmp_path / "none") == []


def overlapping(datastore: Path) -> None:
    body = json.loads((datastore / f"{BLOCK}.json").read_bytes())
    body["key"], body["value"]["cidr"], body["value"]["affinity"] = f"/{BLOCK}"[:-2] + "29", "10.7.0.0/29", None
    body["value"]["allocations"] += [None] * 4
    body["value"]["unallocated"] += range(4, 8)
    (datastore / f"{BLOCK[:-2]}29.json").write_text(json.dumps(body))
    handles = [datastore / "calico/ipam/v2/handle" / f"net.{container}.json" for container in "ab"]
    for path in handles:
        handle = json.loads(path.read_bytes())
        handle["value"]["block"]["10.7.0.0/29"] = 1
        path.write_text(json.dumps(handle))


CASES: dict[str, tuple[str, Callable[[Json], object], str]] = {
    "free and held": (BLOCK, lambda v: v["unallocated"].append(v["allocations"].index(0)), "each ordinal once"),
    "free twice": (BLOCK, lambda v: v["unallocated"].append(v["unallocated"][0]), "each ordinal once"),
    "neither": (BLOCK, lambda v: v["unallocated"].pop(), "each ordinal once"),
    "no owner": (BLOCK, lambda v: v["allocations"].__setitem__(v["allocations"].index(1), 7), "belongs to an owner"),
    "another's cidr": (BLOCK, lambda v: v.update(cidr="10.7.0.4/30"), "says it is 10.7.0.4/30"),
    "too many": (HANDLE, lambda v: v["block"].update({CIDR: 2}), f"net.a counts 1 too many of block {CIDR}"),
    "too few": (HANDLE, lambda v: v["block"].clear(), f"net.a counts 1 too few of block {CIDR}"),
    "another's handle": (HANDLE, lambda v: v.update(handleID="net.x"), "says it is net.x"),
    "unfinished": (AFFINITY, lambda v: v.update(state="pending"), "never finished"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_found(datastore: Path, case: str) -> None:
    record, change, words = CASES[case]
    path = datastore / f"{record}.json"
    body = json.loads(path.read_bytes())
    change(body["value"])
    path.write_text(json.dumps(body))
    assert re.search(words, "\n".join(findings(datastore)))


@pytest.mark.parametrize(("record", "words"), [(HANDLE, "net.a counts 1 too few"), (AFFINITY, "has no affinity"),
                                               (BLOCK, "has no block")])
def test_what_is_missing_is_found(datastore: Path, record: str, words: str) -> None:
    (datastore / f"{record}.json").unlink()
    assert words in "\n".join(findings(datastore))


@pytest.mark.parametrize("content", [b"", b"{", bytes(10), b"{}", b'{"key":"/x","revision":1,"value":{}}'])
def test_a_torn_record_is_found(datastore: Path, content: bytes) -> None:
    (datastore / f"{HANDLE}.json").write_bytes(content)
    assert f"/{HANDLE} is damaged" in "\n".join(findings(datastore))


def test_an_address_in_two_blocks_is_found(datastore: Path) -> None:
    overlapping(datastore)
    assert [text for text in findings(datastore) if "in two blocks" in text] == findings(datastore) != []
