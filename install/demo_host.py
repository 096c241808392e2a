"""What the demo changes on its host by way of the plugins, recorded before and put back after; and running commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import FrameType

PROC_SYS = Path("/proc/sys")
NETNS = Path("/run/netns")
# Turning net.ipv4.ip_forward on sets the first two for every interface (Linux: inet_forward_change); portmap the third.
SYSCTLS = (
    "net/ipv4/conf/*/forwarding",
    "net/ipv4/conf/*/accept_redirects",
    "net/ipv4/conf/*/route_localnet",
    "net/ipv6/conf/*/forwarding",
)
PORTMAP_CHAINS = ("CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ")
PORTMAP_RULES = PORTMAP_CHAINS[0]  # holds a rule for each pod; the other two only what every pod shares
TOOLS = ("iptables", "ip6tables")
FAMILIES = ("ip", "ip6")
SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"
SECONDS = 60


class Interrupted(Exception):
    """The user, or the end of the terminal, asked to stop."""


class CommandError(Exception):
    """A command failed; the message says which, and what it said."""


class Interrupts:
    """Signals only leave a note, so that no command is cut in half; `check` raises it between two commands."""

    def __init__(self) -> None:
        """Catch what ends a program politely."""
        self.signal = 0
        self.heeded = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.note)

    def note(self, number: int, _frame: FrameType | None = None) -> None:
        """Remember the first signal."""
        self.signal = self.signal or number

    def check(self) -> None:
        """Raise Interrupted if a signal has come, unless the demo is putting things back."""
        if self.signal and self.heeded:
            raise Interrupted


class Commands:
    """Runs programs in a session of their own, where a terminal's Ctrl-C does not reach them."""

    def __init__(self, interrupts: Interrupts) -> None:
        """Start from an empty environment: proxies and Calico's variables must not matter."""
        self.interrupts = interrupts
        self.started: list[subprocess.Popen[bytes]] = []
        self.environment = {"PATH": SEARCH, "LC_ALL": "C.UTF-8"}

    def run(
        self, *command: str, stdin: str = "", env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. Raises CommandError, Interrupted."""
        self.interrupts.check()
        environment = {**self.environment, **(env or {})}
        try:
            done = subprocess.run(
                command, input=stdin, env=environment, capture_output=True, text=True, errors="replace",
                start_new_session=True, timeout=SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CommandError(f"cannot run {command[0]}: {error}") from error
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
            raise CommandError(f"{' '.join(command)}: {said}")
        self.interrupts.check()
        return done

    def start(self, *command: str) -> None:
        """Start a program that goes on beside the demo."""
        quiet = subprocess.DEVNULL
        self.started.append(subprocess.Popen(
            command, env=self.environment, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        ))  # fmt: skip

    def stop_started(self) -> None:
        """End what was started."""
        for process in self.started:
            process.kill()
            process.wait()

    def lines(self, *command: str) -> list[str]:
        """Return what a program prints; nothing when it fails, as ip6tables does on a host without IPv6."""
        done = self.run(*command, check=False)
        return [] if done.returncode else done.stdout.splitlines()


@dataclass(frozen=True)
class Before:
    """The host as it was."""

    sysctls: dict[str, str]
    chains: dict[str, list[str]]
    nft: list[str]
    netns: list[bool]


def take(commands: Commands) -> Before:
    """Record the host."""
    return Before(
        sysctls=_sysctls(),
        chains={tool: _portmap_chains(_rules(tool, commands)) for tool in TOOLS},
        nft=_nft(commands),
        netns=[NETNS.exists(), _is_mounted(NETNS)],
    )


def restore(before: Before, commands: Commands) -> None:
    """Take away what was not there before, unless others use it by now, and set every sysctl back."""
    for tool in TOOLS:
        _drop_portmap(tool, before.chains[tool], commands)
    _drop_nft(before.nft, commands)
    _restore_sysctls(before.sysctls)
    if NETNS.is_dir() and not any(NETNS.iterdir()):
        if not before.netns[1] and _is_mounted(NETNS):
            commands.run("umount", str(NETNS), check=False)
        if not before.netns[0] and not _is_mounted(NETNS):
            NETNS.rmdir()


def differences(before: Before, commands: Commands) -> list[str]:
    """Return what is not as it was; portmap's chains may have found other users by now."""
    was, now = asdict(before), asdict(take(commands))
    if any(_is_used(_rules(tool, commands)) for tool in TOOLS):
        now |= {"chains": was["chains"], "nft": was["nft"]}
    now["sysctls"] = {name: now["sysctls"].get(name) for name in was["sysctls"] if name in now["sysctls"]}
    was["sysctls"] = {name: was["sysctls"][name] for name in now["sysctls"]}
    return [f"{name} was {_short(was[name], now[name])}, is {_short(now[name], was[name])}"
            for name in was if was[name] != now[name]]  # fmt: skip


def pid_start(pid: int) -> str:
    """Return when a process started, in clock ticks since boot, which with its id names it; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_mounted(path: Path) -> bool:
    """Tell whether something is mounted there; Path.is_mount does not see `ip netns`'s bind mount."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(mount.split()[4] == str(path) for mount in mounts)


def _short(value: object, other: object) -> str:
    if isinstance(value, dict) and isinstance(other, dict):
        value = {name: item for name, item in value.items() if other.get(name) != item}
    return json.dumps(value)


def _sysctls() -> dict[str, str]:
    paths = [path for pattern in SYSCTLS for path in sorted(PROC_SYS.glob(pattern))]
    values = {}
    for path in paths:
        try:
            values[str(path.relative_to(PROC_SYS))] = path.read_text().strip()
        except OSError:  # the interface went away while we looked
            continue
    return values


def _restore_sysctls(wanted: Mapping[str, str]) -> None:
    """Set `all` first, because it sets every interface's."""
    for name in sorted(wanted, key=lambda name: "/all/" not in name):
        path = PROC_SYS / name
        try:
            if path.read_text().strip() != wanted[name]:
                path.write_text(wanted[name])
        except OSError:
            continue


def _rules(tool: str, commands: Commands) -> list[str]:
    return commands.lines(tool, "--wait", "-t", "nat", "-S")


def _portmap_chains(rules: Iterable[str]) -> list[str]:
    return sorted(words[1] for words in map(str.split, rules) if words[0] == "-N" and words[1] in PORTMAP_CHAINS)


def _is_used(rules: Iterable[str]) -> bool:
    return any(rule.startswith(f"-A {PORTMAP_RULES} ") for rule in rules)


def _drop_portmap(tool: str, had: Iterable[str], commands: Commands) -> None:
    """Remove portmap's chains and the jumps to them, all at once, unless some pod still has a mapping."""
    rules = _rules(tool, commands)
    new = [chain for chain in _portmap_chains(rules) if chain not in had]
    if not new or _is_used(rules):
        return
    jumps = [rule.replace("-A", "-D", 1) for rule in rules if rule.endswith(tuple(f" -j {chain}" for chain in new))]
    emptied = [f"-F {chain}" for chain in new if chain != PORTMAP_RULES]
    script = ["*nat", *jumps, *emptied, *(f"-X {chain}" for chain in new), "COMMIT", ""]
    commands.run(f"{tool}-restore", "--noflush", "--wait", stdin="\n".join(script))


def _nft(commands: Commands) -> list[str]:
    """Return the nat tables that iptables keeps in nftables, each followed by its chains."""
    found = []
    for kind in ("tables", "chains"):
        listed = "\n".join(commands.lines("nft", "-j", "list", kind)) or '{"nftables": []}'
        items = [item for entry in json.loads(listed)["nftables"] for key, item in entry.items() if key == kind[:-1]]
        paths = [[item["family"], *([item["table"]] if kind == "chains" else []), item["name"]] for item in items]
        found += [" ".join(path) for path in paths if path[0] in FAMILIES and path[1] == "nat"]
    return sorted(set(found))


def _drop_nft(had: Iterable[str], commands: Commands) -> None:
    """Remove what iptables makes at its first use and never removes: nft refuses to delete a chain that has rules."""
    new = [name for name in _nft(commands) if name not in had]
    for name in sorted(new, key=lambda name: -len(name.split())):
        is_chain = len(name.split()) == 3
        if is_chain or not any(other.startswith(f"{name} ") for other in _nft(commands)):
            commands.run("nft", "delete", "chain" if is_chain else "table", *name.split(), check=False)


def is_alive(pid: int, start: str) -> bool:
    """Tell whether this very process still runs."""
    return bool(start) and pid_start(pid) == start


def kill_inside(namespace: str, commands: Commands) -> None:
    """End every process in a network namespace of the demo's own."""
    for pid in commands.lines("ip", "netns", "pids", namespace):
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
