"""Which fields a resource has and of what type: what people hand in is held to it, field by field.

A description is a Leaf, a list of one description (`[TEXT]`), or a mapping of field names to descriptions. A field that
is not described is an error in what people write (Calico decodes strictly, too), and is kept in what is stored.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from calicoctl.table import brief
from datastore.frozen import frozen
from ipam.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from datastore.api import Json

    Schema = Any  # Leaf | list[Schema] | Mapping[str, Schema]; a type cannot be recursive before Python 3.12


@frozen
class Leaf:
    """A value that is not looked into: what it should be, in words, and the test for it."""

    expected: str
    fits: Callable[[object], bool]


TEXT = Leaf("a string", lambda value: isinstance(value, str))
TRUTH = Leaf("true or false", lambda value: isinstance(value, bool))
NUMBER = Leaf("a whole number", lambda value: type(value) is int)
NUMBER_OR_TEXT = Leaf("a number or a string", lambda value: isinstance(value, str) or type(value) is int)
LABELS = Leaf("strings by name", lambda value: isinstance(value, dict) and all(
    isinstance(item, str) for pair in value.items() for item in pair))
ANYTHING = Leaf("anything", lambda value: True)


def check(value: object, schema: Schema, path: str) -> None:
    """Raise BadRequest, naming the field by its path, unless the value is described by the schema."""
    if isinstance(schema, Leaf):
        if not schema.fits(value):
            raise BadRequest(f"{path} is {brief(value)}: expected {schema.expected}")
    elif isinstance(schema, list):
        if not isinstance(value, list):
            raise BadRequest(f"{path} is {brief(value)}: expected a list")
        for at, item in enumerate(value):
            check(item, schema[0], f"{path}[{at}]")
    else:
        _check_mapping(value, schema, path)


def _check_mapping(value: object, schema: Mapping[str, Schema], path: str) -> None:
    if not isinstance(value, dict):
        raise BadRequest(f"{path or 'resource'} is {brief(value)}: expected fields by name")
    for name, item in value.items():
        field = f"{path}.{name}".lstrip(".")
        if name not in schema:
            raise BadRequest(f'unknown field "{field}"; known here: {", ".join(schema)}')
        check(item, schema[name], field)


def refuse_unstorable(value: object) -> None:
    """Raise BadRequest for what JSON or UTF-8 cannot hold: a number that is not finite, half of a surrogate pair."""
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRequest(f"{value} is no number that JSON can hold")
    if isinstance(value, str) and not is_utf8(value):
        raise BadRequest(f"{brief(value)} cannot be written in UTF-8")
    for item in _items(value):
        refuse_unstorable(item)


def is_utf8(text: str) -> bool:
    """Tell whether text can be written in UTF-8: not what a command line had in another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    return value if isinstance(value, list) else ()


def known(value: Any, schema: Schema) -> Any:
    """Return a stored value without the fields that are not described; a value of another shape stays as it is."""
    if isinstance(schema, list) and isinstance(value, list):
        return [known(item, schema[0]) for item in value]
    if isinstance(schema, dict) and isinstance(value, dict):
        return {name: known(item, schema[name]) for name, item in value.items() if name in schema}
    return value


def carry(stored: Any, given: Any, schema: Schema) -> Any:
    """Return the value given, with the fields of the stored one that are not described; lists are taken as given."""
    if not (isinstance(schema, dict) and isinstance(stored, dict) and isinstance(given, dict)):
        return given
    inner = {name: carry(stored.get(name), item, schema.get(name)) for name, item in given.items()}
    return {**inner, **{name: item for name, item in stored.items() if name not in schema}}


def without_nulls(value: Any) -> Any:
    """Return the value without fields that are null: null is how YAML and JSON say "not set"."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def at(value: Any, *path: str) -> Any:
    """Return what lies at the path in nested mappings, or None when there is no such thing."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def identity(kind: str, metadata: Json) -> str:
    """Return how messages call a resource, as Calico's do: IPPool(name), WorkloadEndpoint(namespace/name)."""
    return f"{kind}({'/'.join(filter(None, (metadata.get('namespace'), metadata.get('name'))))})"
