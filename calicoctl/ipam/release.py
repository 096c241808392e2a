"""`calicoctl ipam release`: one address, or what reports of `calicoctl ipam check` agree is leaked."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

import click

from calicoctl.command import CONTEXT, EXIT_CODES, config_option, the_store
from calicoctl.ipam.check import watched
from calicoctl.node import this_node
from calicoctl.table import printable
from cni_calico import facts
from cni_calico.version import VERSION
from datastore import keys
from datastore.api import Conflict, Missing
from ipam.audit.handles import count
from ipam.audit.living import identity
from ipam.audit.reclaim import forget_endpoints
from ipam.audit.report import agreed, cluster_of, parse, require
from ipam.cidr import parse_address
from ipam.errors import BadRequest, Changed
from ipam.find import holder
from ipam.release import Wanted, release_addresses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from datastore.api import Store
    from ipam.audit.report import Report
    from ipam.cidr import Address

EPILOG = f"""\b
Examples:
  calicoctl ipam release --ip=10.244.64.2
  calicoctl ipam check -o first.json; sleep 900; calicoctl ipam check -o second.json
  calicoctl ipam release --from-report=first.json --from-report=second.json

\b
From reports only those addresses are released that are leaked in all of them and were not given anew since: handle and
sequence number must be those of the report. The reports must be of this datastore, in any case; of this version of
calicoctl, and one of them not older than the last change of ClusterInformation, unless --force says otherwise.

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
@config_option
def release(ip: str | None, paths: Sequence[str], force: bool, node: str | None) -> None:
    """Release addresses that no pod has any more."""
    if (ip is None) == (not paths):
        raise click.UsageError("Say what to release, by either --ip or --from-report.")
    if ip is not None:
        _release_one(the_store(), _address(ip), node or this_node(os.environ), force)
    else:
        _release_reported(the_store(), paths, force)


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except BadRequest as error:
        raise click.BadParameter(printable(str(error)), param_hint="'--ip'") from error


def _release_one(store: Store, address: Address, node: str, force: bool) -> None:
    """Release one address, exactly as it is held now; raises BadRequest when a pod of this node is wired with it."""
    wired = [wire.link for wire in facts.everything(node).wires if address in wire.addresses]
    if wired and not force:
        raise BadRequest(f"address {address} is in use: link {wired[0]} of this node has it; delete its pod, or use "
                         "--force")
    found = holder(store, address)
    if found is None:
        click.echo(f"{address} is not assigned")
        return
    for freed in release_addresses(store, [Wanted(address, found.attribute.handle, found.sequence)]).freed:
        click.echo(f"Successfully released IP address {freed}")
        forget_endpoints(store, {identity(found.attribute.owner)}, found.attribute.owner.get("node", ""))


def _release_reported(store: Store, paths: Sequence[str], force: bool) -> None:
    report = agreed(map(_read, paths))
    require(report, cluster_of(store), VERSION, force)
    freed: list[Address] = []
    wanted = watched(sorted(report.leaked.values(), key=lambda item: (item.address.family, item.address.number)),
                     "Releasing", len(report.leaked))
    for batch in _batches(iter(wanted)):
        for address in _release_batch(store, batch):
            click.echo(f"Successfully released IP address {address}")
            freed.append(address)
    owners = [report.owners[address] for address in freed]
    for node in {owner.get("node", "") for owner in owners}:
        forget_endpoints(store, {identity(owner) for owner in owners if owner.get("node", "") == node}, node)
    for handle, revision in report.handles.items():
        _release_handle(store, handle, revision)
    left = len(report.leaked) - len(freed)
    click.echo(f"Released {len(freed)} of {len(report.leaked)} IP addresses"
               + (f"; {left} were released or given anew since" if left else "") + ".")


def _read(path: str) -> Report:
    with open(path, encoding="utf-8", errors="replace") as file:
        return parse(file.read(), path)


def _batches(items: Iterator[Wanted]) -> Iterator[list[Wanted]]:
    while batch := list(islice(items, BATCH)):
        yield batch


def _release_batch(store: Store, batch: Iterable[Wanted]) -> Sequence[Address]:
    """Release what is as it was; where one of a block is not, the others are released one by one."""
    with store.exclusive():
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
