"""The agent's metrics, as a Prometheus would read them, with a real datastore behind them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from calico_node.latencies import Latencies
from calico_node.metrics import BUCKETS, STAGES, VERBS, Metrics, Sources
from calico_node.usage import FRESH, MOST_BLOCKS, SPARING, Usage
from datastore import keys
from datastore.api import Store

from .calicoctl_kit import Place

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
FULL = {"queue": .0001, "config": .0003, "ipam": .004, "wiring": .003, "record": .001, "total": .0084}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A datastore with a pool, a block of which three addresses are in use, and one that lies in no pool."""
    place = Place(tmp_path)
    place.pool("default-ipv4-ippool", "10.244.0.0/16")
    place.block("10.244.0.0/26", held=range(3))
    place.block("10.9.0.0/26", None, held=range(2))
    return place


def metrics(store: Callable[[], Store], node: str = "") -> Metrics:
    return Metrics(Sources(lambda: 1, lambda: 2, lambda: 3, lambda: 4, lambda: (store(), node)), Latencies())


def scraped(made: Metrics) -> Samples:
    """Return every sample of a scrape, by name and labels."""
    text = generate_latest(made.registry).decode()
    return {(sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text) for sample in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_requests_are_counted_by_plugin_verb_and_code(place: Place) -> None:
    made = metrics(lambda: place.store)
    for plugin, verb, code in (("calico", "ADD", 0), ("calico", "ADD", 0), ("calico", "ADD", 11),
                               ("calico-ipam", "ADD", 0), ("calico", "DEL", 0)):
        made.answered(plugin, verb, code, FULL)
    samples = scraped(made)
    assert value(samples, "calico_cni_requests_total", plugin="calico", verb="ADD", code="0") == 2
    assert value(samples, "calico_cni_requests_total", plugin="calico", verb="ADD", code="11") == 1
    assert value(samples, "calico_cni_requests_total", plugin="calico-ipam", verb="ADD", code="0") == 1
    assert made.counts() == {"ADD": {"0": 3, "11": 1}, "DEL": {"0": 1}}


def test_durations_have_a_histogram_for_each_verb_and_stage(place: Place) -> None:
    made = metrics(lambda: place.store)
    made.answered("calico", "ADD", 0, FULL)
    made.answered("calico", "DEL", 0, {"total": 61.0})
    samples, name = scraped(made), "calico_cni_request_duration_seconds"
    for stage, seconds in FULL.items():
        assert value(samples, f"{name}_sum", verb="ADD", stage=stage) == seconds
    assert value(samples, f"{name}_bucket", verb="ADD", stage="ipam", le="0.003") == 0
    assert value(samples, f"{name}_bucket", verb="ADD", stage="ipam", le="0.005") == 1
    assert value(samples, f"{name}_bucket", verb="DEL", stage="total", le="60.0") == 0
    assert value(samples, f"{name}_bucket", verb="DEL", stage="total", le="+Inf") == 1
    assert (BUCKETS[0], BUCKETS[-1]) == (.0002, 60)


def test_labels_are_bounded(place: Place) -> None:
    """Whatever a launcher calls its plugin, verb and error, the number of series has an end."""
    made = metrics(lambda: place.store)
    for at in range(100):
        made.answered(f"plugin{at}", f"verb{at}", 5000 + at, {f"stage{at}": .1})
    samples = scraped(made)
    assert value(samples, "calico_cni_requests_total", plugin="other", verb="other", code="other") == 100
    assert value(samples, "calico_cni_request_duration_seconds_count", verb="other", stage="other") == 100
    assert len([name for name, _ in samples if name == "calico_cni_requests_total"]) == 1


def test_what_is_answered_reaches_the_latencies(place: Place) -> None:
    latencies = Latencies()
    made = Metrics(Sources(int, int, int, int, lambda: (place.store, "")), latencies)
    made.answered("calico", "ADD", 0, FULL)
    assert list(latencies.last_hour()["ADD"]) == list(FULL)


def test_no_answer_is_lost_between_threads(place: Place) -> None:
    made, threads, each = metrics(lambda: place.store), 8, 500

    def work() -> None:
        for _ in range(each):
            made.answered("calico", "ADD", 0, FULL)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    samples = scraped(made)
    assert value(samples, "calico_cni_requests_total", plugin="calico", verb="ADD", code="0") == threads * each
    assert value(samples, "calico_cni_request_duration_seconds_count", verb="ADD", stage="ipam") == threads * each


def test_the_agent_as_it_is_at_the_scrape(place: Place) -> None:
    samples = scraped(metrics(lambda: place.store))
    assert [value(samples, f"calico_node_{name}")
            for name in ("requests_in_flight", "requests_waiting", "del_queue", "connections")] == [1, 2, 3, 4]
    assert {name for name, _ in samples} >= {
        "calico_node_build_info", "process_start_time_seconds", "process_resident_memory_bytes",
        "process_cpu_seconds_total", "process_open_fds", "process_max_fds",
    }
    assert not [name for name, _ in samples if name.endswith("_created")]


def test_addresses_by_pool_and_block(place: Place) -> None:
    samples = scraped(metrics(lambda: place.store))
    pool, block = "default-ipv4-ippool", "calico_ipam_block_allocations_in_use"
    assert value(samples, "calico_ipam_readable") == 1
    assert value(samples, "ipam_ippool_size", ippool=pool) == 65536
    assert value(samples, "ipam_allocations_in_use", ippool=pool) == 3
    assert value(samples, "ipam_blocks", ippool=pool) == 1
    assert value(samples, "ipam_allocations_in_use", ippool="no_ippool") == 2
    assert value(samples, block, ippool=pool, block="10.244.0.0/26", node="n1") == 3
    assert value(samples, block, ippool="no_ippool", block="10.9.0.0/26", node="") == 2


def test_a_datastore_that_cannot_be_read_is_told_and_the_rest_is_there(place: Place) -> None:
    Path(place.store.path(keys.block(4, "10.244.0.0/26"))).write_text("{")
    made = metrics(lambda: place.store)
    made.answered("calico", "ADD", 103, FULL)
    samples = scraped(made)
    assert value(samples, "calico_ipam_readable") == 0
    assert "ipam_ippool_size" not in {name for name, _ in samples}
    assert value(samples, "calico_cni_requests_total", plugin="calico", verb="ADD", code="103") == 1


def test_a_node_of_many_tells_of_its_own_blocks(place: Place) -> None:
    """In a datastore of many nodes each tells of what it has, and reads no more."""
    place.block("10.244.9.0/26", "another", held=range(5))
    place.store.create(keys.affinity("another", 4, "10.244.9.0/26"), {"state": "confirmed"})
    samples = scraped(metrics(lambda: place.store, "another"))
    assert value(samples, "ipam_blocks", ippool="default-ipv4-ippool") == 1
    assert value(samples, "ipam_allocations_in_use", ippool="default-ipv4-ippool") == 5


def test_a_store_that_cannot_be_opened(place: Place) -> None:
    def refused() -> Store:
        raise PermissionError

    assert value(scraped(metrics(refused)), "calico_ipam_readable") == 0


class Clock:
    """Time that passes when it is told to, and when a store is opened."""

    def __init__(self, place: Place, cost: float) -> None:
        self.now, self.opened, self._place, self._cost = 1000.0, 0, place, cost

    def __call__(self) -> float:
        return self.now

    def open(self) -> tuple[Store, str]:
        self.opened += 1
        self.now += self._cost
        return self._place.store, ""


@pytest.mark.parametrize(("cost", "fresh"), [(0.01, FRESH), (2.0, 2.0 * SPARING)])
def test_the_datastore_is_read_now_and_then_only(place: Place, cost: float, fresh: float) -> None:
    """At most each FRESH seconds, and for a twentieth of the time where reading takes long."""
    clock = Clock(place, cost)
    usage = Usage(clock.open, clock)
    usage.collect()
    clock.now += fresh - 0.1
    usage.collect()
    assert clock.opened == 1
    clock.now += 0.2
    usage.collect()
    assert clock.opened == 2


def test_blocks_are_told_one_by_one_to_a_limit(place: Place) -> None:
    for at in range(MOST_BLOCKS // 64 + 1):
        for part in range(64):
            place.block(f"10.244.{at + 1}.{part * 4}/30")
    samples = scraped(metrics(lambda: place.store))
    assert value(samples, "ipam_blocks", ippool="default-ipv4-ippool") > MOST_BLOCKS
    assert len([name for name, _ in samples if name == "calico_ipam_block_allocations_in_use"]) == MOST_BLOCKS


def test_every_metric_is_in_the_page(place: Place) -> None:
    page = (Path(__file__).parents[2] / "docs" / "calico-node.md").read_text()
    made = metrics(lambda: place.store)
    made.answered("calico", "ADD", 0, FULL)
    for family in text_string_to_metric_families(generate_latest(made.registry).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}`" in page, name
    assert all(f"`{name}`" in page for name in STAGES | VERBS)
