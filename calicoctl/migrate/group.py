"""`calicoctl datastore migrate`: put together here."""

from __future__ import annotations

import click

from calicoctl.command import CONTEXT, EXIT_CODES, global_options
from calicoctl.migrate.commands import export, import_, lock, unlock

EPILOG = f"""\b
Examples:
  calicoctl datastore migrate lock
  calicoctl datastore migrate export -f calico.export
  export DATASTORE_TYPE=etcdv3 ETCD_ENDPOINTS=http://10.0.0.1:2379
  calicoctl datastore migrate import -f calico.export
  install-cni
  calicoctl datastore migrate unlock

\b
That moves the file datastore of one machine to etcd. What goes on meanwhile, and the way back: docs/migrate.md.

{EXIT_CODES}
"""


@click.group(epilog=EPILOG, context_settings=CONTEXT)
@global_options
def datastore() -> None:
    """Manage the datastore as a whole."""


@click.group(epilog=EPILOG, context_settings=CONTEXT)
@global_options
def migrate() -> None:
    """Move everything from one datastore to another; pods go on meanwhile."""


for command in (lock, export, import_, unlock):
    migrate.add_command(command)
datastore.add_command(migrate)
