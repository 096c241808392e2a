"""What every command shares: help, options, the way to the datastore, and how an error is told.

Commands raise; `Commands` alone turns an error into one line on stderr and an exit code.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from calicoctl.config import DEFAULT_FILE, ConfigError, load
from calicoctl.table import brief, printable
from datastore import open_store
from datastore.api import StoreError, UnsupportedDatastore
from datastore.settings import FILE, KINDS
from ipam.errors import IpamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from datastore.api import Store

Function = TypeVar("Function", bound="Callable[..., Any]")

CONFIG = "calicoctl.config"
LEVELS = ("panic", "fatal", "error", "warn", "info", "debug")
PATIENCE = 10.0  # seconds that a command waits in all for servers that do not answer: somebody sits before it
ABSENT = ("cluster", "convert")  # Calico's commands that this release does not have
CONTEXT = {"max_content_width": 120, "help_option_names": ["-h", "--help"]}
EXIT_CODES = """\b
Exit codes:
  0  done ("not assigned" is an answer, too)
  1  it did not work: one line on stderr says why
  2  wrong command line"""


class Failure(click.ClickException):
    """Ends the command with exit code 1 and the line `calicoctl: error: …` on stderr."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message as one line, whatever is in it."""
        click.echo(f"calicoctl: error: {printable(' '.join(self.message.split()))}", file=file, err=True)


class Commands(click.Group):
    """A group whose commands may raise ConfigError, StoreError, IpamError, OSError and UnicodeEncodeError."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the program, also where stdout is not UTF-8, or cannot take the help."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        try:
            return super().main(*args, **extra)
        except OSError as error:
            failure = _failed(error)
            failure.show()
            sys.exit(failure.exit_code)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find a command; raises Failure for one of Calico's that is not here."""
        if args[0] in ABSENT and not ctx.resilient_parsing:  # which it is while a shell completes
            raise Failure(f"`calicoctl {args[0]}` is not in this release")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; raises Failure for what it could not do, and lets click end on a closed pipe."""
        try:
            return super().invoke(ctx)
        except (ConfigError, StoreError, IpamError) as error:
            raise Failure(str(error)) from error
        except UnicodeEncodeError as error:
            raise Failure(f"{brief(error.object)} cannot be written in UTF-8") from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            raise _failed(error) from error


def _failed(error: OSError) -> Failure:
    return Failure(f"{error.filename or 'output'}: {error.strerror or error}")


def global_options(function: Function) -> Function:
    """Add the options that Calico takes before and after the command's name; the one nearest the end counts."""
    for option in (
        click.option("--allow-version-mismatch", is_flag=True, expose_value=False,
                     help="Taken for Calico's sake: there is no version to compare with."),
        click.option("-l", "--log-level", type=click.Choice(LEVELS, case_sensitive=False), expose_value=False,
                     metavar="LEVEL", help="Taken for Calico's sake: there is no log."),
        click.option("-c", "--config", metavar="FILE", expose_value=False, callback=_remember,
                     help="File that says where the datastore is.  "
                          f"[default: {DEFAULT_FILE} if it exists, else the environment]"),
    ):
        function = option(function)
    return function


def output_option(function: Function) -> Function:
    """Add -o/--output."""
    return click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
        help="Form of the answer on stdout.",
    )(function)


def _remember(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is not None:
        ctx.meta[CONFIG] = path


def the_store(makes_it: bool = False) -> Store:
    """Return the configured datastore; with a hint on stderr when it does not exist yet, unless the command makes it.

    Only a directory can be seen not to exist; etcd is not asked yet. Raises ConfigError, which names the setting that
    is wrong and where it was made.
    """
    access = load(click.get_current_context().meta.get(CONFIG), os.environ)
    try:
        store = open_store(access.settings, seconds=PATIENCE)
    except UnsupportedDatastore as error:
        raise ConfigError(
            f'{access.kind_setting} is "{error.kind}", a datastore that this release does not support; '
            f"those that are: {', '.join(KINDS)}"
        ) from error
    if not makes_it and access.settings.kind == FILE:
        _hint_if_new(access.settings.directory)
    return store


def _hint_if_new(directory: str) -> None:
    """Say that there is nothing yet; a directory that cannot be looked at is left to the store to complain about."""
    try:
        os.stat(directory)
    except FileNotFoundError:
        click.echo(f"calicoctl: hint: datastore directory {printable(directory)} does not exist yet, so nothing is in "
                   "use; the first pod, or install-cni, creates it", err=True)
    except OSError:
        return


def echo_json(value: object) -> None:
    """Print an answer for programs: ASCII only, two spaces of indent."""
    click.echo(json_text(value, indent=2))


def json_text(value: object, indent: int | None = None) -> str:
    """Return a value as JSON; raises Failure for a number that JSON does not have, which a damaged record may have."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError as error:
        raise Failure(f"the answer cannot be written as JSON: {error}") from error
