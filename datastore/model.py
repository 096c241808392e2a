"""Calico's IPAM records as typed values, to and from the JSON that Calico's own tools read.

Field names are Calico's (libcalico-go lib/backend/model: block.go, ipam_handle.go, block_affinity.go, ipam_config.go).
Keys that a record has and this release does not know are kept in `extra` and written back.
"""

from __future__ import annotations

from datastore import keys
from datastore.api import Corrupt
from datastore.fields import count, others, read, text, texts, truth
from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from datastore.api import Json, Record

CONFIRMED = "confirmed"
PENDING = "pending"
PENDING_DELETION = "pendingDeletion"
USUAL = frozenset(("handle_id", "secondary"))  # what nearly every owner of an address has, and nothing else


@frozen
class Attribute:
    """Who holds an address: the handle it is released by, and what is known of the owner (Calico: `secondary`).

    released_at: set for nobody's address that rests before it may be given again (RFC 3339; Calico: `releasedAt`).
    """

    handle: str | None
    owner: Mapping[str, str]
    extra: Mapping[str, Any] = {}
    released_at: str = ""


@frozen
class Block:
    """A run of addresses that one node hands out; an ordinal is an address's distance from the block's first.

    allocations: for each ordinal the index of its owner in `attributes`, or None when it is free.
    unallocated: the free ordinals, the longest free first.
    sequence: grows with each write; allocation_sequence holds, per allocated ordinal, its value at that time.
    """

    cidr: str
    affinity: str | None
    allocations: tuple[int | None, ...]
    unallocated: tuple[int, ...]
    attributes: tuple[Attribute, ...]
    sequence: int
    allocation_sequence: Mapping[int, int]
    extra: Mapping[str, Any] = {}


@frozen
class Handle:
    """How many addresses one owner holds in each block. boot: the one that a pod ends with, empty for others (ours)."""

    handle_id: str
    blocks: Mapping[str, int]
    extra: Mapping[str, Any] = {}
    boot: str = ""


@frozen
class Affinity:
    """How far a node has come in claiming a block, or in giving it up."""

    state: str
    extra: Mapping[str, Any] = {}


@frozen
class IpamConfig:
    """How addresses are given out on every node (Calico: IPAMConfig). max_blocks_per_host 0 means Calico's 20.

    cooldown_seconds: how long a released address rests.
    """

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = 0
    cooldown_seconds: int = 0
    extra: Mapping[str, Any] = {}


@frozen
class Host:
    """What a node remembers from one assignment to the next (Calico's IPAM host record, which is empty there).

    boot: the boot in which allocations of earlier boots were last reclaimed.
    room: for each family, and each pool asked for, the block that was last assigned from: where to look first.
    borrowed: blocks of others that it has taken addresses from since then.
    """

    boot: str = ""
    room: Mapping[str, str] = {}
    borrowed: tuple[str, ...] = ()
    extra: Mapping[str, Any] = {}


def block_of(record: Record) -> Block:
    """Return the block in a record, which must be of the CIDR in its key; raises Corrupt."""
    block = read(record, _block)
    if block.cidr != keys.block_cidr(record.key):
        raise Corrupt(f"record {record.key} holds block {block.cidr}, not its own; repair it before its use")
    return block


def block_is_full(record: Record) -> bool:
    """Tell whether a block record says, in both its lists, that it has no free address, nor one at rest."""
    allocations, attributes = record.value.get("allocations"), record.value.get("attributes")
    return (
        record.value.get("unallocated") == []
        and isinstance(allocations, list)
        and None not in allocations
        and isinstance(attributes, list)
        and not any(isinstance(item, dict) and item.get("releasedAt") for item in attributes)
    )


def block_json(block: Block) -> Json:
    """Return a block as Calico writes it."""
    return {
        "deleted": False,
        **block.extra,
        "cidr": block.cidr,
        "affinity": block.affinity,
        "allocations": list(block.allocations),
        "unallocated": list(block.unallocated),
        "attributes": list(map(_attribute_json, block.attributes)),
        "sequenceNumber": block.sequence,
        "sequenceNumberForAllocation": {str(ordinal): at for ordinal, at in block.allocation_sequence.items()},
    }


