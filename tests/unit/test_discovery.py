"""Endpoints from DNS: by answers given here, and by a real server on a machine of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datastore.api import Unreachable
from datastore.discovery import discover

from .install_kit import UNSHARE, can_mount

SSL, PLAIN = "_etcd-client-ssl._tcp.", "_etcd-client._tcp."
Record = tuple[int, int, str, int]


def answers(ssl: list[Record], plain: list[Record]) -> Callable[[str, float], list[Record]]:
    """Return a look-up that knows the two services of example.com."""
    known = {f"{SSL}example.com": ssl, f"{PLAIN}example.com": plain}
    return lambda name, seconds: known[name]


def test_order() -> None:
    """TLS first, then by priority, then the heavier, then by name: every node begins with the same server."""
    found = discover("example.com", 1, answers(
        [(1, 9, "late", 1), (0, 1, "light", 2), (0, 5, "heavy", 3), (0, 1, "feather", 4)], [(0, 9, "plain", 5)]))
    assert found == ["https://heavy:3", "https://feather:4", "https://light:2", "https://late:1", "http://plain:5"]


def test_no_such_service() -> None:
    """A record whose target is the root says that the service is not there."""
    assert discover("example.com", 1, answers([(0, 0, "", 0)], [(0, 0, "a", 1)])) == ["http://a:1"]
    with pytest.raises(Unreachable, match=f"there is no SRV record of {SSL}example.com nor {PLAIN}example.com"):
        discover("example.com", 1, answers([(0, 0, "", 0)], []))


def test_nobody_answers() -> None:
    def silent(name: str, seconds: float) -> list[Record]:
        raise OSError(f"no answer in {seconds} s")

    with pytest.raises(Unreachable, match=f"cannot be looked up: {SSL}example.com: no answer in 2 s"):
        discover("example.com", 2, silent)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was found on a machine with a DNS server and an etcd of its own."""
    if not can_mount():
        pytest.skip("needs root, for namespaces")
    command = [UNSHARE, "--mount", "--net", "--propagation", "private", sys.executable, "-m",
               "tests.unit.discovery_kit", str(tmp_path_factory.mktemp("discovery"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_store_is_found_by_dns(told: dict[str, Any]) -> None:
    """Records lead to names, names to addresses; the first server is dead, the second one serves."""
    assert told["store"] == {"found": "cluster.test"}


def test_records_are_read(told: dict[str, Any]) -> None:
    assert told["both.test"] == ["https://heavy.test:2379", "https://light.test:2379", "https://last.test:1",
                                 "http://plain.test:2380"]


@pytest.mark.parametrize(("domain", "message"), [
    ("none.test", f"there is no SRV record of {SSL}none.test nor {PLAIN}none.test"),
    ("missing.test", f"there is no SRV record of {SSL}missing.test nor {PLAIN}missing.test"),
    ("failing.test", f"{PLAIN}failing.test: "),
    ("silent.test", f"{SSL}silent.test: "),
    ("bad..test", f"{SSL}bad..test: "),
])
def test_what_cannot_be_looked_up(told: dict[str, Any], domain: str, message: str) -> None:
    """The error has the name that was asked for, and what the resolver said of it."""
    assert told[domain].startswith("Unreachable: etcd's endpoints cannot be looked up: "), told[domain]
    assert message in told[domain]
