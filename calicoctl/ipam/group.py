"""`calicoctl ipam`: one module per command, put together here."""

from __future__ import annotations

import click

from calicoctl.command import CONTEXT, EXIT_CODES, global_options
from calicoctl.ipam.check import check
from calicoctl.ipam.configure import configure
from calicoctl.ipam.release import release
from calicoctl.ipam.show import show
from calicoctl.ipam.split import split

EPILOG = f"""\b
Examples:
  calicoctl ipam show --show-blocks
  calicoctl ipam show --map
  calicoctl ipam show --ip=10.244.64.2
  calicoctl ipam configure --strictaffinity=true
  calicoctl ipam split --cidr=10.244.0.0/16 4

{EXIT_CODES}
"""


@click.group(epilog=EPILOG, context_settings=CONTEXT)
@global_options
def ipam() -> None:
    """Show how addresses are used, and change how they are given out."""


ipam.add_command(show)
ipam.add_command(configure)
ipam.add_command(split)
ipam.add_command(check)
ipam.add_command(release)
