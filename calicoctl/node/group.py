"""`calicoctl node`: one module per command, put together here."""

from __future__ import annotations

import click

from calicoctl.command import CONTEXT, global_options
from calicoctl.node.status import EXIT_CODES, status

EPILOG = f"""\b
Examples:
  calicoctl node status
  calicoctl node status -o json

{EXIT_CODES}
"""


@click.group(epilog=EPILOG, context_settings=CONTEXT)
@global_options
def node() -> None:
    """Show how the agent of this node is."""


node.add_command(status)
