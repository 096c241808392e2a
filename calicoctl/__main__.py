"""`calicoctl`: pools, nodes, endpoints, and how addresses are used. The commands; what they do is one module each."""

from __future__ import annotations

import click

from calicoctl.command import CONTEXT, EXIT_CODES, Commands, global_options
from calicoctl.completion import completion
from calicoctl.ipam.group import ipam
from calicoctl.migrate.group import datastore
from calicoctl.node.group import node
from calicoctl.resources.commands import apply, create, delete, get, label, patch, replace, validate
from calicoctl.version import version

EPILOG = f"""\b
Examples:
  calicoctl get ippools -o wide
  calicoctl apply -f pools.yaml
  calicoctl ipam show
  calicoctl node status
  calicoctl -c ./calicoctl.cfg ipam show --show-blocks
  CALICO_DATASTORE_DIR=/srv/calico calicoctl ipam show --ip=10.244.64.2

\b
Configuration file, YAML or JSON (if there is one, the environment is not asked):
  apiVersion: projectcalico.org/v3
  kind: CalicoAPIConfig
  spec:
    datastoreType: file
    datastoreDir: /var/lib/calico/datastore
or, of etcd, with etcdDiscoverySrv, etcdUsername, etcdPassword, etcdKeyFile, etcdCertFile, etcdCACertFile, etcdKey,
etcdCert and etcdCACert if needed:
  spec:
    datastoreType: etcdv3
    etcdEndpoints: https://10.0.0.1:2379,https://10.0.0.2:2379

\b
Environment, when there is no configuration file:
  DATASTORE_TYPE          kind of datastore: file or etcdv3  [default: etcdv3 if ETCD_ENDPOINTS is set, else file]
  CALICO_DATASTORE_DIR    absolute path of the file datastore  [default: /var/lib/calico/datastore]
  ETCD_ENDPOINTS          URLs of etcd, with commas between several; likewise ETCD_DISCOVERY_SRV, ETCD_USERNAME,
                          ETCD_PASSWORD, ETCD_KEY_FILE, ETCD_CERT_FILE, ETCD_CA_CERT_FILE, ETCD_KEY, ETCD_CERT,
                          ETCD_CA_CERT

{EXIT_CODES}
"""


@click.group(cls=Commands, epilog=EPILOG, context_settings=CONTEXT)
@global_options
def main() -> None:
    """Manage a Calico network: its pools, nodes and endpoints, and how it uses its addresses."""


for command in (get, create, apply, replace, patch, label, delete, validate, ipam, node, datastore, version,
                completion):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="calicoctl")
