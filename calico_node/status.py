"""What the agent says of itself when asked for its status; docs/calico-node.md has the keys. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from calico_node import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calico_node.latencies import Latency
    from datastore.api import Json

MILLISECONDS = 1000


@dataclass(frozen=True)
class Agent:
    """The agent at one moment. started: seconds since 1970. uptime: seconds. reasons: why it is not ready."""

    version: str
    pid: int
    started: float
    uptime: float
    in_flight: int
    waiting: int
    del_queue: int
    connections: int
    draining: bool
    reasons: Sequence[str]
    latencies: Mapping[str, Mapping[str, Latency]]
    counts: Mapping[str, Mapping[str, int]]


def status(agent: Agent) -> Json:
    """Return it for JSON."""
    return {
        "version": agent.version,
        "protocol": {"oldest": protocol.OLDEST, "newest": protocol.NEWEST},
        "pid": agent.pid,
        "started": datetime.fromtimestamp(agent.started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "uptimeSeconds": round(agent.uptime, 3),
        "ready": not agent.reasons and not agent.draining,
        "reasons": list(agent.reasons),
        "draining": agent.draining,
        "inFlight": agent.in_flight,
        "waiting": agent.waiting,
        "delQueue": agent.del_queue,
        "connections": agent.connections,
        "requests": {verb: dict(codes) for verb, codes in agent.counts.items()},
        "lastHour": {verb: {stage: _milliseconds(latency) for stage, latency in stages.items()}
                     for verb, stages in agent.latencies.items()},
    }


def _milliseconds(latency: Latency) -> Json:
    return {"count": latency.count, **{
        name: round(seconds * MILLISECONDS, 3)
        for name, seconds in (("p50Ms", latency.p50), ("p90Ms", latency.p90), ("p99Ms", latency.p99))
    }}
