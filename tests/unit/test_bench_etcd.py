"""The benchmark of etcd: what counts on the wire, what fills a server, its report, and a small run; never how fast."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from datastore import keys
from datastore.api import Missing
from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from datastore.file import FileStore
from datastore.settings import Etcd
from tests.etcd import Cluster, serving

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # bench/ is not installed

from bench import etcd as bench  # noqa: E402
from bench.etcd_fill import fill  # noqa: E402
from bench.etcd_hosts import Series, rows  # noqa: E402
from bench.etcd_trips import Cost  # noqa: E402
from bench.etcd_wire import Request, Wire, described, told  # noqa: E402
from bench.fixture import FixtureError, Size, make  # noqa: E402
from bench.ground import BenchError  # noqa: E402

SMALL = Size(nodes=3, allocations=150)
HANDLE = keys.handle("net.c1")


@pytest.fixture(name="cluster", scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(name="wire")
def counting_proxy(cluster: Cluster) -> Iterator[Wire]:
    cluster.wipe()
    wire = Wire(cluster.members[0].url)
    yield wire
    wire.close()


def store_at(url: str, folder: Path) -> EtcdStore:
    return EtcdStore(Client(Etcd(endpoints=(url,))), str(folder / "ipam.lock"))


def test_every_request_counts(wire: Wire, tmp_path: Path) -> None:
    """Each call is one request of known sizes, on the connection that is kept; what was taken is not told again."""
    store = store_at(wire.url, tmp_path)
    store.create(HANDLE, {"block": {}, "padding": "x" * 100_000})
    assert store.get(HANDLE).value["block"] == {}
    assert store.keys(keys.HANDLES) == [HANDLE]
    requests, connections = wire.take()
    assert told(requests) == "write handle; get handle; keys handle"
    assert connections == 1
    assert requests[0].sent > 100_000 > requests[0].received > 100
    assert requests[1].received > 100_000 > requests[1].sent > 100
    assert wire.take() == ([], 0)


def test_a_request_counts_before_it_is_answered(wire: Wire) -> None:
    """So that whoever has its answer finds it counted; one that comes in pieces is one."""
    body = b'{"key": "YQ=="}'
    head = f"POST /v3/kv/range HTTP/1.1\r\nHost: etcd\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    port = urlsplit(wire.url).port
    with socket.create_connection(("127.0.0.1", port)) as client:
        for piece in (head[:10], head[10:] + body[:4], body[4:]):
            client.sendall(piece)
            time.sleep(0.02)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        requests, _ = wire.take()
    assert [(each.what, each.sent) for each in requests] == [("get a", len(head) + len(body))]


def test_what_cannot_be_counted_is_not_carried(wire: Wire) -> None:
    """A request without a length ends the connection, and is told: nothing goes by unseen."""
    with socket.create_connection(("127.0.0.1", urlsplit(wire.url).port)) as client:
        client.settimeout(20)
        client.sendall(b"GET /version HTTP/1.1\r\nHost: etcd\r\n\r\n")
        assert client.recv(1 << 16) == b""
    with pytest.raises(BenchError, match="cannot count 'GET /version"):
        wire.take()


DESCRIBED = [
    ("/v3/kv/range", {"key": keys.host("n")}, "get host"),
    ("/v3/kv/range", {"key": keys.BLOCKS, "range_end": "0"}, "list block"),
    ("/v3/kv/range", {"key": keys.affinities("n", 4), "range_end": "0", "keys_only": True}, "keys affinity"),
    ("/v3/kv/range", {"key": f"{keys.host('n')}/", "range_end": "0"}, "list affinity"),
    ("/v3/maintenance/status", {}, "/v3/maintenance/status"),
    ("/v3/kv/txn", {}, "/v3/kv/txn"),
]


@pytest.mark.parametrize(("path", "asked", "what"), DESCRIBED)
def test_requests_are_described(path: str, asked: dict[str, str], what: str) -> None:
    assert described(path, json.dumps(in_base64(asked)).encode()) == what


def test_transactions_are_described() -> None:
    """Reads, and reads of what has changed; writes and removals."""
    pool, block = in_base64({"key": keys.IPPOOLS}), in_base64({"key": keys.block(4, "10.0.0.0/26")})
    reads = {"success": [{"request_range": pool | {"min_mod_revision": "5"}}, {"request_range": block}]}
    assert described("/v3/kv/txn", json.dumps(reads).encode()) == "read pool?, block"
    writes = {"success": [{"request_put": block}, {"request_delete_range": in_base64({"key": HANDLE})}]}
    assert described("/v3/kv/txn", json.dumps(writes).encode()) == "write block, -handle"


def in_base64(asked: dict[str, str]) -> dict[str, str]:
    from base64 import b64encode

    return {name: b64encode(item.encode()).decode() if name in ("key", "range_end") else item
            for name, item in asked.items()}


def test_what_verbs_cost_is_added_up() -> None:
    """Requests, bytes both ways, and what they were, counted by kind."""
    cost = Cost()
    for _ in range(2):
        cost.add([Request("/p", "get block", 100, 200), Request("/p", "write block", 300, 50)], 1, 2.5)
    assert (cost.requests, cost.bytes, cost.connections, cost.times) == ([2, 2], [650, 650], [1, 1], [2.5, 2.5])
    assert dict(cost.said) == {"get block; write block": 2}


def test_a_server_is_filled_with_what_the_fixture_writes(cluster: Cluster, tmp_path: Path) -> None:
    """Key by key and value by value what bench/fixture makes of files; so much is told."""
    cluster.wipe()
    make(tmp_path / "files", SMALL)
    heard: list[tuple[int, int]] = []
    bulk = fill(cluster.members[0].url, SMALL, lambda done, total: heard.append((done, total)))
    files, etcd = FileStore(str(tmp_path / "files")), store_at(cluster.members[0].url, tmp_path)
    expected = {record.key: record.value for record in files.records("/calico/")}
    assert {record.key: record.value for record in etcd.records("/calico/")} == expected
    assert bulk.records == len(expected)
    assert bulk.bytes > 150 * 300
    assert heard[-1] == (150, 150)


def test_what_does_not_fit_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """Nothing is written then; a server that is not there, and one that refuses, are told."""
    cluster.wipe()
    url = cluster.members[0].url
    with pytest.raises(FixtureError, match="has 1 blocks"):
        fill(url, Size(2, 100, pool="10.0.0.0/26"))
    with pytest.raises(FixtureError, match="did not take a batch"):
        fill("http://127.0.0.1:1", SMALL)
    with pytest.raises(Missing):
        store_at(url, tmp_path).get(keys.ippool("default-ipv4-ippool"))


def test_rates_are_beside_the_first() -> None:
    """More pods a second are a larger ratio."""
    one, many = Series(1), Series(10)
    for item, rate in ((one, 100.0), (many, 250.0)):
        for verb in item.rates:
            item.rates[verb].append(rate)
            item.times[verb] += [1000 / rate]
    found = rows([one, many])
    assert [line["ratio"] for line in found] == [1.0, 2.5, 1.0, 2.5, 1.0, 0.4, 1.0, 0.4]
    assert found[1]["what"] == "ADDs a second, 10 hosts"


def test_quick_changes_only_what_is_not_given() -> None:
    """An option that is given beats it."""
    assert bench.parse(["--quick"]).nodes == bench.QUICK["nodes"]
    assert bench.parse(["--nodes", "7", "--hosts", "1,3", "--quick"]).hosts == [1, 3]
    assert (bench.parse([]).nodes, bench.parse([]).hosts) == (5000, [1, 10, 50])


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--runs", "0"], ["--hosts", "1,x"], ["--hosts", "0"]])
def test_wrong_options_are_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parse(arguments)
    assert arguments[-2] in capsys.readouterr().err


def test_the_module_starts_from_anywhere() -> None:
    """Started as bench/etcd does it, the package `ipam` is found, not the benchmark of that name."""
    command = [sys.executable, "-P", "-m", "bench.etcd", "--help"]
    done = subprocess.run(command, cwd=ROOT / "bench", env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          check=True)
    assert "examples:" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_small_run(tmp_path: Path) -> None:
    """Every part measures, every figure is there, in each form; nothing is left behind."""
    done = subprocess.run([ROOT / "bench/etcd", "--quick", "-o", "json"], env={**os.environ, "TMPDIR": str(tmp_path)},
                          capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert tuple(report["parts"]) == bench.PARTS
    for part in report["parts"].values():
        assert len({line["what"] for line in part}) == len(part)
        assert all(line["p99"] >= line["median"] >= line["min"] >= 0 for line in part)
    assert report["parts"]["trips"][0]["what"] == "warm ADD, launcher + agent"
    assert report["parts"]["trips"][0]["median"] >= 2
    assert [what for what in report["asked"] if what.startswith("claim")] == [
        "claim, 1 block", "claim, 12 blocks, 4 left"]
    assert "warm ADD, launcher + agent, requests" in bench.as_text(report)
    assert "| warm ADD, launcher + agent, requests | " in bench.as_markdown(report)
    assert os.listdir(tmp_path) == []
