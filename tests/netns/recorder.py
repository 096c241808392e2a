"""A machine that writes down what every call was answered with, so that the ways can be compared byte for byte.

All that an answer may quote is the same in each way: the datastore's folder, container ids, and the paths of
namespaces, which are links in the machine's folder. What is random is replaced (`normal`).
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .machine import Answer, Machine, Pod

MAC = re.compile(rb"(?!ee:ee:ee:ee:ee:ee|02:00:)\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b")
CALL_SECONDS = 120


@dataclass(frozen=True)
class Said:
    """One call: what was asked, the exit code, and stdout."""

    asked: str
    code: int
    stdout: bytes


def normal(stdout: bytes) -> bytes:
    """Return an answer without what is random in it: a pod's MAC, where the test did not choose it (as 02:00:…)."""
    return MAC.sub(b"random", stdout)


class Recorder(Machine):
    """A machine whose pods are at paths of its own folder."""

    def __init__(self, bin_dir: Path, folder: Path, *, verbs_are_killed: bool = False) -> None:
        super().__init__(bin_dir, folder / "datastore", verbs_are_killed=verbs_are_killed)
        self.folder, self.said = folder, list[Said]()
        folder.mkdir()
        # The folder of the executables differs between the ways, and an answer may name it.
        (folder / "bin").symlink_to(bin_dir)
        self.bin_dir = folder / "bin"

    def pod(self, container_id: str = "") -> Pod:
        pod = super().pod(container_id or f"pod{len(self.pods)}")
        path = self.folder / f"netns{len(self.pods)}"
        path.symlink_to(pod.netns.path)
        pod.netns.path = str(path)
        return pod

    def call(self, verb: str, pod: Pod | None, ifname: str = "eth0", *, netns: str | None = None,
             plugin: str = "calico", env: Mapping[str, str] | None = None, prefix: tuple[str, ...] = (),
             **conf: Any) -> Answer:
        """Run one verb, and write its answer down."""
        path = netns if netns is not None else pod.netns.path if pod else ""
        environment = self.environment(verb, pod.container_id if pod else "", path, ifname, **(env or {}))
        return self.raw(f"{plugin} {verb} {pod and pod.container_id} {ifname} {netns} {env} {conf}", environment,
                        json.dumps(self.conf(**conf)).encode(), plugin, prefix)

    def raw(self, asked: str, env: Mapping[str, str | bytes], stdin: bytes = b"", plugin: str = "calico",
            prefix: tuple[str, ...] = (), arguments: tuple[str, ...] = ()) -> Answer:
        """Run an executable with just these variables, and with what finds the agent."""
        kept = {name: value for name, value in self.env.items() if name.startswith("CALICO_") or name == "PATH"}
        done = subprocess.run([*prefix, *self.command(plugin), *arguments], input=stdin, env={**kept, **env},
                              capture_output=True, timeout=CALL_SECONDS, check=False)
        self.said.append(Said(normal(asked.encode(errors="replace")).decode(), done.returncode, normal(done.stdout)))
        try:
            body = json.loads(done.stdout) if done.stdout else None
        except ValueError:
            body = None
        return Answer(done.returncode, body, done.stderr.decode(errors="replace"))
