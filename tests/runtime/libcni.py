"""Verbs of the real libcni, run on a test's host with a test's configuration."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .host import Host
from .installed import Installed

# What a runtime says of an attachment beside its identity. Debian's bandwidth plugin dies of a nil pointer in a CHECK
# without rates, so whoever checks the shipped chain gives it some.
RATES = {"ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 8_000_000, "egressBurst": 80_000}
SHAPED = {"bandwidth": RATES}
WEB = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}


@dataclass(frozen=True)
class Libcni:
    """One executable that drives libcni: verb, network, and whatever it wants before the namespace."""

    executable: Path
    host: Host
    installed: Installed
    conf_dir: Path
    identity: tuple[str, ...] = ()
    ifname: str = "eth0"

    def run(
        self, verb: str, netns: str, *, args: str = "", caps: dict[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one verb, and leave the judgement to the caller."""
        env = {
            "NETCONFPATH": str(self.conf_dir),
            "CNI_PATH": self.installed.path,
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": args,
            "CAP_ARGS": json.dumps(caps) if caps else "",
        }
        command = (str(self.executable), verb, self.installed.network, *self.identity, netns)
        return self.host.run(*command, env=env, check=False)

    def ok(self, verb: str, netns: str, *, args: str = "", caps: dict[str, Any] | None = None) -> str:
        """Run one verb that must succeed, and return what it printed."""
        done = self.run(verb, netns, args=args, caps=caps)
        assert done.returncode == 0, f"{verb}: {done.stdout}{done.stderr}"
        return done.stdout

    def add(self, netns: str, *, args: str = "", caps: dict[str, Any] | None = None) -> dict[str, Any]:
        """Attach a pod, and return the result."""
        result: dict[str, Any] = json.loads(self.ok("add", netns, args=args, caps=caps))
        return result


def address_of(result: dict[str, Any]) -> str:
    """The first address of a result, without its prefix length."""
    return str(result["ips"][0]["address"]).split("/")[0]
