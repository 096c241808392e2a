"""Setting right what an audit found, where the truth can be told. Damaged records that are replaced are kept aside.

Each step looks again under the datastore's lock before it writes, and is harmless to do twice: whatever is interrupted
is found by the next audit. Blocks come first, since everything else is measured by them.
"""

from __future__ import annotations

from contextlib import suppress

from datastore import keys
from datastore.api import Conflict, Corrupt, Exists, Missing, Torn
from datastore.frozen import frozen, replace
from datastore.model import CONFIRMED, PENDING, Affinity, Handle, affinity_json, handle_json, handle_of
from datastore.resources import endpoint_json, endpoint_of
from ipam.affinity import claim, give_up
from ipam.audit import finding as kinds
from ipam.audit.affinities import claims_of, disagreement, state_of, states_in
from ipam.audit.audit import audit, unwatched
from ipam.audit.handles import count
from ipam.audit.repair_block import repair_blocks
from ipam.audit.survey import holder, in_use, read
from ipam.block import held_of, host_affinity
from ipam.collect import collect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from datastore.api import Record, Store
    from datastore.resources import Endpoint
    from ipam.audit.audit import Audit
    from ipam.audit.finding import Finding
    from ipam.audit.living import Living, Wire
    from ipam.audit.survey import Survey
    from ipam.handle import Owner

READERS: Mapping[str, Callable[[Record], object]] = {keys.HANDLES: handle_of, keys.HOSTS: states_in}
ROUNDS = 5  # a damaged block hides its handles, and these what else may be wrong


@frozen
class Craft:
    """What only the plugin knows: whom an endpoint record belongs to, and the record of a pod that is wired."""

    owner_of: Callable[[Endpoint], Owner]
    endpoint_of: Callable[[str, Wire, Mapping[str, str]], Endpoint]


def repair(
    store: Store, look: Callable[[], Living], craft: Craft, tell: Callable[[str], object],
    watch: Callable[..., Iterable[Any]] = unwatched,
) -> Audit:
    """Audit and set right until nothing more can be; return the last audit. `tell` hears of each change.

    Raises Busy, Unwritable; what was done until then stays done.
    """
    last = _rounds(store, look, craft, tell, watch)
    collected = collect(store)
    if collected:
        tell(f"blocks: rested addresses of {collected} were freed; those that nobody has were removed")
    return last


def _rounds(
    store: Store, look: Callable[[], Living], craft: Craft, tell: Callable[[str], object],
    watch: Callable[..., Iterable[Any]],
) -> Audit:
    for _ in range(ROUNDS):
        last, done = audit(store, look, watch), False
        for what in _repair(store, last, craft):
            done = True
            tell(what)
        if not done:
            return last
    return audit(store, look, watch)


def _repair(store: Store, last: Audit, craft: Craft) -> Iterator[str]:
    yield from repair_blocks(store, last, craft.owner_of)
    for handle_id, cidrs in last.survey.unread.items():
        with store.exclusive(), suppress(Missing, Corrupt):
            yield from _unread_handle(store, last.survey, handle_id, cidrs)
    for finding in last.findings:
        step = STEPS.get(finding.kind)
        if step:
            with store.exclusive(), suppress(Conflict, Exists, Missing, Corrupt):  # then the next round looks again
                yield from step(store, last.survey, finding, craft)


def _unread_handle(store: Store, found: Survey, handle_id: str, cidrs: Iterable[str]) -> Iterator[str]:
    """Make a damaged handle anew from the blocks that have addresses of it.

    It waits until no block is in doubt: as long as it is damaged, it keeps what it may have there from being freed.
    """
    if found.doubtful:
        return
    key = keys.handle(handle_id)
    blocks = {cidr: read(store, cidr) for cidr in cidrs}
    held = {cidr: len(held_of(block, handle_id)) for cidr, block in blocks.items() if block}
    held = {cidr: number for cidr, number in held.items() if number}
    if held and _is_damaged(store, key):
        store.mend(Torn(key, "", ""), handle_json(_made(store, handle_id, held)))
        yield f"handle {handle_id} was made anew from {len(held)} blocks"


def _made(store: Store, handle_id: str, held: Mapping[str, int]) -> Handle:
    """Return a handle of what blocks hold for it, with the boot that all of them end with, if there is one."""
    blocks = filter(None, (read(store, cidr) for cidr in held))
    boots = {keys.boot_of(item.owner) for block in blocks for _, item, _ in in_use(block) if item.handle == handle_id}
    return Handle(handle_id, held, boot=boots.pop() if len(boots) == 1 else "")


