"""`install-cni`: put the Calico CNI plugin on this host, or take it off."""

from __future__ import annotations

import os
import signal
import sys

import click

from install import apply, plan, uninstall
from install.errors import InstallError
from install.settings import ENVIRONMENT, LAUNCHER_CHOICES, Flags, resolve
from install.tree import locate_packages

TABLE = "\n".join(f"  {name:<24} {default:<27} {meaning}" for name, default, meaning in ENVIRONMENT)
EPILOG = f"""\b
Examples:
  install-cni                          install into /opt/cni/bin and /etc/cni/net.d
  install-cni --prefix /tmp/try        install everything beneath /tmp/try
  CNI_MTU=1440 install-cni --dry-run   show what would be done
  install-cni --uninstall              take it off again; datastore and addresses stay

\b
Environment (variable, default, meaning); flags beat it:
{TABLE}
"""


@click.command(epilog=EPILOG, context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]})
@click.option("--bin-dir", metavar="DIR", help="Directory of the executables.  [default: /opt/cni/bin]")
@click.option("--conf-dir", metavar="DIR", help="Directory of the configuration.  [default: /etc/cni/net.d]")
@click.option("--prefix", metavar="DIR", help="Put everything, datastore and log too, beneath DIR.")
@click.option("--python", metavar="FILE", help="Absolute path of the interpreter that runs the plugin (3.11 or later).")
@click.option("--launcher", type=click.Choice(LAUNCHER_CHOICES), help="The native launcher, if any.  [default: auto]")
@click.option("--uninstall", "remove", is_flag=True, help="Remove configuration, executables and library.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the summary.")
def main(*, remove: bool, dry_run: bool, output: str, **flags: str | None) -> None:
    """Install the Calico CNI plugin: library, executables, address pools and, last, the network configuration."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        settings = resolve(Flags(**flags), os.environ)
        if remove:
            report = uninstall.uninstall(settings, dry_run=dry_run)
        else:
            report = (apply.preview if dry_run else apply.apply)(plan.make(settings, locate_packages()))
    except InstallError as error:
        raise click.ClickException(str(error).replace("\n", " ")) from error
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(report.json() if output == "json" else "\n".join(report.lines()))
    if settings.sleep and not remove and not dry_run:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        signal.sigwait((signal.SIGTERM, signal.SIGINT))


if __name__ == "__main__":
    main()
