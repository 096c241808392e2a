"""A container runtime of a few lines, for the demo: it runs the plugins of an installed conflist one by one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from install.demo_host import Commands

Json = dict[str, Any]
NETNS_FOLDER = "/run/netns"
IFNAME = "eth0"
HINTS = {
    "portmap": "portmap needs iptables with the nat table, MASQUERADE and the matches addrtype, comment, mark and "
    "multiport: this kernel may lack one (try: iptables -t nat -S)",
}


class ChainError(Exception):
    """What a plugin answered when it failed."""


class Chain:
    """One network: its plugins, and the result of the last ADD of each pod."""

    def __init__(self, conflist: Path, bin_dir: Path, commands: Commands) -> None:
        """Read the conflist. Raises OSError, ValueError."""
        self._list: Json = json.loads(conflist.read_text())
        self._bin_dir = bin_dir
        self._commands = commands
        self._results: dict[str, Json] = {}

    @property
    def name(self) -> str:
        """The network's name."""
        return str(self._list["name"])

    @property
    def types(self) -> list[str]:
        """The plugins' names, in order."""
        return [plugin["type"] for plugin in self._list["plugins"]]

    def add(self, pod: str, capabilities: Json) -> Json:
        """Run ADD of every plugin in order, each with the result of the one before. Raises ChainError."""
        previous: Json = {}
        for plugin in self._list["plugins"]:
            previous = json.loads(self._run("ADD", plugin, pod, capabilities, previous))
        self._results[pod] = previous
        return previous

    def check(self, pod: str, capabilities: Json) -> list[str]:
        """Run CHECK of every plugin in order, all with the result of ADD; return what failed."""
        return list(self._failures("CHECK", self._list["plugins"], pod, capabilities))

    def delete(self, pod: str, capabilities: Json) -> list[str]:
        """Run DEL of every plugin, last one first; return what failed."""
        failures = list(self._failures("DEL", reversed(self._list["plugins"]), pod, capabilities))
        self._results.pop(pod, None)
        return failures

    def _failures(self, verb: str, plugins: Iterable[Json], pod: str, capabilities: Json) -> Iterator[str]:
        for plugin in plugins:
            try:
                self._run(verb, plugin, pod, capabilities, self._results.get(pod, {}))
            except ChainError as error:
                yield str(error)

    def _run(self, verb: str, plugin: Json, pod: str, capabilities: Json, previous: Json) -> str:
        conf = {"name": self._list["name"], "cniVersion": self._list["cniVersion"], **plugin}
        wanted = {key: value for key, value in capabilities.items() if plugin.get("capabilities", {}).get(key)}
        conf |= {"runtimeConfig": wanted} if wanted else {}
        conf |= {"prevResult": previous} if previous else {}
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": f"{NETNS_FOLDER}/{pod}",
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": str(self._bin_dir),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME={pod}",
        }
        done = self._commands.run(str(self._bin_dir / plugin["type"]), stdin=json.dumps(conf), env=env, check=False)
        if done.returncode:
            raise ChainError(_complaint(verb, plugin["type"], pod, done.stdout or done.stderr))
        return done.stdout


def _complaint(verb: str, plugin: str, pod: str, answer: str) -> str:
    try:
        error = json.loads(answer)
        text = ": ".join(filter(None, (str(error["msg"]), str(error.get("details") or ""))))
    except (ValueError, KeyError, TypeError):
        text = answer.strip() or "no answer"
    hint = f"; {HINTS[plugin]}" if plugin in HINTS else ""
    return f"{plugin} {verb} of {pod} failed: {text}{hint}"
