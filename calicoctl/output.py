"""Answers for programs: JSON and YAML, also of lists too long for memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from calicoctl.command import echo_json, json_text
from calicoctl.yamltext import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from datastore.api import Json

Function = TypeVar("Function", bound="Callable[..., Any]")

TEXT, JSON, YAML = "text", "json", "yaml"


def form_option(function: Function) -> Function:
    """Add -o/--output with text, json and yaml."""
    return click.option(
        "-o", "--output", "form", type=click.Choice([TEXT, JSON, YAML]), default=TEXT, show_default=True,
        help="Form of the answer on stdout.",
    )(function)


def echo(value: Json, form: str) -> None:
    """Print an answer as JSON or YAML: ASCII only, keys in the order given."""
    if form == JSON:
        echo_json(value)
    else:
        click.echo(write(value), nl=False)


def echo_long(name: str, rows: Iterable[Json], rest: Json, form: str) -> None:
    """Print an object of one list, a row to a line and a row at a time, and then the rest."""
    if form == YAML:
        _echo_long_yaml(name, rows, rest)
        return
    click.echo(f'{{\n  "{name}": [', nl=False)
    for at, row in enumerate(rows):
        click.echo(f"{',' if at else ''}\n    {json_text(row)}", nl=False)
    click.echo("\n  ]" + "".join(f",\n  {json_text(key)}: {json_text(value)}" for key, value in rest.items()) + "\n}")


def _echo_long_yaml(name: str, rows: Iterable[Json], rest: Json) -> None:
    empty = True
    for row in rows:
        click.echo((f"{name}:\n" if empty else "") + write([row]), nl=False)
        empty = False
    click.echo((f"{name}: []\n" if empty else "") + write(rest), nl=False)
