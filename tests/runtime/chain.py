"""A runtime of a few lines: it runs plugins one after the other as the CNI specification says, without any cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .host import Host

Json = dict[str, Any]


class PluginError(Exception):
    """What a plugin answered when it failed."""

    def __init__(self, plugin: str, answer: Json) -> None:
        """Keep the code and the message of the answer."""
        super().__init__(f"{plugin}: {answer}")
        self.code = int(answer.get("code", -1))
        self.message = f"{answer.get('msg', '')} {answer.get('details', '')}"


@dataclass
class Chain:
    """One network: its plugins, and the result of the last ADD of each attachment."""

    host: Host
    path: str
    plugins: Sequence[Json]
    name: str = "chained"
    version: str = "1.0.0"
    runtime: Json = field(default_factory=dict)
    results: dict[tuple[str, str], Json] = field(default_factory=dict)

    def _config(self, plugin: Json, previous: Json | None) -> Json:
        """What one plugin gets on stdin."""
        conf = {"cniVersion": self.version, "name": self.name, **plugin}
        wanted = {key: self.runtime[key] for key in plugin.get("capabilities", {}) if key in self.runtime}
        if wanted:
            conf["runtimeConfig"] = wanted
        return conf if previous is None else {**conf, "prevResult": previous}

    def _executable(self, plugin: str) -> str:
        """Where on CNI_PATH a plugin is."""
        found = shutil.which(plugin, path=self.path)
        if found is None:
            raise AssertionError(f"no {plugin} in {self.path}")
        return found

    def _run(self, verb: str, plugin: Json, netns: str, ifname: str, previous: Json | None) -> str:
        """Run one verb of one plugin."""
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": self.container(netns),
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": "",
            "CNI_PATH": self.path,
        }
        conf = json.dumps(self._config(plugin, previous))
        done = self.host.run(self._executable(plugin["type"]), env=env, stdin=conf, check=False)
        if done.returncode:
            raise PluginError(plugin["type"], json.loads(done.stdout or "{}") or {"msg": done.stderr})
        return done.stdout

    @staticmethod
    def container(netns: str) -> str:
        """The container id that goes with a namespace."""
        return f"container-{netns.rsplit('/', 1)[-1]}"

    def add(self, netns: str, ifname: str = "eth0") -> Json:
        """Run ADD of every plugin in order; each gets the result of the one before."""
        for plugin in self.plugins:
            previous = self.results.get((netns, ifname))
            self.results[netns, ifname] = json.loads(self._run("ADD", plugin, netns, ifname, previous))
        return self.results[netns, ifname]

    def check(self, netns: str, ifname: str = "eth0", *, besides: str = "") -> None:
        """Run CHECK of every plugin in order, perhaps besides one; all get the last result."""
        for plugin in self.plugins:
            if plugin["type"] != besides:
                self._run("CHECK", plugin, netns, ifname, self.results[netns, ifname])

    def delete(self, netns: str, ifname: str = "eth0") -> None:
        """Run DEL of every plugin in reverse order; a second one has no result to pass, as with libcni."""
        previous = self.results.pop((netns, ifname), None)
        for plugin in reversed(self.plugins):
            assert self._run("DEL", plugin, netns, ifname, previous) == ""
