"""A node with pods as an audit meets it: their records in a real datastore, and a kernel that is a list of wires."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cni_calico import facts
from cni_calico.args import Attachment
from cni_calico.endpoint import endpoint_for
from datastore import keys
from datastore.file import FileStore
from datastore.resources import endpoint_json
from ipam.assign import Request, assign
from ipam.audit.audit import Audit, audit
from ipam.audit.living import Living, Wire, identity
from ipam.audit.repair import Craft, repair
from ipam.cidr import Address
from ipam.find import allocations

NODE, BOOT, NETNS = "jh3014c", "boot-now", "4:4026531840"  # a name whose walk begins at a pool's first block
ENV = {"CALICO_IPV4POOL_CIDR": "10.0.0.0/26", "CALICO_IPV4POOL_BLOCK_SIZE": "29", "CALICO_IPV6POOL_CIDR": "fd00::/121",
       "CALICO_IPV6POOL_BLOCK_SIZE": "125"}
BLOCK = "10.0.0.0/29"
CRAFT = Craft(facts.owner_of_endpoint, facts.endpoint_of_wire)


class House:
    """A datastore and the wires of its node. `unplug` takes a pod's wire away, as the kernel does when a pod ends."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.store = FileStore(str(folder))
        self.env = {**ENV, **env}
        self.wires: dict[str, Wire] = {}
        self.node = NODE

    def pod(self, name: str, families: tuple[int, ...] = (4,), node: str = NODE, **told: str) -> list[Address]:
        """Add a pod as `calico` does: allocate, wire (on this node), record."""
        attachment = Attachment("net", name, "eth0")
        boot = BOOT if node == NODE else "boot-elsewhere"
        given = self.bare(name, families, node,
                          **{"veth": attachment.host_ifname, "netns": NETNS, "boot": boot, **told})
        if node == NODE:
            self.wires[name] = Wire(attachment.host_ifname, attachment.owner({}), tuple(given))
        endpoint = endpoint_for(node, told.get("pod", ""), told.get("namespace", ""), attachment,
                                tuple(map(str, given)))
        self.store.create(keys.workload_endpoint(endpoint.namespace, endpoint.name), endpoint_json(endpoint))
        return given

    def bare(self, name: str, families: tuple[int, ...] = (4,), node: str = NODE, **told: str) -> list[Address]:
        """Add a pod as `calico-ipam` does for another main plugin: allocate, and no more."""
        owner = Attachment("net", name, "eth0").owner({"node": node, "boot": BOOT, **told})
        return [item.address for item in assign(self.store, Request(node, owner, families, env=self.env))]

    def unplug(self, name: str) -> None:
        del self.wires[name]

    def look(self) -> Living:
        present = {wire.link for wire in self.wires.values()}

        def linked(owner: Mapping[str, str]) -> bool:
            return facts.link_of(owner) in present

        return Living(self.node, BOOT, NETNS, linked, tuple(self.wires.values()))

    def audit(self) -> Audit:
        return audit(self.store, self.look)

    def found(self) -> list[tuple[str, str]]:
        """Return kind and subject of all findings."""
        return [(item.kind, item.subject) for item in self.audit().findings]

    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.found()}

    def repair(self) -> list[str]:
        """Repair, expect nothing to be left, and return what was done."""
        done: list[str] = []
        last = repair(self.store, self.look, CRAFT, done.append)
        assert [(item.kind, item.subject, item.what) for item in last.findings] == []
        return done

    def holders(self) -> dict[str, str]:
        """Return address -> handle of all that is allocated."""
        damaged: list[Any] = []
        found = {str(item.address): item.attribute.handle or "" for item in allocations(self.store, damaged.append)}
        assert damaged == []
        return found

    def file(self, key: str) -> Path:
        return Path(self.store.path(key))

    def block(self, cidr: str = BLOCK) -> Path:
        return self.file(keys.block(6 if ":" in cidr else 4, cidr))

    def change(self, key: str, **fields: Any) -> None:
        """Change fields of a record; None removes one."""
        record = self.store.get(key)
        value = {name: item for name, item in {**record.value, **fields}.items() if item is not None}
        self.store.update(key, value, record.revision)

    def remove(self, key: str) -> None:
        self.store.delete(key, self.store.get(key).revision)

    def free_all(self) -> list[str]:
        """Assign until nothing is left; return all addresses that were to be had."""
        from ipam.errors import IpamError

        given: list[str] = []
        for family in (4, 6):
            while True:
                try:
                    given += map(str, self.bare(f"new{len(given)}", (family,)))
                except IpamError:
                    break
        return given


__all__ = ["BLOCK", "BOOT", "CRAFT", "ENV", "NETNS", "NODE", "House", "identity"]
