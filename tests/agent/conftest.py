"""Each test gets a host of its own; launcher and plugin are installed once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.machine import Machine

from .kit import Agent, Site, install


@pytest.fixture(scope="session")
def bin_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the launchers are, each with the Python plugin behind it."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    return install(tmp_path_factory.mktemp("installed"))


@pytest.fixture
def site(bin_dir: Path, tmp_path: Path) -> Iterator[Site]:
    """A host without an agent."""
    found = Site(Machine(bin_dir, tmp_path / "datastore"), tmp_path)
    yield found
    found.close()


@pytest.fixture
def agent(site: Site) -> Agent:
    """An agent that serves."""
    return site.agent().start()
