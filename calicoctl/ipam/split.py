"""`calicoctl ipam split` (ipam/split.py)."""

from __future__ import annotations

import click

from calicoctl.command import CONTEXT, EXIT_CODES, global_options, the_store
from calicoctl.table import printable
from ipam.split import MOST_PARTS
from ipam.split import split as cut

EPILOG = f"""\b
Examples:
  calicoctl ipam split --name=default-ipv4-ippool 4
  calicoctl ipam split --cidr=10.244.0.0/16 2

\b
The parts are named split-POOL-0, split-POOL-1 … and are enabled, whatever the pool was; all else is as in the pool.
Addresses in use stay in use, blocks stay with their nodes. Every other writer of the datastore waits meanwhile. Should
the command be killed, run it again: it carries on. Then correct network configurations that name the pool.

{EXIT_CODES}
"""


@click.command(epilog=EPILOG, context_settings=CONTEXT)
@click.argument("number", type=click.IntRange(2, MOST_PARTS))
@click.option("--cidr", metavar="CIDR", help="CIDR of the pool to split.")
@click.option("--name", metavar="POOL", help="Name of the pool to split.")
@global_options
def split(number: int, cidr: str | None, name: str | None) -> None:
    """Cut a pool into NUMBER equal pools, a power of two, and keep every address that is in use."""
    wanted = name or cidr
    if not wanted or (name and cidr):
        raise click.UsageError("Name the pool to split, by either --name or --cidr.")
    pool, parts = cut(the_store(), wanted, number)
    click.echo(f"IP Pool {printable(pool.name)} was successfully split into {number} smaller pools.")
    for part in parts:
        click.echo(f"Created {printable(part.name)} with CIDR {part.cidr}.")
