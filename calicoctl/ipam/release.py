"""`calicoctl ipam release`: one address, or what reports of `calicoctl ipam check` agree is leaked."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

import click

from calicoctl.command import CONTEXT, EXIT_CODES, global_options, the_store
from calicoctl.node import this_node
from calicoctl.progress import counted
from calicoctl.table import printable
from cni_calico import facts
from cni_calico.version import VERSION
from datastore import keys
from datastore.api import Conflict, Missing
from datastore.cluster import cluster_of
from ipam.audit.handles import count
from ipam.audit.living import identity
from ipam.audit.reclaim import forget_endpoints
from ipam.audit.report import agreed, parse, require
from ipam.cidr import parse_address
from ipam.errors import BadRequest, Changed
from ipam.find import holder
from ipam.release import Wanted, release_addresses

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from datastore.api import Store
    from ipam.audit.report import Report
    from ipam.cidr import Address
    from ipam.find import Allocation

EPILOG = f"""\b
Examples:
  calicoctl ipam release --ip=10.244.64.2
  calicoctl ipam check -o first.json; sleep 900; calicoctl ipam check -o second.json
  calicoctl ipam release --from-report=first.json --from-report=second.json

\b
From reports only those addresses are released that are leaked in all of them and were not given anew since: handle and
sequence number must be those of the report. The reports must be of this datastore, in any case; of this version of
calicoctl, and one of them not older than the last change of ClusterInformation, unless --force says otherwise. An
address that a link of this node has now is not released, unless --force says so.

\b
The datastore need not be locked for that (in Calico it must be, or --force): its lock is taken for one batch of
addresses at a time, and pods can be added and deleted meanwhile.

{EXIT_CODES}
"""
BATCH = 1000  # addresses for which the lock is held


@click.command(epilog=EPILOG, context_settings=CONTEXT)
@click.option("--ip", metavar="ADDRESS", help="Release this address, whoever has it.")
@click.option("--from-report", "paths", metavar="FILE", multiple=True, type=click.Path(exists=True, dir_okay=False),
              help="Release what is leaked in this report; may be given several times, and then in all of them.")
@click.option("--force", is_flag=True, help="Use reports of another version, or old ones; release an IP that is wired.")
@click.option("--node", metavar="NAME", help="Name of this node, as the plugin knows it.  [default: as the plugin's]")
@global_options
def release(ip: str | None, paths: Sequence[str], force: bool, node: str | None) -> None:
    """Release addresses that no pod has any more."""
    if (ip is None) == (not paths):
        raise click.UsageError("Say what to release, by either --ip or --from-report.")
    name = node or this_node(os.environ)
    if ip is not None:
        _release_one(the_store(), _address(ip), name, force)
    else:
        _release_reported(the_store(), paths, name, force)


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except BadRequest as error:
        raise click.BadParameter(printable(str(error)), param_hint="'--ip'") from error


def _release_one(store: Store, address: Address, node: str, force: bool) -> None:
    """Release one address, exactly as it is held now; raises BadRequest when a pod of this node is wired with it."""
    wired = {} if force else _wired(node)
    if address in wired:
        raise BadRequest(_refusal(address, wired[address]))
    found = holder(store, address)
    if found is None:
        click.echo(f"{address} is not assigned")
        return
    for freed in release_addresses(store, [Wanted(address, found.attribute.handle, found.sequence)]).freed:
        click.echo(f"Successfully released IP address {freed}")
        forget_endpoints(store, {identity(found.attribute.owner)}, found.attribute.owner.get("node", ""))


def _wired(node: str) -> dict[Address, str]:
    """Return the addresses that links of this node have now, each with its link."""
    return {address: wire.link for wire in facts.everything(node).wires for address in wire.addresses}


def _refusal(address: Address, link: str) -> str:
    return f"address {address} is in use: link {printable(link)} of this node has it; delete its pod, or use --force"


def _release_reported(store: Store, paths: Sequence[str], node: str, force: bool) -> None:
    report = agreed(map(_read, paths))
    require(report, cluster_of(store), VERSION, force)
    wired = {} if force else _wired(node)
    skipped = report.leaked.keys() & wired.keys()
    for address in sorted(skipped, key=str):
        click.echo(f"Skipped: {_refusal(address, wired[address])}")
    freed = _release_all(store, [item for address, item in report.leaked.items() if address not in skipped])
    _forget(store, [item.attribute.owner for item in freed])
    for handle, revision in report.handles.items():
        _release_handle(store, handle, revision)
    left = len(report.leaked) - len(skipped) - len(freed)
    click.echo(f"Released {len(freed)} of {len(report.leaked)} IP addresses"
               + (f"; {len(skipped)} are in use" if skipped else "")
               + (f"; {left} were released or given anew since" if left else "") + ".")


def _release_all(store: Store, wanted: list[Wanted]) -> list[Allocation]:
    """Release batch by batch, and tell each address; return what was released, as the datastore had it."""
    freed: list[Allocation] = []
    in_order = sorted(wanted, key=lambda item: (item.address.family, item.address.number))
    for batch in _batches(iter(counted(in_order, "Releasing", len(wanted)))):
        for item in _release_batch(store, batch):
            click.echo(f"Successfully released IP address {item.address}")
            freed.append(item)
    return freed


def _forget(store: Store, owners: Sequence[Mapping[str, str]]) -> None:
    """Remove the endpoint records of those who held what was released."""
    for node in {owner.get("node", "") for owner in owners}:
        forget_endpoints(store, {identity(owner) for owner in owners if owner.get("node", "") == node}, node)


def _read(path: str) -> Report:
    with open(path, encoding="utf-8", errors="replace") as file:
        return parse(file.read(), path)


def _batches(items: Iterator[Wanted]) -> Iterator[list[Wanted]]:
    while batch := list(islice(items, BATCH)):
        yield batch


def _release_batch(store: Store, batch: Sequence[Wanted]) -> list[Allocation]:
    """Release what is as it was, and return it; whose it was says the datastore, for a report can be tampered with."""
    with store.exclusive():
        held = [holder(store, item.address) for item in batch]
        freed = set(_release_same(store, batch))
    return [found for found in held if found and found.address in freed]


def _release_same(store: Store, batch: Sequence[Wanted]) -> Sequence[Address]:
    """Release what is as it was; where one of a block is not, the others are released one by one."""
    try:
        return release_addresses(store, batch).freed
    except Changed:
        return [address for item in batch for address in _release_if_same(store, item)]


def _release_if_same(store: Store, wanted: Wanted) -> Sequence[Address]:
    try:
        return release_addresses(store, [wanted]).freed
    except Changed:
        return ()


def _release_handle(store: Store, handle: str, revision: str) -> None:
    """Remove a handle that the reports say holds nothing, if it is unchanged and still holds nothing."""
    with store.exclusive():
        now = count(store, handle, (), ())
        if now is None or str(now.revision) != revision or now.held or now.unclear:
            return
        try:
            store.delete(keys.handle(handle), int(revision))
        except (Conflict, Missing):
            return
    click.echo(f"Successfully released handle {printable(handle)}")
