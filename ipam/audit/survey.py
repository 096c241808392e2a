"""One walk over all blocks, keeping only what can be compared with other records later: an audit's first half.

What is kept grows with blocks, pools, nodes and what this node has, not with the allocations of all nodes.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from datastore import keys
from datastore.api import Corrupt, Missing, Torn, Unwritable
from datastore.model import block_of
from datastore.resources import pool_of
from ipam import configuration
from ipam.audit.blocks import faults
from ipam.audit.finding import BLOCK_UNSOUND, POOL_MISSING, RECORD_UNREADABLE, SETTING_UNREADABLE, Finding, Leak
from ipam.audit.living import BOOT, NETNS, identity, why_gone
from ipam.audit.tally import Tally
from ipam.block import check
from ipam.cidr import block_at, parse_cidr
from ipam.errors import BadRequest
from ipam.pool import check_selectors, sound
from ipam.reservation import ranges_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from datastore.api import Record, Store
    from datastore.model import Attribute, Block
    from ipam.audit.living import Living
    from ipam.cidr import Address, Cidr

    T = TypeVar("T")
    Watch = Callable[[Iterable[T], str, int], Iterable[T]]

FAMILIES = (4, 6)
SETTINGS = (keys.IPPOOLS, keys.IPRESERVATIONS)  # what people made, and nothing else can tell
UNKNOWN = "repaired-unknown"  # handle of addresses that a repair could not prove free


class Survey:
    """What the blocks say, and what the audit learns besides.

    pools: range -> prefix length of its blocks. blocks: CIDR -> affinity. doubtful: CIDRs of blocks whose content is
    not known. claims: CIDR -> node -> state of its affinity, empty for a damaged one. unread: handles with a damaged
    record -> blocks naming them. handles: facts (handle, CIDR, count); owners: facts (address, network, container,
    interface). at_wires: what this node has wired -> who holds it. suspects: allocations that looked leaked. home: this
    node's allocations say that it is their namespace that we look at. pairs: how many facts `handles` has. kept:
    addresses of nobody known.
    """

    def __init__(self, living: Living) -> None:
        self.living = living
        self.findings: list[Finding] = []
        self.pools: dict[Cidr, int] = {}
        self.unread: dict[str, set[str]] = {}
        self.blocks: dict[str, str | None] = {}
        self.doubtful: set[str] = set()
        self.claims: dict[str, dict[str, str]] = {}
        self.sizes: dict[int, set[int]] = {family: set() for family in FAMILIES}
        self.handles, self.owners = Tally(), Tally()
        self.pairs = self.allocations = self.resting = self.kept = 0
        self.nodes: Counter[str] = Counter()
        self.at_wires: dict[Address, Attribute | None] = {
            address: None for wire in living.wires for address in wire.addresses
        }
        self.suspects: list[Leak] = []
        self.home = False

    def unreadable(self, torn: Torn) -> None:
        """Take note of a damaged record, and of its block when it is one."""
        setting = torn.key == keys.IPAM_CONFIG or torn.key.startswith(SETTINGS)
        kind = SETTING_UNREADABLE if setting else RECORD_UNREADABLE
        self.findings.append(Finding(kind, torn.key or torn.file, torn.reason, torn))
        if any(torn.key.startswith(keys.blocks(family)) for family in FAMILIES):
            self.doubt(keys.block_cidr(torn.key))

    def doubt(self, cidr: str) -> None:
        """Take note of a block whose content is not known; one that no block can be named after is none."""
        with suppress(BadRequest):
            parsed = parse_cidr(cidr)
            self.doubtful.add(cidr)
            self.sizes[parsed.family].add(parsed.prefix)

    def block_at(self, address: Address) -> str:
        """Return the CIDR of the block that an address lies in, usable or not, empty when there is none."""
        for prefix in sorted(self.sizes[address.family], reverse=True):
            cidr = str(block_at(address, prefix))
            if cidr in self.blocks or cidr in self.doubtful:
                return cidr
        return ""

    def in_pool(self, address: Address) -> bool:
        """Tell whether an address lies in a pool."""
        return any(address in pool for pool in self.pools)


def survey(store: Store, living: Living, watch: Watch[Record]) -> Survey:
    """Read all pools and blocks. Raises Unwritable."""
    found = Survey(living)
    _settings(store, found)
    for family in FAMILIES:
        prefix = keys.blocks(family)
        count = len(store.keys(prefix))
        for record in watch(store.scan(prefix, found.unreadable), f"Reading IPv{family} blocks", count):
            _block(found, record)
    return found


def _settings(store: Store, found: Survey) -> None:
    """Take note of pools, and of settings that cannot be read."""
    for record in store.scan(keys.IPPOOLS, found.unreadable):
        try:
            pool = pool_of(record)
            found.pools[parse_cidr(pool.cidr)] = pool.block_size
            check_selectors(sound(pool))
        except (Corrupt, BadRequest) as error:
            found.unreadable(Torn(record.key, "", str(error)))
    for record in store.scan(keys.IPRESERVATIONS, found.unreadable):
        _try(found, record.key, partial(ranges_of, record))
    _try(found, keys.IPAM_CONFIG, partial(configuration.load, store))


def _try(found: Survey, key: str, reader: Callable[[], object]) -> None:
    try:
        reader()
    except Corrupt as error:
        found.unreadable(Torn(key, "", str(error)))


def _block(found: Survey, record: Record) -> None:
    try:
        parse_cidr(keys.block_cidr(record.key))
    except BadRequest:
        return  # named after no block: nobody will read it
    try:
        block = block_of(record)
    except Corrupt as error:
        found.unreadable(Torn(record.key, "", str(error)))
        return
    for fault in faults(block, time.time()):
        found.findings.append(Finding(BLOCK_UNSOUND, record.key, fault))
    try:
        _allocations(found, check(block))
    except Corrupt:
        found.doubt(block.cidr)


def _allocations(found: Survey, block: Block) -> None:
    """Take note of a sound block and of who holds its addresses."""
    cidr = parse_cidr(block.cidr)
    found.blocks[block.cidr] = block.affinity
    found.sizes[cidr.family].add(cidr.prefix)
    counts: Counter[str] = Counter()
    for address, attribute, sequence in in_use(block):
        found.allocations += 1
        found.nodes[attribute.owner.get("node", "")] += 1
        if attribute.handle is not None:
            counts[attribute.handle] += 1
        if attribute.handle == UNKNOWN:
            found.kept += 1
        if address in found.at_wires:
            found.at_wires[address] = attribute
        found.owners.add(str(address), *identity(attribute.owner))
        _judge(found, address, attribute, sequence)
    for handle, count in counts.items():
        found.handles.add(handle, block.cidr, count)
    found.pairs += len(counts)
    found.resting += len(block.allocations) - len(block.unallocated) - sum(1 for _ in in_use(block))
    _poolless(found, block)


def in_use(block: Block, resting: bool = False) -> Iterator[tuple[Address, Attribute, int | None]]:
    """Yield the addresses of a sound block that somebody holds, who, and the number of the giving.

    resting: also those that nobody holds, but that rest since their release.
    """
    cidr = parse_cidr(block.cidr)
    for ordinal, index in enumerate(block.allocations):
        if index is not None and (resting or not block.attributes[index].released_at):
            yield cidr.address(ordinal), block.attributes[index], block.allocation_sequence.get(ordinal)


def _judge(found: Survey, address: Address, attribute: Attribute, sequence: int | None) -> None:
    living, owner = found.living, attribute.owner
    if living.boot and owner.get(BOOT) == living.boot and owner.get(NETNS) == living.netns:
        found.home = True
    why = why_gone(owner, living)
    if why:
        found.suspects.append(Leak(address, attribute, sequence, why))


def _poolless(found: Survey, block: Block) -> None:
    cidr = parse_cidr(block.cidr)
    if any(cidr in pool for pool in found.pools):
        return
    outside = [str(address) for address, _, _ in in_use(block) if not found.in_pool(address)]
    if outside:
        what = f"{len(outside)} addresses in use lie in no pool, {outside[0]} the first"
        found.findings.append(Finding(POOL_MISSING, block.cidr, what))


def read(store: Store, cidr: str) -> Block | None:
    """Return a block as it is now, None when there is none; raises Corrupt."""
    try:
        return check(block_of(store.get(keys.block(parse_cidr(cidr).family, cidr))))
    except Missing:
        return None


def holder(block: Block | None, address: Address) -> tuple[Attribute | None, int | None]:
    """Return who holds an address of the block, and the number of the giving; None for nobody."""
    for at, attribute, sequence in in_use(block) if block else ():
        if at == address:
            return attribute, sequence
    return None, None


@contextmanager
def undisturbed(store: Store) -> Iterator[None]:
    """Keep writers off while the body looks at two records; where nothing can be written, there are none."""
    with ExitStack() as held:
        with suppress(Unwritable):
            held.enter_context(store.exclusive())
        yield
