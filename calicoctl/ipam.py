"""`calicoctl ipam`: how full pools and blocks are, and who has an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from calicoctl.command import CONTEXT, EXIT_CODES, config_option, echo_json, output_option, the_store
from calicoctl.table import printable
from calicoctl.usage import as_json, as_table, utilization
from ipam.cidr import parse_address
from ipam.errors import BadRequest
from ipam.find import holder

if TYPE_CHECKING:
    from datastore.api import Json
    from datastore.model import Attribute
    from ipam.cidr import Address

GROUP_EPILOG = f"""\b
Examples:
  calicoctl ipam show --show-blocks
  calicoctl ipam show --ip=10.244.64.2

{EXIT_CODES}
"""
SHOW_EPILOG = f"""\b
Examples:
  calicoctl ipam show                      one row for each pool
  calicoctl ipam show --show-blocks        and one for each block, those of no pool at the end
  calicoctl ipam show --ip=10.244.64.2     who has this address
  calicoctl ipam show -o json              everything, blocks too, for programs

{EXIT_CODES}
"""


def _address(ctx: click.Context, param: click.Parameter, text: str | None) -> Address | None:
    """Return the address in an option; anything else is a usage error."""
    try:
        return None if text is None else parse_address(text)
    except BadRequest as error:
        raise click.BadParameter(printable(str(error)), ctx, param) from error


@click.group(epilog=GROUP_EPILOG, context_settings=CONTEXT)
@config_option
def ipam() -> None:
    """Show how addresses are used."""


@ipam.command(epilog=SHOW_EPILOG, context_settings=CONTEXT)
@click.option("--show-blocks", is_flag=True, help="Show blocks as well as pools; JSON always has them.")
@click.option("--ip", "address", callback=_address, metavar="ADDRESS", help="Show whether an address is in use.")
@output_option
@config_option
def show(show_blocks: bool, address: Address | None, output: str) -> None:
    """Show how full pools and blocks are, or who has one address."""
    if address is not None and show_blocks:
        raise click.UsageError("--ip and --show-blocks exclude each other.")
    if address is not None:
        show_address(address, output)
        return
    found = utilization(the_store())
    if output == "json":
        echo_json(as_json(found))
    else:
        click.echo(as_table(found, show_blocks))


def show_address(address: Address, output: str) -> None:
    """Print who has an address, or that nobody has. Raises ConfigError, Corrupt, Unwritable."""
    found = holder(the_store(), address)
    attribute = found.attribute if found else None
    if output == "json":
        echo_json(address_json(address, attribute))
    else:
        click.echo(address_text(address, attribute))


def address_text(address: Address, attribute: Attribute | None) -> str:
    """Return the answer in Calico's words (calicoctl commands/ipam/show.go)."""
    if attribute is None:
        return f"{address} is not assigned"
    lines = [f"IP {address} is in use", f"Handle ID: {printable(attribute.handle or '<none>')}"]
    if attribute.owner:
        lines.append("Active Owner Attributes:")
        lines += [f"  {printable(name)}: {printable(value)}" for name, value in sorted(attribute.owner.items())]
    else:
        lines.append("No Active Owner attributes defined")
    return "\n".join(lines)


def address_json(address: Address, attribute: Attribute | None) -> Json:
    """Return the answer as docs/calicoctl.md documents it; the keys are always the same."""
    return {
        "ip": str(address),
        "assigned": attribute is not None,
        "handle": attribute.handle if attribute else None,
        "attributes": dict(sorted(attribute.owner.items())) if attribute else {},
    }
