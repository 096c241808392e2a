"""Asking one of several servers: what is left for the others when the first says nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from datastore.api import Unreachable
from datastore.etcdclient import Client, Patience
from datastore.settings import Etcd
from tests.etcd import Cluster, serving

STATUS = "/v3/maintenance/status"


@pytest.fixture(name="cluster", scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("etcd")) as found:
        yield found


@pytest.fixture(name="mute")
def _mute() -> Iterator[list[str]]:
    """Endpoints that take connections and say nothing."""
    with ExitStack() as opened:
        listeners = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        yield [f"http://127.0.0.1:{each.getsockname()[1]}" for each in listeners]


def test_the_last_of_several_is_asked(cluster: Cluster, mute: list[str]) -> None:
    """Little patience is shared among all endpoints, so that the one that answers is asked, and first the next time."""
    client = Client(Etcd(endpoints=(*mute, cluster.members[0].url)))
    assert "version" in client.call(STATUS, {}, Patience(2)).body
    patience = Patience(2)
    assert "version" in client.call(STATUS, {}, patience).body
    assert patience.left == 2
    client.close()


def test_nobody_answers(mute: list[str]) -> None:
    """Each endpoint is named, with what it did, once patience is at its end."""
    client, began = Client(Etcd(endpoints=(*mute, "http://127.0.0.1:1"))), time.monotonic()
    with pytest.raises(Unreachable) as caught:
        client.call(STATUS, {}, Patience(1))
    assert time.monotonic() - began < 30  # not for ever: how long exactly is the machine's
    for endpoint in mute:
        assert f"{endpoint}: no answer in time" in str(caught.value)
    assert "http://127.0.0.1:1: Connection refused" in str(caught.value)
