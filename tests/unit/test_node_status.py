"""The JSON of the status."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from calico_node import protocol
from calico_node.latencies import Latency
from calico_node.status import Agent, status

AGENT = Agent(
    version="1.2.3", pid=77, started=1_790_000_000.9, uptime=12.34567, in_flight=1, waiting=2, del_queue=3,
    connections=4, draining=False, reasons=[], latencies={"ADD": {"total": Latency(9, .0012345, .0023456, 1.5)}},
    counts={"ADD": {"0": 8, "11": 1}},
)


def test_all_keys() -> None:
    assert json.loads(json.dumps(status(AGENT))) == {
        "version": "1.2.3",
        "protocol": {"oldest": protocol.OLDEST, "newest": protocol.NEWEST},
        "pid": 77,
        "started": "2026-09-21T14:13:20Z",
        "uptimeSeconds": 12.346,
        "ready": True,
        "reasons": [],
        "draining": False,
        "inFlight": 1,
        "waiting": 2,
        "delQueue": 3,
        "connections": 4,
        "requests": {"ADD": {"0": 8, "11": 1}},
        "lastHour": {"ADD": {"total": {"count": 9, "p50Ms": 1.234, "p90Ms": 2.346, "p99Ms": 1500.0}}},
    }


@pytest.mark.parametrize(("reasons", "draining", "ready"), [
    ([], False, True), (["the queue is being done"], False, False), ([], True, False), (["x"], True, False),
])
def test_ready(reasons: list[str], draining: bool, ready: bool) -> None:
    found = status(replace(AGENT, reasons=reasons, draining=draining))
    assert (found["ready"], found["reasons"], found["draining"]) == (ready, reasons, draining)
