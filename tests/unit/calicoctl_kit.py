"""A datastore with pools, blocks and reservations, and `calicoctl ipam` run on it as people run it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from calicoctl.__main__ import main
from datastore import keys
from datastore.api import Store
from datastore.file import FileStore
from ipam import configuration
from ipam.cidr import parse_cidr
from ipam.cooldown import stamp

Json = dict[str, Any]

def pod(name: str, node: str) -> Json:
    """Return an owner as a block stores it: a pod on a node."""
    return {"handle_id": f"net.{name}", "secondary": {"pod": name, "namespace": "default", "node": node}}


POD = pod("web", "n1")


JUST_NOW = stamp()


def cooling(since: str = JUST_NOW) -> Json:
    """Return what a block stores in an owner's place for an address that cools down."""
    return {"handle_id": None, "secondary": {}, "releasedAt": since}


class AnyPlace:
    """A datastore of any kind, and a configuration file that leads to it."""

    folder: Path
    store: Store
    config: Path

    def pool(self, name: str, cidr: str, **spec: Any) -> None:
        """Store a pool."""
        self.store.create(keys.ippool(name), {
            "kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
            "spec": {"cidr": cidr, **spec},
        })

    def block(self, cidr: str, node: str | None = "n1", held: Mapping[int, Json] | Sequence[int] = ()) -> None:
        """Store a block of a node, or of none, and who holds which of its ordinals: a pod of that node, if not said."""
        owners = dict(held) if isinstance(held, Mapping) else dict.fromkeys(held, pod("web", node or "n1"))
        attributes = [owner for at, owner in enumerate(owners.values()) if owner not in list(owners.values())[:at]]
        if any("releasedAt" in owner for owner in attributes):
            configuration.save(self.store, cooldown_seconds=configuration.LONGEST_COOLDOWN)
        ordinals = range(parse_cidr(cidr).size)
        self.store.create(keys.block(parse_cidr(cidr).family, cidr), {
            "cidr": cidr,
            "affinity": f"host:{node}" if node else None,
            "allocations": [attributes.index(owners[at]) if at in owners else None for at in ordinals],
            "unallocated": [at for at in ordinals if at not in owners],
            "attributes": attributes,
        })

    def reserve(self, name: str, *cidrs: str) -> None:
        """Store a reservation."""
        self.store.create(keys.ipreservation(name), {"metadata": {"name": name}, "spec": {"reservedCIDRs": cidrs}})

    def run(self, *arguments: str, **env: str) -> Result:
        """Run the command in this process."""
        env = {"CALICO_IPAM_LOCK_FILE": str(self.folder / "ipam.lock"), **(env or {})}
        return CliRunner(env=env).invoke(main, ["-c", str(self.config), *arguments], prog_name="calicoctl")

    def ok(self, *arguments: str, **env: str) -> str:
        """Run it, expect success and silence on stderr; return stdout."""
        result = self.run(*arguments, **env)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout

    def answer(self, *arguments: str) -> Any:
        """Return what it answers as JSON."""
        return json.loads(self.ok(*arguments, "-o", "json"))

    def fails(self, *arguments: str) -> str:
        """Run it, expect exit code 1, no stdout and one line on stderr; return the message."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert result.stderr.startswith("calicoctl: error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr.removeprefix("calicoctl: error: ")

    def misused(self, *arguments: str) -> str:
        """Run it with a wrong command line; return what is said about it."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        return result.stderr


class Place(AnyPlace):
    """A datastore in a directory."""

    store: FileStore

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / "datastore"
        self.store = FileStore(str(self.directory))
        self.config = folder / "calicoctl.cfg"
        self.config.write_text(f"apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\n"
                               f"spec:\n  datastoreType: file\n  datastoreDir: {self.directory}\n")
