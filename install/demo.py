"""`install/demo`: the main job on this machine, on the embedded datastore, from install to "nothing is left"."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import socket
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datastore import keys
from datastore.api import StoreError
from datastore.file import FileStore
from install import demo_host
from install.demo_chain import IFNAME, NETNS_FOLDER, ChainError
from install.demo_host import CommandError, Commands, Interrupted, Interrupts
from install.demo_register import CONFLIST, POD_PORT, join, leave
from install.settings import DATASTORE_DIR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from install.demo_chain import Chain
    from install.demo_host import Before
    from install.demo_register import Run

USAGE = """usage: install/demo

Installs the plugin into a scratch folder, attaches three network namespaces, pings between them and from the host,
shows who owns which address, runs CHECK, fetches a page through a mapped host port, runs DEL, and shows that nothing is
left. Needs root. Leaves the host as it found it, also when interrupted.
"""
TOOLS = Path(sys.executable).parent
PORTS = range(20000, 30000)
NODE = "demo-node"
CALICOCTL_CONFIG = "calicoctl.cfg"
PING = ("ping", "-n", "-c", "1", "-W", "2")
CURL = ("curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "5")
CURL_REFUSED = 7
OWNER = r"^ *((?:namespace|pod|node): .*)$"
# What CHECK of containernetworking-plugins 1.1.1 answers after any main plugin: portmap for a pod without IPv6,
# bandwidth (a crash) for a pod without a limit.
FLAWS = ("could not check ipv6 dnat", "invalid memory address or nil pointer dereference")
TRIES, PAUSE = 50, 0.1
# http.server's own main looks its address up in the DNS, which a pod of the demo cannot reach.
SERVE = """
import http.server, socketserver, sys
handler = lambda *args: http.server.SimpleHTTPRequestHandler(*args, directory=sys.argv[1])
socketserver.TCPServer((sys.argv[2], int(sys.argv[3])), handler).serve_forever()
"""


class DemoError(Exception):
    """Something did not work as it should have."""


class Screen:
    """Numbered steps and what came of them; colour on a terminal only. A reader that goes away stops the demo."""

    def __init__(self, interrupts: Interrupts) -> None:
        """Look what kind of thing standard output is."""
        self._interrupts = interrupts
        self._steps = itertools.count(1)
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def step(self, text: str) -> None:
        """Begin a step."""
        self._write(self._paint("1", f"{next(self._steps)}. {text}"))

    def line(self, text: str) -> None:
        """Say what came of it."""
        self._write(f"   {text}")

    def good(self, text: str) -> None:
        """Say that all is well."""
        self._write(self._paint("32", text))

    def error(self, text: str) -> None:
        """Say what went wrong."""
        with suppress(OSError):
            sys.stderr.write(f"demo: {text}\n")

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._interrupts.note(signal.SIGPIPE)


class Story:
    """The demo's steps, in order."""

    def __init__(self, run: Run, commands: Commands, screen: Screen) -> None:
        """Nothing is done yet."""
        self._run, self._commands, self._screen = run, commands, screen
        self._addresses: dict[str, str] = {}
        self._links: list[str] = []

    def tell(self) -> None:
        """Run every step. Raises what went wrong, or Interrupted."""
        host = _own_address(self._commands)
        chain = self._install()
        self._attach(chain)
        self._ping()
        self._show_owners()
        self._check(chain)
        self._fetch(host)
        self._detach(chain)

    def _install(self) -> Chain:
        run, screen = self._run, self._screen
        screen.step(f"Install the plugin: install-cni --prefix {run.scratch}")
        self._commands.run(
            str(TOOLS / "install-cni"), "--prefix", run.scratch,
            env={"CALICO_IPV4POOL_CIDR": run.pool, "KUBERNETES_NODE_NAME": NODE},
        )  # fmt: skip
        Path(run.scratch, CALICOCTL_CONFIG).write_text(json.dumps(_calicoctl_config(run)))
        chain = run.chain(self._commands)
        screen.line(f"network {chain.name}: {' -> '.join(chain.types)}; address pool {run.pool}")
        return chain

    def _attach(self, chain: Chain) -> None:
        self._screen.step(f"ADD: attach three network namespaces through the installed {Path(CONFLIST).name}")
        for pod in self._run.pods:
            self._commands.run("ip", "netns", "add", pod)
            self._commands.run("ip", "-n", pod, "link", "set", "lo", "up")
            started = time.monotonic()
            result = chain.add(pod, self._run.capabilities(pod))
            took = (time.monotonic() - started) * 1000
            address, link = result["ips"][0]["address"].partition("/")[0], result["interfaces"][0]["name"]
            self._addresses[pod] = address
            self._links.append(link)
            self._screen.line(f"{pod}: {address} on {IFNAME}, host end {link} ({took:.0f} ms)")

    def _ping(self) -> None:
        self._screen.step("Ping every pod from every other one and from the host")
        for source in (*self._run.pods, "host"):
            others = [pod for pod in self._run.pods if pod != source]
            times = [f"{_short(pod)} {self._ping_one(source, pod)}" for pod in others]
            self._screen.line(f"{_short(source)} -> {', '.join(times)}")

    def _ping_one(self, source: str, pod: str) -> str:
        inside = () if source == "host" else ("ip", "netns", "exec", source)
        done = self._commands.run(*inside, *PING, self._addresses[pod], check=False)
        if done.returncode:
            raise DemoError(f"no answer to a ping from {source} to {pod} ({self._addresses[pod]}){self._why_silent()}")
        return done.stdout.partition("time=")[2].partition("\n")[0]

    def _why_silent(self) -> str:
        rules = self._commands.lines("iptables", "--wait", "-S", "FORWARD")
        if "-P FORWARD DROP" in rules:
            return "; this host's iptables drop forwarded packets (-P FORWARD DROP, set by Docker or a firewall)"
        return "; a firewall of this host may drop it (see: nft list ruleset)"

    def _show_owners(self) -> None:
        self._screen.step("Who owns which address: calicoctl ipam show --show-blocks, and --ip for each")
        for line in self._calicoctl("--show-blocks").splitlines():
            self._screen.line(line)
        for pod, address in self._addresses.items():
            shown = self._calicoctl(f"--ip={address}")
            if pod not in shown:
                raise DemoError(f"calicoctl does not know that {address} is {pod}'s, but says: {shown}")
            self._screen.line(f"{shown.splitlines()[0]}: {', '.join(re.findall(OWNER, shown, re.MULTILINE))}")

    def _calicoctl(self, option: str) -> str:
        config = str(Path(self._run.scratch, CALICOCTL_CONFIG))
        return self._commands.run(str(TOOLS / "calicoctl"), "--config", config, "ipam", "show", option).stdout.strip()

    def _check(self, chain: Chain) -> None:
        self._screen.step("CHECK: does the kernel, and do the records, still agree with what ADD answered?")
        failures = [failure for pod in self._run.pods for failure in chain.check(pod, self._run.capabilities(pod))]
        for failure in failures:
            if not any(flaw in failure for flaw in FLAWS):
                raise DemoError(failure)
        self._screen.line("yes, for all three")
        if failures:
            names = " and ".join(sorted({failure.split()[0] for failure in failures}))
            self._screen.line(f"(not counted: {names}, whose own CHECK is broken in the version this host has)")

    def _fetch(self, host: str) -> None:
        server = self._run.pods[0]
        self._screen.step(f"Fetch a page from {server}, port {POD_PORT}, through the host's port {self._run.port}")
        page = Path(self._run.scratch, "www", "index.html")
        page.parent.mkdir()
        page.write_text(f"hello from {server}\n")
        self._commands.start(
            "nsenter", f"--net={NETNS_FOLDER}/{server}", sys.executable, "-IS", "-c", SERVE,
            str(page.parent), self._addresses[server], str(POD_PORT),
        )  # fmt: skip
        for name in ("127.0.0.1", host):
            url = f"http://{name}:{self._run.port}/"
            self._screen.line(f"curl {url}: {self._fetch_one(url, page.read_text())}")

    def _fetch_one(self, url: str, expected: str) -> str:
        done = self._commands.run(*CURL, url, check=False)
        for _ in range(TRIES):
            if done.returncode != CURL_REFUSED:  # else the server is still starting
                break
            time.sleep(PAUSE)
            done = self._commands.run(*CURL, url, check=False)
        if done.stdout != expected:
            raise DemoError(f"no page at {url} through the mapped port: {done.stderr.strip() or done.stdout!r}")
        return done.stdout.strip()

    def _detach(self, chain: Chain) -> None:
        self._screen.step("DEL: detach them again")
        for pod in self._run.pods:
            failures = chain.delete(pod, self._run.capabilities(pod))
            if failures:
                raise DemoError("; ".join(failures))
        self._expect_nothing()
        self._screen.line(f"interfaces, routes and port rules of {self._run.name}: none; addresses in use: none")

    def _expect_nothing(self) -> None:
        """Look at kernel and datastore themselves, not at what the plugins say of them."""
        links = [link["ifname"] for link in json.loads(self._commands.run("ip", "-json", "link", "show").stdout)]
        routes = self._commands.lines("ip", "-4", "route", "show", "root", self._run.pool, "table", "all")
        rules = [rule for rule in self._commands.lines("iptables-save") if f"{self._run.name}-" in rule]
        left = [*set(links).intersection(self._links), *routes, *rules, *_records(self._run)]
        if left:
            raise DemoError(f"DEL has left behind: {'; '.join(left)}")


