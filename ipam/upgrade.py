"""`calico-ipam -upgrade`: from host-local to calico-ipam, for one network of one node.

Every address that host-local has a file for is recorded for the very container that has it (Calico: cni-plugin
pkg/upgrade), and only then its file is removed; what cannot be placed is told and left. Doing it again carries on.

The gate is a reservation (Calico: IPReservation) of all these addresses, made first and taken back last: no ADD is
given one of them while a run lasts or after one was killed, and none has to wait for the end of a long run, as it would
if the datastore were locked meanwhile. Nor is one given to a pod that asks for it by name (ipam/reservation.py).
Each node, network and directory has a gate of its own, so nodes upgrade each at its own time.
"""

from __future__ import annotations

import os
import time
from hashlib import sha256

from datastore import keys
from datastore.api import Corrupt, Missing
from datastore.frozen import frozen
from datastore.hostlocal import Gone
from ipam.assign import Request, assign
from ipam.cidr import BITS, parse_address
from ipam.errors import AddressInUse, BadRequest, IpamError
from ipam.find import holder
from ipam.reservation import GATE, GATE_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from datastore.api import Json, Store
    from datastore.hostlocal import Folder
    from ipam.cidr import Address
    from ipam.handle import Owner

AGAIN = "then run this again"
LONGEST_READABLE = 150  # characters of a gate's name, which ends in a digest


@frozen
class Job:
    """Whose addresses are to be placed. `owner` makes the owner of a container id and an interface name.

    The name is empty where host-local's file does not tell it. `owner` raises BadRequest.
    """

    node: str
    network: str
    owner: Callable[[str, str], Owner]


@frozen
class Left:
    """A file that stays where it is: why, and what to do about it."""

    file: str
    reason: str
    action: str


@frozen
class Summary:
    """What became of the files: how many were placed, and what is left of them; `gone` if there is no directory."""

    placed: int
    left: tuple[Left, ...]
    gone: bool = False


def upgrade(store: Store, folder: Folder, job: Job, progress: Callable[[int, int], object]) -> Summary:
    """Place every address of host-local's folder, and remove the folder when nothing is left in it.

    Without a folder, which somebody may have removed, only the gate is taken back.
    `progress` is told how many files have been looked at, and of how many. Raises StoreError and OSError when datastore
    or folder cannot be used at all; what was placed by then stays placed.
    """
    try:
        with folder.locked():
            return _move_all(store, folder, job, progress)
    except Gone:
        _reserve(store, folder, job, ())
        return Summary(0, (), gone=True)


def gate(store: Store, folder: Folder, job: Job) -> int:
    """Only reserve the addresses of host-local's folder; return how many there are. Raises StoreError, OSError."""
    try:
        with folder.locked():
            return _reserve(store, folder, job, folder.names())
    except Gone:
        return _reserve(store, folder, job, ())


def _move_all(store: Store, folder: Folder, job: Job, progress: Callable[[int, int], object]) -> Summary:
    names = folder.names()
    _reserve(store, folder, job, names)
    left = []
    for count, name in enumerate(names, 1):
        found = _move(store, folder, job, name)
        left += [found] if found else []
        progress(count, len(names))
    _reserve(store, folder, job, [item.file for item in left])
    if not left:
        folder.remove_all()
    return Summary(len(names) - len(left), tuple(left))


def _move(store: Store, folder: Folder, job: Job, name: str) -> Left | None:
    """Record one file's address and remove the file; return why not where it cannot be."""
    try:
        address = _address(name)
    except BadRequest:
        return Left(name, "its name is not an address", "move it elsewhere")
    try:
        owner = job.owner(*_content(folder.read(name)))
    except (BadRequest, Corrupt, OSError) as error:
        return Left(name, f"whose it is cannot be told: {error}",
                    f"delete the pod that has {address}, if any, and this file, {AGAIN}")
    try:
        _place(store, job, address, owner)
    except AddressInUse as error:
        return Left(name, str(error), f"delete the pod that should not have it, {AGAIN}")
    except (IpamError, Corrupt) as error:
        return Left(name, str(error), f"make a pool that has it, or correct what is wrong, {AGAIN}")
    folder.remove(name)
    return None


def _place(store: Store, job: Job, address: Address, owner: Owner) -> None:
    """Record the address as the owner's, which is done if it is already. Raises IpamError, StoreError.

    No default pool is made for it: which ranges host-local had, is for the operator to say.
    """
    no_pools = {"NO_DEFAULT_POOLS": "true"}
    try:
        assign(store, Request(node=job.node, owner=owner, families=(), addresses=(address,), env=no_pools,
                              upgrading=True))
    except AddressInUse:
        found = holder(store, address)
        if not (found and owner.holds(found.attribute)):
            raise


def _address(name: str) -> Address:
    """Return the address a file is named after; where ':' cannot be in a name, host-local writes '_'."""
    return parse_address(name.replace("_", ":"))


def _content(text: str) -> tuple[str, str]:
    """Return container id and interface name: a line each, in older releases the id alone; lines end in any way."""
    container_id, _, ifname = text.partition("\n")
    return container_id.strip(), ifname.strip()


def _reserve(store: Store, folder: Folder, job: Job, names: Iterable[str]) -> int:
    """Have these files' addresses, and no others, reserved for host-local's containers; return how many there are."""
    cidrs = list(_cidrs(names))
    value = _reservation(os.path.abspath(folder.path), job, cidrs)
    key = keys.ipreservation(value["metadata"]["name"])
    with store.exclusive():
        try:
            record = store.get(key)
        except Missing:
            if cidrs:
                store.create(key, value)
        else:
            if cidrs:
                store.update(key, value, record.revision)
            else:
                store.delete(key, record.revision)
    return len(cidrs)


def _cidrs(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        try:
            address = _address(name)
        except BadRequest:
            continue
        yield f"{address}/{BITS[address.family]}"


def _gate_name(directory: str, job: Job) -> str:
    """Return the name of the gate, its own for each node, network and directory: Kubernetes allows few characters."""
    readable = "".join(char if char.isascii() and char.isalnum() else "-" for char in f"{job.node}-{job.network}")
    digest = sha256("\0".join((job.node, job.network, directory)).encode(errors="surrogateescape")).hexdigest()
    return f"{GATE}{readable[:LONGEST_READABLE].lower()}-{digest[:16]}"


def _reservation(directory: str, job: Job, cidrs: list[str]) -> Json:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "kind": "IPReservation",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": _gate_name(directory, job), "creationTimestamp": created,
                     "annotations": {GATE_MARK: directory}},
        "spec": {"reservedCIDRs": cidrs},
    }
