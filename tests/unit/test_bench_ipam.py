"""The benchmark of the allocator and the datastores it makes, with tiny numbers: that they work, never how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from datastore import keys
from datastore.file import FileStore
from datastore.model import affinity_of, handle_of
from datastore.undo import fail
from ipam.affinity import own_blocks
from ipam.assign import Request, assign
from ipam.find import allocations
from ipam.handle import Owner
from ipam.pool import all_pools
from ipam.release import release_handle
from ipam.utilization import all_blocks, utilization

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # bench/ is not installed

from bench import fixture, ipam  # noqa: E402
from bench.fixture import FixtureError, Size, make, node_name  # noqa: E402
from bench.rows import row, table  # noqa: E402

SMALL = Size(nodes=3, allocations=150)


@pytest.fixture(name="store")
def store_of_three_nodes(tmp_path: Path) -> FileStore:
    make(tmp_path / "store", SMALL)
    return FileStore(str(tmp_path / "store"))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.json")}


def test_a_record_is_written_as_the_store_writes_it(store: FileStore, tmp_path: Path) -> None:
    """Each file made is byte for byte what the store itself would have written, but for the revision."""
    copy = FileStore(str(tmp_path / "copy"))
    for key in store.keys("/calico/"):
        record = store.get(key)
        new = copy.create(key, record.value)
        data = Path(copy.path(key)).read_bytes().replace(str(new.revision).encode(), str(record.revision).encode(), 1)
        assert data == Path(store.path(key)).read_bytes()
    assert files(tmp_path / "copy").keys() == files(tmp_path / "store").keys()


def test_the_numbers_are_right(store: FileStore) -> None:
    """Utilisation counts what was asked for, and blocks, handles and affinities agree."""
    blocks = list(all_blocks(store, 4))
    used = utilization(all_pools(store, 4), [], blocks)
    assert [pool.in_use for pool in used.pools] == [SMALL.allocations]
    assert used.without_pool == ()
    handles = [handle_of(record) for record in store.records(keys.HANDLES)]
    told = {(owner.handle, block.cidr) for block in blocks for owner in block.attributes}
    assert {(handle.handle_id, cidr) for handle in handles for cidr in handle.blocks} == told
    assert len(handles) == SMALL.allocations
    nodes = [node_name(index) for index in range(SMALL.nodes)]
    for node in nodes:
        own = [str(cidr) for cidr in own_blocks(store, node, 4)]
        assert set(own) == {block.cidr for block in blocks if block.affinity == f"host:{node}"}
        states = [affinity_of(record).state for record in store.records(keys.affinities(node, 4))]
        assert states == ["confirmed"] * len(own)
    assert {key for key in store.keys(keys.HOSTS) if "/block/" not in key} == set(map(keys.host, nodes))


def test_the_allocator_can_use_it(store: FileStore) -> None:
    """A node assigns from its own blocks until they are full, then takes a new one; handles can be released."""
    node = node_name(1)
    before = set(own_blocks(store, node, 4))
    held = {item.address for item in allocations(store, fail)}
    given = {assign(store, Request(node=node, owner=Owner(f"net.{number}", {})))[0].address for number in range(80)}
    assert len(given) == 80
    assert not given & held
    assert before < set(own_blocks(store, node, 4))
    handle = next(handle_of(record) for record in store.records(keys.HANDLES))
    assert len(release_handle(store, handle.handle_id)) == 1


def test_the_same_size_and_seed_make_the_same(tmp_path: Path) -> None:
    """Nothing depends on when or where; another seed gives other blocks."""
    for name, size in (("a", SMALL), ("b", SMALL), ("c", Size(3, 150, seed=2))):
        make(tmp_path / name, size)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a").keys() != files(tmp_path / "c").keys()


@pytest.mark.parametrize("size", [Size(1, 65, 1), Size(1, 100, pool="10.0.0.0/26")], ids=["blocks", "pool"])
def test_what_does_not_fit_is_refused(size: Size, tmp_path: Path) -> None:
    """More addresses than the blocks have, or more blocks than the pool, are an error, and nothing is written."""
    with pytest.raises(FixtureError):
        make(tmp_path / "store", size)
    assert not (tmp_path / "store").exists()


def test_the_fixture_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It makes a directory, says what is in it, and does not touch one that is there."""
    arguments = [str(tmp_path / "store"), "--nodes", "2", "--allocations", "20"]
    assert fixture.main(arguments) == 0
    assert "2 nodes, 20 addresses in use" in capsys.readouterr().out
    assert len(list(allocations(FileStore(str(tmp_path / "store")), fail))) == 20
    assert fixture.main(arguments) == 1
    assert "File exists" in capsys.readouterr().err


def test_the_bench_with_tiny_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Assign, release and calicoctl are measured, every figure is there, and nothing is left behind."""
    monkeypatch.setattr(ipam, "LARGEST", Size(1, 15, 1, block_size=28))
    options = ["--only", "assign,scale", "--blocks", "4", "--sizes", "0,40", "--runs", "2", "--claims", "1", "--row",
               "3", "--nodes", "2", "--allocations", "20", "--directory", str(tmp_path), "-o", "json"]
    assert ipam.main(options) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert list(parts) == ["assign", "scale"]
    labels = [found["what"] for rows in parts.values() for found in rows]
    assert len(labels) == len(set(labels))
    assert "assign + release, 40 in use, 4 blocks mine" in labels
    assert "ipam show, large store, peak memory" in labels
    assert all(found["median"] >= found["min"] >= 0 for rows in parts.values() for found in rows)
    assert os.listdir(tmp_path) == []


def test_a_bench_that_fails_says_so_and_cleans_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More addresses than the blocks have is an error of one line."""
    options = ["--only", "assign", "--blocks", "1", "--sizes", "100", "--directory", str(tmp_path)]
    assert ipam.main(options) == 1
    assert "do not hold" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_figures() -> None:
    """Median, the slowest of a hundred, the least, the ratio to the base, and the bar, in columns."""
    found = row("assign", [3.0, 1.0, 2.0], [4.0], bar=1.2)
    assert found == {"what": "assign", "unit": "ms", "median": 2.0, "p99": 3.0, "min": 1.0, "ratio": 0.5, "bar": 1.2}
    header, line = table([found]).splitlines()
    assert header.split() == ["median", "p99", "min", "ratio"]
    assert line.split() == ["assign,", "ms", "2.00", "3.00", "1.00", "0.50", "<=", "1.2"]


@pytest.mark.parametrize("name", ["fixture", "ipam"])
def test_the_module_starts_from_anywhere(name: str) -> None:
    """Started as bench/<name> does it, the package `ipam` is found, not the benchmark of that name."""
    command = [sys.executable, "-P", "-m", f"bench.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT / "bench", env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          check=True)
    assert "examples:" in done.stdout
