"""What every runtime test stands on: a machine of its own, and the plugin put in place by the real installer."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.ways import Way

from . import goparts
from .host import Host, UnavailableError
from .installed import DEBIAN_PLUGINS, Before, Installed, install, kept

IN_CI = os.environ.get("CI") == "true"


def without(part: str, reason: object, *, needed: bool = False) -> NoReturn:
    """Skip by name for want of a part; in CI the lack of a needed part is a failure."""
    if needed and IN_CI:
        pytest.fail(f"{part}: {reason}")
    pytest.skip(f"{part}: {reason}")


def needs(*programs: str) -> None:
    """Skip by name when a program or a reference plugin is not installed."""
    places = f"{DEBIAN_PLUGINS}:{os.environ['PATH']}"
    for each in programs:
        if shutil.which(each, path=places) is None:
            without(each, f"not installed, neither in {DEBIAN_PLUGINS} nor on PATH")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder of this test's own, with a name short enough for sockets, gone after it."""
    folder = Path(tempfile.mkdtemp(prefix="cni-rt-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shelf() -> Iterator[Path]:
    """A folder of this run's own, gone after it."""
    folder = Path(tempfile.mkdtemp(prefix="cni-rt-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def plugin(shelf: Path) -> Installed:
    """The plugin, installed once for all tests of the run."""
    return install(shelf / "prefix")


@pytest.fixture
def net(plugin: Installed, scratch: Path, way: Way) -> Iterator[Installed]:
    """The installed plugin, lent to one test with an empty store."""
    yield from kept(plugin, scratch / "store-before", way)


def _machine(way: Way, scratch: Path, *, default_route: bool) -> Iterator[Host]:
    """A host with a network card, with or without a default route, and whatever verbs need in this way."""
    try:
        machine = Host()
    except UnavailableError as reason:
        without("a host of our own", reason, needed=True)
    try:
        machine.uplink(default_route=default_route)
        with way.serving(machine.netns, scratch) as env:
            machine.env.update(env)
            yield machine
    finally:
        machine.close()


@pytest.fixture
def host(way: Way, scratch: Path) -> Iterator[Host]:
    """A machine with a network card, a router and a default route."""
    yield from _machine(way, scratch, default_route=True)


@pytest.fixture(params=["routed", "no-default-route"])
def any_host(request: pytest.FixtureRequest, way: Way, scratch: Path) -> Iterator[Host]:
    """Both kinds of machine, one after the other."""
    yield from _machine(way, scratch, default_route=request.param == "routed")


@pytest.fixture
def before(host: Host, net: Installed) -> Before:
    """How machine and store were before the test."""
    return Before.of(host, net)


@pytest.fixture(scope="session")
def clients() -> dict[str, Path | UnavailableError]:
    """The two clients of the real libcni, each built once; or why there is none."""
    return {"cnitool": _built(goparts.cnitool), "libcni driver": _built(goparts.driver)}


def _built(build: Callable[[], Path]) -> Path | UnavailableError:
    """A Go program, or why there is none."""
    try:
        return build()
    except UnavailableError as reason:
        return reason
    except OSError as reason:
        return UnavailableError(f"cannot be built: {reason}")


def _client(clients: dict[str, Path | UnavailableError], name: str) -> Path:
    """One client, or a skip that says why there is none."""
    client = clients[name]
    if isinstance(client, UnavailableError):
        without(name, client)
    return client


@pytest.fixture
def cnitool(clients: dict[str, Path | UnavailableError]) -> Path:
    """The executable cnitool."""
    return _client(clients, "cnitool")


@pytest.fixture
def libcni_driver(clients: dict[str, Path | UnavailableError]) -> Path:
    """The executable of our own driver."""
    return _client(clients, "libcni driver")
