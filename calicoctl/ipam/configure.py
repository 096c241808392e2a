"""`calicoctl ipam configure`, and what `ipam show --show-configuration` shows (ipam/configuration.py has the rules)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from calicoctl.command import CONTEXT, EXIT_CODES, global_options, the_store
from calicoctl.table import render
from ipam.configuration import LONGEST_COOLDOWN, PERSISTENCES, persistence, save

if TYPE_CHECKING:
    from datastore.api import Json
    from datastore.model import IpamConfig

EPILOG = f"""\b
Examples:
  calicoctl ipam configure --strictaffinity=true
  calicoctl ipam configure --strictaffinity=true --max-blocks-per-host=4
  calicoctl ipam configure --ip-cooldown-seconds=30
  calicoctl ipam show --show-configuration      what is configured now

{EXIT_CODES}
"""
# Parameter of `save` -> Calico's name of the property (libcalico-go lib/ipam, type IPAMConfig).
PROPERTIES = {
    "strict_affinity": "StrictAffinity",
    "auto_allocate_blocks": "AutoAllocateBlocks",
    "max_blocks_per_host": "MaxBlocksPerHost",
    "persistence": "KubeVirtVMAddressPersistence",
    "cooldown_seconds": "IPCooldownSeconds",
}


@click.command(epilog=EPILOG, context_settings=CONTEXT)
@click.option("--strictaffinity", "strict_affinity", type=bool, metavar="true|false",
              help="Whether a node gets addresses from its own blocks only, and never borrows.")
@click.option("--auto-allocate-blocks", type=bool, metavar="true|false",
              help="Whether a node that has no free address claims a new block.")
@click.option("--max-blocks-per-host", type=click.IntRange(min=0), metavar="NUMBER",
              help="Most blocks of each family that a node may have; 0 means 20. Needs strict affinity.")
@click.option("--kubevirt-ip-persistence", "persistence", type=click.Choice(PERSISTENCES),
              help="Whether a KubeVirt virtual machine keeps its address.")
@click.option("--ip-cooldown-seconds", "cooldown_seconds", type=click.IntRange(0, LONGEST_COOLDOWN), metavar="SECONDS",
              help=f"How long a released address rests before it is given again, 0 to {LONGEST_COOLDOWN}.")
@global_options
def configure(**values: object) -> None:
    """Change how addresses are given out, on every node. What is not named stays as it is."""
    changes = {name: value for name, value in values.items() if value is not None}
    if not changes:
        raise click.UsageError("At least one configuration option must be specified.")
    save(the_store(makes_it=True), **changes)
    for name, value in changes.items():
        click.echo(f"Successfully set {PROPERTIES[name]} to: {_words(value)}")


def configuration_json(config: IpamConfig) -> Json:
    """Return the configuration as docs/calicoctl.md documents it: the keys of Calico's IPAMConfig resource."""
    return {
        "strictAffinity": config.strict_affinity,
        "autoAllocateBlocks": config.auto_allocate_blocks,
        "maxBlocksPerHost": config.max_blocks_per_host,
        "kubeVirtVMAddressPersistence": persistence(config),
        "ipCooldownSeconds": config.cooldown_seconds,
    }


def configuration_table(config: IpamConfig) -> str:
    """Return the configuration as Calico's table PROPERTY, VALUE."""
    values = configuration_json(config).values()
    return render(("PROPERTY", "VALUE"),
                  [(name, _words(value)) for name, value in zip(PROPERTIES.values(), values, strict=True)])


def _words(value: object) -> str:
    """Return a value as Go prints it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
