"""`calicoctl ipam show`: how full pools and blocks are, who has an address, what is borrowed; and all as a map."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from calicoctl.command import CONTEXT, EXIT_CODES, global_options, the_store
from calicoctl.ipam.address import address_json, address_text, holder
from calicoctl.ipam.blockmap import draw, pen
from calicoctl.ipam.borrowed import show_borrowed
from calicoctl.ipam.chart import survey
from calicoctl.ipam.configure import configuration_json, configuration_table
from calicoctl.ipam.page import page
from calicoctl.ipam.usage import as_json, as_table, usage
from calicoctl.node import this_node
from calicoctl.output import TEXT, echo, form_option
from calicoctl.progress import every_block
from calicoctl.table import printable
from calicoctl.writing import require_place, write
from ipam.cidr import parse_address
from ipam.configuration import load
from ipam.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from datastore.api import Json
    from ipam.cidr import Address

T = TypeVar("T")

EPILOG = f"""\b
Examples:
  calicoctl ipam show                      one row for each pool
  calicoctl ipam show --show-blocks        and one for each block, those of no pool at the end
  calicoctl ipam show --show-borrowed      addresses that a node holds in another node's block
  calicoctl ipam show --show-configuration how addresses are given out
  calicoctl ipam show --ip=10.244.64.2     who has this address
  calicoctl ipam show --map                where the addresses and the holes are
  calicoctl ipam show --html=map.html      the same as a page for a browser
  calicoctl ipam show -o json              everything, blocks too, for programs

\b
Environment:
  KUBERNETES_NODE_NAME, NODENAME   which node's blocks the map shows as its own, unless --node says so
                                   [default: content of /var/lib/calico/nodename, else the host's name]
  NO_COLOR                         if set, the map has letters in place of colours
  COLUMNS                          width of the map  [default: the terminal's, else 80]

{EXIT_CODES}
"""


def _address(ctx: click.Context, param: click.Parameter, text: str | None) -> Address | None:
    """Return the address in an option; anything else is a usage error."""
    try:
        return None if text is None else parse_address(text)
    except BadRequest as error:
        raise click.BadParameter(printable(str(error)), ctx, param) from error


@click.command(epilog=EPILOG, context_settings=CONTEXT)
@click.option("--show-blocks", is_flag=True, help="Show blocks as well as pools; JSON and YAML always have them.")
@click.option("--show-borrowed", is_flag=True, help="Show addresses that a node holds in a block that is not its own.")
@click.option("--show-configuration", is_flag=True, help="Show how addresses are given out.")
@click.option("--ip", callback=_address, metavar="ADDRESS", help="Show whether an address is in use.")
@click.option("--map", "drawn", is_flag=True, help="Draw each pool as a map of its blocks.")
@click.option("--html", metavar="FILE", help="Write the map as a page for a browser; - is stdout.")
@click.option("--node", metavar="NAME", help="Node whose blocks the map shows as its own.  [default: this node]")
@form_option
@global_options
def show(ip: Address | None, html: str | None, node: str | None, form: str, **flags: bool) -> None:
    """Show how full pools and blocks are, or who has one address, or a map of both."""
    _check(dict(flags, ip=ip, html=html), node, form)
    if ip is not None:
        _show_address(ip, form)
    elif flags["show_borrowed"]:
        show_borrowed(every_block(the_store()), form)
    elif flags["show_configuration"]:
        _tell(load(the_store()), configuration_table, configuration_json, form)
    elif flags["drawn"] or html is not None:
        _show_map(html, node or this_node(os.environ))
    else:
        _tell(usage(the_store()), lambda found: as_table(found, flags["show_blocks"]), as_json, form)


def _check(options: dict[str, object], node: str | None, form: str) -> None:
    """Raise UsageError for options that do not go together."""
    names = {"drawn": "map"}
    given = [f"--{names.get(name, name).replace('_', '-')}" for name, value in options.items()
             if value is not None and value is not False]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other.")
    mapped = given in (["--map"], ["--html"])
    if node is not None and not mapped:
        raise click.UsageError("--node goes with --map or --html.")
    if mapped and form != TEXT:
        raise click.UsageError(f"{given[0]} has no form {form}.")


def _tell(found: T, as_text: Callable[[T], str], as_value: Callable[[T], Json], form: str) -> None:
    """Print an answer in the form asked for."""
    if form == TEXT:
        click.echo(as_text(found))
    else:
        echo(as_value(found), form)


def _show_address(address: Address, form: str) -> None:
    _tell(holder(the_store(), address), partial(address_text, address), partial(address_json, address), form)


def _show_map(path: str | None, node: str) -> None:
    """Draw the map on the terminal, or write it to a file as a page. Raises Corrupt, OSError."""
    if path is not None:
        require_place(path)
        write(path, [page(survey(the_store(), node))])
        return
    found = survey(the_store(), node)
    click.echo("\n".join(draw(found, shutil.get_terminal_size().columns, pen(sys.stdout, os.environ))))
