"""Taking away what addresses come from: a node's blocks, a pool."""

from __future__ import annotations

from contextlib import suppress

from datastore import keys
from datastore.api import Conflict, Corrupt, Missing, Torn
from ipam import configuration
from ipam.affinity import cidrs_of, give_up, own_blocks
from ipam.cidr import parse_cidr
from ipam.collect import collect_blocks
from ipam.errors import BadRequest, Contended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from datastore.api import Json, Store
    from ipam.cidr import Cidr

ATTEMPTS = 100


def release_host(store: Store, node: str, require_empty: bool = False) -> list[Cidr]:
    """Take all its blocks from a node and return them; addresses in use stay (Calico: ReleaseHostAffinities).

    With require_empty only empty ones are taken. Raises Contended, StoreError.
    """
    with store.exclusive():
        return _give_up(store, ((node, cidr) for family in (4, 6) for cidr in own_blocks(store, node, family)),
                        require_empty)


def release_pool(store: Store, pool: Cidr, require_empty: bool = False) -> list[Cidr]:
    """Take the blocks of a pool from their nodes and return them (Calico: ReleasePoolAffinities).

    Raises Contended, StoreError.
    """
    with store.exclusive():
        return _give_up(store, _affinities_within(store, pool), require_empty)


def remove_node(store: Store, node: str) -> list[Cidr]:
    """Forget a node: its blocks become nobody's, what it remembers is removed (Calico: RemoveIPAMHost).

    Returns the blocks it had. A node that is not known has none. Raises BadRequest, Contended, StoreError.
    """
    if not node or "/" in node:
        raise BadRequest(f'"{node}" is no name of a node')
    with store.exclusive():
        freed = release_host(store, node)
        collect_blocks(store, freed)
        for _ in range(ATTEMPTS):
            try:
                store.delete(keys.host(node), store.get(keys.host(node)).revision)
            except Missing:
                return freed
            except Corrupt as error:
                store.mend(Torn(keys.host(node), "", str(error)), None)
            except Conflict:
                continue
    raise Contended(f"the record of node {node} kept changing; try again")


def delete_pool(store: Store, name: str) -> list[Cidr]:
    """Remove a pool: nothing is assigned from it first, then its blocks leave their nodes, then it is gone.

    Returns those blocks; addresses in use stay until they are released (Calico: IPPools.Delete). A death in between
    or an error leaves a disabled pool: do it again. Raises Missing, Contended, StoreError.
    """
    with store.exclusive():
        value = _disable(store, name)
        freed = release_pool(store, parse_cidr(value["spec"]["cidr"]))
        collect_blocks(store, freed)
        for _ in range(ATTEMPTS):
            record = store.get(keys.ippool(name))
            with suppress(Conflict):
                store.delete(record.key, record.revision)
                return freed
    raise Contended(f"pool {name} kept changing; try again")


def _disable(store: Store, name: str) -> Json:
    for _ in range(ATTEMPTS):
        record = store.get(keys.ippool(name))
        try:
            value = {**record.value, "spec": {**record.value["spec"], "disabled": True}}
            return store.update(record.key, value, record.revision).value
        except Conflict:
            continue
    raise Contended(f"pool {name} kept changing; try again")


def _affinities_within(store: Store, pool: Cidr) -> Iterable[tuple[str, Cidr]]:
    for key in store.keys(keys.HOSTS):
        for cidr in cidrs_of([key]) if f"/ipv{pool.family}/block/" in key else ():
            if cidr in pool:
                yield keys.affinity_node(key), cidr


def _give_up(store: Store, affinities: Iterable[tuple[str, Cidr]], require_empty: bool) -> list[Cidr]:
    cooldown = configuration.load(store).cooldown_seconds
    return [cidr for node, cidr in affinities if give_up(store, node, cidr, require_empty, cooldown)]
