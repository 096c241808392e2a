"""Each test gets a machine of its own, in each way (docs/testing.md); the plugin is installed once, by install-cni."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ways import KILLED, Way

from .machine import Machine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where install-cni has put the Python plugin."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    prefix = tmp_path_factory.mktemp("prefix")
    env = {**os.environ, "CALICO_IPV4POOL_CIDR": "10.7.0.0/16", "CALICO_LAUNCHER": "no"}
    subprocess.run([sys.executable, "-m", "install", "--prefix", str(prefix)], cwd=ROOT, check=True, env=env,
                   capture_output=True)
    return prefix / "opt/cni/bin"


@pytest.fixture
def machine(installed: Path, tmp_path: Path, way: Way) -> Iterator[Machine]:
    """A host without any default route, with the installed plugin and an empty datastore."""
    found = Machine(way.bin_dir(installed), tmp_path / "datastore", verbs_are_killed=way.name == KILLED)
    try:
        with way.serving(found.host.path, tmp_path) as env:
            found.env |= env
            yield found
    finally:
        found.close()