def main(arguments: list[str]) -> int:
    """Run the demo; return 0 only when everything worked and nothing is left."""
    if arguments:
        sys.stdout.write(USAGE)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    interrupts = Interrupts()
    commands, screen, started = Commands(interrupts), Screen(interrupts), time.monotonic()
    failures: list[str] = []
    with _noting(failures), ExitStack() as held:
        run, before = join(commands, _free_port(held))
        try:
            with _noting(failures):
                Story(run, commands, screen).tell()
        finally:
            interrupts.heeded = False
            failures += _put_back(run, before, commands, screen)
    for failure in failures:
        screen.error(failure)
    if interrupts.signal:
        screen.error("interrupted; the host is as it was" if not failures else "interrupted")
        return 128 + interrupts.signal
    if not failures:
        screen.good(f"Everything worked, in {time.monotonic() - started:.1f} s.")
    return 1 if failures else 0


@contextmanager
def _noting(failures: list[str]) -> Iterator[None]:
    """Keep what went wrong for the end; an interruption is none."""
    try:
        yield
    except Interrupted:
        return
    except (DemoError, ChainError, CommandError, StoreError) as error:
        failures.append(str(error))
    except (OSError, ValueError, LookupError) as error:
        failures.append(f"{type(error).__name__}: {error}")


