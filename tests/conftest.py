"""What all tests share: the ways in which verbs are carried out, and how hypothesis judges.

Not by time: machines are noisy, and no test asserts times. HYPOTHESIS_PROFILE=nightly makes the allocator's machine do
a million steps (docs/testing.md).
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.append(str(Path(__file__).parents[1]))  # for what folders of tests share, however pytest is started

from tests.ways import AGENT, PYTHON, WAYS, Killed, Nursery, Way, WithAgent, build_launcher

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", settings.get_profile("untimed"), print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "untimed"))

SEED = os.environ.get("CALICO_TEST_SEED") or str(random.SystemRandom().randrange(1 << 32))
ALL = "all"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let one way be chosen."""
    parser.addoption("--way", choices=(*WAYS, ALL), default=ALL, help="how verbs are carried out (docs/testing.md)")


def pytest_configure(config: pytest.Config) -> None:
    """Make known how a test says that it has one way only."""
    config.addinivalue_line("markers", "python_only(reason): its subject is the Python plugin's own process")


@pytest.hookimpl(trylast=True)  # so that the way is the last word of a test's name
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run whatever is done on a machine once in each way."""
    if "way" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--way")
        ways = [PYTHON] if metafunc.definition.get_closest_marker("python_only") else list(WAYS)
        metafunc.parametrize("way", [way for way in ways if chosen in (way, ALL)], indirect=True)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher, compiled once."""
    try:
        return build_launcher(tmp_path_factory.mktemp("launcher"))
    except FileNotFoundError as reason:
        pytest.skip(f"no launcher: no cc here, and {reason}")


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where agents come from."""
    found = Nursery()
    yield found
    found.close()


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Way:
    """How this test's verbs are carried out."""
    if request.param == PYTHON:
        return Way()
    parts = request.getfixturevalue("launcher"), request.getfixturevalue("nursery")
    if request.param == AGENT:
        return WithAgent(*parts)
    print(f"agents die by CALICO_TEST_SEED={SEED}")
    return Killed(*parts, f"{SEED} {request.node.nodeid}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how far the allocator's machine went, and how many agents died, if they did."""
    kit = sys.modules.get("unit.allocator_kit")
    if kit and kit.STEPS:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(kit.STEPS.items()))
        terminalreporter.write_line(f"allocator machine: {counts}")
    if Killed.kills:
        terminalreporter.write_line(f"agents killed: {Killed.kills}, by CALICO_TEST_SEED={SEED}")
