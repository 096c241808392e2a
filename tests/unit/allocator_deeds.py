"""What can be asked of the allocator, each as a value: the deeds of its machine (test_allocator_machine.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datastore.api import Store
from ipam.affinity import claim_range
from ipam.assign import Filled, Request, assign, auto_assign, ensure_block
from ipam.cidr import parse_address, parse_cidr
from ipam.handle import Assigned, Owner
from ipam.release import Wanted, release, release_addresses, release_handle
from ipam.remove import delete_pool, release_host, remove_node

NAMES = ("c0", "c1", "c2", "c3", "c4", "c5")
IFNAMES = ("eth0", "net1")


def owner(name: str, ifname: str = "eth0", node: str = "") -> Owner:
    told = {"network": "net", "container": name, "interface": ifname}
    return Owner(f"net.{name}", {**told, "node": node} if node else told)


@dataclass(frozen=True)
class Deed:
    """Something that can be asked of the allocator."""

    def run(self, store: Store) -> Any:
        raise NotImplementedError

    def gained(self, result: Any) -> list[str]:
        """Return the addresses that it was given, by its result."""
        return []

    def lost(self, result: Any) -> list[str]:
        """Return the addresses that it released, by its result."""
        return []

    @property
    def handles(self) -> tuple[str, ...]:
        """Whose counts it may leave too high when it is killed."""
        return ()


@dataclass(frozen=True)
class Assign(Deed):
    node: str
    name: str
    ifname: str
    family: int = 4
    count: int = 1
    pools: tuple[str, ...] = ()
    use: str = "Workload"
    limit: int = 0
    handle_limit: int = 0

    def request(self) -> Request:
        return Request(self.node, owner(self.name, self.ifname, self.node), (self.family,),
                       pools={self.family: self.pools}, env={"NO_DEFAULT_POOLS": "true"}, count=self.count,
                       use=self.use, block_limit=self.limit, handle_limit=self.handle_limit)

    def run(self, store: Store) -> Filled:
        return auto_assign(store, self.request(), self.family)

    def gained(self, result: Filled) -> list[str]:
        return [str(item.address) for item in result.assigned]

    @property
    def handles(self) -> tuple[str, ...]:
        return (f"net.{self.name}",)


@dataclass(frozen=True)
class Both(Deed):
    """One address of each family, or none."""

    node: str
    name: str
    ifname: str

    def run(self, store: Store) -> tuple[Assigned, ...]:
        env = {"NO_DEFAULT_POOLS": "true"}
        return assign(store, Request(self.node, owner(self.name, self.ifname, self.node), (4, 6), env=env))

    def gained(self, result: Sequence[Assigned]) -> list[str]:
        return [str(item.address) for item in result]

    @property
    def handles(self) -> tuple[str, ...]:
        return (f"net.{self.name}",)


@dataclass(frozen=True)
class Ask(Both):
    """A request for this very address."""

    address: str = ""
    use: str = "Workload"
    handle_limit: int = 0

    def run(self, store: Store) -> tuple[Assigned, ...]:
        address = parse_address(self.address)
        return assign(store, Request(
            self.node, owner(self.name, self.ifname, self.node), (address.family,), (address,), use=self.use,
            handle_limit=self.handle_limit, env={"NO_DEFAULT_POOLS": "true"}))


@dataclass(frozen=True)
class ReleaseOwner(Deed):
    name: str
    ifname: str

    def run(self, store: Store) -> list[Any]:
        return release(store, owner(self.name, self.ifname))

    def lost(self, result: Iterable[Any]) -> list[str]:
        return [str(address) for address in result]

    @property
    def handles(self) -> tuple[str, ...]:
        return (f"net.{self.name}",)


@dataclass(frozen=True)
class ReleaseHandle(ReleaseOwner):
    ifname: str = ""

    def run(self, store: Store) -> list[Any]:
        return release_handle(store, f"net.{self.name}")


@dataclass(frozen=True)
class ReleaseAddresses(Deed):
    wanted: tuple[tuple[str, str | None, int | None], ...]  # address, handle, sequence

    def run(self, store: Store) -> Any:
        wanted = (Wanted(parse_address(address), handle, sequence) for address, handle, sequence in self.wanted)
        return release_addresses(store, wanted)

    def lost(self, result: Any) -> list[str]:
        return [str(address) for address in result.freed]

    @property
    def handles(self) -> tuple[str, ...]:
        return tuple(f"net.{name}" for name in NAMES)


@dataclass(frozen=True)
class Ensure(Assign):
    def run(self, store: Store) -> Any:
        return ensure_block(store, self.request(), self.family)

    def gained(self, result: Any) -> list[str]:
        return []


@dataclass(frozen=True)
class Claim(Deed):
    node: str
    cidr: str
    block_size: int

    def run(self, store: Store) -> Any:
        return claim_range(store, self.node, parse_cidr(self.cidr), self.block_size)


@dataclass(frozen=True)
class Leave(Deed):
    """The node gives its blocks up: all, the empty ones, or all and what it remembers."""

    node: str
    how: str = "all"

    def run(self, store: Store) -> Any:
        if self.how == "removed":
            return remove_node(store, self.node)
        return release_host(store, self.node, self.how == "empty")


@dataclass(frozen=True)
class DeletePool(Deed):
    name: str

    def run(self, store: Store) -> Any:
        return delete_pool(store, self.name)
