"""`calicoctl version`."""

from __future__ import annotations

import click

from calicoctl.command import CONTEXT, EXIT_CODES, echo_json, global_options, output_option
from cni_calico.version import VERSION

EPILOG = f"""\b
Examples:
  calicoctl version
  calicoctl version -o json

{EXIT_CODES}
"""


@click.command(epilog=EPILOG, context_settings=CONTEXT)
@output_option
@global_options
def version(output: str) -> None:
    """Show the version of calicoctl. The datastore is not asked."""
    if output == "json":
        echo_json({"clientVersion": VERSION})
    else:
        click.echo(f"Client Version:    {VERSION}")
