"""How `get` shows resources: Calico's tables, YAML, JSON (calicoctl commands/common/printer.go)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from calicoctl.command import echo_json
from calicoctl.resources.kinds import API_VERSION, Kind
from calicoctl.table import printable
from datastore.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datastore.api import Json

FORMS = ("ps", "wide", "yaml", "json")
CUSTOM = "custom-columns="
NARROWEST, GAP = 5, 3  # characters: Calico's tabwriter
OF_ONE_CLUSTER = ("namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp",
                  "deletionGracePeriodSeconds")


@frozen
class Answer:
    """What was found: one resource that was named, or all of a kind."""

    kind: Kind
    items: Sequence[Json]
    is_list: bool

    def value(self) -> Json:
        """Return the resource, or a list of Calico's with the newest revision there is among its items."""
        if not self.is_list:
            return self.items[0]
        newest = max((item["metadata"]["resourceVersion"] for item in self.items), key=int, default="")
        return {"apiVersion": API_VERSION, "kind": f"{self.kind.name}List", "metadata": {"resourceVersion": newest},
                "items": list(self.items)}

    def exported(self) -> Answer:
        """Return the answer without what ties a named resource to its datastore; a list stays as it is."""
        return self if self.is_list else Answer(self.kind, [_exported(item) for item in self.items], False)


def is_form(text: str) -> bool:
    """Tell whether this is a form of output: one of FORMS, or custom-columns= and headings."""
    return text in FORMS or (text.startswith(CUSTOM) and len(text) > len(CUSTOM))


def show(answers: Sequence[Answer], form: str, with_namespace: bool) -> None:
    """Print the answers in a form of output; raises click.UsageError for a column that a kind does not have."""
    if form in ("yaml", "json"):
        values = [answer.value() for answer in answers]
        _show_value(values[0] if len(values) == 1 else values, form)
        return
    for answer in answers:
        headings = _headings(answer.kind, form)
        if with_namespace and answer.kind.namespaced:
            headings = ("NAMESPACE", *headings)
        click.echo(table(answer, headings) + "\n")


def table(answer: Answer, headings: Sequence[str]) -> str:
    """Return a table as Calico's: columns on the left, three spaces apart, the last one too."""
    columns = [answer.kind.columns[heading] for heading in headings]
    rows = [tuple(headings), *(tuple(printable(column(item)) for column in columns) for item in answer.items)]
    widths = [max(NARROWEST, *(len(cell) + GAP for cell in column)) for column in zip(*rows, strict=True)]
    return "\n".join("".join(map(str.ljust, row, widths)) for row in rows)


def _headings(kind: Kind, form: str) -> Sequence[str]:
    if not form.startswith(CUSTOM):
        return kind.wide if form == "wide" else kind.narrow
    headings = form.removeprefix(CUSTOM).split(",")
    for heading in headings:
        if heading not in kind.columns:
            raise click.UsageError(f"Unknown heading {heading}, valid values are: {', '.join(kind.columns)}.")
    return headings


def _show_value(value: object, form: str) -> None:
    if form == "json":
        echo_json(value)
        return
    from calicoctl import yamltext

    click.echo(yamltext.write(value), nl=False)


def _exported(item: Json) -> Json:
    metadata = {name: value for name, value in item["metadata"].items() if name not in OF_ONE_CLUSTER}
    return {**item, "metadata": metadata}