def _is_damaged(store: Store, key: str) -> bool:
    """Tell whether a record that is there cannot be read, or not as what it should be."""
    try:
        record = store.get(key)
        for prefix, reader in READERS.items():
            if key.startswith(prefix):
                reader(record)
    except Missing:
        return False
    except Corrupt:
        return True
    return False


def _handle(store: Store, found: Survey, finding: Finding, craft: Craft) -> Iterator[str]:
    """Make a handle count what the blocks hold."""
    told = finding.detail
    now = count(store, told.handle_id, told.held, found.doubtful)
    if now is None or (now.told == now.held and (now.held or now.unclear)):
        return
    key = keys.handle(told.handle_id)
    blocks = {**now.held, **{cidr: number for cidr, number in now.unclear.items() if number}}
    if now.revision is None and blocks:
        store.create(key, handle_json(_made(store, told.handle_id, blocks)))
        yield f"handle {told.handle_id} was made"
    elif now.revision is not None and blocks:
        store.update(key, handle_json(replace(handle_of(store.get(key)), blocks=blocks)), now.revision)
        yield f"handle {told.handle_id} was made to count what the blocks hold"
    elif now.revision is not None:
        store.delete(key, now.revision)
        yield f"handle {told.handle_id} was removed"


def _affinity(store: Store, found: Survey, finding: Finding, craft: Craft) -> Iterator[str]:
    """Add, remove or complete an affinity, as its block says."""
    told = finding.detail
    if finding.kind not in [now.kind for now in disagreement(store, found, told)]:
        return
    if finding.kind == kinds.AFFINITY_MISSING:
        store.create(told.key, affinity_json(Affinity(CONFIRMED)))
        yield f"affinity {told.key} was made"
    elif finding.kind == kinds.AFFINITY_STALE:
        store.delete(told.key, store.get(told.key).revision)
        yield f"affinity {told.key} was removed"
    elif state_of(store, told) == PENDING:
        claim(store, told.node, told.range)
        yield f"affinity {told.key} was confirmed"
    elif give_up(store, told.node, told.range, require_empty=True):
        yield f"affinity {told.key} was given up, as had been begun"
    else:
        yield f"affinity {told.key} was confirmed: its block is in use"


def _stale_endpoint(store: Store, found: Survey, finding: Finding, craft: Craft) -> Iterator[str]:
    stray = finding.detail
    key = keys.workload_endpoint(stray.endpoint.namespace, stray.endpoint.name)
    record = store.get(key)
    if endpoint_of(record) == stray.endpoint:
        store.delete(key, record.revision)
        yield f"endpoint record {key} was removed"


def _missing_endpoint(store: Store, found: Survey, finding: Finding, craft: Craft) -> Iterator[str]:
    wire = finding.detail
    places = [(found.block_at(address), address) for address in wire.addresses]
    held = (holder(read(store, cidr), address)[0] for cidr, address in places if cidr)
    attribute = next((item for item in held if item and wire.owner.holds(item)), None)
    if attribute:
        endpoint = craft.endpoint_of(found.living.node, wire, attribute.owner)
        key = keys.workload_endpoint(endpoint.namespace, endpoint.name)
        try:
            store.create(key, endpoint_json(endpoint))
        except Exists:  # what is there is no endpoint record of ours, though named as one
            store.mend(Torn(key, "", ""), endpoint_json(endpoint))
        yield f"endpoint record {key} was made"


def _unreadable(store: Store, found: Survey, finding: Finding, craft: Craft) -> Iterator[str]:
    """Put a damaged record that is not a block aside, with what can be told in its place.

    A handle waits until no block is in doubt and no block names a damaged handle: it may be that one's.
    """
    torn = finding.detail
    place, value = torn.key or torn.file, None
    if "/assignment/" in place or ("/handle/" in place and (found.doubtful or found.unread)):
        return
    if torn.key and not _is_damaged(store, torn.key):
        return
    for told in claims_of(torn.key):
        block = read(store, told.cidr)
        if told.cidr in found.doubtful:
            return
        value = affinity_json(Affinity(CONFIRMED)) if block and block.affinity == host_affinity(told.node) else None
    store.mend(torn, value)
    yield f"damaged record {place} was put aside" + (", and made anew" if value else "")


STEPS: Mapping[str, Callable[[Any, Any, Any, Craft], Iterator[str]]] = {
    kinds.HANDLE_EMPTY: _handle,
    kinds.HANDLE_MISSING: _handle,
    kinds.HANDLE_COUNT: _handle,
    kinds.AFFINITY_MISSING: _affinity,
    kinds.AFFINITY_STALE: _affinity,
    kinds.AFFINITY_UNFINISHED: _affinity,
    kinds.ENDPOINT_STALE: _stale_endpoint,
    kinds.ENDPOINT_MISSING: _missing_endpoint,
    kinds.RECORD_UNREADABLE: _unreadable,
}
