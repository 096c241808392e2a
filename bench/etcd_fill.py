"""Records of a large cluster, written to etcd in bulk: those of bench/fixture.py, many in a transaction."""

from __future__ import annotations

import http.client
import json
import queue
import random
import threading
from base64 import b64encode
from contextlib import suppress
from urllib.parse import urlsplit

from bench import fixture
from bench.fixture import NOW, POOL, STAMP, FixtureError, Size, Tell, node_name, owners, pool_json, spread, write_block
from bench.rows import Json
from datastore import keys
from datastore.jsontext import dumps
from datastore.model import Host, config_json, host_json
from ipam.block import new_block
from ipam.cidr import Cidr, parse_cidr

MOST_CHANGES = 128  # of a transaction: etcd's default
MOST_BYTES = 1_000_000  # of a request: etcd takes 1.5 MiB
CONNECTIONS = 4
SECONDS = 60.0  # for one answer


class Bulk(fixture.Bulk):
    """Writes new records over several connections; `close` tells when all are written."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._batches: queue.Queue[bytes | None] = queue.Queue(2 * CONNECTIONS)
        self._errors: list[Exception] = []
        self._batch: list[Json] = []
        self._bytes = 0
        self.records = self.bytes = 0
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()

    def write(self, key: str, value: Json) -> None:
        """Write one record, soon. Raises FixtureError."""
        data = dumps(value)
        put = {"key": b64encode(key.encode()).decode(), "value": b64encode(data).decode()}
        if len(self._batch) == MOST_CHANGES or self._bytes + len(put["value"]) > MOST_BYTES:
            self._send()
        self._batch.append({"request_put": put})
        self._bytes += len(put["value"]) + len(put["key"])
        self.records += 1
        self.bytes += len(key) + len(data)

    def close(self) -> None:
        """Write what is left, and wait for all. Raises FixtureError."""
        if self._batch:
            self._send()
        for _ in self._threads:
            self._batches.put(None)
        for thread in self._threads:
            thread.join()
        self._require_none_failed()

    def _send(self) -> None:
        self._require_none_failed()
        self._batches.put(json.dumps({"success": self._batch}).encode())
        self._batch, self._bytes = [], 0

    def _require_none_failed(self) -> None:
        if self._errors:
            raise FixtureError(f"etcd did not take a batch: {self._errors[0]}")

    def _work(self) -> None:
        connection = http.client.HTTPConnection(self._server.hostname or "", self._server.port, timeout=SECONDS)
        while (data := self._batches.get()) is not None:
            if self._errors:
                continue  # so that nobody waits for room in the queue
            try:
                connection.request("POST", "/v3/kv/txn", body=data)
                answer = connection.getresponse()
                said = answer.read()
                if answer.status != 200:
                    raise FixtureError(said.decode(errors="replace"))
            except (OSError, http.client.HTTPException, FixtureError) as error:
                self._errors.append(error)
        connection.close()


def fill(url: str, size: Size, tell: Tell = lambda done, total: None) -> Bulk:
    """Write what bench/fixture.py would, into an etcd that has nothing of it; return what counted it.

    `tell` hears how many addresses are done, and of how many. Raises FixtureError.
    """
    shares = size.shares()
    places = iter(taken(size, sum(blocks for blocks, _ in shares)))
    rng, bulk, done = random.Random(size.seed), Bulk(url), 0
    try:
        bulk.write(keys.ippool(POOL), pool_json(size.pool, size.block_size))
        if size.config:
            bulk.write(keys.IPAM_CONFIG, config_json(size.config))
        for index, (blocks, used) in enumerate(shares):
            node = node_name(index)
            counts = spread(rng, used, blocks, size.per_block)
            for count, cidr in zip(counts, places, strict=False):  # in this order: none of the places is lost
                write_block(bulk, new_block(cidr, node, NOW, STAMP), owners(rng, node, size.boot, count), rng)
                done += count
                tell(done, size.allocations)
            bulk.write(keys.host(node), host_json(Host()))
    except BaseException:
        with suppress(FixtureError):
            bulk.close()
        raise
    bulk.close()
    return bulk


def fill_beside(url: str, nodes: int) -> Bulk:
    """Write what a Calico cluster of so many nodes has beside its addresses; return what counted it.

    Each node has its Node resource, and, with automatic host endpoints, a HostEndpoint. Raises FixtureError.
    """
    bulk = Bulk(url)
    for node in map(node_name, range(nodes)):
        labels = {"kubernetes.io/hostname": node, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        profiles = ["projectcalico-default-allow"]
        bulk.write(keys.node(node), _resource("Node", node, labels, {"orchRefs": [{"nodeName": node}]}))
        name = f"{node}-auto-hep"
        spec = {"node": node, "interfaceName": "*", "expectedIPs": ["192.0.2.1"], "profiles": profiles}
        bulk.write(f"{keys.RESOURCES}/hostendpoints/{name}", _resource("HostEndpoint", name, labels, spec))
    bulk.close()
    return bulk


def _resource(kind: str, name: str, labels: Json, spec: Json) -> Json:
    uid = "7c1e2a1c-1111-4d55-9e33-000000000001"
    metadata = {"name": name, "uid": uid, "creationTimestamp": STAMP, "labels": labels}
    return {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec}


def taken(size: Size, count: int) -> list[Cidr]:
    """Return where the blocks lie: anywhere in the pool. Raises FixtureError."""
    whole = parse_cidr(size.pool)
    possible = 1 << (size.block_size - whole.prefix)
    if count > possible:
        raise FixtureError(f"pool {size.pool} has {possible} blocks, but {count} are needed")
    places = random.Random(size.seed).sample(range(possible), count)
    return [Cidr(4, whole.first + place * size.per_block, size.block_size) for place in places]
