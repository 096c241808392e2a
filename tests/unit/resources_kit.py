"""A datastore in a directory, and calicoctl run on it: shared by the tests of the resource commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from calicoctl.__main__ import main
from datastore.file import FileStore

API = "projectcalico.org/v3"


class Place:
    """A datastore in a directory, and a configuration file that leads to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / "datastore"
        self.store = FileStore(str(self.directory))
        self.config = folder / "calicoctl.cfg"
        self.config.write_text(f"apiVersion: {API}\nkind: CalicoAPIConfig\n"
                               f"spec: {{datastoreType: file, datastoreDir: {self.directory}}}\n")

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        """Run the command in this process."""
        return CliRunner().invoke(main, ["-c", str(self.config), *arguments], prog_name="calicoctl", input=stdin)

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        """Run it and expect success; return stdout. A hint that the datastore is new may be on stderr."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        assert "error" not in result.stderr
        return result.stdout

    def fails(self, *arguments: str, stdin: str | None = None, stdout: str = "") -> str:
        """Run it, expect exit code 1 and one line of error on stderr; return the message."""
        result = self.run(*arguments, stdin=stdin)
        lines = [line for line in result.stderr.splitlines() if not line.startswith("calicoctl: hint: ")]
        assert (result.exit_code, result.stdout, len(lines)) == (1, stdout, 1), result.output
        assert lines[0].startswith("calicoctl: error: ")
        return lines[0].removeprefix("calicoctl: error: ")

    def misused(self, *arguments: str) -> str:
        """Run it with a wrong command line; return what is said about it."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        return result.stderr

    def create(self, *resources: dict[str, Any]) -> str:
        """Hand resources to `create`; return stdout."""
        return self.ok("create", "-f", "-", stdin=many(*resources))

    def get(self, *arguments: str) -> Any:
        """Return what `get -o json` answers."""
        return json.loads(self.ok("get", "-o", "json", *arguments))


def many(*resources: dict[str, Any]) -> str:
    """Return resources as YAML documents."""
    return str(yaml.safe_dump_all(resources))


def resource(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def pool(name: str, cidr: str, **spec: Any) -> dict[str, Any]:
    return resource("IPPool", name, {"cidr": cidr, **spec})


def node(name: str, spec: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return resource("Node", name, spec or {}, **metadata)


def endpoint(namespace: str = "default", **spec: Any) -> dict[str, Any]:
    whole = {"orchestrator": "k8s", "node": "n1", "pod": "web-1", "endpoint": "eth0", "interfaceName": "cali0",
             "containerID": "c0ffee", "ipNetworks": ["10.1.0.1/32"], **spec}
    return {"apiVersion": API, "kind": "WorkloadEndpoint", "metadata": {"namespace": namespace}, "spec": whole}