def handle_of(record: Record) -> Handle:
    """Return the handle in a record; raises Corrupt."""
    return read(record, lambda value: Handle(
        text(value.get("handleID") or record.key.rpartition("/")[2]),
        {text(cidr): count(held) for cidr, held in value["block"].items()},
        others(value, "handleID", "block", "boot"),
        text(value.get("boot") or ""),
    ))


def handle_json(handle: Handle) -> Json:
    """Return a handle as Calico writes it."""
    boot = {"boot": handle.boot} if handle.boot else {}
    return {"deleted": False, **handle.extra, **boot, "handleID": handle.handle_id, "block": dict(handle.blocks)}


def affinity_of(record: Record) -> Affinity:
    """Return the affinity in a record; an empty state is old data and means confirmed. Raises Corrupt."""
    return read(record, lambda value: Affinity(text(value.get("state") or CONFIRMED), others(value, "state")))


def affinity_json(affinity: Affinity) -> Json:
    """Return an affinity as Calico writes it."""
    return {"deleted": False, **affinity.extra, "state": affinity.state}


def config_of(record: Record) -> IpamConfig:
    """Return the configuration in a record; raises Corrupt."""
    return read(record, lambda value: IpamConfig(
        truth(value.get("strict_affinity"), False),
        truth(value.get("auto_allocate_blocks"), True),
        count(value.get("maxBlocksPerHost") or 0),
        count(value.get("ipCooldownSeconds") or 0),
        others(value, "strict_affinity", "auto_allocate_blocks", "maxBlocksPerHost", "ipCooldownSeconds"),
    ))


def config_json(config: IpamConfig) -> Json:
    """Return the configuration as Calico writes it."""
    return {
        "kubeVirtVMAddressPersistence": "Enabled",
        **config.extra,
        "strict_affinity": config.strict_affinity,
        "auto_allocate_blocks": config.auto_allocate_blocks,
        "maxBlocksPerHost": config.max_blocks_per_host,
        "ipCooldownSeconds": config.cooldown_seconds,
    }


def host_of(record: Record) -> Host:
    """Return what a node remembers; raises Corrupt."""
    return read(record, lambda value: Host(
        text(value.get("boot") or ""), texts(value.get("room")), tuple(map(text, value.get("borrowed") or ())),
        others(value, "boot", "room", "borrowed"),
    ))


def host_json(host: Host) -> Json:
    """Return what a node remembers, as a record."""
    borrowed = {"borrowed": list(host.borrowed)} if host.borrowed else {}
    return {**host.extra, "boot": host.boot, "room": dict(host.room), **borrowed}


def _block(value: Json) -> Block:
    known = ("cidr", "affinity", "allocations", "unallocated", "attributes", "sequenceNumber",
             "sequenceNumberForAllocation")
    return Block(
        cidr=text(value["cidr"]),
        affinity=None if value.get("affinity") is None else text(value["affinity"]),
        allocations=tuple(None if index is None else count(index) for index in value["allocations"]),
        unallocated=tuple(map(count, value["unallocated"])),
        attributes=tuple(map(_attribute, value["attributes"] or ())),
        sequence=count(value.get("sequenceNumber", 0)),
        allocation_sequence={
            int(ordinal): count(at) for ordinal, at in (value.get("sequenceNumberForAllocation") or {}).items()
        },
        extra=others(value, *known),
    )


def _attribute(value: Json) -> Attribute:
    handle, owner = value.get("handle_id"), value.get("secondary") or {}
    if value.keys() == USUAL and type(handle) is str:
        "".join(owner.values())  # raises TypeError for what is no string: a block has hundreds, and this is quick
        return Attribute(handle, owner, {}, "")
    released_at = value.get("releasedAt")
    return Attribute(
        None if handle is None else text(handle),
        texts(owner),
        others(value, *(USUAL | {"releasedAt"} if released_at else USUAL)),
        text(released_at or ""),
    )


def _attribute_json(attribute: Attribute) -> Json:
    resting = {"releasedAt": attribute.released_at} if attribute.released_at else {}
    return {**attribute.extra, "handle_id": attribute.handle, "secondary": dict(attribute.owner), **resting}
