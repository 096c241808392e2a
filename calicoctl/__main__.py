"""`calicoctl`: look at addresses, pools and blocks. Options and commands; what they do is one module per group."""

from __future__ import annotations

import click

from calicoctl.command import CONTEXT, EXIT_CODES, Commands, config_option
from calicoctl.ipam import ipam
from calicoctl.version import version

EPILOG = f"""\b
Examples:
  calicoctl version
  calicoctl ipam show
  calicoctl -c ./calicoctl.cfg ipam show --show-blocks
  CALICO_DATASTORE_DIR=/srv/calico calicoctl ipam show --ip=10.244.64.2

\b
Configuration file, YAML or JSON (if there is one, the environment is not asked):
  apiVersion: projectcalico.org/v3
  kind: CalicoAPIConfig
  spec:
    datastoreType: file
    datastoreDir: /var/lib/calico/datastore

\b
Environment, when there is no configuration file:
  DATASTORE_TYPE          kind of datastore; the one there is: file (default)
  CALICO_DATASTORE_DIR    absolute path of the datastore  [default: /var/lib/calico/datastore]

{EXIT_CODES}
"""


@click.group(cls=Commands, epilog=EPILOG, context_settings=CONTEXT)
@config_option
def main() -> None:
    """Show how a Calico network uses its addresses."""


main.add_command(version)
main.add_command(ipam)

if __name__ == "__main__":
    main(prog_name="calicoctl")
