"""`calico-node`: the resident agent's command."""

from __future__ import annotations

import os
import sys

import click

from calico_node.listener import Unusable
from calico_node.web import NotLoopback
from cni_calico.version import VERSION
from datastore.settings import BadSettings, from_environment

OFF, METRICS = "off", "127.0.0.1:9091"  # Felix's port
EPILOG = """\b
Examples:
  calico-node
  calico-node --metrics-address off
  calico-node --socket /run/test/cni.sock --queue /run/test/queue --metrics-address 127.0.0.1:0
  DATASTORE_TYPE=etcdv3 ETCD_ENDPOINTS=https://10.0.0.1:2379 calico-node

\b
SIGTERM ends it once every request that it has begun is answered; launchers that come later use the Python plugin.

\b
Exit codes:
  0  it was told to stop, and has
  1  it could not begin: one line on stderr says why
  2  wrong command line"""


def _address(_: click.Context, __: click.Parameter, text: str) -> tuple[str, int] | None:
    if text == OFF:
        return None
    host, _colon, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise click.BadParameter(f"{text!r} is neither HOST:PORT nor {OFF}")
    return host.strip("[]"), int(port)


@click.command(context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.option("--socket", "path", envvar="CALICO_CNI_SOCKET", default="/run/calico/cni.sock", show_default=True,
              show_envvar=True, metavar="PATH", help="Where launchers connect to.")
@click.option("--queue", envvar="CALICO_CNI_QUEUE", default="/var/lib/calico/cni/queue", show_default=True,
              show_envvar=True, metavar="DIR", help="Where launchers queue DELs while there is no agent.")
@click.option("--metrics-address", "metrics", default=METRICS, show_default=True, callback=_address,
              metavar="HOST:PORT|off", help="Loopback address of /metrics, /healthz and /readyz; port 0: any free one.")
@click.version_option(VERSION, message="%(version)s")
def main(path: str, queue: str, metrics: tuple[str, int] | None) -> None:
    """Serve the pods' ADD, DEL, CHECK, GC and STATUS from one process that stays, for the `calico` launcher."""
    from calico_node.agent import serve

    try:
        serve(path, queue, metrics, from_environment(os.environ))
    except (Unusable, NotLoopback, BadSettings) as error:
        click.echo(f"calico-node: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"calico-node: cannot serve {path}: {error}; it has to be run as root", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