def _put_back(run: Run, before: Before, commands: Commands, screen: Screen) -> list[str]:
    """Remove everything and look whether the host is as it was; return what is wrong."""
    screen.step("Put the host back as it was")
    commands.stop_started()
    failures, last = leave(run, commands)
    if not last:
        screen.line("another demo is running and will set back IP forwarding and portmap's chains when it ends")
        return failures
    failures += [f"not as it was: {difference}" for difference in demo_host.differences(before, commands)]
    if not failures:
        screen.line(f"IP forwarding {before.sysctls['net/ipv4/conf/all/forwarding']} as before; no namespace, rule, "
                    f"chain or file of the demo is left")  # fmt: skip
    return failures


def _free_port(held: ExitStack) -> int:
    """Return a TCP port that nobody has, and that nobody can take until `held` is closed. Raises DemoError."""
    for port in random.sample(PORTS, TRIES):
        reserved = held.enter_context(socket.socket())
        with suppress(OSError):
            reserved.bind(("", port))
            return port
    raise DemoError(f"no free TCP port found from {PORTS.start} to {PORTS.stop - 1}")


def _short(pod: str) -> str:
    return pod.rpartition("-")[2]


def _records(run: Run) -> list[str]:
    """Return what the datastore has of pods: owners, endpoints, and blocks with addresses in use."""
    store = FileStore(str(Path(run.scratch, DATASTORE_DIR)))
    blocks = store.records(keys.blocks(4))
    used = [block.key for block in blocks if set(block.value["allocations"]) != {None}]
    return [*store.keys(keys.HANDLES), *store.keys(keys.WORKLOAD_ENDPOINTS), *used]


def _own_address(commands: Commands) -> str:
    """Return the host's own address, which packets to its pods come from. Raises DemoError."""
    links = json.loads(commands.run("ip", "-4", "-json", "address", "show", "up", "scope", "global").stdout)
    for link in links:
        for address in link.get("addr_info", []):
            return str(address["local"])
    raise DemoError("this host has no IPv4 address besides 127.0.0.1, so it cannot talk to pods; give an interface one")


def _calicoctl_config(run: Run) -> dict[str, Any]:
    spec = {"datastoreType": "file", "datastoreDir": str(Path(run.scratch, DATASTORE_DIR))}
    return {"apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig", "metadata": {}, "spec": spec}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
