"""What Prometheus may know of the agent; docs/calico-node.md lists every metric."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily

from calico_node.usage import Usage
from cni_calico import errors
from cni_calico.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.core import Metric

    from calico_node.latencies import Latencies
    from datastore.api import Store

OTHER = "other"
PLUGINS = frozenset({"calico", "calico-ipam"})
VERBS = frozenset({"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"})
STAGES = frozenset({"queue", "config", "ipam", "wiring", "record", "total"})
SUCCESS = 0
CODES = frozenset({SUCCESS, *(code for code in vars(errors).values() if isinstance(code, int))})
BUCKETS = (.0002, .0005, .001, .002, .003, .005, .0075, .01, .015, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60)
REQUESTS = "calico_cni_requests"

# The text format has no place for them: they would be a series more beside each histogram.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Sources:
    """What is asked at each scrape: numbers as they are now, and a store to read. Only the store may raise."""

    in_flight: Callable[[], int]
    waiting: Callable[[], int]
    del_queue: Callable[[], int]
    connections: Callable[[], int]
    open_store: Callable[[], tuple[Store, str]]


class Metrics:
    """The agent's metrics, in a `registry` of their own; what was `answered` goes to `latencies`, too."""

    def __init__(self, sources: Sources, latencies: Latencies) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._latencies, self._lock = latencies, Lock()
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._children: dict[tuple[str, str], Histogram] = {}
        self._histogram = Histogram("calico_cni_request_duration_seconds", "How long a verb and its stages took.",
                                    ("verb", "stage"), buckets=BUCKETS, registry=self.registry)
        self.registry.register(_Requests(self._counted))
        self.registry.register(Usage(sources.open_store))
        ProcessCollector(registry=self.registry)
        for name, what, source in _gauges(sources):
            Gauge(name, what, registry=self.registry).set_function(source)
        build = Gauge("calico_node_build_info", "Always 1.", ("version", "python"), registry=self.registry)
        build.labels(VERSION, platform.python_version()).set(1)

    def answered(self, plugin: str, verb: str, code: int, stages: Mapping[str, float]) -> None:
        """Count a request; called once for each, from any thread.

        code: 0 for success, else the CNI error's. stages: seconds, by name (STAGES). A name that is not known counts
        as `other`.
        """
        verb = verb if verb in VERBS else OTHER
        known = {stage if stage in STAGES else OTHER: seconds for stage, seconds in stages.items()}
        with self._lock:
            self._counts[plugin if plugin in PLUGINS else OTHER, verb, str(code) if code in CODES else OTHER] += 1
        for stage, seconds in known.items():
            self._child(verb, stage).observe(seconds)
        self._latencies.add(verb, known)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return verb -> code -> how many, of all plugins, since the start."""
        found: dict[str, dict[str, int]] = {}
        for (_, verb, code), count in sorted(self._counted().items()):
            codes = found.setdefault(verb, {})
            codes[code] = codes.get(code, 0) + count
        return found

    def _counted(self) -> dict[tuple[str, str, str], int]:
        with self._lock:
            return dict(self._counts)

    def _child(self, verb: str, stage: str) -> Histogram:
        """Return the histogram of a verb's stage; `labels`, which looks it up under a lock, is asked once for each."""
        found = self._children.get((verb, stage))
        if found is None:
            found = self._children[verb, stage] = self._histogram.labels(verb, stage)
        return found


class _Requests:
    """The collector of the counts, which the status wants, too, and which the library does not give back."""

    def __init__(self, counted: Callable[[], Mapping[tuple[str, str, str], int]]) -> None:
        self._counted = counted

    def collect(self) -> Iterable[Metric]:
        found = CounterMetricFamily(REQUESTS, "Requests answered; code 0 is success.",
                                    labels=("plugin", "verb", "code"))
        for labels, count in self._counted().items():
            found.add_metric(labels, count)
        yield found


def _gauges(sources: Sources) -> Iterable[tuple[str, str, Callable[[], int]]]:
    yield "calico_node_requests_in_flight", "Requests that are being worked on.", sources.in_flight
    yield "calico_node_requests_waiting", "Requests that wait for a worker.", sources.waiting
    yield "calico_node_del_queue", "DELs queued on disk that are still to be done.", sources.del_queue
    yield "calico_node_connections", "Connections open on the socket.", sources.connections
