"""Taking addresses back: all that an owner holds, these very addresses, or exactly what one assignment gave."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from datastore import keys
from datastore.api import Change, Conflict, Corrupt, Exists, Missing
from datastore.frozen import frozen
from datastore.model import block_json
from datastore.undo import all_of
from ipam import configuration, cooldown
from ipam.affinity import ATTEMPTS, Present, block_cidrs, read_block
from ipam.block import free, held, held_of, owner_of
from ipam.cidr import BITS, block_at, parse_cidr
from ipam.count import count_change, handle_blocks, handle_record
from ipam.errors import BadRequest, Changed, Contended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from datastore.api import Record, Store
    from datastore.model import Block
    from ipam.cidr import Address, Cidr
    from ipam.handle import Assigned, Owner

    Choose = Callable[[Block], list[int]]

LOST_RACE = (Conflict, Exists, Missing)
MOST_AT_ONCE = 100  # addresses of a block, each with a handle to count: etcd takes 128 writes in a transaction


@frozen
class Wanted:
    """An address to release: whoever has it, or only the handle or the sequence number given (ReleaseOptions)."""

    address: Address
    handle: str | None = None
    sequence: int | None = None


@frozen
class Released:
    """What a release of addresses came to: those freed, and those that nobody held."""

    freed: tuple[Address, ...]
    unallocated: tuple[Address, ...]


def release(store: Store, owner: Owner, hints: Collection[Address] = ()) -> list[Address]:
    """Free every address the owner holds and return them; having none is no error. Raises Contended, StoreError.

    Depends on nothing but the handle and its blocks: not on pools, node or configuration. The handle's counts are set
    to what the blocks hold, so a writer killed half-way leaves nothing behind once this has run. `hints` are addresses
    that another record tells of: their blocks are looked at too, should the handle have been lost.
    """
    freed: list[Address] = []
    if not hints and not handle_blocks(store, owner.handle_id):
        return freed
    with store.exclusive():
        blocks = set(handle_blocks(store, owner.handle_id))
        lost = [address for address in hints if not any(address in cidr for cidr in blocks)]
        if lost:
            family_blocks = (cidr for family in (4, 6) for cidr in block_cidrs(store, family))
            blocks |= {cidr for cidr in family_blocks if any(address in cidr for address in lost)}

        def free_from(cidr: Cidr) -> None:
            freed.extend(_free(store, cidr, lambda block: held(block, owner.holds), {owner.handle_id}))

        all_of(*(partial(free_from, cidr) for cidr in sorted(blocks, key=str)))  # a damaged one keeps no other
    return freed


def release_handle(store: Store, handle_id: str) -> list[Address]:
    """Free every address of a handle, whoever its owners are (Calico: ReleaseByHandle). Raises Contended, StoreError.

    A handle that does not exist holds nothing.
    """
    freed: list[Address] = []
    with store.exclusive():
        def free_from(cidr: Cidr) -> None:
            freed.extend(_free(store, cidr, lambda block: held_of(block, handle_id), {handle_id}))

        all_of(*(partial(free_from, cidr) for cidr in handle_blocks(store, handle_id)))
    return freed


def release_addresses(store: Store, wanted: Iterable[Wanted]) -> Released:
    """Free these addresses (Calico: ReleaseIPs). One that is named twice is freed once.

    Raises Changed when a block holds one of them for another handle or with another sequence number than wanted:
    nothing is released from that block then, while others may have been. Raises Contended, StoreError.
    """
    unique = dict.fromkeys(wanted)
    freed: list[Address] = []
    with store.exclusive():
        blocks = _by_block(store, unique)
        all_of(*(partial(_free_wanted, store, cidr, items, freed) for cidr, items in blocks.items()))
    addresses = dict.fromkeys(item.address for item in unique)
    return Released(tuple(freed), tuple(address for address in addresses if address not in set(freed)))


def take_back(store: Store, assigned: Assigned) -> None:
    """Free the address of one assignment, and only of that one: not if it has been given anew since."""
    ordinal = assigned.address.number - assigned.block.first

    def same(block: Block) -> list[int]:
        mine = held_of(block, assigned.handle_id)
        return [ordinal] if ordinal in mine and block.allocation_sequence.get(ordinal) == assigned.sequence else []

    with store.exclusive():
        _free(store, assigned.block, same, {assigned.handle_id})


def _by_block(store: Store, wanted: Iterable[Wanted]) -> dict[Cidr, list[Wanted]]:
    """Return what to release from each block; an address that lies in none is left out."""
    present: dict[int, Present] = {}
    found: dict[Cidr, list[Wanted]] = {}
    for item in wanted:
        family = item.address.family
        if family not in present:
            present[family] = Present(store, family)
        cidr = present[family].at(block_at(item.address, BITS[family]))
        if cidr:
            found.setdefault(cidr, []).append(item)
    return found


def _free_wanted(store: Store, cidr: Cidr, wanted: Collection[Wanted], freed: list[Address]) -> None:
    freed += _free(store, cidr, lambda block: _agreed(block, cidr, wanted), ())


def _agreed(block: Block, cidr: Cidr, wanted: Iterable[Wanted]) -> list[int]:
    """Return the ordinals of the addresses wanted that somebody holds; raises Changed."""
    ordinals = []
    for item in wanted:
        ordinal = item.address.number - cidr.first
        owner = owner_of(block, ordinal)
        if owner is None or owner.released_at:
            continue
        sequence = block.allocation_sequence.get(ordinal)
        if item.sequence not in (None, sequence):
            raise Changed(f"address {item.address} was given anew: its sequence number is {sequence}, "
                          f"not {item.sequence}; look again before you release it")
        if item.handle not in (None, owner.handle):
            raise Changed(f"address {item.address} is held by handle {owner.handle}, not {item.handle}; "
                          "look again before you release it")
        ordinals.append(ordinal)
    return list(dict.fromkeys(ordinals))


def _free(store: Store, cidr: Cidr, choose: Choose, handles: Collection[str]) -> list[Address]:
    """Free the chosen ordinals of one block, and set the counts of the handles that had them, and of `handles`."""
    freed: list[Address] = []
    for _ in range(ATTEMPTS):
        try:
            some = _free_once(store, cidr, choose, handles)
        except LOST_RACE:
            continue
        freed += some
        if len(some) < MOST_AT_ONCE:
            return freed
    raise Contended(f"block {cidr} kept changing under {ATTEMPTS} attempts to release from it; try again")


def _free_once(store: Store, cidr: Cidr, choose: Choose, handles: Collection[str]) -> list[Address]:
    """Write block and handles, in this order: a death in between leaves a count that is too high, never too low."""
    records = {handle_id: handle_record(store, handle_id) for handle_id in handles}
    stored = read_block(store, cidr)
    at = keys.block(cidr.family, str(cidr))
    if stored is None:
        store.commit(Change(at, None, None, keep=True), *_counts(cidr, None, records))
        return []
    block, revision = stored
    ordinals = choose(block)[:MOST_AT_ONCE]
    if ordinals:
        owners = (owner_of(block, ordinal) for ordinal in ordinals)
        had = {owner.handle for owner in owners if owner and owner.handle}
        records |= {handle_id: handle_record(store, handle_id) for handle_id in had.difference(records)}
        block = _freed(store, block, ordinals)
    written = _written(block, revision) if ordinals else Change(at, None, revision, keep=True)
    store.commit(written, *_counts(cidr, block, records))
    if ordinals and not block.attributes and block.affinity:
        _leave_if_deselected(store, block)
    return [cidr.address(ordinal) for ordinal in ordinals]


def _freed(store: Store, block: Block, ordinals: Collection[int]) -> Block:
    """Return the block with the ordinals free, or at rest if the configuration says so. Raises StoreError."""
    try:
        seconds = configuration.load(store).cooldown_seconds
    except Corrupt:
        seconds = 0  # a release depends on no configuration
    with suppress(Corrupt):  # whose rest cannot be read rests on
        block = cooldown.settled(block, seconds)
    return free(block, ordinals, cooldown.stamp() if seconds else "")


def _counts(cidr: Cidr, block: Block | None, records: Mapping[str, Record | None]) -> list[Change]:
    """Return the writes that make handles count what the block holds for them."""
    changes = []
    for handle_id in sorted(records):
        holds = len(held_of(block, handle_id)) if block else 0
        changes.append(count_change(records[handle_id], handle_id, str(cidr), holds))
    return [change for change in changes if change]


def _written(block: Block, revision: int) -> Change:
    """Return the write of the block; an empty one that no node owns is dropped."""
    gone = block.affinity is None and not block.attributes
    return Change(keys.block(parse_cidr(block.cidr).family, block.cidr), None if gone else block_json(block), revision)


def _leave_if_deselected(store: Store, block: Block) -> None:
    """Give an empty block up when its pool selects its node no longer; a release does not fail for that."""
    from ipam.pool import all_pools
    from ipam.staircase import give_up_deselected

    kind, _, node = str(block.affinity).partition(":")
    if kind != "host":
        return
    cidr = parse_cidr(block.cidr)
    try:
        cooldown_seconds = configuration.load(store).cooldown_seconds
        give_up_deselected(store, all_pools(store, cidr.family), node, cidr, cooldown_seconds)
    except (Corrupt, BadRequest, Contended):
        return
